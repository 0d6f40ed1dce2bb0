"""Gains of the open choices, and whether the conclusion survives, on rows with a known answer."""

import zlib

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bnta_lib import settings
from bnta_lib.figures import results as figures
from bnta_lib.suite import sweeps
from bnta_lib.suite.specs import AFFINE, CHOICES, DIVERGED, TABLES

pytestmark = pytest.mark.usefixtures("style")
TARGETS = ("VIPeR", "GRID", "iLIDS")
COUNTS = [f"{word}: values" for word in ("holds", "does not hold", "not resolved")]


def made(gain, targets=TARGETS, splits=5) -> pd.DataFrame:
    """Rows of the table; gain(choice, label, target) in points.

    The splits of a value deviate from it by noise of zero mean, so that its mean is exact and no
    difference is without spread.
    """
    rows = []
    for part in TABLES["open_choices"]:
        for target, spec, _ in part.plan(dict.fromkeys(targets, 60), settings("laptop")):
            seed = zlib.crc32(f"{spec.labels} {target}".encode())
            noise = np.random.default_rng(seed).normal(0, 0.1, splits)
            for split, more in enumerate(noise - noise.mean()):
                choice, label, _ = spec.labels.values()
                added = 0.0 if spec.adapter == "none" else more + gain(choice, label, target)
                rows.append({**spec.labels, "adapter": spec.adapter, "target": target, "split": split,
                             "seed": 0, "metric": "R1", "training": spec.training,
                             "value": 40 + 3 * split + added})
    return pd.DataFrame(rows)


def test_gains_and_their_intervals_agree_with_scipy():
    rows = made(lambda c, v, t: 2.0 if v == "0.3" else 0.5)
    keys = ["choice", "value_label", "target"]
    gains = sweeps.gain_rows(rows).set_index(keys)
    row = gains.loc["momentum", "0.3", "GRID"]
    own = rows.query("choice == 'momentum' and value_label == '0.3' and target == 'GRID'")
    by = own.pivot(index="split", columns="adapter", values="value")
    oracle = stats.ttest_rel(by["bnta"], by["none"])
    interval = oracle.confidence_interval(0.95)
    assert row["difference"] == pytest.approx(2.0)
    assert (row["low"], row["high"]) == pytest.approx(tuple(interval))
    assert row["verdict"] == "holds" and not row["default"]
    assert gains.loc["momentum", "0.1", "GRID"]["default"]


def test_survival_counts_what_holds_and_names_what_turns_the_sign():
    def gain(choice, label, target):
        if target == "VIPeR":
            return -1.0 if (choice, label) != ("momentum", "0.01") else 1.0
        if target == "iLIDS":
            return 0.0
        return -2.0 if label in ("adam 0.005", "raw") else 3.0

    table = sweeps.survival(sweeps.gain_rows(made(gain)))
    all_values = sum(len(c.values) - 1 for c in CHOICES.values())
    everywhere = sum(len(c.values) - 1 for c in CHOICES.values() if c.everywhere)
    viper, grid, ilids = (table.loc[target] for target in TARGETS)
    assert (grid["under the defaults"], grid["other values"]) == ("holds", all_values)
    assert grid[COUNTS].tolist() == [all_values - 2, 2, 0]
    assert grid["sign turned by"] == "optimiser: adam 0.005; distance: raw"
    assert (viper["under the defaults"], viper["holds: values"]) == ("does not hold", 1)
    assert viper["sign turned by"] == "momentum: 0.01"
    assert (ilids["under the defaults"], ilids["sign turned by"]) == ("not resolved", "no sign to turn")
    assert ilids["not resolved: values"] == ilids["other values"] == everywhere


def test_value_that_diverges_is_named_and_takes_no_other_with_it():
    rows = made(lambda *_: 1.0)
    broken = (rows["value_label"] == "sgd 0.05") & (rows["adapter"] == "bnta") & (rows["target"] == "GRID")
    first = rows[broken & (rows["split"] == 0)].assign(metric=DIVERGED, value=1.0)
    rows = pd.concat([rows[~broken], first], ignore_index=True)
    assert sweeps.diverged(rows).values.tolist() == [["optimiser", "sgd 0.05", "GRID"]]
    grid = sweeps.survival(sweeps.gain_rows(rows)).loc["GRID"]
    every = sum(len(choice.values) - 1 for choice in CHOICES.values())
    assert grid[COUNTS].tolist() == [every - 1, 0, 0] and grid["other values"] == every - 1
    drawn = figures.overview_figure(rows)
    assert DIVERGED in [text.get_text() for axis in drawn.axes for text in axis.texts]


def test_the_overview_shows_the_mean_of_each_value_and_the_papers_gain_beside_the_puzzle():
    rows = made(lambda c, v, t: float(v) if c == "margin" else 2.0 if c == "affine" else 0.0)
    (axis,) = figures.overview_figure(rows, choices=[CHOICES["margin"]]).axes
    shown = [point for container in axis.containers for point in container[0].get_xdata()]
    assert shown == pytest.approx([0.3, 0.0, 0.1, 1.0, 3.0])  # the default first
    puzzle = figures.overview_figure(rows, choices=[AFFINE], cited=6.4)
    assert [axis.get_title() for axis in puzzle.axes] == ["GRID"]
    assert np.concatenate([c[0].get_xdata() for c in puzzle.axes[0].containers]) == pytest.approx([2.0] * 10)
    lines = {line.get_label(): line.get_segments()[0][0][0] for line in puzzle.axes[0].collections}
    assert lines["paper, on its GRID"] == 6.4
