"""Data that would falsify a score: planted one by one, found and named, and nothing else."""


import pytest
import torch

from bnta_lib import settings
from bnta_lib.data import load_targets
from bnta_lib.data.sets import ReIDSet, Split, Target, write_folder
from conftest import noise

PIDS, CAMIDS = torch.arange(1, 7).repeat(2), torch.tensor([1, 2]).repeat_interleave(6)


def target(images, pids=PIDS, camids=CAMIDS):
    """Six people by two cameras each; camera 1 probes."""
    splits = Split(torch.arange(6), torch.arange(6, 12)), Split(torch.arange(5), torch.arange(6, 12))
    return Target(ReIDSet("dots", images, pids, camids), splits)


def test_probe_without_a_match_is_named():
    assert target(noise(12, 3, 8, 4)).problems() == []
    pids, camids = PIDS.clone(), CAMIDS.clone()
    pids[11] = 0  # person 6's only image in the gallery becomes a distractor's
    camids[6:8] = 1  # people 1 and 2 were seen by the probe's camera alone
    named = "dots: probes without a match by another camera, left out of every score"
    assert target(noise(12, 3, 8, 4), pids).problems() == [f"{named}: 1"]
    assert target(noise(12, 3, 8, 4), camids=camids).problems() == [f"{named}: 2"]


def test_gallery_that_holds_the_probe_is_named_as_a_folder_is_loaded(tmp_path):
    images = noise(12, 3, 8, 4)
    images[6:9] = images[:3]
    images[10, :, :7] = images[4, :, :7]  # most of a picture in common is no equal picture
    data = target(images).data
    assert target(images).problems() == ["dots: probes that lie in the gallery as the very same picture: 3"]
    for part, rows in (("query", slice(6)), ("bounding_box_test", slice(6, 12))):
        own = ReIDSet("dots", data.images[rows], data.pids[rows], data.camids[rows])
        write_folder(own, tmp_path / part, "png")
    with pytest.warns(UserWarning, match="in the gallery as the very same picture: 3"):
        load_targets(settings("smoke", height=8, width=4), tmp_path)
