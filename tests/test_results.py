import json

import pytest

from bnta_lib import results
from bnta_lib.results import measured


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """A measurement that counts how often it is made; the cache is a folder of its own."""
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))

    def made():
        made.times += 1
        return [{"metric": "R1", "value": 1 / 3}, {"metric": "mAP", "value": float("nan")}]

    made.times = 0
    made.file = lambda: next((tmp_path / "results" / "trial").glob("*.json"))
    return made


def test_a_row_is_measured_once_and_reads_the_same(measure):
    first = measured("trial", {"seed": 0}, measure)
    second = measured("trial", {"seed": 0}, measure)
    assert measure.times == 1
    assert first.equals(second) and first["value"][0] == 1 / 3


def test_another_key_is_measured_by_itself(measure):
    measured("trial", {"seed": 0}, measure)
    measured("trial", {"seed": 1}, measure)
    measured("other", {"seed": 0}, measure)
    assert measure.times == 3


def test_another_code_is_measured_again(measure, monkeypatch):
    measured("trial", {}, measure)
    monkeypatch.setattr(results, "code_digest", lambda: "changed")
    measured("trial", {}, measure)
    assert measure.times == 2


def edited(path):
    stored = json.loads(path.read_text())
    stored["rows"][0]["value"] = 99.0
    path.write_text(json.dumps(stored))


def truncated(path):
    path.write_text(path.read_text()[:-20])


def emptied(path):
    path.write_text("")


def other(path):
    path.write_text("[1, 2]")


@pytest.mark.parametrize("damage", [edited, truncated, emptied, other])
def test_a_damaged_row_is_measured_again_and_replaced(measure, damage):
    good = measured("trial", {}, measure)
    damage(measure.file())
    assert measured("trial", {}, measure).equals(good)
    assert measured("trial", {}, measure).equals(good)
    assert measure.times == 2


def test_a_failed_measurement_leaves_no_row(measure, tmp_path):
    def fails():
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        measured("trial", {}, fails)
    assert not list(tmp_path.rglob("*.json"))
    measured("trial", {}, measure)
    assert measure.times == 1
