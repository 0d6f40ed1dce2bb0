"""The speed suite at tiny sizes: rows and their verdicts, the table, the runner. No time is judged."""

import math
import os
import sys
import textwrap
from dataclasses import replace

import matplotlib
import pandas as pd
import pytest
import torch

from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.evaluation import evaluate
from bnta_lib.explore import domain_explorer
from bnta_lib.model import bn_layers, embed
from bnta_lib.pairing import Pairs, nearest_pairs, part_distances
from bnta_lib.suite.store import machine
from bnta_lib.settings import ROOT

matplotlib.use("agg")
sys.path.insert(0, str(ROOT / "benchmarks"))

import adaption  # noqa: E402
import all as everything  # noqa: E402
import capacity  # noqa: E402
import common  # noqa: E402
import deltas  # noqa: E402
import draw  # noqa: E402
import evaluation  # noqa: E402
import grid  # noqa: E402
import growth  # noqa: E402
import guards  # noqa: E402
import memory  # noqa: E402
import packed  # noqa: E402
import pairing  # noqa: E402
import rendering  # noqa: E402
import sliders  # noqa: E402
import training  # noqa: E402
from common import Row  # noqa: E402

TINY = evaluation.Size(12, 60, 6, 3, 10, dims=16)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def here(monkeypatch):
    """Steps run in this process: one of their own takes seconds to start, and has a test below."""
    monkeypatch.setattr(common, "in_fresh_process",
                        lambda function, *given, first=None: (function(*given), 1.0))


