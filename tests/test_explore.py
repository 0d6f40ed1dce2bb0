"""What the explorers show: functions and widgets without a browser (tests/test_browser.py has one)."""

import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from bnta_lib import BNTANet, adapt, settings
from bnta_lib.suite import experiments, grid
from bnta_lib.rendered import render
from bnta_lib.rendered.domains import DOMAINS
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.evaluation import Ranking, select_example_probes
from bnta_lib.explore import domains, layers, nk, retrieval, widgets
from bnta_lib.figures import explore as draw
from bnta_lib.model import bn_layers, embed
from bnta_lib.pairing import Pairs, nearest_pairs
from bnta_lib.settings import ROOT
from bnta_lib.suite.shift import bn_moments


@pytest.fixture(scope="module")
def small():
    return settings("smoke", height=48, width=24, stripes=3, base_width=4, local_dim=8, tta_batch=4, K=4)


@pytest.fixture(scope="module")
def model(small):
    torch.manual_seed(0)
    net = BNTANet(6, small).eval()
    with torch.no_grad():
        for layer in bn_layers(net).values():
            layer.weight.uniform_(0.5, 1.5)
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return net


@pytest.fixture(scope="module")
def targets():
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (28, 3, 48, 24), dtype=torch.uint8, generator=random)
    data = ReIDSet("dots", images, torch.arange(1, 15).repeat(2),
                   torch.tensor([1, 2]).repeat_interleave(14))
    order = torch.randperm(14, generator=random)
    splits = tuple(Split(rows[:12], rows[:12] + 14) for rows in (torch.arange(14), order))
    return {"dots": Target(data, splits)}


