import csv

import pytest
import torch

from bnta_lib import BNTANet, adapt, settings
from bnta_lib.suite import ablations, experiments
from bnta_lib.suite.ablations import TABLE_3, TABLE_4, TABLE_5
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.settings import ROOT
from bnta_lib.weights import model_settings

ALL = {"Table 3": TABLE_3, "Table 4": TABLE_4, **{f"Table 5, {k}": v for k, v in TABLE_5.items()}}
each = pytest.mark.parametrize("runs", ALL.values(), ids=ALL.keys())


def printed(number):
    """The rows of the paper's table that have a rank 1, in its order."""
    with open(ROOT / "data" / "paper_tables.csv", newline="") as file:
        return [row["row"] for row in csv.DictReader(file)
                if row["table"] == number and row["metric"] == "R1"]


@pytest.fixture(scope="module")
def small():
    return settings("smoke", base_width=4, local_dim=8, tta_batch=4, tta_seeds=2)


@pytest.fixture(scope="module")
def model(small):
    torch.manual_seed(0)
    return BNTANet(6, small).eval()


@pytest.fixture
def targets(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 96, 48), dtype=torch.uint8, generator=random)
    pids, camids = torch.arange(1, 13).repeat(2), torch.tensor([1, 2]).repeat_interleave(12)
    split = Split(torch.arange(12), torch.arange(12, 24))
    return {name: Target(ReIDSet(name, images, pids, camids), (split,))
            for name in ("VIPeR", "GRID", "iLIDS")}


@pytest.mark.parametrize("number, runs", [("3", TABLE_3), ("4", TABLE_4), ("5", TABLE_5["alone"]),
                                          ("5", TABLE_5["restore"])])
def test_rows_are_those_that_the_paper_fills_in_its_order(number, runs):
    assert [run.method for run in runs] == printed(number)


def test_table_3_has_thirteen_cells():
    assert len(TABLE_3) == 13


@each
def test_the_row_that_is_bnta_is_measured_once_for_all_tables(runs, model, small, targets):
    def key(run):
        split = targets["GRID"].splits[0]
        return experiments._key(run, {"model": "digest"}, targets["GRID"], split, small, 0)

    table_2 = [key(run) for run in experiments.TABLE_2 if run.method.startswith("BNTA")]
    assert sum(key(run) in table_2 for run in runs if run.model == "bnta") == 2  # with and without
    assert len({str((run.model, key(run))) for run in runs}) == len(runs), "two rows are one run"


@pytest.mark.parametrize("run", TABLE_3, ids=lambda run: run.method)
def test_table_3s_models_are_trained_and_adapted_by_the_losses_named(run, small):
    training, adaption = (half.split(" ")[1].split("+") for half in run.method.split("; "))
    own = model_settings(small, run.model)
    weights = {"id": own.loss_id, "pos": own.lambda1, "mat": own.lambda2}
    assert {name for name, weight in weights.items() if weight > 0} == set(training)
    if adaption == ["none"]:
        assert run.adapter == "none"
    else:
        assert set(run.options.get("losses", ("pos", "mat"))) == set(adaption) <= set(training)


@pytest.mark.parametrize("run", TABLE_4[1:], ids=lambda run: run.method)
def test_table_4_updates_the_layers_named(run):
    assert set(run.options.get("layers", ("bn",))) == set(run.method.lower().split("+"))


@pytest.mark.parametrize("reading", TABLE_5)
def test_table_5_updates_the_quantities_named_in_the_reading_asked(reading):
    torch_names = {"mu": "mean", "var": "var", "gamma": "gamma", "beta": "beta"}
    for run in TABLE_5[reading][1:]:
        chosen = run.options.get("quantities", ("mean", "var", "gamma", "beta"))
        assert [torch_names[name] for name in run.method.split("+")] == list(chosen)
        if run.method != "mu+var+gamma+beta":
            assert run.options.get("reading", "alone") == reading


def test_rows_of_a_table_are_those_of_adaption_itself(model, small, targets):
    own = {"GRID": targets["GRID"]}
    rows = ablations.table_5_rows(model, own, small, "restore", progress=False)
    data, split = targets["GRID"].data, targets["GRID"].splits[0]
    adapted = adapt(model, data.images[split.gallery], small, quantities=("mean",),
                    reading="restore", seed=1).model
    found = rows.query("method == 'mu' and seed == 1 and unit == '%'").set_index("metric")["value"]
    assert found.to_dict() == experiments.score(adapted, targets["GRID"], split, small).row()
    assert set(rows["experiment"]) == {"table_5_restore"}


@pytest.mark.parametrize("chosen", [("sigma",), "mean", None])
def test_rows_that_restore_take_quantities_that_adaption_refuses(model, small, targets, chosen):
    run = experiments.Run("odd", options={"quantities": chosen, "reading": "restore"})
    with pytest.raises(ValueError, match="quantities is a tuple of mean, var, gamma, beta; got"):
        experiments.run_rows("odd", [run], {"bnta": model}, {"GRID": targets["GRID"]}, small, 1, progress=False)


@pytest.fixture
def asked(monkeypatch):
    """What a table's function asks to be measured: experiment, runs, targets, seeds."""
    calls = []

    def run_rows(experiment, runs, models, targets, settings, seeds, progress):
        calls.append((experiment, runs, list(targets), seeds))

    monkeypatch.setattr(ablations, "run_rows", run_rows)
    return calls


def test_all_seeds_are_spent_on_the_papers_target(model, small, targets, asked):
    ablations.table_3_rows({}, targets, small)
    ablations.table_4_rows(model, targets, small)
    ablations.table_5_rows(model, targets, small)
    ablations.table_5_rows(model, targets, small, "restore")
    names = ["VIPeR", "GRID", "iLIDS"]
    assert asked == [
        ("table_3", TABLE_3, names, {"VIPeR": 2, "GRID": 1, "iLIDS": 1}),
        ("table_4", TABLE_4, names, {"VIPeR": 1, "GRID": 2, "iLIDS": 1}),
        ("table_5", TABLE_5["alone"], names, {"VIPeR": 1, "GRID": 2, "iLIDS": 1}),
        ("table_5_restore", TABLE_5["restore"], ["GRID"], {"GRID": 2}),
    ]


def test_a_users_folder_counts_as_the_papers_target(model, small, targets, asked):
    own = {"my_folder": targets["iLIDS"]}
    ablations.table_3_rows({}, own, small)
    ablations.table_5_rows(model, own, small, "restore")
    assert [(names, seeds) for _, _, names, seeds in asked] == [(["my_folder"], {"my_folder": 2})] * 2


def test_an_unknown_reading_is_refused(model, small, targets):
    with pytest.raises(ValueError, match="'alone' or 'restore'"):
        ablations.table_5_rows(model, targets, small, "only")
