"""Data that would make a score lie: planted one by one, found and named, and nothing else said."""

from dataclasses import replace

import pytest
import torch
from bnta_lib import settings
from bnta_lib.data import load_targets
from bnta_lib.data.folders import write_folder
from bnta_lib.data.integrity import problems, shared
from bnta_lib.data.sets import ReIDSet, Split, Target


def noise(n, seed=0):
    return torch.randint(0, 256, (n, 3, 8, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def target(images=None, pids=None, camids=None):
    """Six people by two cameras each; camera 1 probes."""
    images = noise(12) if images is None else images
    pids = torch.arange(1, 7).repeat(2) if pids is None else pids
    camids = torch.tensor([1, 2]).repeat_interleave(6) if camids is None else camids
    splits = Split(torch.arange(6), torch.arange(6, 12)), Split(torch.arange(5), torch.arange(6, 12))
    return Target(ReIDSet("dots", images, pids, camids), splits)


def test_sound_data_are_not_complained_of():
    assert problems(target()) == []
    assert shared(noise(12), noise(5, 1)) == 0
    for own in load_targets(settings("smoke")).values():
        assert problems(own) == []


def test_probe_without_a_match_is_named():
    pids = torch.arange(1, 7).repeat(2)
    pids[11] = 0  # person 6's only image in the gallery becomes a distractor's
    assert problems(target(pids=pids)) == [
        "dots: probes without a match by another camera, left out of every score: 1"]
    camids = torch.tensor([1, 2]).repeat_interleave(6)
    camids[6:8] = 1  # people 1 and 2 were seen by the probe's own camera alone
    assert problems(target(camids=camids))[0].endswith("every score: 2")


def test_gallery_that_holds_the_probe_is_named():
    images = noise(12)
    images[6:9] = images[:3]
    assert problems(target(images)) == ["dots: probes that lie in the gallery as the very same picture: 3"]


def test_one_picture_of_two_people_is_named():
    images = noise(12)
    images[7] = images[9]
    assert problems(target(images)) == ["dots: pictures under more than one person's name: 1"]


def test_pictures_that_were_trained_on_are_counted():
    sources, own = noise(40), noise(10, 1)
    own[2:5] = sources[[7, 7, 30]]
    own[6, :, 4] = sources[9, :, 4]  # a line in common makes no equal picture
    assert shared(sources, own) == 3 and shared(own, sources) == 2


def test_folder_with_the_probe_in_its_gallery_is_warned_of(tmp_path):
    images = noise(12)
    images[6] = images[0]
    data = target(images).data
    write_folder(ReIDSet("dots", data.images[:6], data.pids[:6], data.camids[:6]), tmp_path / "query", "png")
    write_folder(ReIDSet("dots", data.images[6:], data.pids[6:], data.camids[6:]),
                 tmp_path / "bounding_box_test", "png")
    with pytest.warns(UserWarning, match="in the gallery as the very same picture: 1"):
        load_targets(settings("smoke", height=8, width=4), tmp_path)


def test_digest_follows_the_pictures_and_not_the_name():
    data = target(noise(12)).data
    other = replace(data, images=noise(12) // 2)
    assert other.digest == ReIDSet("dots", other.images, other.pids, other.camids).digest != data.digest
    assert replace(data, name="other").digest == data.digest
    assert ReIDSet("dots", data.images, data.pids, data.camids, "known").digest == "known"
