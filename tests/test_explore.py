"""What the explorers show: functions and widgets without a browser (tests/test_browser.py has one)."""

import itertools
from dataclasses import replace

import ipywidgets as W
import pandas as pd
import pytest
import torch

from bnta_lib import adapt
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.evaluation import Ranking, top_gallery
from bnta_lib.explore import figures, nk
from bnta_lib.explore.figures import NO_KERNEL, Explorer, layer_explorer, retrieval_explorer
from bnta_lib.explore.nk import NKExplorer
from bnta_lib.figures.photos import select_example_probes
from bnta_lib.model import bn_layers, embed
from bnta_lib.pairing import nearest_pairs
from bnta_lib.suite.runner import score
from bnta_lib.suite.samples import sample_of
from conftest import lab_of


@pytest.fixture(scope="module")
def own(tiny):
    return replace(tiny, K=4)


@pytest.fixture(scope="module")
def model(tiny_models):
    return tiny_models["bnta"]


@pytest.fixture(scope="module")
def targets(dots):
    return {"dots": dots}


@pytest.fixture(scope="module")
def measured(model, targets, own, tmp_path_factory):
    """Rows of Figure 4, in a store of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNTA_CACHE", str(tmp_path_factory.mktemp("store")))
        yield lab_of(own, {"bnta": model}, targets).measure("figure_4")


@pytest.fixture
def explorer(model, targets, own, measured):
    return NKExplorer(nk.cells_of(measured), model, targets, own)


def setting_of(explorer):
    return [control.value for control in explorer.controls.values()]


# ---------------------------------------------------------------- N and K: what is measured


def test_cells_hold_the_numbers_of_their_rows(measured, own):
    cells = nk.cells_of(measured)
    assert len(cells) == len(measured.drop_duplicates(["method", "split"])) and list(cells) == nk.COLUMNS
    for (split, n, k), rows in measured.groupby(["split", "N", "K"]):
        cell = nk.find(cells, "dots", split, n, k, own.tta_momentum)
        assert all(cell[row.metric] == row.value for row in rows[rows["unit"] == "%"].itertuples())
        assert cell["seconds"] == pytest.approx(rows.loc[rows["unit"] == "s", "value"].sum()) or n == 0


def test_curves_keep_splits_momenta_and_runs_by_hand_apart(measured):
    cells = nk.cells_of(measured)
    largest = cells["N"].max()
    here = cells[cells["N"] == largest]
    mixed = pd.concat([cells, here.assign(R1=-1.0, momentum=0.3), here.assign(R1=-1.0, live=True)],
                      ignore_index=True)
    lines = nk.curves(mixed, "dots", 1, 0.1, "N", largest)
    assert list(lines["this split"]["K"]) == sorted(here.loc[here["split"] == 1, "K"])
    assert (lines["this split"]["R1"] >= 0).all() and (lines["run by hand"]["R1"] == -1).all()
    mean = nk.curves(mixed, "dots", 1, 0.1, "K", 4)["mean of splits"]
    assert mean.set_index("N")["R1"].to_dict() == cells[cells["K"] == 4].groupby("N")["R1"].mean().to_dict()


# ---------------------------------------------------------------- N and K: a run while one waits


def test_live_run_gives_the_stored_numbers_and_leaves_the_model_alone(measured, model, targets, own):
    before, ticks = {key: value.clone() for key, value in model.state_dict().items()}, []
    live = nk.run_live(model, targets["dots"], 1, own, 10, 4, 0.1, lambda *tick: ticks.append(tick))
    stored = nk.find(nk.cells_of(measured), "dots", 1, 10, 4, 0.1)
    assert all(live[m] == pytest.approx(stored[m]) for m in nk.METRICS)
    shares = [share for _, share in ticks]
    assert shares == sorted(shares) and ticks[-1] == ("done", 1.0)
    assert list(dict.fromkeys(stage for stage, _ in ticks)) == ["pairs", "steps", "evaluation", "done"]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    other, split = nk.run_live(model, targets["dots"], 1, own, 10, 4, 1.0), targets["dots"].splits[1]
    images = targets["dots"].data.images[split.gallery]
    by_hand = adapt(model, images, replace(own, tta_momentum=1.0), K=4).model
    scores = score(by_hand, targets["dots"], split, own).row()
    assert all(other[m] == pytest.approx(scores[m]) for m in nk.METRICS)


# ---------------------------------------------------------------- N and K: the widget


def test_every_recorded_cell_can_be_reached_and_shows_its_numbers(explorer, model, targets):
    assert setting_of(explorer) == ["dots", 0, 10, 4, 0.1] and "stored" in explorer.numbers
    explorer.split.value = 1
    reached, pictures = set(), set()
    for n in explorer.N.options:
        explorer.N.value = n
        assert max(explorer.K.options) <= n // 2 and explorer.K.value in explorer.K.options
        for k in explorer.K.options:
            explorer.K.value = k
            cell = nk.find(explorer.cells, *setting_of(explorer))
            assert f"N = {n}, K = {k}," in explorer.numbers
            assert f"rank 1 {cell['R1']:.1f} %" in explorer.numbers
            reached.add((n, k))
            pictures.add(explorer.shown.value)
        images = targets["dots"].data.images[sample_of(targets["dots"].splits[1], n)]
        expected = sample_of(targets["dots"].splits[1], n)[nearest_pairs(embed(model, images)[1], k).index]
        assert torch.equal(explorer.pairs("dots", 1, n, k).index, expected)
    cells = explorer.cells[(explorer.cells["N"] > 0) & (explorer.cells["split"] == 1)]
    assert reached == {*zip(cells["N"], cells["K"])} and len(pictures) == len(reached)


def test_pairs_found_step_by_step_are_those_of_algorithm_1(explorer):
    """Brute force, with many equal distances; K grows, falls, and grows to the end."""
    random, rows = torch.Generator().manual_seed(3), torch.arange(42)
    data = ReIDSet("many", torch.zeros(42, 3, 48, 24, dtype=torch.uint8), rows, rows + 1)
    explorer.targets["many"] = Target(data, (Split(rows[:2], rows[2:].flip(0)),))
    local = torch.randint(0, 4, (42, 2, 6), generator=random).float()
    explorer.local = lambda target: local
    parts = local[2:].flip(0).double()
    D = (parts[:, None] - parts).norm(dim=3).amin(2)
    expected, free = [], set(range(40))
    for _, i, j in sorted((float(D[pair]), *pair) for pair in itertools.combinations(range(40), 2)):
        if {i, j} <= free:
            expected.append((41 - i, 41 - j))
            free -= {i, j}
    assert len(D.unique()) < 100
    for k in (2, 3, 11, 5, 19, 20):
        assert explorer.pairs("many", 0, 40, k).index.tolist() == [[*pair] for pair in expected[:k]]


def test_what_is_not_measured_is_not_made_up(explorer, model, targets, own):
    assert "not measured" in NKExplorer(pd.DataFrame(columns=nk.COLUMNS), model, targets, own).numbers
    before = explorer.shown.value
    explorer.momentum.value = 0.05
    assert "not measured" in explorer.numbers and "%" not in explorer.numbers
    assert explorer.shown.value != before
    explorer.momentum.value = 0.1
    assert explorer.shown.value == before
    explorer.free.value = True
    assert list(explorer.N.options) == list(range(4, 11))
    explorer.N.value = 9
    assert list(explorer.K.options) == [2, 3, 4] and "not measured" in explorer.numbers
    explorer.free.value = False
    assert explorer.N.value in (8, 10) and "stored" in explorer.numbers


def test_failed_run_is_shown(explorer, monkeypatch):
    def broken(*_, **__):
        raise ValueError("no pairs today")

    monkeypatch.setattr(nk, "adapt", broken)
    explorer.run.click()
    explorer.thread.join(60)
    assert "failed: ValueError: no pairs today" in explorer.status.value and not explorer.run.disabled


def test_page_without_a_kernel_has_a_picture(explorer):
    bundle, metadata = explorer._repr_mimebundle_()
    assert bundle["text/plain"] == NO_KERNEL and "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["image/png"].strip() in explorer.shown.value
    assert "N = 10, K = 4" in metadata["image/png"]["alt"]


# ---------------------------------------------------------------- layers


def test_layer_slider_shows_every_layer_and_channel(model, targets, own):
    random = torch.Generator().manual_seed(5)
    source = ReIDSet("seen", torch.randint(0, 200, (20, 3, 48, 24), dtype=torch.uint8, generator=random),
                     torch.arange(1, 21), torch.ones(20).long())
    shown = layer_explorer(model, targets, [source], own, images=20)
    index, channel = (shown.controls[name] for name in ("index", "channel"))
    assert index.value == 1 and index.max == len(bn_layers(model))
    first = shown.shown.value
    pictures = {first}
    for number in (2, 54, 57):
        index.value = number
        assert f"{list(bn_layers(model))[number - 1]}, BN layer {number} of 57" in shown.numbers
        pictures.add(shown.shown.value)
        channel.value = 1 + channel.value % 2
        pictures.add(shown.shown.value)
    assert len(pictures) == 7
    index.value, channel.value = 1, 0
    assert shown.shown.value == first


# ---------------------------------------------------------------- retrieval


def test_probes_are_ordered_by_what_adaption_did():
    before, after = (Ranking(torch.zeros(6, 3).long(), torch.zeros(6, 3).bool(), torch.tensor(ranks))
                     for ranks in ([4, 1, 0, 100, 7, 3], [2, 5, 0, 1, 7, 3]))
    best = figures.probe_order(before, after, figures.ORDERS[0]).tolist()
    assert best == [3, 0, 4, 5, 1, 2]
    assert figures.probe_order(before, after, figures.ORDERS[1]).tolist() == [1, 4, 5, 0, 3, 2]
    examples = select_example_probes(before.rank, after.rank, 1)
    assert best[0] == examples["improved"].item() and best[-2] == examples["worsened"].item()
    assert figures.probe_order(before, after, figures.ORDERS[2]).tolist() == [*range(6)]


def test_probe_slider_shows_every_probe(model, targets, own):
    target, split = targets["dots"], targets["dots"].splits[1]

    def ranking(net):
        sides = split.probe, split.gallery
        features = [embed(net, target.data.images[side])[0] for side in sides]
        return top_gallery(*features, *(kind[side] for kind in (target.data.pids, target.data.camids)
                                        for side in sides), 4, own.normalise_features)

    before, after = ranking(model), ranking(adapt(model, target.data.images[split.gallery], own).model)
    shown, pictures = retrieval_explorer(target, split, before, after), set()
    order, number = shown.controls.values()
    order.value = "in the target's order"
    for p in range(8):
        number.value = p + 1
        pictures.add(shown.shown.value)
        assert shown.shown.value.count("✓</b>") == sum(int(side.right[p].sum()) for side in (before, after))
        assert shown.numbers == f"probe {p}: rank of the first match {before.rank[p]} to {after.rank[p]}"
    assert len(pictures) == 8 and "image/jpeg" in shown._repr_mimebundle_()[0]


def test_error_in_a_callback_is_shown_until_the_next_move():
    shown = Explorer(lambda number: (f"{1 / number:g}", "", None), number=W.IntSlider(value=2))
    shown.controls["number"].value = 0
    assert "failed: ZeroDivisionError" in shown.errors.value and "0.5" in shown.shown.value
    shown.controls["number"].value = 4
    assert shown.errors.value == "" and "0.25" in shown.shown.value


def test_no_explorer_has_an_output_widget(explorer):
    """With one, papermill may wait for its cell for ever."""
    widgets, held = [explorer, Explorer(lambda: ("", "", None))], []
    while widgets:
        held.append(widgets.pop())
        widgets += getattr(held[-1], "children", ())
    assert len(held) > 15 and not any(isinstance(widget, W.Output) for widget in held)
