"""The explorer of adaption by camera, against features that are embedded by hand."""

import re

import pytest
import torch

from bnta_lib.by_camera import adapt_by_camera, embed_by_camera, sample_by_camera
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.explore import camera
from bnta_lib.suite.runner import score
from conftest import noise


@pytest.fixture(scope="module")
def place():
    """Twelve people of the test; of others 22 images each by cameras 1 and 2, and 5 by camera 3."""
    gallery, others = torch.arange(24), torch.arange(49)
    pids = torch.cat([torch.arange(12), gallery % 12, others % 12 + 20]) + 1
    camids = torch.cat([torch.arange(12) % 2, (gallery // 12 + gallery) % 3, others % 2]) + 1
    camids[80:] = 3
    images = noise(85, 3, 48, 24) // camids[:, None, None, None].to(torch.uint8)
    return Target(ReIDSet("place", images, pids, camids), (Split(torch.arange(12), torch.arange(12, 36)),))


@pytest.fixture
def explorer(tiny_models, tiny, place, dots):
    return camera.camera_explorer(tiny_models["bnta"], {"place": place, "dots": dots}, tiny)


@pytest.mark.filterwarnings("ignore:camera 3 has 5 images")
def test_numbers_are_those_of_images_embedded_by_their_camera(explorer, tiny_models, tiny, place):
    data, (split,), model, controls = place.data, place.splits, tiny_models["bnta"], explorer.controls
    controls["camera"].value = 2
    for alpha, number in ((1, 0), (0.5, 16), (0.25, 8), (0, 8)):
        controls["alpha"].value, controls["number"].value = alpha, number
        seen = sample_by_camera(torch.arange(36, 85), data.camids, number)
        crops = data.images[seen], data.camids[seen]
        deltas = adapt_by_camera(model, *crops, tiny, "alpha_bn", least=8, alpha=alpha)
        after = embed_by_camera(model, data.images, data.camids, deltas)[0] if alpha else None
        for name, probes in (("camera 2", split.probe[1::2]), ("all cameras", split.probe)):
            some = Split(probes, split.gallery)
            scores = (100 * score(model, place, some, tiny, side).cmc(1) for side in (None, after))
            assert "{}: {:.1f} to {:.1f} %".format(name, *scores) in explorer.numbers
        n = number or 22
        used = f"of {2 * n + 5} images (other people), {n} by camera 2; too few by camera 3"
        assert (used in explorer.numbers) == (alpha > 0)


def test_every_position_of_every_slider_answers(explorer):
    controls, ranks = explorer.controls, {1: {}, 2: {}}
    for target, images in (("dots", "probes and gallery"), ("place", "other people")):
        controls["target"].value = target
        for slider in (controls["alpha"], controls["number"]):
            for index in range(len(slider.options)):
                slider.index = index
                assert explorer.numbers.startswith(target) and explorer.errors.value == ""
        assert images in explorer.numbers
    controls["camera"].value = 3
    assert "; no probe by camera 3" in explorer.numbers
    for by in ranks:
        controls["camera"].value = by
        for number in range(1, controls["probe"].max + 1):
            controls["probe"].value = number
            shown = re.match(r"place, camera (.), probe (\d+): .* match (\d+) to (\d+);", explorer.numbers)
            ranks[int(shown[1])][int(shown[2])] = int(shown[4]) / int(shown[3])
    assert sorted(ranks[1]) == [*range(0, 12, 2)] and sorted(ranks[2]) == [*range(1, 12, 2)]
    assert all([*ratios.values()] == sorted(ratios.values()) for ratios in ranks.values())


def test_first_visit_says_so_and_an_error_is_shown(explorer, monkeypatch):
    seen, alpha = [], explorer.controls["alpha"]
    explorer.shown.observe(lambda change: seen.append(">embedding ...<" in change["new"]), "value")
    alpha.value = 0.5
    alpha.value = 1
    assert seen == [True, False, False]
    monkeypatch.setattr(camera, "embed_by_camera", None)
    alpha.value = 0.25
    assert "failed: TypeError" in explorer.errors.value
    alpha.value = 0.5
    assert explorer.errors.value == "" and "rank 1, " in explorer.shown.value
    bundle, metadata = explorer._repr_mimebundle_()
    assert "image/jpeg" in bundle and "nearest gallery images" in metadata["image/jpeg"]["alt"]
