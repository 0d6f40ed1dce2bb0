"""Figure 4: which cells there are, and the paper's two tendencies on rows of a known answer."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from bnta_lib import BNTANet, settings
from bnta_lib.suite import experiments, grid
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.figures import grid as draw
from bnta_lib.suite.stats import FAILS, HOLDS

matplotlib.use("Agg")
GALLERIES = [4, 5, 6, 7, 9, 12, 60, 61, 125, 316, 900, 5000]


def size_of(run, gallery):
    n = run.sample or gallery
    return n, run.options.get("K", min(128, n // 2))


@pytest.mark.parametrize("gallery", GALLERIES)
def test_every_cell_can_be_paired_and_has_a_negative(gallery):
    runs = grid.grid_runs(gallery)
    for run in runs:
        n, k = size_of(run, gallery)
        assert 4 <= n <= gallery and 2 <= k <= n // 2, run.method
        assert run.method == f"N={n}, K={k}"
    assert len({run.method for run in runs}) == len(runs)


@pytest.mark.parametrize("gallery", [60, 316, 900])
def test_the_papers_galleries_have_at_least_five_n_six_k_and_thirty_cells(gallery):
    sizes = [size_of(run, gallery) for run in grid.grid_runs(gallery)]
    assert len({n for n, _ in sizes}) >= 5 and len({k for _, k in sizes}) >= 6
    assert len(sizes) >= 30


@pytest.mark.parametrize("gallery", GALLERIES)
def test_table_2s_run_is_one_cell_of_every_gallery(gallery):
    same = [run for run in grid.grid_runs(gallery) if run.sample is None and not run.options]
    assert [size_of(run, gallery) for run in same] == [(gallery, min(128, gallery // 2))]


@pytest.mark.parametrize("gallery", [0, 3])
def test_too_small_a_gallery_is_refused(gallery):
    with pytest.raises(ValueError, match="at least 4 images"):
        grid.grid_runs(gallery)


# ---- measured rows


@pytest.fixture(scope="module")
def small():
    return settings("smoke", base_width=4, local_dim=8, tta_batch=4, tta_seeds=1, K=4)


@pytest.fixture(scope="module")
def model(small):
    torch.manual_seed(0)
    return BNTANet(6, small).eval()


def target_of(*galleries):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 96, 48), dtype=torch.uint8, generator=random)
    data = ReIDSet("dots", images, torch.arange(1, 13).repeat(2),
                   torch.tensor([1, 2]).repeat_interleave(12))
    splits = (Split(torch.arange(6), torch.arange(12, 12 + g)) for g in galleries)
    return {"dots": Target(data, tuple(splits))}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))


def test_the_default_cell_reads_table_2s_row(model, small, cache, monkeypatch):
    targets = target_of(8)
    rows = grid.grid_rows(model, targets, small, progress=False)
    default = rows[(rows["N"] == 8) & (rows["K"] == 4)]
    frozen = rows[rows["N"] == 0]
    assert set(frozen["method"]) == {"BNTA w/o TTA"} and (frozen["K"] == 0).all()
    monkeypatch.setattr(experiments, "_measure", lambda *a: pytest.fail("measured again"))
    runs = [run for run in experiments.TABLE_2 if run.method in ("BNTA", "BNTA w/o TTA")]
    table = experiments.run_rows("table_2", runs, {"bnta": model}, targets, small, progress=False)
    for method, own in (("BNTA", default), ("BNTA w/o TTA", frozen)):
        expected = table[table["method"] == method]
        assert own["value"].tolist() == expected["value"].tolist()


def test_galleries_of_different_sizes_adapt_on_the_n_that_the_cell_says(model, small, cache):
    rows = grid.grid_rows(model, target_of(6, 9), small, progress=False)
    assert set(rows["N"]) == {0, 4, 5, 6}
    largest = rows[(rows["N"] == 6) & (rows["metric"] == "R1")]
    assert sorted(largest["split"].unique()) == [0, 1]
    assert largest["setting"][largest["split"] == 1].str.contains("N=6").all()


# ---- the two tendencies


NS, KS = (100, 200, 400), (8, 16, 32, 64, 128)


def rows_of(effect, splits=10, noise=1.0, seed=0, ns=NS, ks=KS, target="GRID"):
    """Rows of Figure 4 with R1 = 50 + split + effect(N, K) + noise; no adaption at 50 + split."""
    random = np.random.default_rng(seed)
    rows = []
    for split in range(splits):
        base = {"target": target, "split": split, "seed": 0, "unit": "%", "metric": "R1"}
        level = 50 + random.normal(0, 3)
        rows.append({**base, "method": "BNTA w/o TTA", "N": 0, "K": 0, "value": level})
        for n in ns:
            for k in ks:
                cell = {**base, "method": f"N={n}, K={k}", "N": n, "K": k}
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