@pytest.fixture
def target(images) -> Target:
    """Ten images of five people by two cameras."""
    data = ReIDSet("ten", images, torch.arange(10) // 2 + 1, torch.arange(10) % 2 + 1)
    return Target(data, (Split(torch.arange(0, 10, 2), torch.arange(1, 10, 2)),))


def checked(rows, count: int) -> list[Row]:
    """Rows that a table takes and gives back, each with a time or size that is a number above 0."""
    rows = list(rows)
    assert len(rows) == count and len({row.name for row in rows}) == count
    for row in rows:
        assert row.ours > 0 and row.unit and (math.isnan(row.rival) or row.rival > 0), row
        assert row.met in (("met", "missed") if row.goal and not math.isnan(row.ratio) else ("",)), row
        assert not row.against or row.unit in common.line(row)
    assert tuple(common.table(rows, "some", [0.0] * count)) == common.COLUMNS
    return rows


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("goal, unit, ours, rival, ratio, met, standing", [
    (">= 3x", "s", 2.0, 6.0, 3.0, "met", 1.0),
    (">= 3x", "s", 2.0, 5.9, 2.95, "missed", 2.95 / 3),
    (">= 0.9x", "images/s", 90.0, 100.0, 0.9, "met", 1.0),
    (">= 0.9x", "images/s", 89.0, 100.0, 0.89, "missed", 0.89 / 0.9),
    ("<= 1.2x", "s", 6.0, 5.0, 1.2, "met", 1.0),
    ("<= 1.2x", "s", 6.1, 5.0, 1.22, "missed", 1.2 / 1.22),
    ("<= 0.2x", "MB", 10.0, 100.0, 0.1, "met", 2.0),
    ("< 200 ms", "ms", 50.0, math.nan, 0.25, "met", 4.0),
    ("< 200 ms", "ms", 200.0, math.nan, 1.0, "missed", 1.0),
    ("< 4,000 MB", "MB", 5000.0, math.nan, 1.25, "missed", 0.8),
    (">= 500 images/s", "images/s", 750.0, math.nan, 1.5, "met", 1.5),
    ("", "s", 2.0, 6.0, 3.0, "", math.nan),
    ("", "images/s", 2.0, 6.0, 0.3333, "", math.nan),
    (">= 3x", "s", 2.0, math.nan, math.nan, "", math.nan),
])  # fmt: skip
def test_a_goal_is_judged_wrongly(goal, unit, ours, rival, ratio, met, standing):
    row = Row("a", ours, unit, rival, goal=goal)
    assert row.ratio == pytest.approx(ratio, nan_ok=True) and row.met == met
    assert row.standing == pytest.approx(standing, nan_ok=True)


@pytest.mark.parametrize("goal", ["fast", ">= 3", "< 200 s", "= 3x", "<= x"])
def test_a_goal_that_nobody_could_judge_is_taken(goal):
    with pytest.raises(ValueError, match="goal"):
        Row("a", 1.0, "ms", goal=goal)


def test_rows_of_another_machine_or_name_are_lost(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"

    def put(where: str, *rows: Row) -> None:
        monkeypatch.setattr(common, "machine", lambda: where)
        common.save(common.table(rows, "b", [1.0] * len(rows)), path)

    put("one, 2 threads", Row("a", 1.0, "s", 2.0, goal=">= 3x"), Row("b", 5.0, "s"))
    put("other", Row("a", 7.0, "s", 2.0, note="here, too"))
    put("one, 2 threads", Row("a", 3.0, "s", 12.0, goal=">= 3x"))
    rows = common.read(path)
    assert tuple(rows.columns) == common.COLUMNS and len(rows) == 3
    found = rows.set_index(["machine", "name"])
    assert found.loc[("one, 2 threads", "a"), ["ours", "ratio", "met"]].tolist() == [3.0, 4.0, "met"]
    assert found.loc[("one, 2 threads", "b"), ["ours", "met", "note"]].tolist() == [5.0, "", ""]
    assert found.loc[("other", "a"), ["ours", "note"]].tolist() == [7.0, "here, too"]


def test_a_file_that_is_no_such_table_is_written_over(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no table of benchmarks"):
        common.save(common.table([Row("a", 1.0, "s")], "b", [1.0]), path)
    assert path.read_text() == "a,b\n1,2\n"


def test_memory_of_a_step_does_not_count_what_it_holds():
    result, peak = common.in_fresh_process(torch.ones, 25_000_000)
    assert len(result) == 25_000_000 and 100 <= peak < 400


# ---------------------------------------------------------------- each benchmark


def test_adaption_is_not_measured(model, images, small, monkeypatch):
    monkeypatch.setattr(adaption, "network", lambda own, device: model)
    row, = checked(adaption.measured(small, images, 4), 1)
    assert row.goal == "<= 1.2x" and "48x24, N=10, K=4, cpu" in row.name and "forward" in row.note
    row, = checked(adaption.decoded(small, images, 4, "cpu", "about"), 1)
    assert row.goal == "< 0.5 s" and "10 JPEG files" in row.note


def test_the_bare_passes_leave_out_what_adaption_needs(model, images):
    """Features of the images, and gradients of gamma and beta alone; the model is as before."""
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    assert torch.equal(adaption.forward(model, images, 4), embed(model, images, 4)[1])
    seen = set()
    wanted = {f"{name}.{kind}" for name, layer in bn_layers(model).items() if layer is not model.bnneck
              for kind in ("weight", "bias")}
    hooks = [p.register_post_accumulate_grad_hook(lambda _, name=name: seen.add(name))
             for name, p in model.named_parameters() if name in wanted]
    adaption.forward_backward(model, images, 4)
    assert seen == wanted and len(hooks) == len(wanted)
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in model.named_parameters())


STAND_IN = """
import numpy as np, torch
def compute_distance_matrix(probe, gallery):
    return (probe[:, None] - gallery[None]).square().sum(2)
def evaluate_rank(distances, q_pids, g_pids, q_camids, g_camids, max_rank, use_cython):
    aps, firsts = [], []
    for row, pid, camid in zip(distances, q_pids, q_camids):
        order = [i for i in np.argsort(row, kind="stable") if g_pids[i] != pid or g_camids[i] != camid]
        right = np.array([g_pids[i] == pid for i in order])
        if right.any():
            aps.append((right.cumsum() / np.arange(1, len(right) + 1))[right].mean())
            firsts.append(right.argmax())
    cmc = np.array([np.mean([first <= k for first in firsts]) for k in range(max_rank)])
    return cmc, np.mean(aps) + {off}
"""


def stand_in(folder, monkeypatch, **about) -> None:
    """A torchreid by the definitions of mAP and CMC, in place of one that may be installed."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchreid"]:
        monkeypatch.delitem(sys.modules, name)
    about = {"cython": True, "off": 0.0, "package": "torchreid/reid/metrics"} | about
    package = folder / about["package"]
    package.mkdir(parents=True)
    for above in (folder / "torchreid", package.parent):
        (above / "__init__.py").write_text("")
    (package / "__init__.py").write_text(STAND_IN.format(**about))
    (package / "rank.py").write_text(f"IS_CYTHON_AVAI = {about['cython']}")
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("package", ["torchreid/metrics", "torchreid/reid/metrics"])
def test_evaluation_is_not_measured_against_a_rival(here, tmp_path, monkeypatch, package):
    stand_in(tmp_path, monkeypatch, package=package)
    rows = checked(evaluation.measured(TINY, 1), 3)
    assert [row.goal for row in rows] == [">= 3x", "<= 0.2x", ">= 60x"]
    assert all(row.met for row in rows) and "the same scores" in rows[0].note
    row, = checked(evaluation.large(TINY), 1)
    assert row.goal == "< 4,000 MB" and row.met == "met"


def test_a_rival_with_other_scores_has_a_time(here, tmp_path, monkeypatch):
    stand_in(tmp_path, monkeypatch, off=1e-4)
    with pytest.raises(ValueError, match="scores differ from torchreid's"):
        list(evaluation.measured(TINY, 1))


def test_the_retrieval_problem_is_not_the_size_it_says_or_too_easy():
    size = evaluation.Size(100, 6_000, 750, 6, 1_000)
    probe, gallery, probe_pids, gallery_pids, probe_camids, gallery_camids = data = evaluation.retrieval(size)
    assert probe.shape == (100, 512) and gallery.shape == (6_000, 512)
    assert int((gallery_pids == 0).sum()) == 1_000 and int(probe_pids.min()) >= 1
    assert set(probe_camids.tolist()) == set(gallery_camids.tolist()) == {1, 2, 3, 4, 5, 6}
    assert 0.3 < evaluate(*data).mAP < 0.7


@pytest.mark.parametrize("half", [False, True])
def test_the_plain_loop_gives_other_pairs(half):
    local = pairing.features(70, 3, 8)
    exact = nearest_pairs(local, 10).index
    assert torch.equal(pairing.plain_loop(local, 10, half, block=16), exact)
    assert torch.equal(pairing.full_matrix(local, 10), exact)


def test_pairing_is_not_measured():
    row, = checked(pairing.measured_small(40, 8, 2, 8), 1)
    assert "all 8 pairs are the same" in row.note
    rows = checked(pairing.measured(60, 8, 2, 8), 3)
    assert [row.goal for row in rows] == [">= 3x", "", ""]
    assert [row.note[:6] for row in rows[:2]] == ["8 of i", "8 of i"]
    assert "exact ones" in rows[2].note or rows[2].note == "rival not installed: pip install faiss-cpu"


def test_many_pairs_are_not_measured(here, monkeypatch):
    # In this process nothing is measured of the memory: more than the features is what is asked for.
    monkeypatch.setattr(common, "in_fresh_process", lambda function, *given: (function(*given), 9.0))
    row, = checked(pairing.measured_large(80, 8, 2, 8), 1)
    assert row.goal == "< 2,000 MB" and row.peak_mb == 9.0 and "64 free images" in row.note


@pytest.mark.parametrize("wrong", ["distance", "order", "shared", "greedy"])
def test_pairs_that_are_not_exact_are_certified(wrong):
    local = pairing.features(80, 2, 8)
    good = nearest_pairs(local, 8)
    assert pairing.certified(local, good) == 64
    index, distance = good.index.clone(), good.distance.clone()
    if wrong == "distance":
        distance[3] *= 1 + 1e-9
    elif wrong == "order":
        index, distance = index.flip(0), distance.flip(0)
    elif wrong == "shared":
        index[7] = index[6]
        distance[7] = distance[6]
    else:  # two closer images are left free
        index = index[1:]
        distance = distance[1:]
    with pytest.raises(ValueError):
        pairing.certified(local, Pairs(index, good.part[: len(index)], distance), rows=64)


def test_exact_distances_are_others_than_the_librarys():
    local = pairing.features(30, 3, 8)
    index = torch.combinations(torch.arange(30))
    assert torch.allclose(pairing.exact_distances(local, index), part_distances(local, index).amin(1),
                          rtol=1e-12)


def test_training_is_not_measured(small):
    row, = checked(training.measured(replace(small, batch=4), 2, 1), 1)
    assert row.goal == ">= 0.9x" and row.unit == "images/s"


def test_the_grid_is_not_measured(model, target, small, cache, monkeypatch):
    monkeypatch.setenv("BNTA_WORKERS", "7")
    goal, beside = checked(grid.measured(model, target, small), 2)
    assert goal.goal == "<= 1.3x" and beside.goal == "" and goal.rival == beside.rival
    assert beside.ours < goal.ours and "evaluation" in goal.note
    assert os.environ["BNTA_WORKERS"] == "7" and not cache.exists()


def test_deltas_are_not_measured(small, tmp_path):
    rows = checked(deltas.measured(small, "cpu", tmp_path, 1), 3)
    assert [row.goal for row in rows] == [">= 20x", "", ""] and rows[2].unit == "MB"


def test_packing_is_not_measured(tmp_path, cache):
    rows = checked(packed.decoding(tmp_path, 1, {"crops of 32 x 16": (32, 16, 6, 1)}), len(
        dict.fromkeys((1, packed.os.cpu_count()))))
    assert all(row.goal == ">= 0.8x" for row in rows)
    row, = checked(packed.opening(tmp_path, 2, 300), 1)
    assert row.goal == "< 20 ms" and "300 images" in row.name


def test_guarding_is_not_measured(model, small, target):
    row, = checked(guards.cost(small, model, {"ten": target}, guards.OPEN, 1), 1)
    assert row.against == "the same without guards" and "ten, N=5" in row.name and not row.goal


def test_kinds_of_adaption_are_told_apart_by_colour_alone():
    assert len({marker for _, marker in guards.KINDS.values()}) == len(guards.KINDS)


def test_a_slider_that_is_moved_is_not_measured(model, small):
    domain = domain_explorer(model, small, ("GRID", "iLIDS"), people=8)
    name, slider = next(iter(domain.sliders.items()))
    row = sliders.moved("domains", domain, {name: slider, "place": domain.domain})
    checked([row], 1)
    assert row.goal == "< 200 ms" and name in row.note and "place" in row.note
    values = sliders.places(slider)
    assert values[0] == slider.min and max(values) == slider.max  # from end to end, and back
    assert 10 < len(values) <= 24 and values[-1] < values[len(values) // 2]


@pytest.mark.slow  # starts three processes
def test_rendering_is_not_measured(cache):
    one, two = checked(rendering.measured((96, 48), 16, (1, 2), ">= 500 images/s"), 2)
    assert one.met and two.rival == one.ours and not two.goal
    assert rendering.counts(1) == (1,) and rendering.counts(6) == (1, 2, 4, 6)


def test_a_steps_memory_is_not_measured(here, small, cache):
    own = replace(small, batch=4)
    for function, given, least in (
        (memory.render, (own, 16), 16 * 3 * 48 * 24 / 1e6), (memory.embed_images, (own, 4), 0.1),
        (memory.pair, (40, 4), 40 * 6 * 256 * 4 / 1e6), (memory.adapt_images, (own, 8, 2), 0.1),
        (memory.train_step, (own,), 0.1), (memory.score, (TINY,), 72 * 16 * 4 / 1e6),
        (memory.open_full, (300,), 300 * 24 / 1e6),
    ):  # fmt: skip
        row = memory.step(function.__name__, function, *given)
        checked([row], 1)
        assert least <= row.rival < least + 30, function.__name__


# ---------------------------------------------------------------- growth, figures, estimates


def test_growth_is_not_measured(small, cache, tmp_path):
    chosen = growth.steps(replace(small, batch=2), scale=16)
    assert len(chosen) == 10
    few = [replace(step, sizes=step.sizes[:2], repeats=1) for step in chosen]
    rows = list(growth.rows(few, tmp_path / "growth.csv"))
    assert len({row.name for row in rows}) == 10 and all(row.unit == "exponent" for row in rows)
    found = growth.read(tmp_path / "growth.csv")
    assert tuple(found.columns) == growth.COLUMNS and len(found) == 20 and (found["seconds"] > 0).all()


def line(step: str, power: float, sizes=(100, 200, 400), at=1.0, of="images") -> pd.DataFrame:
    """Points that grow by a power."""
    return pd.DataFrame([{"step": step, "size": size, "of": of, "setting": "512 probes",
                          "seconds": at * (size / sizes[0]) ** power, "machine": machine()}
                         for size in sizes])


def test_a_fitted_exponent_is_not_that_of_the_points():
    assert growth.exponent(line("a", 1.7)) == pytest.approx((1.7, 1.7))
    bent = line("a", 1.0)
    bent.loc[0, "seconds"] = 2.0  # as long as the next
    slope, last = growth.exponent(bent)
    assert last == pytest.approx(1.0) and 0 < slope < 1


def test_points_of_another_step_or_machine_are_lost(tmp_path):
    path = tmp_path / "growth.csv"
    growth.save(pd.concat([line("a", 1), line("b", 1)]), path)
    growth.save(line("a", 1).assign(machine="other"), path)
    growth.save(line("a", 2, (10, 20)), path)
    found = growth.read(path).groupby(["machine", "step"]).size()
    assert found.to_dict() == {(machine(), "a"): 2, (machine(), "b"): 3, ("other", "a"): 3}


def test_a_figure_leaves_out_a_goal_or_tells_a_missed_one_by_colour_alone():
    rows = [Row("fine", 1.0, "s", 5.0, goal=">= 3x"), Row("slow", 1.0, "s", 2.0, goal=">= 3x"),
            Row("late", 300.0, "ms", goal="< 200 ms"), Row("no goal", 1.0, "s", 2.0)]
    axis, = draw.draw_results(rows, "a machine").axes
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ["slow  [>= 3x]", "late  [< 200 ms]", "fine  [>= 3x]"]
    told = [text.get_text() for text in axis.texts]
    assert told == ["2.00x, MISSED", "300 ms, MISSED", "5.00x, met"]
    assert {mark.get_marker() for mark in axis.lines} >= {"o", "X"}
    figure = draw.draw_growth(pd.concat([line("a", 1.5), line("b", 1.0)]), "a machine")
    axis, = figure.axes
    assert axis.get_xscale() == axis.get_yscale() == "log" and axis.get_ylabel() == "seconds"
    assert "exponent 1.50" in figure.legends[0].get_texts()[0].get_text()
    apart = draw.draw_growth(pd.concat([line("a", 1.5), line("b", 1.0, of="pairs K")]), "a machine")
    assert [axis.get_xlabel() for axis in apart.axes] == ["images", "pairs K"]


def test_figures_and_estimates_are_not_written_beside_the_rows(tmp_path):
    csv, docs = tmp_path / "rows.csv", tmp_path / "speed.md"
    rows = [Row(capacity.PAPER_ROW, 68.0, "s", 60.0, goal="<= 1.2x"),
            Row(capacity.LAPTOP_ROW, 0.68, "s", 0.6, goal="<= 1.2x")]
    common.save(common.table(rows, "adaption", [1.0, 1.0]), csv)
    growth.save(all_points(), tmp_path / "growth.csv")
    docs.write_text(f"before\n{capacity.MARKS[0]}\nold\n{capacity.MARKS[1]}\nafter\n")
    draw.main(["--csv", str(csv)])
    capacity.main(["--csv", str(csv), "--docs", str(docs)])
    for name in ("results.png", "results.pdf", "growth.png", "growth.pdf", "capacity.csv"):
        assert (tmp_path / name).stat().st_size > 500, name
    text = docs.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "train an epoch of the paper's mixture" in text


def all_points() -> pd.DataFrame:
    return pd.concat([
        line("rendering", 1, (1_000, 2_000)), line("embedding", 1, (1_000, 2_000), at=6.0),
        line("pairing", 1.5, (1_000, 2_000)), line("adaption over K", 1, (64, 128), at=3.0, of="pairs"),
        line("evaluation", 1.2, (5_000, 10_000)), line("training", 1, (1_000, 2_000)),
        line("rendering" + growth.PAPER, 1, (1_000, 2_000), at=4.0),
        line("pairing" + growth.PAPER, 1.5, (1_000, 2_000), at=2.0),
        line("evaluation" + growth.PAPER, 1.2, (5_000, 10_000), at=3.0),
    ])  # fmt: skip


def test_an_estimate_is_called_measured_or_grows_slower_than_the_work():
    adaptions = [Row(capacity.PAPER_ROW, 68.0, "s"), Row(capacity.LAPTOP_ROW, 0.68, "s")]
    rows = common.table(adaptions, "adaption", [1.0, 1.0])
    found = capacity.table(all_points(), rows, 2).set_index(["task", "size", "machine"])
    here = "this machine, laptop profile"
    # Ten thousand is five times the largest that was measured: 25 times the work of 2,000 images.
    pairs = "choose K=128 pairs among all of it"
    assert found.loc[(pairs, 10_000, here), "minutes"] == pytest.approx(2**1.5 * 25 / 60, rel=0.01)
    assert found.loc[(pairs, 10_000, "one GPU"), "minutes"] == pytest.approx(2 * 2**1.5 * 25 / 60 / 8, rel=0.01)
    paper = "this machine, paper profile"
    assert found.loc[("render the gallery", 1_000, paper), "minutes"] == pytest.approx(4 / 60, rel=0.01)
    # The paper's network is 100 times the laptop's here, and its GPU ten times this machine.
    embed = "embed the gallery"
    assert found.loc[(embed, 1_000, here), "minutes"] == pytest.approx(0.1)
    assert found.loc[(embed, 1_000, "this machine, paper profile"), "minutes"] == pytest.approx(10, rel=0.01)
    assert found.loc[(embed, 1_000, "one GPU"), "minutes"] == pytest.approx(1, rel=0.01)
    assert found.loc[(embed, 1_000, "one node"), "minutes"] == pytest.approx(0.125, rel=0.01)
    adapting = "adapt on K=128 pairs, once they are chosen"
    assert found.loc[(adapting, 128, "one node"), "minutes"] == pytest.approx(6 * 100 / 10 / 60, rel=0.01)
    # 3,368 probes of the 512 that were measured.
    probes = f"evaluate {capacity.PROBES:,} probes"
    most = 2**1.2 * 1_000**1.2 * 3_368 / 512 / 60
    assert found.loc[(probes, 10_000_000, here), "minutes"] == pytest.approx(most, rel=0.01)
    known = found["known"]
    assert set(found[known == "measured"].index) == {
        ("render the gallery", 1_000, here), (embed, 1_000, here), (pairs, 1_000, here),
        ("render the gallery", 1_000, paper), (pairs, 1_000, paper), (adapting, 128, here)}
    assert known[known != "measured"].str.startswith("extrapolated: ").all()
    assert known.loc[(embed, 1_000, "one GPU")].count("6.8") == 1


@pytest.mark.parametrize("minutes, said", [(0.001, "< 0.01"), (0.1234, "0.12"), (4.56, "4.6"), (9.99, "10"),
                                           (123.4, "123"), (1.5e6, "1,500,000")])
def test_minutes_are_said_with_other_digits(minutes, said):
    assert capacity.words(minutes) == said


# ---------------------------------------------------------------- all of them


def script(folder, name: str, body: str) -> None:
    (folder / f"{name}.py").write_text(textwrap.dedent(body))


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """Three benchmarks of which the first two fail, and what comes after them."""
    writes = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(ROOT / "benchmarks")!r})
        import common
        common.run("fine", [common.Row("fine", 1.0, "s", 2.0, goal=">= 3x")], Path(sys.argv[-1]))
    """
    script(tmp_path, "broken", "raise ValueError('the images are upside down')")
    script(tmp_path, "killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    script(tmp_path, "fine", writes)
    script(tmp_path, "draw", "print('drawn')")
    monkeypatch.setattr(everything, "HERE", tmp_path)
    monkeypatch.setattr(everything, "BENCHMARKS", {"broken": [], "killed": [], "fine": []})
    monkeypatch.setattr(everything, "AFTER", ("draw",))
    return tmp_path


def test_a_benchmark_that_fails_stops_the_others_or_is_not_named(suite, capfd):
    csv = suite / "results.csv"
    assert everything.main(["--csv", str(csv)]) == 1
    out, errors = capfd.readouterr()
    assert "broken failed: ValueError: the images are upside down" in errors
    assert "killed failed: it was ended by signal 9" in errors
    assert "[3/4] fine: of unknown length" in out and "drawn" in out and "1 missed" in out
    rows = common.read(csv)
    assert rows["name"].tolist() == ["fine"] and rows["met"].tolist() == ["missed"]


def test_a_missed_goal_is_a_failure_or_the_next_run_has_no_estimate(suite, capfd):
    csv = suite / "results.csv"
    assert everything.main(["--csv", str(csv), "--only", "fine"]) == 0
    capfd.readouterr()
    assert everything.main(["--csv", str(csv), "--only", "fine"]) == 0
    out, _ = capfd.readouterr()
    assert "[1/2] fine: about 0 s" in out and len(common.read(csv)) == 1


def test_an_estimate_counts_rows_of_other_machines_where_this_one_has_some():
    rows = common.table([Row("a", 1.0, "s"), Row("b", 1.0, "s")], "some", [30.0, 40.0])
    other = rows.assign(machine="other", seconds=500.0)
    assert everything.expected(pd.concat([rows, other]), "some") == 70.0
    assert everything.expected(other, "some") == 1000.0
    assert math.isnan(everything.expected(rows, "never ran"))
    assert everything.minutes(70) == "about 70 s" and everything.minutes(600) == "about 10 min"


def test_every_benchmark_has_a_command_and_a_line_on_the_speed_page():
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    scripts -= {"common", "all", *everything.AFTER}
    assert scripts == set(everything.BENCHMARKS)
    for name in scripts:
        assert f"`{name}.py" in text, name


def test_the_committed_table_lacks_a_benchmark_or_has_a_verdict_that_its_numbers_do_not_give():
    rows = common.read(common.RESULTS)
    assert set(rows["benchmark"]) - {"pairing --large"} == set(everything.BENCHMARKS)  # minutes: by itself
    for row in rows.itertuples():
        again = Row(row.name, row.ours, row.unit, row.rival, row.against, row.goal)
        assert (again.met, row.machine != "") == (row.met, True), row.name
        if row.goal and not math.isnan(row.ratio):
            assert again.ratio == pytest.approx(row.ratio, rel=2e-3), row.name
        assert row.note or row.met != "missed", f"{row.name} does not say why it missed its goal"
    assert (rows["met"] != "").sum() >= 20
    for name in ("results.png", "growth.png", "growth.csv", "capacity.csv"):
        assert (common.RESULTS.parent / name).is_file(), name
