"""The command that checks the paper's claims, on networks and images that are small but real."""

import copy
from dataclasses import replace

import pandas as pd
import pytest
import torch

from bnta_lib.data.sets import Split, Target
from bnta_lib.model import bn_layers
from bnta_lib.settings import TARGETS
from bnta_lib.suite import claims, runner
from bnta_lib.suite.claims import CLAIMS
from bnta_lib.suite.stats import FAILS, HOLDS, ONE_EACH, OPEN
from conftest import lab_of


@pytest.fixture(scope="module")
def lab(tiny, tiny_models, dots, tmp_path_factory):
    """A lab of three targets, which the command opens."""
    models = copy.deepcopy(tiny_models)
    for model in models.values():  # as after training: nothing is zero
        for seed, layer in enumerate(bn_layers(model).values()):
            random = torch.Generator().manual_seed(seed)
            torch.nn.init.normal_(layer.bias, 0, 0.1, generator=random)
            layer.running_mean.normal_(0, 0.1, generator=random)
    first, second = torch.arange(12), torch.arange(12, 24)
    data = {name: replace(dots.data, name=name, images=dots.data.images.roll(seed, 0))
            for seed, name in enumerate(TARGETS)}
    targets = {name: Target(own, (Split(first, second), Split(second, first))) for name, own in data.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNTA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("BNTA_FIGURES", str(tmp_path_factory.mktemp("figures")))
        lab = lab_of(replace(tiny, tta_seeds=1, K=4), models, targets)
        patch.setattr(claims, "Lab", lambda *a: lab)
        yield lab


@pytest.fixture(scope="module")
def rows(lab):
    return claims.gather(lab)


def test_check_prints_and_writes_every_claim_from_the_store(lab, rows, capsys, monkeypatch):
    monkeypatch.setattr(runner.Measurer, "measure", lambda *a: pytest.fail("measured again"))
    assert claims.main(["--profile", "smoke"]) == 0
    printed, folder = capsys.readouterr().out, claims.figures_dir(lab.run)
    table = pd.read_csv(folder / "paper_check.csv")
    assert table["id"].tolist() == [claim.id for claim in CLAIMS]
    assert table["here"].notna().all() and set(table["verdict"]) <= {HOLDS, FAILS, OPEN}
    flat = " ".join(printed.split())
    assert "this run shows that everything works, and nothing of the method" in flat
    for row in table.itertuples():
        assert f"{row.id} {row.verdict}" in flat
    assert f"{len(CLAIMS)} claims:" in flat
    for name in ("mu+var", "tta mat", "id+mat", "-0.0 "):
        assert name not in flat and name not in (folder / "paper_check.md").read_text()
    assert {p.suffix for p in folder.iterdir()} == {".csv", ".md", ".tex", ".pdf", ".png"}


def test_differences_come_from_the_rows_of_the_tables(rows):
    table = claims.judge(rows).set_index("id")
    scores = rows["Table 2"].query("target == 'GRID' and metric == 'R1'")
    mean = scores.groupby(["method", "split"])["value"].mean().groupby("method").mean()
    assert table.loc["T2.5", "here"] == pytest.approx(mean["BNTA"] - mean["BNTA w/o TTA"])
    assert set(rows["Table 3"]["target"]) == {"VIPeR"}  # only what a claim needs
    between = table.index[table["note"].str.startswith(ONE_EACH)]
    assert {*between} - {"T3.1"} == {"T2.1", "T2.2", "T2.3", *(f"T3.{i}" for i in range(4, 12))}
