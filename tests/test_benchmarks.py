"""The speed suite at tiny sizes: every script, goals, the table, pairs checked. No time is judged."""

import concurrent.futures
import math
import os
import re
import runpy
import sys
from unittest import mock

import matplotlib
import pytest
import torch

from bnta_lib.evaluation import evaluate
from bnta_lib.pairing import Pairs, nearest_pairs
from bnta_lib.settings import ROOT
from bnta_lib.suite.store import machine

matplotlib.use("agg")
sys.path.insert(0, str(ROOT / "benchmarks"))

import all as everything  # noqa: E402
import common  # noqa: E402
import evaluation  # noqa: E402
import pairing  # noqa: E402
from common import Row  # noqa: E402


class Here:
    """Work of an executor's process, done by this one: starting processes would take most of the time."""

    __init__ = __exit__ = lambda self, *args, **options: None
    __enter__ = lambda self: self

    def submit(self, function, *args):
        future = concurrent.futures.Future()
        future.set_result(function(*args))
        return future


@pytest.fixture
def here(monkeypatch):
    """One process, and an environment that is as before when the test ends."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(common, "ProcessPoolExecutor", Here)
    threads = torch.get_num_threads()
    with mock.patch.dict(os.environ):
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("script", [*everything.BENCHMARKS, "pairing --large"])
def test_every_benchmark_runs_at_tiny_sizes(here, monkeypatch, capsys, script):
    name, *options = script.split()
    path = str(ROOT / "benchmarks" / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [path, "--quick", *options])
    runpy.run_path(path, run_name="__main__")
    out = capsys.readouterr().out
    rows = re.findall(r"^(.+): [\d.e+-]+ (?:s|ms|MB|images/s)\b", out, re.M)
    assert rows and len(set(rows)) == len(rows) and out.splitlines()[-1] == machine()


@pytest.mark.parametrize("goal, unit, ours, rival, ratio, met, standing", [
    (">= 3x", "s", 2.0, 6.0, 3.0, "met", 1.0), (">= 3x", "s", 2.0, 5.9, 2.95, "missed", 2.95 / 3),
    (">= 0.9x", "images/s", 90.0, 100.0, 0.9, "met", 1.0), ("<= 1.2x", "s", 6.0, 5.0, 1.2, "met", 1.0),
    ("<= 0.2x", "MB", 10.0, 100.0, 0.1, "met", 2.0), ("< 200 ms", "ms", 50.0, math.nan, 0.25, "met", 4.0),
    ("< 200 ms", "ms", 200.0, math.nan, 1.0, "missed", 1.0), ("", "images/s", 2.0, 6.0, 1 / 3, "", None),
    ("< 4,000 MB", "MB", 5e3, math.nan, 1.25, "missed", 0.8), (">= 3x", "s", 2.0, *[math.nan] * 2, "", None),
    (">= 500 images/s", "images/s", 750.0, math.nan, 1.5, "met", 1.5)])
def test_a_goal_is_judged_by_its_ratio(goal, unit, ours, rival, ratio, met, standing):
    row = Row("a", ours, unit, rival, goal=goal)
    assert row.ratio == pytest.approx(ratio, nan_ok=True) and row.met == met
    assert standing is None or row.standing == pytest.approx(standing)


def test_a_row_takes_the_place_of_its_own_name_and_machine_alone(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    for where, row in (("one", Row("a", 1.0, "s", 2.0, goal=">= 3x")), ("one", Row("b", 5.0, "s")),
                       ("other", Row("a", 7.0, "s", 2.0, note="here, too")),
                       ("one", Row("a", 3.0, "s", 12.0, goal=">= 3x"))):
        monkeypatch.setattr(common, "machine", lambda where=where: where)
        common.save(row, "some", 1.0, path)
    rows = common.read(path)
    assert list(rows.columns) == common.COLUMNS and len(rows) == 3
    values = rows.set_index(["machine", "name"])[["ours", "met", "note"]]
    assert values.loc[("one", "a")].tolist() == [3.0, "met", ""]
    assert values.loc[("one", "b")].tolist() == [5.0, "", ""]
    assert values.loc[("other", "a")].tolist() == [7.0, "", "here, too"]


@pytest.mark.parametrize("off", [0, 1e-4])
def test_evaluation_is_measured_against_a_rival_of_the_same_scores(here, monkeypatch, off):
    """The rival here: our own scores, in place of a torchreid that may be installed."""
    def ours(size, rounds):
        scores = evaluate(*evaluation.retrieval(size))
        return 1.0, [scores.mAP + off, *map(scores.cmc, evaluation.RANKS)]

    monkeypatch.setattr(evaluation, "torchreids", ours)
    if off:
        with pytest.raises(ValueError, match="scores differ from torchreid's"):
            list(evaluation.measured(evaluation.TINY, 1))
    else:
        rows = list(evaluation.rows("cpu", True))
        assert [row.goal for row in rows] == [">= 3x", "<= 0.2x", "< 4,000 MB"]
        assert "the same scores" in rows[0].note


@pytest.mark.parametrize("half", [False, True])
def test_the_plain_loop_gives_the_exact_pairs_of_a_full_matrix(half):
    local = pairing.features(70, 3, 8)
    index = torch.combinations(torch.arange(70))
    exact = pairing.greedy(pairing.exact_distances(local, index), index, 10)
    assert torch.equal(pairing.plain_loop(local, 10, half, block=16), exact)
    assert torch.equal(nearest_pairs(local, 10).index, exact)


@pytest.mark.parametrize("wrong", ["distance", "order", "shared", "greedy"])
def test_pairs_that_are_not_exact_are_not_certified(wrong):
    local = pairing.features(80, 2, 8)
    good = nearest_pairs(local, 8)
    assert pairing.certified(local, good) == 64
    index, distance = good.index.clone(), good.distance.clone()
    if wrong == "distance":
        distance[3] *= 1 + 1e-9
    elif wrong == "order":
        index, distance = index.flip(0), distance.flip(0)
    elif wrong == "shared":
        index[7], distance[7] = index[6], distance[6]
    else:  # two closer images are left free
        index, distance = index[1:], distance[1:]
    with pytest.raises(ValueError):
        pairing.certified(local, Pairs(index, good.part[: len(index)], distance), rows=64)


def test_a_benchmark_that_fails_is_named_and_the_others_run(tmp_path, monkeypatch, capfd):
    csv = tmp_path / "results.csv"
    (tmp_path / "broken.py").write_text("raise ValueError('the images are upside down')")
    (tmp_path / "fine.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'benchmarks')!r})\nimport common\n"
        "common.main('', lambda device, quick: [common.Row('fine', 1.0, 's', 2.0, goal='>= 3x')])")
    (tmp_path / "draw.py").write_text("print('drawn')")
    monkeypatch.setattr(everything, "HERE", tmp_path)
    monkeypatch.setattr(everything, "BENCHMARKS", ("broken", "fine"))
    assert everything.main(["--csv", str(csv)]) == 1
    out, errors = capfd.readouterr()
    assert "failed: broken" in errors and "upside down" in errors
    assert "drawn" in out and "0 goals met, 1 missed" in out
    rows = common.read(csv)
    assert rows[["name", "met", "machine"]].values.tolist() == [["fine", "missed", machine()]]


def test_every_benchmark_has_a_line_on_the_speed_page_and_rows_with_the_verdicts_that_their_numbers_give():
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"common", "all", "draw"}
    rows = common.read(common.RESULTS)
    assert scripts == set(everything.BENCHMARKS) == set(rows["benchmark"]) and rows["machine"].nunique() == 1
    assert all(f"`{name}.py" in text for name in scripts)
    for row in rows.itertuples():
        again = Row(row.name, row.ours, row.unit, row.rival, row.against, row.goal)
        assert again.met == row.met, row.name
        if row.goal and not math.isnan(row.ratio):
            assert again.ratio == pytest.approx(row.ratio, rel=2e-3), row.name
        assert row.note or row.met != "missed", f"{row.name} does not say why it missed its goal"
    assert (rows["met"] != "").sum() >= 16
