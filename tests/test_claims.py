"""The command that checks the paper's claims, on networks and images that are small but real."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import lab_of

from bnta_lib.data.sets import Split, Target
from bnta_lib.figures.tables import claims_figure
from bnta_lib.model import bn_layers
from bnta_lib.settings import TARGETS
from bnta_lib.suite import claims, judge, runner
from bnta_lib.suite.judge import CLAIMS
from bnta_lib.suite.stats import FAILS, HOLDS, ONE_EACH, OPEN


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")  # what one test measured the next reads back


@pytest.fixture
def lab(tiny, tiny_models, dots, cache, monkeypatch, tmp_path):
    """A lab of three targets; the command opens it, and writes below tmp_path."""
    monkeypatch.setenv("BNTA_CACHE", str(cache))
    monkeypatch.setenv("BNTA_FIGURES", str(tmp_path))
    models = copy.deepcopy(tiny_models)
    for model in models.values():  # as after training: nothing is zero
        for seed, layer in enumerate(bn_layers(model).values()):
            random = torch.Generator().manual_seed(seed)
            torch.nn.init.normal_(layer.bias, 0, 0.1, generator=random)
            layer.running_mean.normal_(0, 0.1, generator=random)
    first, second = torch.arange(12), torch.arange(12, 24)
    targets = {name: Target(replace(dots.data, name=name, images=dots.data.images.roll(seed, 0)),
                            (Split(first, second), Split(second, first))) for seed, name in enumerate(TARGETS)}
    lab = lab_of(replace(tiny, tta_seeds=1, K=4), models, targets)
    monkeypatch.setattr(claims, "Lab", lambda *a: lab)
    return lab


def test_check_measures_every_claim_and_writes_what_it_prints(lab, tmp_path, capsys, monkeypatch):
    assert claims.main(["--profile", "smoke"]) == 0
    printed, folder = capsys.readouterr().out, tmp_path / "smoke"
    table = pd.read_csv(folder / "paper_check.csv")
    assert table["id"].tolist() == [claim.id for claim in CLAIMS]
    assert table["here"].notna().all() and set(table["verdict"]) <= {HOLDS, FAILS, OPEN}
    flat = " ".join(printed.split())
    assert "this run shows that everything works, and nothing of the method" in flat
    for row in table.itertuples():
        assert f"{row.id} {row.verdict}" in flat
    assert f"{len(CLAIMS)} claims:" in flat
    for name in ("mu+var", "tta mat", "id+mat", "-0.0 ", "+0.0 "):
        assert name not in flat and name not in (folder / "paper_check.md").read_text()
    assert {p.suffix for p in folder.iterdir()} == {".csv", ".md", ".tex", ".pdf", ".png"}
    monkeypatch.setattr(runner.Bench, "measure", lambda *a: pytest.fail("measured again"))
    claims.check(lab)  # a second check reads all from the store


def test_differences_come_from_the_rows_of_the_tables(lab):
    rows = claims.gather(lab)
    table = judge.judge(rows).set_index("id")
    scores = rows["Table 2"].query("target == 'GRID' and metric == 'R1'")
    mean = scores.groupby(["method", "split"])["value"].mean().groupby("method").mean()
    assert table.loc["T2.5", "here"] == pytest.approx(mean["BNTA"] - mean["BNTA w/o TTA"])
    assert set(rows["Table 3"]["target"]) == {"VIPeR"}  # only what a claim needs
    between = table.index[table["note"].str.startswith(ONE_EACH)]
    assert {*between} - {"T3.1"} == {"T2.1", "T2.2", "T2.3", *(f"T3.{i}" for i in range(4, 12))}


def test_folder_is_judged_on_its_one_target(lab):
    rows = claims.gather(lab)
    for where, group in rows.items():  # as if the target had come from a folder
        name = "VIPeR" if where == "Table 3" else "GRID"
        rows[where] = group[group["target"] == name].assign(target="my_folder")
    table = judge.judge(rows, judge.claims_on(["my_folder"]))
    assert set(table["target"]) == {"my_folder", "all"} and table["paper"].isna().all()
    assert table["here"].notna().all() and "paper –" in claims.printed(table)
    assert sum(len(axis.get_yticks()) for axis in claims_figure(table).axes) == len(table)


def test_figure_shows_every_claim_and_the_papers_number_where_there_is_one(lab):
    table = claims.check(lab)
    figure = claims_figure(table)
    labels = [t.get_text() for axis in figure.axes for t in axis.get_yticklabels()]
    assert len(labels) == len(table)
    diamonds = [y for axis in figure.axes for line in axis.lines if line.get_marker() == "D"
                for y in line.get_xdata()]
    assert np.isfinite(diamonds).sum() == table["paper"].notna().sum()


@pytest.mark.parametrize("arguments, words", [
    (["--profile", "huge"], "unknown profile"), (["--data", "/no/such"], "no folder /no/such")])
def test_unknown_profile_or_folder_is_refused_before_anything_is_measured(arguments, words, capsys):
    assert claims.main(arguments) == 2
    assert words in capsys.readouterr().err


def test_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "a file").write_text("x")
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "a file" / "cache"))
    assert claims.main(["--profile", "smoke"]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "a file" / "cache") in error and len(error.splitlines()) == 1


def raising(error):
    def check(lab):
        raise error
    return check


@pytest.mark.parametrize("error, code, words", [
    (FileNotFoundError(2, "x", "no weights at w.safetensors: make train"), 1, "make train"),
    (OSError(28, "the disk is full: could not write t.csv"), 1, "continue with the same command"),
    (ValueError("headroom needs one match for each probe"), 1, "one match"),
    (KeyboardInterrupt(), 130, "python -m bnta_lib.suite.claims --profile smoke")])
def test_failed_or_interrupted_check_shows_how_to_go_on(lab, error, code, words, monkeypatch, capsys):
    monkeypatch.setattr(claims, "check", raising(error))
    assert claims.main(["--profile", "smoke"]) == code
    message = capsys.readouterr().err
    assert words in message and "Traceback" not in message
