"""The command that checks the paper's claims, on networks and images that are small but real."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import lab_of

from bnta_lib import BNTANet, settings
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.figures import base
from bnta_lib.figures.tables import claims_figure
from bnta_lib.model import bn_layers
from bnta_lib.settings import TARGETS
from bnta_lib.suite import claims, judge, writer
from bnta_lib.suite.judge import CLAIMS
from bnta_lib.suite.stats import FAILS, HOLDS, ONE_EACH, OPEN
from bnta_lib.weights import TABLE_3_MODELS


@pytest.fixture(scope="module")
def world():
    small = settings("smoke", height=48, width=24, base_width=4, local_dim=8, tta_batch=4,
                     tta_seeds=1, K=4)
    models = {}
    for seed, name in enumerate(TABLE_3_MODELS):
        torch.manual_seed(seed)
        models[name] = BNTANet(6, small).eval()
        for layer in bn_layers(models[name]).values():  # as after training: nothing is zero
            torch.nn.init.normal_(layer.bias, 0, 0.1)
            layer.running_mean.normal_(0, 0.1)
    targets = {}
    for seed, name in enumerate(TARGETS):
        images = torch.randint(0, 256, (16, 3, 48, 24), dtype=torch.uint8,
                               generator=torch.Generator().manual_seed(seed))
        data = ReIDSet(name, images, torch.arange(1, 9).repeat(2),
                       torch.tensor([1, 2]).repeat_interleave(8))
        targets[name] = Target(data, (Split(torch.arange(8), torch.arange(8, 16)),
                                      Split(torch.arange(8, 16), torch.arange(8))))
    return small, models, targets


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")  # what one test measured the next reads back


@pytest.fixture
def lab(world):
    return lab_of(*world)


@pytest.fixture
def at_work(lab, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("BNTA_CACHE", str(cache))
    monkeypatch.setattr(claims, "Lab", lambda *a: lab)
    for module in (writer, base):
        monkeypatch.setattr(module, "figures_dir", lambda run: tmp_path / run)
    return tmp_path / "smoke"


def test_check_measures_every_claim_and_writes_what_it_prints(
        at_work, lab, capsys, monkeypatch):
    assert claims.main([]) == 0
    printed = capsys.readouterr().out
    table = pd.read_csv(at_work / "paper_check.csv")
    assert table["id"].tolist() == [claim.id for claim in CLAIMS]
    assert table["here"].notna().all() and set(table["verdict"]) <= {HOLDS, FAILS, OPEN}
    flat = " ".join(printed.split())
    assert "this run shows that everything works, and nothing of the method" in flat
    for row in table.itertuples():
        assert row.id in flat and row.verdict in flat
    assert f"{len(CLAIMS)} claims:" in flat and "Fig. 4" in flat
    for name in ("mu+var", "tta mat", "id+mat", "-0.0 ", "+0.0 "):
        assert name not in flat, flat[max(0, flat.find(name) - 150):flat.find(name) + 60]
        assert name not in (at_work / "paper_check.md").read_text()
    assert {p.suffix for p in at_work.iterdir()} == {".csv", ".md", ".tex", ".pdf", ".png"}
    monkeypatch.setattr("bnta_lib.suite.runner.Bench.measure", lambda *a: pytest.fail("measured again"))
    claims.check(lab)  # a second check reads all from the store


def test_differences_come_from_the_rows_of_the_tables(at_work, lab):
    rows = claims.gather(lab)
    table = judge.judge(rows).set_index("id")
    own = rows["Table 2"].query("target == 'GRID' and metric == 'R1'")
    mean = own.groupby(["method", "split"])["value"].mean().groupby("method").mean()
    assert table.loc["T2.5", "here"] == pytest.approx(mean["BNTA"] - mean["BNTA w/o TTA"])
    assert set(rows["Table 3"]["target"]) == {"VIPeR"}  # only what a claim needs
    between = table.index[table["note"].str.startswith(ONE_EACH)]
    assert {*between} - {"T3.1"} == {"T2.1", "T2.2", "T2.3", *(f"T3.{i}" for i in range(4, 12))}


def test_folder_is_judged_on_its_one_target(at_work, lab):
    rows = claims.gather(lab)
    for where, own in rows.items():  # as if the target had come from a folder
        name = "VIPeR" if where == "Table 3" else "GRID"
        rows[where] = own[own["target"] == name].assign(target="my_folder")
    table = judge.judge(rows, judge.claims_on(["my_folder"]))
    assert set(table["target"]) == {"my_folder", "all"} and table["paper"].isna().all()
    assert table["here"].notna().all()
    assert "paper –" in claims.printed(table)
    assert sum(len(axis.get_yticks()) for axis in claims_figure(table).axes) == len(table)


def test_the_figure_shows_every_claim_and_the_papers_number_where_there_is_one(at_work, lab):
    table = claims.check(lab)
    figure = claims_figure(table)
    labels = [t.get_text() for axis in figure.axes for t in axis.get_yticklabels()]
    assert len(labels) == len(table)
    diamonds = [y for axis in figure.axes for line in axis.lines if line.get_marker() == "D"
                for y in line.get_xdata()]
    assert np.isfinite(diamonds).sum() == table["paper"].notna().sum()


@pytest.mark.parametrize("arguments, says", [
    (["--profile", "huge"], "unknown profile"), (["--data", "/no/such"], "no folder /no/such")])
def test_unknown_profile_or_folder_is_refused_before_anything_is_measured(arguments, says, capsys):
    assert claims.main(arguments) == 2
    assert says in capsys.readouterr().err


def test_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "a file").write_text("x")
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "a file" / "cache"))
    assert claims.main(["--profile", "smoke"]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "a file" / "cache") in said and len(said.splitlines()) == 1


def test_absent_weights_are_named_in_one_sentence(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    monkeypatch.setattr("bnta_lib.suite.lab.load_targets", lambda *a, **k: world[2])
    assert claims.main(["--profile", "paper"]) == 1
    error = capsys.readouterr().err
    assert "weights at" in error and "make train" in error and "Traceback" not in error


def test_interrupted_check_shows_how_to_go_on(at_work, lab, monkeypatch, capsys):
    def interrupted(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr(lab, "measure", interrupted)
    for named in (True, False):
        monkeypatch.setenv("BNTA_PROFILE", "paper" if named else "smoke")
        assert claims.main(["--profile", "smoke"] if named else []) == 130
        assert "python -m bnta_lib.suite.claims --profile smoke" in capsys.readouterr().err


def test_full_disk_shows_how_to_go_on(at_work, small_disk, monkeypatch, capsys):
    (small_disk / "filler").write_bytes(b"x" * 250_000)
    for module in (writer, base):
        monkeypatch.setattr(module, "figures_dir", lambda run: small_disk)
    assert claims.main([]) == 1
    error = capsys.readouterr().err
    assert "disk is full" in error and "continue with the same command" in error
