"""Figure 3: which layers move, on tables of a known answer and against the tensors themselves."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from bnta_lib import adapt
from bnta_lib.adaption import QUANTITIES
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.suite import changes

LAYERS = ["backbone.bn1", *(f"backbone.layer1.{i}.bn1" for i in range(52)), "bnneck",
          *(f"parts.{i}.1" for i in range(6))]


def rates_of(rate, splits=3, targets=("VIPeR", "GRID")):
    """Change rates with the value rate(target, quantity, index, split), from rows that hold losses too."""
    rows = [{"target": t, "split": s, "metric": f"rate {q}", "index": float(i), "layer": layer,
             "value": rate(t, q, i, s)}
            for t in targets for s in range(splits) for q in QUANTITIES
            for i, layer in enumerate(LAYERS, start=1)]
    losses = [{"target": t, "split": 0, "metric": "pos frozen", "index": 0.0, "layer": "", "value": 9.0}
              for t in targets]
    rates = changes.change_rates_by_split(pd.DataFrame(rows + losses))
    assert len(rates) == len(rows) and set(rates["quantity"]) == set(QUANTITIES)
    return rates


def test_top_layers_are_chosen_by_their_mean_over_targets_and_stand_in_order():
    # Layer 60 is largest at GRID alone, and 3 and 40 at both: the mean decides.
    value = {("GRID", 60): 10, ("GRID", 3): 8, ("VIPeR", 3): 8, ("GRID", 40): 9, ("VIPeR", 40): 9}
    rates = rates_of(lambda t, q, i, s: value.get((t, i), 0.1))
    assert changes.top_layers(rates, "mean", 2) == [3, 40]
    assert changes.top_layers(rates, "mean", 3) == [3, 40, 60]
    table = changes.figure_3_table(rates, 2)
    assert table.columns.tolist() == ["quantity", "index", "layer", "S→VIPeR", "S→GRID"]
    assert table["quantity"].tolist() == [q for q in QUANTITIES for _ in range(2)]
    assert table["index"].tolist() == [3, 40] * 4


def test_overlap_counts_the_papers_layers_and_what_a_lot_would_give():
    paper = changes.PAPER_LAYERS["mean"]
    tables = changes.paper_overlap(rates_of(lambda t, q, i, s: 1.0 * (i in paper) + i / 1000))
    row = tables.set_index("quantity").loc["mean"]
    assert row["shared"] == 5 and row["both"] == list(paper)
    assert row["expected"] == pytest.approx(10 / 60 * 5)
    # All five in ten of sixty: C(55, 5) / C(60, 10).
    assert row["p"] == pytest.approx(3478761 / 75394027566)
    other = tables.set_index("quantity").loc["gamma"]  # of 2, 6, 9, 42, 51 none is on top here
    assert other["shared"] == 0 and other["both"] == [] and other["p"] == pytest.approx(1)


def test_targets_that_differ_are_told_from_splits_that_do():
    random = np.random.default_rng(0)
    apart = rates_of(lambda t, q, i, s: 5 * (t == "GRID") + 5 + random.normal(0, 0.1))
    alike = rates_of(lambda t, q, i, s: np.nan if q == "beta" and i == 54 else 0.0 if i == 55 else
                     5 + random.normal(0, 1), splits=10)
    assert (changes.between_targets(apart)["share"] == 100).all()
    alike = changes.between_targets(alike).set_index("quantity")
    assert (alike["share"] < 15).all()
    # Layers that never move are not counted.
    assert alike["layers"].to_dict() == {"mean": 59, "var": 59, "gamma": 59, "beta": 58}


def test_rate_times_size_is_what_moved(model, images, small):
    result = adapt(model, images, small, K=4)
    rows = result.changes.assign(target="own", split=0, metric="rate " + result.changes["quantity"],
                                 value=100 * result.changes["rate"])
    rates = changes.change_rates_by_split(rows.drop(columns=["rate", "quantity"]))
    parts = changes.moved_and_size(rates, model)
    for quantity, kind in QUANTITIES.items():
        row = parts[(parts["quantity"] == quantity) & (parts["index"] == 1)].iloc[0]
        before = getattr(model.backbone.bn1, kind).detach()
        after = getattr(result.model.backbone.bn1, kind).detach()
        assert row["moved"] == pytest.approx(float((after - before).abs().mean()), rel=1e-4)
        assert row["size"] == pytest.approx(float(before.abs().mean()))


@pytest.mark.parametrize("changed", [{}, {"tta_batch": 4, "tta_epochs": 2}, {"tta_batch": 2, "K": 3}])
def test_steps_are_those_that_adaption_takes(model, images, small, changed):
    own = replace(small, **changed)
    labels = torch.ones(10, dtype=torch.int64)
    target = Target(ReIDSet("noise", images, labels, labels),
                    (Split(torch.arange(1), torch.arange(1, 10)),))
    taken = len(adapt(model, images[1:], own).losses)
    assert changes.steps_at({"noise": target}, own) == {"noise": taken}
