"""The paper's two tendencies of Figure 4 on rows of a known answer."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from bnta_lib.figures import grid as draw
from bnta_lib.suite import grid
from bnta_lib.suite.stats import FAILS, HOLDS

matplotlib.use("Agg")
NS, KS = (100, 200, 400), (8, 16, 32, 64, 128)


def rows_of(effect, splits=10, noise=1.0, seed=0, ns=NS, ks=KS, target="GRID"):
    """Rows of Figure 4 with R1 = 50 + split + effect(N, K) + noise; no adaption at 50 + split."""
    random = np.random.default_rng(seed)
    rows = []
    for split in range(splits):
        base = {"target": target, "split": split, "seed": 0, "unit": "%", "metric": "R1"}
        level = 50 + random.normal(0, 3)
        rows.append({**base, "N": 0, "K": 0, "value": level})
        for n in ns:
            for k in ks:
                cell = {**base, "N": n, "K": k}
                rows.append({**cell, "value": level + effect(n, k) + random.normal(0, noise)})
                rows += [{**cell, "metric": part, "unit": "s", "value": 0.1 * (i + 1)}
                         for i, part in enumerate(grid.PARTS)]
    return pd.DataFrame(rows)


def verdicts(tests, **chosen):
    for column, value in chosen.items():
        tests = tests[tests[column] == value]
    return set(tests["verdict"])


def test_a_peak_inside_rises_and_declines():
    rows = rows_of(lambda n, k: -3 * abs(np.log2(k / 32)))
    for tests in (grid.peak_in_k(rows), grid.peak_in_k(rows, pooled=True)):
        assert verdicts(tests) == {HOLDS}
    tests = grid.peak_in_k(rows)
    assert tests["N"].tolist() == [n for n in NS for _ in range(2)]
    assert (tests["best"] == 32).all() and tests["inside"].all()
    assert tests["difference"].between(4.5, 7.5).all()  # two steps of 3 points on either side


def test_ever_rising_line_declines_nowhere():
    tests = grid.peak_in_k(rows_of(lambda n, k: 3 * np.log2(k)))
    assert verdicts(tests, part="rise") == {HOLDS}
    assert verdicts(tests, part="decline") == {FAILS}
    assert not tests["inside"].any()


def test_targets_are_kept_apart_and_one_split_has_no_row():
    rows = pd.concat([rows_of(lambda n, k: -3 * abs(np.log2(k / 32)), target="A"),
                      rows_of(lambda n, k: 3 * abs(np.log2(k / 32)), target="B")])
    assert verdicts(grid.peak_in_k(rows), target="A") == {HOLDS}
    assert verdicts(grid.peak_in_k(rows), target="B") == {FAILS}
    one = rows[rows["split"] == 0]
    assert grid.peak_in_k(one).empty and grid.trend_in_n(one, pooled=True).empty


def test_noise_alone_makes_no_peak_more_often_than_its_interval_says():
    """The plain choice of the best on the same splits would be resolved in most of these."""
    found = [grid.peak_in_k(rows_of(lambda n, k: 0, seed=seed, ns=(100,))) for seed in range(200)]
    rates = pd.concat(found).groupby("part")["low"].apply(lambda low: (low > 0).mean())
    assert rates.max() < 0.07  # 0.025, and three standard errors of 200 draws


def test_a_larger_n_brings_its_points_a_doubling():
    rows = rows_of(lambda n, k: 2 * np.log2(n), noise=0.3)
    tests = grid.trend_in_n(rows)
    assert tests["K"].tolist() == list(KS)
    assert tests["difference"].between(1.6, 2.4).all() and verdicts(tests) == {HOLDS}
    pooled = grid.trend_in_n(rows, pooled=True)
    assert pooled["sizes"].tolist() == [len(KS)]
    assert pooled["difference"].iloc[0] == pytest.approx(tests["difference"].mean())
    assert verdicts(grid.trend_in_n(rows_of(lambda n, k: -2 * np.log2(n)))) == {FAILS}


def test_without_a_trend_an_interval_misses_zero_about_as_often_as_it_says():
    tests = [grid.trend_in_n(rows_of(lambda n, k: 0, seed=seed, ks=(8,))) for seed in range(200)]
    tests = pd.concat(tests)
    assert 0.01 < ((tests["low"] > 0) | (tests["high"] < 0)).mean() < 0.11


# ---- cells and figures


def test_cells_hold_the_gain_over_no_adaption_and_the_whole_time():
    cells = grid.grid_cells(rows_of(lambda n, k: 5, noise=0.1))
    assert len(cells) == len(NS) * len(KS)
    assert cells["difference"].to_numpy() == pytest.approx(5, abs=0.2) and (cells["low"] > 0).all()
    assert cells["seconds"].to_numpy() == pytest.approx(0.6)
    times = grid.time_table(rows_of(lambda n, k: 5))
    assert times[["features", "pairing", "steps"]].iloc[0].tolist() == pytest.approx([.1, .2, .3])


@pytest.mark.parametrize("figure", [draw.figure_4, draw.gain_figure])
@pytest.mark.parametrize("splits", [1, 2, 10])
def test_figures_name_their_axes_and_targets(figure, splits):
    rows = pd.concat([rows_of(lambda n, k: 1, splits, target=t) for t in ("GRID", "yours")])
    drawn = figure(rows)
    drawn.canvas.draw()
    panels = [axis for axis in drawn.axes if axis.get_title()]
    assert [a.get_title() for a in panels] == ["GRID (the paper's)", "yours"]
    labels = [a.get_xlabel() for a in drawn.axes] + [a.get_ylabel() for a in drawn.axes]
    assert "K, pairs" in labels and any("rank 1" in label for label in labels)
    plt.close(drawn)


def test_a_gain_whose_interval_includes_zero_stands_in_brackets():
    rows = rows_of(lambda n, k: 5 if k == 8 else 0, noise=0.5)
    drawn = draw.gain_figure(rows)
    cells = grid.grid_cells(rows)
    unresolved = ~((cells["low"] > 0) | (cells["high"] < 0))
    texts = [t.get_text() for t in drawn.axes[0].texts]
    assert sum(t.startswith("(") for t in texts) == unresolved.sum() > 0
    assert sum(not t.startswith("(") for t in texts) == (~unresolved).sum() >= len(NS)
    plt.close(drawn)
