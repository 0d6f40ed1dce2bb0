"""Adaption by camera: a delta a camera, each image embedded by its own, and features normalised by camera."""

import warnings
from dataclasses import replace

import pandas as pd
import pytest
import torch

from bnta_lib import settings
from bnta_lib.adapters import ADAPTERS
from bnta_lib.by_camera import PLACE, adapt_by_camera, embed_by_camera, normalise_by_camera
from bnta_lib.data import load_targets
from bnta_lib.data.sets import ReIDSet, Target
from bnta_lib.figures.adaption import along_figure
from bnta_lib.model import embed
from bnta_lib.suite.layers import bn_moments, shift_by_camera
from bnta_lib.suite.runner import Measurer, Unit, score
from bnta_lib.suite.samples import exchanged, images_of
from bnta_lib.suite.specs import BY_CAMERA, TABLE_2, exchanged_cameras, few_images, steps_by_camera
from bnta_lib.suite.sweeps import gains_along, images_by_camera
from bnta_lib.weights import bn_tensors, load_deltas, save_deltas
from conftest import identical


@pytest.fixture
def model(tiny_models):
    return tiny_models["bnta"]


@pytest.fixture(scope="module")
def place(small):
    """Images of three cameras, the third darker and with few images; camera ids in no order."""
    random = torch.Generator().manual_seed(1)
    camids = torch.tensor([1, 2] * 12 + [3] * 5)[torch.randperm(29, generator=random)]
    images = torch.randint(0, 200, (29, 3, *small.size), generator=random, dtype=torch.uint8)
    images[camids == 3] //= 2
    return images, camids


def same(tensors, others):
    return tensors.keys() == others.keys() and all(torch.equal(tensors[k], others[k]) for k in tensors)


@pytest.mark.parametrize("adapter, options", [("adabn", {}), ("bnta", {"steps": 2}), ("tent", {}),
                                              ("alpha_bn", {"alpha": 0.3})])
def test_camera_is_adapted_as_if_it_were_a_place_alone(model, place, small, adapter, options):
    images, camids = place
    deltas = adapt_by_camera(model, images, camids, small, adapter, least=5, seed=2, **options)
    assert [*deltas] == [PLACE, 1, 2, 3]
    for camera, rows in ((PLACE, camids > 0), (2, camids == 2), (3, camids == 3)):
        alone = ADAPTERS[adapter](model, images[rows], small, seed=2, **options)
        assert same(deltas[camera].tensors, bn_tensors(alone))


def test_each_image_is_embedded_by_the_delta_of_its_camera(model, place, small):
    images, camids = place
    before = bn_tensors(model)
    deltas = adapt_by_camera(model, images, camids, small, least=5)
    features, local = embed_by_camera(model, images, camids, deltas)
    assert same(before, bn_tensors(model))
    for row in (0, 7, 28):
        with deltas[int(camids[row])].applied(model):
            own = embed(model, images[[row]])
        with deltas[PLACE].applied(model):
            other = embed(model, images[[row]])
        for got, right, wrong in zip((features, local), own, other):  # batches of other sizes round otherwise
            assert 20 * (got[row] - right[0]).norm() < (got[row] - wrong[0]).norm()


def test_camera_with_few_images_gets_the_delta_of_the_place_with_a_warning(model, place, small):
    images, camids = place
    with pytest.warns(UserWarning, match="camera 3 has 5 images, and 8 are needed"):
        deltas = adapt_by_camera(model, images, camids, small, least=8)
    assert deltas[3] is deltas[PLACE]
    with warnings.catch_warnings(action="error"):
        embed_by_camera(model, images, camids, deltas)
    with pytest.warns(UserWarning, match="camera 7 has no delta"):
        other = embed_by_camera(model, images[:4], torch.full((4,), 7), deltas)[0]
    with deltas[PLACE].applied(model):
        torch.testing.assert_close(other, embed(model, images[:4])[0])
    none = adapt_by_camera(model, images, camids, small, least=8, place=False)
    assert [*none] == [1, 2]
    with pytest.raises(ValueError, match="no delta of camera 3, and none of the place"):
        embed_by_camera(model, images, camids, none)


def test_deltas_of_all_cameras_are_one_file_of_the_same_bytes(model, place, small, tmp_path):
    deltas = adapt_by_camera(model, *place, small, least=5)
    for file in ("a", "b"):
        save_deltas(deltas, tmp_path / file)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = load_deltas(tmp_path / "a")
    assert [*loaded] == [*deltas] and loaded[2].meta == deltas[2].meta and loaded[2].meta["N"] == 12
    for camera, delta in deltas.items():
        assert delta.base == loaded[camera].base and same(delta.tensors, loaded[camera].tensors)
    deltas[1].save(tmp_path / "one")
    assert [*load_deltas(tmp_path / "one")] == [PLACE]
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match="is damaged"):
        load_deltas(tmp_path / "a")
    with pytest.raises(ValueError, match="a camera is a whole number, not '1'"):
        save_deltas({"1": deltas[1]}, tmp_path / "b")


@pytest.mark.parametrize("change, message", [
    ({"camids": torch.zeros(29, dtype=torch.int64)}, "whole numbers from 1"),
    ({"camids": torch.ones(3, dtype=torch.int64)}, "one for each of 29 images"),
    ({"adapter": "adabm"}, "no adapter of batch norm"),
    ({"adapter": "bnta", "layers": ("bn", "conv")}, "no adapter of batch norm alone"),
    ({"adapter": "bnta", "steps": 0}, "steps is at least 1"),
])
def test_wrong_labels_and_adapters_are_refused(model, place, small, change, message):
    images, camids = place
    with pytest.raises(ValueError, match=message):
        adapt_by_camera(model, images, **{"camids": camids, "settings": small} | change)


