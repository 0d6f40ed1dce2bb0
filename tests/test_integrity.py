"""Data that would falsify a score: planted one by one, found and named, and nothing else."""

from dataclasses import replace

import pytest
import torch

from bnta_lib import settings
from bnta_lib.data import load_targets
from bnta_lib.data.folders import write_folder
from bnta_lib.data.sets import ReIDSet, Split, Target


def noise(n, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 8, 4), dtype=torch.uint8, generator=random)


def target(images=None, pids=None, camids=None):
    """Six people by two cameras each; camera 1 probes."""
    images = noise(12) if images is None else images
    pids = torch.arange(1, 7).repeat(2) if pids is None else pids
    camids = torch.tensor([1, 2]).repeat_interleave(6) if camids is None else camids
    splits = Split(torch.arange(6), torch.arange(6, 12)), Split(torch.arange(5), torch.arange(6, 12))
    return Target(ReIDSet("dots", images, pids, camids), splits)


def test_sound_data_have_no_problem(dots):
    assert target().problems() == dots.problems() == []


def test_probe_without_a_match_is_named():
    pids = torch.arange(1, 7).repeat(2)
    pids[11] = 0  # person 6's only image in the gallery becomes a distractor's
    named = "dots: probes without a match by another camera, left out of every score"
    assert target(pids=pids).problems() == [f"{named}: 1"]
    camids = torch.tensor([1, 2]).repeat_interleave(6)
    camids[6:8] = 1  # people 1 and 2 were seen by the probe's camera alone
    assert target(camids=camids).problems() == [f"{named}: 2"]


def test_gallery_that_holds_the_probe_is_named_as_a_folder_is_loaded(tmp_path):
    images = noise(12)
    images[6:9] = images[:3]
    images[10, :, :7] = images[4, :, :7]  # most of a picture in common is no equal picture
    data = target(images).data
    assert target(images).problems() == ["dots: probes that lie in the gallery as the very same picture: 3"]
    for part, rows in (("query", slice(6)), ("bounding_box_test", slice(6, 12))):
        own = ReIDSet("dots", data.images[rows], data.pids[rows], data.camids[rows])
        write_folder(own, tmp_path / part, "png")
    with pytest.warns(UserWarning, match="in the gallery as the very same picture: 3"):
        load_targets(settings("smoke", height=8, width=4), tmp_path)


def test_digest_follows_the_pictures_and_not_the_name():
    data = target(noise(12)).data
    other = replace(data, images=noise(12) // 2)
    assert other.digest == ReIDSet("dots", other.images, other.pids, other.camids).digest != data.digest
    assert replace(data, name="other").digest == data.digest
    assert ReIDSet("dots", data.images, data.pids, data.camids, "known").digest == "known"