@pytest.fixture(scope="module")
def measured(model, targets, small, tmp_path_factory):
    """Rows of Figure 4, in a store of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNTA_CACHE", str(tmp_path_factory.mktemp("store")))
        yield grid.grid_rows(model, targets, small, progress=False)


@pytest.fixture
def explorer(model, targets, small, measured):
    return widgets.nk_explorer(small, rows=measured, model=model, targets=targets, progress=False)


# ---------------------------------------------------------------- N and K: what is measured


def test_a_cell_has_other_numbers_than_its_rows(measured, small):
    cells = nk.cells_of(measured, small)
    assert len(cells) == len(measured.drop_duplicates(["method", "split"]))
    for row in measured[measured["unit"] == "%"].itertuples(index=False):
        cell = nk.find(cells, row.target, row.split, row.N, row.K, small.tta_momentum)
        assert cell[row.metric] == row.value
    took = measured[measured["unit"] == "s"].groupby(["split", "N", "K"])["value"].sum()
    for (split, n, k), value in took.items():
        cell = nk.find(cells, "dots", split, n, k, small.tta_momentum)
        assert cell["seconds"] == pytest.approx(value)


def test_known_cells_are_of_another_model_or_measure_something(measured, model, targets, small, monkeypatch):
    monkeypatch.setattr(experiments, "_measure", None)  # measuring anything would raise
    own = nk.known_cells(model, targets, small)
    pd.testing.assert_frame_equal(own, nk.cells_of(measured, small), check_dtype=False)
    torch.manual_seed(1)
    assert nk.known_cells(BNTANet(6, small).eval(), targets, small).empty


def test_a_momentum_that_the_store_has_is_left_out(measured, model, targets, small):
    run = nk.momentum_runs()[0.3]
    rows = experiments.run_rows("open_choices", [run], {"bnta": model}, targets, small, 1, False)
    cells = nk.known_cells(model, targets, small)
    assert sorted(cells["momentum"].dropna().unique()) == [0.1, 0.3]
    for split in (0, 1):
        own = rows[(rows["split"] == split) & (rows["metric"] == "mAP")]["value"].item()
        assert nk.find(cells, "dots", split, 12, 4, 0.3)["mAP"] == own


def test_exported_cells_differ_from_the_committed_figure(small):
    rows = pd.read_csv(ROOT / "figures" / "laptop" / "figure_4_rows.csv")
    galleries = rows.groupby("target")["N"].max()
    image = torch.zeros(1, 3, 8, 4, dtype=torch.uint8)
    targets = {}
    for name, n in galleries.items():
        data = ReIDSet(name, image.expand(n + 1, -1, -1, -1), torch.ones(n + 1).long(),
                       torch.ones(n + 1).long(), known_digest="none")
        targets[name] = Target(data, (Split(torch.tensor([n]), torch.arange(n)),))
    laptop = settings("laptop")
    cells = nk.exported_cells(targets, laptop)
    at_default = cells[(cells["momentum"] == laptop.tta_momentum) | (cells["N"] == 0)]
    shown = rows.pivot_table(index=["target", "split", "N", "K"], columns="metric", values="value")
    ours = at_default.set_index(["target", "split", "N", "K"])[list(shown.columns)]
    pd.testing.assert_frame_equal(ours.sort_index(), shown.sort_index(), check_names=False,
                                  check_dtype=False)
    assert set(cells["momentum"].dropna()) == set(nk.momentum_runs())
    with pytest.raises(FileNotFoundError, match="run 10_figure_4"):
        nk.exported_cells(targets, small)


@given(st.integers(4, 2000), st.sampled_from([True, False]))
@limits(max_examples=40, deadline=None)
def test_k_may_be_more_than_half_of_n(n, free):
    cells = pd.DataFrame([{"target": "x", "split": 0, "N": n, "K": k, "momentum": 0.1, "live": False}
                          for k in (2, 3, n // 2, n)])
    ks = nk.pair_choices(cells, "x", n, free)
    assert ks == sorted(set(ks)) and ks[0] >= 2 and ks[-1] == n // 2
    assert nk.pair_choices(cells, "x", n + 1, free)  # where nothing is measured there is a choice too
    assert nk.nearest(ks, 10**6) == n // 2


def test_a_curve_mixes_splits_momenta_or_runs_by_hand(measured, small):
    cells = nk.cells_of(measured, small)
    strange = cells[cells["N"] == 12].assign(R1=-1.0)
    cells = pd.concat([cells, strange.assign(momentum=0.3), strange.assign(live=True)])
    line = nk.curve(cells, "dots", 0.1, split=1, n=12)
    assert list(line["K"]) == sorted(line["K"]) and (line["split"] == 1).all() and (line["R1"] >= 0).all()
    mean = nk.curve(cells, "dots", 0.1, k=4)
    own = cells[(cells["K"] == 4) & (cells["momentum"] == 0.1) & ~cells["live"]]
    assert mean.set_index("N")["R1"].to_dict() == own.groupby("N")["R1"].mean().to_dict()
    with pytest.raises(ValueError, match="give one of them"):
        nk.curve(cells, "dots", 0.1)


def test_pairs_are_of_another_sample_or_model(model, targets, small):
    book, split = nk.PairBook(model, targets, small), targets["dots"].splits[1]
    for n in (8, 12):
        images = targets["dots"].data.images[experiments.sample_of(split, n)]
        assert torch.equal(book.images("dots", 1, n), images)
        own = nearest_pairs(embed(model, images)[1], 3)
        pairs = book.pairs("dots", 1, n, 3)
        assert torch.equal(pairs.index, own.index) and torch.equal(pairs.part, own.part)
        torch.testing.assert_close(pairs.distance, own.distance, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="2K <= N"):
        book.pairs("dots", 1, 8, 5)


@pytest.mark.parametrize("k", [1, 2, 6, 7, 12, 100])
def test_a_pair_is_shown_twice_or_the_last_is_not(k):
    rows = nk.shown_pairs(k, 6)
    shown = [number for chosen in rows.values() for number in chosen]
    assert len(shown) == len(set(shown)) and {0, k - 1} <= set(shown) <= set(range(k))


# ---------------------------------------------------------------- N and K: a run while one waits


def test_a_live_run_gives_other_numbers_than_the_stored_one(measured, model, targets, small):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    shares, cells = [], nk.cells_of(measured, small)
    live = nk.run_live(model, targets["dots"], 1, small, 12, 4, 0.1,
                       lambda stage, share: shares.append((stage, share)))
    stored = nk.find(cells, "dots", 1, 12, 4, 0.1)
    assert all(live[m] == pytest.approx(stored[m]) for m in nk.METRICS)
    assert [s for _, s in shares] == sorted(s for _, s in shares) and shares[-1] == ("done", 1.0)
    assert list(dict.fromkeys(stage for stage, _ in shares)) == [
        "features", "pairing", "steps", "evaluation", "done"]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.backbone._forward_hooks
    other = nk.run_live(model, targets["dots"], 1, small, 12, 4, 1.0)
    chosen = targets["dots"].data.images[targets["dots"].splits[1].gallery]
    by_hand = adapt(model, chosen, replace(small, tta_momentum=1.0), K=4).model
    scores = experiments.score(by_hand, targets["dots"], targets["dots"].splits[1], small).row()
    assert all(other[m] == pytest.approx(scores[m]) for m in nk.METRICS)


@pytest.mark.parametrize("stage", ["features", "pairing", "steps", "evaluation"])
def test_a_run_goes_on_after_it_is_cancelled(stage, model, targets, small):
    ticks = []

    def tick(now, share):
        ticks.append(now)
        if now == stage:
            raise nk.Cancelled

    with pytest.raises(nk.Cancelled):
        nk.run_live(model, targets["dots"], 0, small, 12, 4, 0.1, tick)
    assert ticks.count(stage) == 1 and ticks[-1] == stage


# ---------------------------------------------------------------- N and K: the widget


def test_the_k_slider_does_not_follow_n_or_shows_another_setting(explorer):
    assert explorer.setting() == ("dots", 0, 12, 4, 0.1) and "stored" in explorer.sentence.value
    for n in explorer.N.options:
        explorer.N.value = n
        assert max(explorer.K.options) <= n // 2 and explorer.K.value in explorer.K.options
        for k in explorer.K.options:
            explorer.K.value = k
            cell = nk.find(explorer.cells, *explorer.setting())
            assert f"N = {n}, K = {k}," in explorer.sentence.value
            assert f"rank 1 {cell['R1']:.1f} %" in explorer.sentence.value
    assert explorer.trouble.value == ""


def test_what_is_not_measured_is_made_up(explorer):
    before = explorer.curves.value
    explorer.momentum.value = 0.05
    assert "not measured" in explorer.sentence.value and "%" not in explorer.sentence.value
    assert explorer.curves.value != before
    explorer.momentum.value = 0.1
    explorer.values.value = "any"
    assert list(explorer.N.options) == list(range(4, 13))
    explorer.N.value = 11
    assert list(explorer.K.options) == [2, 3, 4, 5] and "not measured" in explorer.sentence.value
    explorer.values.value = "measured"
    assert explorer.N.value in (10, 12) and "stored" in explorer.sentence.value


def test_a_run_from_the_button_is_not_added_or_cannot_be_cancelled(explorer, monkeypatch):
    explorer.momentum.value = 0.3
    explorer.on_run()
    explorer.thread.join(60)
    assert explorer.trouble.value == "" and "run just now" in explorer.sentence.value
    assert explorer.cells["live"].sum() == 1 and explorer.progress.value == 1
    assert not explorer.run.disabled and explorer.cancel.disabled
    arrived, known = threading.Event(), explorer.curves.value
    tick = explorer._tick

    def waits(*now):
        arrived.set()
        explorer._cancelled.wait(60)
        tick(*now)

    monkeypatch.setattr(explorer, "_tick", waits)
    explorer.on_run()
    assert arrived.wait(60) and explorer.run.disabled and not explorer.cancel.disabled
    explorer.K.value = explorer.K.options[0]  # sliders answer while it runs
    explorer.K.value = 4
    explorer.on_cancel()
    explorer.thread.join(60)
    assert "cancelled" in explorer.status.value and explorer.cells["live"].sum() == 1
    assert explorer.curves.value == known and not explorer.run.disabled


def test_an_error_in_a_callback_or_a_run_is_swallowed(explorer, monkeypatch):
    def broken(*_):
        raise ValueError("no pairs <today>")

    with monkeypatch.context() as patch:
        patch.setattr(explorer.book, "pairs", broken)
        explorer.K.value = explorer.K.options[0]
        assert "no pairs &lt;today&gt;" in explorer.trouble.value and "bnta-error" in explorer.trouble.value
    explorer.K.value = explorer.K.options[-1]
    assert explorer.trouble.value == ""
    monkeypatch.setattr(nk, "nearest_pairs", broken)
    explorer.on_run()
    explorer.thread.join(60)
    assert "no pairs" in explorer.trouble.value and "failed" in explorer.status.value
    assert not explorer.run.disabled


def test_measured_cells_replace_recorded_ones_and_hide_no_others(
    model, targets, small, measured, monkeypatch, tmp_path
):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))  # nothing is known here but the rows given
    rows = measured[measured["N"].isin([0, 12]) & measured["K"].isin([0, 4])]
    recorded = nk.cells_of(measured, small)
    recorded.loc[recorded["N"] > 0, "R1"] = -1.0
    monkeypatch.setattr(nk, "exported_cells", lambda *_: recorded)
    shown = widgets.nk_explorer(small, rows=rows, model=model, targets=targets, progress=False)
    assert list(shown.N.options) == sorted(set(recorded["N"]) - {0}) and len(shown.K.options) > 1
    assert len(shown.cells) == len(recorded)
    assert (shown.cells["R1"] >= 0).sum() == len(nk.cells_of(rows, small))
    assert nk.find(shown.cells, "dots", 0, 12, 4, 0.1)["R1"] >= 0 and "committed" in shown.status.value
    recorded["R1"] += 1  # of another model
    shown = widgets.nk_explorer(small, rows=rows, model=model, targets=targets, progress=False)
    assert list(shown.N.options) == [12] and shown.status.value == ""


def test_without_a_kernel_there_is_nothing_to_see(explorer):
    assert explorer.still().data.startswith(b"\x89PNG")
    bundle = explorer._repr_mimebundle_()
    assert "make lab" in bundle["text/plain"] and "application/vnd.jupyter.widget-view+json" in bundle


# ---------------------------------------------------------------- layers


@pytest.fixture(scope="module")
def layer_book(model, targets, small):
    random = torch.Generator().manual_seed(5)
    source = ReIDSet("seen", torch.randint(0, 200, (20, 3, 48, 24), dtype=torch.uint8, generator=random),
                     torch.arange(1, 21), torch.ones(20).long())
    return layers.layer_books(model, targets, [source], small, images=20)["dots"], source


def test_outputs_are_not_those_of_the_layer(layer_book, model):
    book, source = layer_book
    moments = bn_moments(model, source.images)
    for index in (1, 5, 54, 57):  # stem, block, bnneck, part
        name = layers.layer_name(book, index)
        y = layers.outputs(book, index)["source"].reshape(len(moments[name][0]), -1)
        assert np.abs(y.mean(1) - moments[name][0].numpy()).max() < 4 * float(moments[name][1].max()) / 4
        x = layers.outputs(book, index, affine=False)["source"].reshape(y.shape)
        layer = model.get_submodule(name)
        gamma, beta = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        np.testing.assert_allclose(gamma[:, None] * x + beta[:, None], y, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(layers.outputs(book, index, 2)["source"], y[1])
    bnneck = layers.outputs(book, 54)["source"].reshape(-1, len(source))  # every value of it is kept
    features, _ = embed(model, source.images)
    np.testing.assert_allclose(np.sort(bnneck), np.sort(features.T.numpy()), rtol=1e-3, atol=1e-4)


def test_changes_do_not_add_up_to_the_rates(layer_book, model, targets, small):
    book, _ = layer_book
    gallery = targets["dots"].data.images[targets["dots"].splits[0].gallery]
    table = adapt(model, gallery, small).changes.set_index(["index", "quantity"])["rate"]
    for index, name in enumerate(book.layers, 1):
        for quantity, kind in (("mean", "running_mean"), ("gamma", "weight")):
            size = getattr(model.get_submodule(name), kind).detach().abs().sum().item()
            rate = 100 * np.abs(book.changes[name][quantity]).sum() / size
            assert rate == pytest.approx(book.rates.loc[index, quantity], rel=1e-4)
            assert rate == pytest.approx(100 * table[index, quantity], rel=1e-4)


def test_densities_lose_mass_and_a_dead_channel_fails():
    random = np.random.default_rng(0)
    values = {kind: random.normal(m, 1, 4000) for kind, m in zip(layers.KINDS, (0, 1, 2))}
    edges, found = layers.densities(values)
    for kind in layers.KINDS:
        assert found[kind].sum() * (edges[1] - edges[0]) == pytest.approx(1, abs=0.03)
    middle = (edges[1:] + edges[:-1]) / 2
    assert middle[found["adapted"].argmax()] == pytest.approx(2, abs=0.4)
    d = layers.channel_distance(values)
    assert d["frozen"] == pytest.approx(1, abs=0.1) and d["adapted"] == pytest.approx(2, abs=0.1)
    edges, found = layers.densities({kind: np.zeros(10) for kind in layers.KINDS})
    assert np.isfinite(found["source"]).all() and edges[0] < 0 < edges[-1]


def test_the_layer_slider_shows_another_layer(layer_book):
    book, _ = layer_book
    shown = widgets.LayerExplorer({"dots": book})
    seen = set()
    for index in (1, 2, 54, 57):
        shown.index.value = index
        name = book.layers[index - 1]
        assert name in shown.sentence.value and f"BN layer {index} of 57" in shown.sentence.value
        assert shown.channel.max == len(book.changes[name]["mean"]) and shown.channel.value == 0
        seen.add(shown.image.value)
        shown.channel.value = shown.channel.max
        seen.add(shown.image.value)
    shown.values.value = False
    seen.add(shown.image.value)
    assert shown.trouble.value == "" and len(seen) == 9
    with pytest.raises(ValueError, match="numbered 1 to 57"):
        layers.outputs(book, 58)
    with pytest.raises(ValueError, match="channels 1 to"):
        layers.outputs(book, 1, 99)


# ---------------------------------------------------------------- retrieval


def rankings(before, after):
    kept = torch.zeros(len(before), 3)
    return (Ranking(kept.long(), kept.bool(), torch.tensor(before)),
            Ranking(kept.long(), kept.bool(), torch.tensor(after)))


def test_probes_come_in_another_order_than_asked_for():
    before, after = rankings([4, 1, 0, 100, 7, 3], [2, 5, 0, 1, 7, 3])
    best = retrieval.probe_order(before, after, retrieval.ORDERS[0]).tolist()
    assert best == [3, 0, 4, 5, 1, 2]
    assert retrieval.probe_order(before, after, retrieval.ORDERS[1]).tolist() == [1, 4, 5, 0, 3, 2]
    telling = select_example_probes(before.rank, after.rank, 1)
    assert best[0] == telling["improved"].item() and best[-2] == telling["worsened"].item()
    assert retrieval.probe_order(before, after, retrieval.ORDERS[2]).tolist() == [*range(6)]
    with pytest.raises(ValueError, match="unknown order"):
        retrieval.probe_order(before, after, "best")


def test_the_probe_slider_shows_another_probe(model, targets, small):
    target, split = targets["dots"], targets["dots"].splits[1]
    before = retrieval.ranking_of(model, target, split, small, nearest=4)
    after = retrieval.ranking_of(
        adapt(model, target.data.images[split.gallery], small).model, target, split, small, 4)
    shown = widgets.retrieval_explorer(target, split, before, after)
    shown.order.value = "as they come"
    texts = []
    for place in range(1, 13):
        shown.place.value = place
        a, b = int(before.rank[place - 1]), int(after.rank[place - 1])
        assert f"probe {place - 1}:" in shown.sentence.value and f"rank {a} to {b}" in shown.sentence.value
        texts.append(shown.image.value)
    assert shown.trouble.value == "" and len(set(texts)) == 12


def test_a_right_image_is_marked_as_wrong():
    gallery = torch.full((3, 3, 96, 48), 128, dtype=torch.uint8)
    ranking = Ranking(torch.tensor([[2, 0, 1]]), torch.tensor([[False, True, False]]), torch.tensor([2]))
    picture = np.asarray(draw.ranking_picture(gallery[0], gallery, {"before": (ranking, 0)})).astype(int)
    blue = (picture == (0, 0x72, 0xB2)).all(2).any(0)
    orange = (picture == (0xD5, 0x5E, 0x00)).all(2).any(0)
    assert blue.any() and orange.any()
    assert orange.argmax() < blue.argmax() < len(orange) - orange[::-1].argmax()
    assert orange[: blue.argmax()].any() and not blue[: orange.argmax()].any()


# ---------------------------------------------------------------- domains


@pytest.mark.parametrize("size", [(96, 48), (256, 128)])
def test_an_unturned_camera_gives_other_pixels_than_the_set(size):
    of = domains.scene_of("GRID", size, people=5)
    ids, cams = np.arange(1, 6), np.arange(5) % DOMAINS["GRID"].cameras
    own = render.render(DOMAINS["GRID"], ids, cams, np.zeros(5, int), size)
    assert torch.equal(domains.seen(of), own)
    assert torch.equal(domains.seen(of, 2), own[:2])


def test_a_slider_of_the_camera_does_something_else():
    of = domains.scene_of("iLIDS", (96, 48), people=6, camera=0)
    light = [domains.seen(of, exposure=v).float().mean().item() for v in (0.4, 0.8, 1.6)]
    assert light == sorted(light) and light[2] > 1.3 * light[0]
    spread = [domains.seen(of, haze=v, noise=0.0).float().std(dim=(2, 3)).mean().item() for v in (0.0, 0.5)]
    assert spread[1] < 0.7 * spread[0]

    def rough(images):  # mean step between neighbours
        return images.float().diff(dim=3).abs().mean().item()

    assert rough(domains.seen(of, noise=0.1)) > 1.5 * rough(domains.seen(of, noise=0.0))
    coarse, fine = (rough(domains.seen(of, resolution=v, noise=0.0)) for v in (0.2, 1.0))
    assert coarse < 0.8 * fine
    with pytest.raises(ValueError, match="cannot be turned"):
        domains.seen(of, gamma=1.0)
    with pytest.raises(ValueError, match="unknown domain"):
        domains.scene_of("Paris", (96, 48))
    with pytest.raises(ValueError, match="cameras 0 to"):
        domains.scene_of("iLIDS", (96, 48), camera=9)


def test_the_first_layers_statistics_are_of_something_else(model):
    images = domains.seen(domains.scene_of("VIPeR", (48, 24), people=4))
    caught = []
    handle = model.backbone.bn1.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    model(images)
    handle.remove()
    mean, std = domains.stem_moments(model, images)
    torch.testing.assert_close(mean, caught[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(std, caught[0].transpose(0, 1).flatten(1).std(1), rtol=1e-4, atol=1e-5)
    layer = model.backbone.bn1
    same = layer.running_mean, layer.running_var.sqrt()
    stem = domains.stem_statistics(model, same, (same[0] + 2 * same[1].mean(), same[1]))
    assert domains.stem_distance(stem, "set") == pytest.approx(0, abs=1e-6)
    assert domains.stem_distance(stem, "moved") == pytest.approx(2, rel=1e-4)


def test_the_camera_sliders_show_other_people_or_do_not_come_back(model, small):
    shown = widgets.domain_explorer(model, small, ("GRID", "iLIDS"), people=8)
    begins = shown.people.value
    shown.on_domain()  # the button
    assert shown.people.value != begins, "its still shows nothing that moved"
    first = shown.people.value, shown.stem.value, shown.sentence.value
    for name, slider in shown.sliders.items():
        before = shown.people.value, shown.stem.value
        slider.value = slider.max if slider.value < slider.max else slider.min
        assert shown.people.value != before[0] and shown.stem.value != before[1], name
    shown.on_domain()  # the button
    assert (shown.people.value, shown.stem.value, shown.sentence.value) == first
    shown.domain.value = "iLIDS"
    assert shown.people.value != first[0] and shown.trouble.value == ""


# ---------------------------------------------------------------- pictures


def test_a_moved_picture_keeps_something_of_the_last(explorer):
    explorer.N.value = explorer.N.options[-1]
    for k in (explorer.K.options[0], explorer.K.options[-1]):
        explorer.K.value = k
        seen = explorer.curves.value
        explorer._frames.clear()  # draws all of it anew
        explorer.on_move()
        assert explorer.curves.value == seen


def test_the_outline_is_not_at_the_matched_stripe(small):
    images = torch.full((2, 3, 48, 24), 128, dtype=torch.uint8)
    for part in range(3):
        pairs = Pairs(torch.tensor([[0, 1]]), torch.tensor([part]), torch.tensor([0.5]).double())
        picture = np.asarray(draw.couples_picture(images, pairs, small, {"closest": [0]}))
        rows = np.flatnonzero((picture == (0xF0, 0xE4, 0x42)).all(2).any(1))
        stripe = draw.CELL / 3
        assert part * stripe <= rows[0] and rows[-1] < (part + 1) * stripe
        assert rows[-1] - rows[0] > 0.6 * stripe


def test_a_target_without_any_measurement_or_baseline_cannot_be_shown(model, targets, small):
    empty = pd.DataFrame(columns=nk.COLUMNS).astype({"live": bool})
    shown = widgets.NKExplorer(empty, nk.PairBook(model, targets, small), small)
    assert shown.trouble.value == "" and "not measured" in shown.sentence.value
    shown.on_run()
    shown.thread.join(60)
    assert "run just now" in shown.sentence.value and shown.trouble.value == ""
