"""What the explorers show: functions and widgets without a browser (tests/test_browser.py has one)."""

import itertools
import re
from dataclasses import replace

import ipywidgets as W
import pandas as pd
import pytest
import torch

from bnta_lib import adapt
from bnta_lib.by_camera import adapt_by_camera, embed_by_camera, sample_by_camera
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.evaluation import Ranking, top_gallery
from bnta_lib.explore import camera, figures, nk
from bnta_lib.explore.figures import NO_KERNEL, Explorer, layer_explorer, retrieval_explorer
from bnta_lib.explore.nk import NKExplorer
from bnta_lib.figures.photos import select_example_probes
from bnta_lib.model import bn_layers, embed
from bnta_lib.pairing import nearest_pairs
from bnta_lib.suite.runner import score
from bnta_lib.suite.samples import sample_of
from conftest import lab_of, noise


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


def test_every_recorded_cell_can_be_reached_and_shows_its_numbers(explorer, model, targets, measured):
    assert setting_of(explorer) == ["dots", 0, 10, 4, 0.1] and "stored" in explorer.numbers
    explorer.split.value = 1
    reached, pictures = set(), set()
    for n in explorer.N.options:
        explorer.N.value = n
        assert max(explorer.K.options) <= n // 2 and explorer.K.value in explorer.K.options
        for k in explorer.K.options:
            explorer.K.value = k
            rows = measured.query("split == 1 and N == @n and K == @k").set_index("metric")["value"]
            seconds = rows[["features", "pairing", "steps"]].sum()
            for words in (f"N = {n}, K = {k},", f"rank 1 {rows['R1']:.1f} % (", f"mAP {rows['mAP']:.1f} % (",
                          f", {seconds:.1f} s; stored"):
                assert words in explorer.numbers
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


# ---------------------------------------------------------------- by camera


@pytest.fixture
def by_camera(model, tiny, cameras, dots):
    return camera.camera_explorer(model, {"place": cameras, "dots": dots}, tiny)


@pytest.mark.filterwarnings("ignore:camera 3 has 5 images")
def test_numbers_are_those_of_images_embedded_by_their_camera(by_camera, model, tiny, cameras):
    data, (split,), controls = cameras.data, cameras.splits, by_camera.controls
    controls["camera"].value = 2
    for alpha, number in ((1, 0), (0.5, 16), (0.25, 8), (0, 8)):
        controls["alpha"].value, controls["number"].value = alpha, number
        seen = sample_by_camera(torch.arange(36, 85), data.camids, number)
        crops = data.images[seen], data.camids[seen]
        deltas = adapt_by_camera(model, *crops, tiny, "alpha_bn", least=8, alpha=alpha)
        after = embed_by_camera(model, data.images, data.camids, deltas)[0] if alpha else None
        for name, probes in (("camera 2", split.probe[1::2]), ("all cameras", split.probe)):
            some = Split(probes, split.gallery)
            scores = (100 * score(model, cameras, some, tiny, side).cmc(1) for side in (None, after))
            assert "{}: {:.1f} to {:.1f} %".format(name, *scores) in by_camera.numbers
        n = number or 22
        used = f"of {2 * n + 5} images (other people), {n} by camera 2; too few by camera 3"
        assert (used in by_camera.numbers) == (alpha > 0)


def test_every_position_of_every_camera_slider_answers(by_camera):
    controls, ranks = by_camera.controls, {1: {}, 2: {}}
    controls["target"].value = "dots"
    assert by_camera.numbers.startswith("dots,") and "probes and gallery" in by_camera.numbers
    controls["target"].value = "place"
    for slider in (controls["alpha"], controls["number"]):
        for index in range(len(slider.options)):
            slider.index = index
            assert by_camera.numbers.startswith("place,") and by_camera.errors.value == ""
    assert "other people" in by_camera.numbers
    controls["camera"].value = 3
    assert "; no probe by camera 3" in by_camera.numbers
    for by in ranks:
        controls["camera"].value = by
        for number in range(1, controls["probe"].max + 1):
            controls["probe"].value = number
            shown = re.match(r"place, camera (.), probe (\d+): .* match (\d+) to (\d+);", by_camera.numbers)
            ranks[int(shown[1])][int(shown[2])] = int(shown[4]) / int(shown[3])
    assert sorted(ranks[1]) == [*range(0, 12, 2)] and sorted(ranks[2]) == [*range(1, 12, 2)]
    assert all([*ratios.values()] == sorted(ratios.values()) for ratios in ranks.values())


def test_first_visit_says_so_and_an_error_is_shown(by_camera, monkeypatch):
    seen, alpha = [], by_camera.controls["alpha"]
    by_camera.shown.observe(lambda change: seen.append(">embedding ...<" in change["new"]), "value")
    alpha.value = 0.5
    alpha.value = 1
    assert seen == [True, False, False]
    monkeypatch.setattr(camera, "embed_by_camera", None)
    alpha.value = 0.25
    assert "failed: TypeError" in by_camera.errors.value
    alpha.value = 0.5
    assert by_camera.errors.value == "" and "rank 1, " in by_camera.shown.value
    bundle, metadata = by_camera._repr_mimebundle_()
    assert "image/jpeg" in bundle and "nearest gallery images" in metadata["image/jpeg"]["alt"]


def test_folder_of_three_images_is_refused_with_what_it_lacks(model, tiny):
    data = ReIDSet("three", noise(3, 3, 48, 24), torch.tensor([1, 1, 2]), torch.tensor([1, 2, 2]))
    few = {"three": Target(data, (Split(torch.tensor([0]), torch.tensor([1, 2])),))}
    with pytest.raises(ValueError, match="three has too few .* 1 by camera 1, 2 by camera 2; .* needs 8"):
        camera.camera_explorer(model, few, tiny)
    with pytest.raises(ValueError, match="nothing of by_camera to measure on three: it takes 4 images"):
        lab_of(tiny, {"bnta": model}, few).measure("by_camera")
