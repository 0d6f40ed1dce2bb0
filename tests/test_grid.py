"""The paper's two tendencies of Figure 4 on rows of a known answer."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from bnta_lib.figures import results as draw
from bnta_lib.suite import sweeps
from bnta_lib.suite.stats import FAILS, HOLDS

NS, KS = (100, 200, 400), (8, 16, 32, 64, 128)


def rows_of(effect, splits=10, noise=1.0, ns=NS, ks=KS, targets=("GRID",)):
    """Rows of Figure 4 with R1 = 50 + split + effect(N, K) + noise; no adaption at 50 + split."""
    random, sizes = np.random.default_rng(0), [(0, 0), *product(ns, ks)]
    cells = pd.DataFrame(product(targets, range(splits), sizes), columns=["target", "split", "cell"])
    cells = cells.assign(seed=0, training="bnta", N=cells["cell"].str[0], K=cells["cell"].str[1])
    cells["adapter"] = np.where(cells["N"] > 0, "bnta", "none")
    levels = random.normal(50, 3, len(targets) * splits).repeat(len(sizes))
    gains = np.array([effect(n, k) + random.normal(0, noise) if n else 0.0 for n, k in cells["cell"]])
    scores = cells.assign(unit="%", metric="R1", value=levels + gains)
    times = [cells[cells["N"] > 0].assign(unit="s", metric=part, value=0.1 * i)
             for i, part in enumerate(sweeps.STAGES, 1)]
    return pd.concat([scores, *times], ignore_index=True)


def verdicts(tests, **selected):
    for column, value in selected.items():
        tests = tests[tests[column] == value]
    return set(tests["verdict"])


def test_peak_inside_rises_and_declines():
    rows = rows_of(lambda n, k: -3 * abs(np.log2(k / 32)))
    tests = sweeps.peak_in_k(rows)
    assert verdicts(tests) == verdicts(sweeps.peak_in_k(rows, pooled=True)) == {HOLDS}
    assert tests["N"].tolist() == [n for n in NS for _ in range(2)]
    assert (tests["best"] == 32).all()
    assert tests["difference"].between(4.5, 7.5).all()  # two steps of 3 points on either side


def test_ever_rising_line_declines_nowhere():
    tests = sweeps.peak_in_k(rows_of(lambda n, k: 3 * np.log2(k)))
    assert verdicts(tests, part="rise") == {HOLDS} and verdicts(tests, part="decline") == {FAILS}


def test_targets_are_kept_apart_and_one_split_has_no_row():
    rows = pd.concat([rows_of(lambda n, k: -3 * abs(np.log2(k / 32)), targets=["A"]),
                      rows_of(lambda n, k: 3 * abs(np.log2(k / 32)), targets=["B"])])
    assert verdicts(sweeps.peak_in_k(rows), target="A") == {HOLDS}
    assert verdicts(sweeps.peak_in_k(rows), target="B") == {FAILS}
    one = rows[rows["split"] == 0]
    assert sweeps.peak_in_k(one).empty and sweeps.trend_in_n(one, pooled=True).empty


DRAWS = [str(number) for number in range(200)]  # as many targets without any effect


def test_noise_alone_makes_no_peak_more_often_than_its_interval_says():
    """The plain choice of the best on the same splits would be resolved in most of these."""
    tests = sweeps.peak_in_k(rows_of(lambda n, k: 0, ns=(100,), targets=DRAWS))
    rates = tests.groupby("part")["low"].apply(lambda low: (low > 0).mean())
    assert len(tests) == 400 and rates.max() < 0.07  # 0.025, and three standard errors of 200 draws


def test_without_a_trend_an_interval_misses_zero_about_as_often_as_it_says():
    tests = sweeps.trend_in_n(rows_of(lambda n, k: 0, ks=(8,), targets=DRAWS))
    assert len(tests) == 200 and 0.01 < ((tests["low"] > 0) | (tests["high"] < 0)).mean() < 0.11


def test_larger_n_brings_its_points_a_doubling():
    rows = rows_of(lambda n, k: 2 * np.log2(n), noise=0.3)
    tests, pooled = sweeps.trend_in_n(rows), sweeps.trend_in_n(rows, pooled=True)
    assert tests["K"].tolist() == list(KS)
    assert tests["difference"].between(1.6, 2.4).all() and verdicts(tests) == {HOLDS}
    assert pooled["difference"].iloc[0] == pytest.approx(tests["difference"].mean())
    assert verdicts(sweeps.trend_in_n(rows_of(lambda n, k: -2 * np.log2(n)))) == {FAILS}


# ---- cells and figures


def test_cells_hold_the_gain_over_no_adaption_and_the_whole_time():
    rows = rows_of(lambda n, k: 5, noise=0.1)
    cells = sweeps.grid_cells(rows)
    assert len(cells) == len(NS) * len(KS)
    assert cells["difference"].to_numpy() == pytest.approx(5, abs=0.2) and (cells["low"] > 0).all()
    assert cells["seconds"].to_numpy() == pytest.approx(0.6)
    assert cells[list(sweeps.STAGES)].iloc[0].tolist() == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.usefixtures("style")
def test_gain_whose_interval_includes_zero_stands_in_brackets():
    rows = rows_of(lambda n, k: 5 if k == 8 else 0, noise=0.5)
    cells, texts = sweeps.grid_cells(rows), [t.get_text() for t in draw.gain_figure(rows).axes[0].texts]
    unresolved = ~((cells["low"] > 0) | (cells["high"] < 0))
    assert sum(t.startswith("(") for t in texts) == unresolved.sum() > 0
    assert sum(not t.startswith("(") for t in texts) == (~unresolved).sum() >= len(NS)