def test_normalised_features_of_each_camera_have_mean_0_and_deviation_1():
    random = torch.Generator().manual_seed(0)
    camids = torch.tensor([1] * 30 + [4] * 20)[torch.randperm(50, generator=random)]
    features = torch.randn(50, 6, generator=random) * camids[:, None] + camids[:, None]
    normalised = normalise_by_camera(features, camids, features, camids, least=20)
    for camera in (1, 4):
        assert normalised[camids == camera].mean(0).abs().max() < 1e-5
        torch.testing.assert_close(normalised[camids == camera].std(0), torch.ones(6))
    few = normalise_by_camera(features, torch.full_like(camids, 9), features, camids)  # a camera unseen
    torch.testing.assert_close(few, (features - features.mean(0)) / features.std(0))


def test_bnta_takes_so_many_steps_and_the_first_are_those_of_an_epoch(model, place, small):
    images, one = place[0], replace(small, tta_batch=4, tta_epochs=2)
    epochs, steps = (ADAPTERS["bnta"](model, images, one, **options) for options in ({}, {"steps": 8}))
    assert identical(epochs, steps)  # 14 pairs are 4 steps an epoch


def test_images_of_each_protocol_are_of_the_right_people():
    for target in load_targets(settings("smoke"), progress=False).values():
        split, pids = target.splits[0], target.data.pids
        test = {*split.probe.tolist(), *split.gallery.tolist()}
        assert {*images_of(target, split, "test").tolist()} == test
        others = images_of(target, split, "others")
        assert not {*pids[others].tolist()} & {*pids[sorted(test)].tolist()}
        assert not {*others.tolist()} & test


def test_share_of_camera_labels_is_exchanged_and_none_is_lost():
    camids = torch.arange(1, 101)
    wrong = exchanged(camids, 0.25, seed=3)
    assert (wrong != camids).sum() == 25 and wrong.sort().values.equal(camids)
    assert exchanged(camids, 0.0, 3).equal(camids)


def test_two_parts_of_the_shift_add_up_to_the_mean_squared_distance_of_the_cameras(model, place):
    images, camids = place
    source = bn_moments(model, 255 - images)
    cameras = [bn_moments(model, images[camids == camera]) for camera in (1, 2, 3)]
    parts = shift_by_camera(source, cameras).set_index("layer")
    for name, (mean, deviation) in source.items():
        moments = [camera[name] for camera in cameras]
        whole = [(m - mean).square() + (s - deviation).square() for m, s in moments]
        expected = float(torch.stack(whole).mean() / deviation.mean().square())
        assert parts.loc[name, ["place", "cameras"]].sum() == pytest.approx(expected)
    alike = shift_by_camera(source, [cameras[0]] * 3)  # cameras that do not differ
    assert (alike["cameras"] < 1e-12).all() and (alike["place"] > 0).all()


def test_rows_by_camera_have_keys_of_their_own_and_share_those_of_table_2(small):
    specs = [*BY_CAMERA, *few_images(), *exchanged_cameras(), *steps_by_camera(small)]
    columns = {spec.method: str(spec.columns(small, 60)) for spec in specs}
    # "all images" and "0 % exchanged" are a row of the first table.
    assert len({*columns.values()}) == len(columns) - 2
    shared = {str(spec.columns(small, 60)) for spec in TABLE_2} & {*columns.values()}
    assert len(shared) == 3  # no adaption, BNTA and AdaBN, on the gallery


def test_measuring_a_row_embeds_probes_and_gallery_by_camera(model, cameras, small):
    """A row's score is that of features embedded here, camera by camera, from AdaBN models of their own."""
    split, data = cameras.splits[0], cameras.data
    spec = next(spec for spec in BY_CAMERA if spec.method == "AdaBN by camera; other people")
    unit = Unit("retrieval", "place", spec, 0, 0)
    rows = Measurer(small, {"bnta": model}, {"bnta": {"place": cameras}}).measure(unit)
    features, seen = torch.zeros(len(data), 128), images_of(cameras, split, "others")
    for camera in (1, 2, 3):
        own = seen[data.camids[seen] == camera]
        adapted = ADAPTERS["adabn"](model, data.images[own if len(own) >= 8 else seen], small, seed=0)
        features[data.camids == camera] = embed(adapted, data.images[data.camids == camera])[0]
    scores = score(model, cameras, split, small, features).row()
    assert {row["metric"]: row["value"] for row in rows} == pytest.approx(scores, abs=1.0)


def test_gain_along_a_sweep_is_over_no_adaption_on_the_same_split():
    rows = pd.DataFrame([{"target": "GRID", "split": split, "metric": "R1", "x": x, "training": "bnta",
                          "value": 10 + split + x, "adapter": "adabn" if x else "none",
                          "line": line if x else None}
                         for split in range(3) for line in ("a", "b") for x in (0, 8, 16)])
    gains = gains_along(rows).set_index(["line", "x"])
    assert gains["difference"].to_dict() == {(line, x): x for line in "ab" for x in (8, 16)}
    figure = along_figure({"images of a camera": gains.reset_index()})
    (axis,) = figure.axes
    assert [container.get_label() for container in axis.containers] == ["a", "b"]
    assert axis.get_xlabel() == "images of a camera" and "points" in figure.get_supylabel()


def test_cameras_are_those_that_a_set_has_whatever_their_numbers(dots):
    numbers = torch.tensor([3, 7])[dots.data.camids - 1]
    data = ReIDSet("gaps", dots.data.images, dots.data.pids, numbers, origin="own folder")
    table = images_by_camera({"gaps": Target(data, dots.splits[:1])})
    assert table.loc[("gaps", "probes and gallery")].to_dict() == {
        "cameras": 2, "fewest": 12, "median": 12, "most": 12}
