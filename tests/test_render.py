"""What the renderer draws: the same pixels everywhere, whole upright people, who stay themselves."""

import hashlib

import numpy as np
import pytest
import torch

from bnta_lib.data.sets import ReIDSet
from bnta_lib.rendered import bank as body_bank
from bnta_lib.rendered import render
from bnta_lib.rendered.bank import PART, PARTS, load_bank, read_bank
from bnta_lib.rendered.benchmark import STATISTICS, statistics_of
from bnta_lib.rendered.domains import DOMAINS
from bnta_lib.settings import ROOT

SIZE = (96, 48)
# sha256 of eight images of each domain (two people, four shots over the cameras), 96 x 48.
DIGESTS = {
    "CUHK02": "91f3f63ded430d13", "CUHK03": "8a5ff5c5a3336bd0", "Market-1501": "abc5833481b27ba7",
    "DukeMTMC-reID": "5cecb7707cec451d", "CUHK-SYSU": "66239a18f8d95463",
    "VIPeR": "e853125c1337fc91", "GRID": "657bdecc33000752", "iLIDS": "4089dca6ab984957",
    "256x128": "af478e91ca8c5125",
}  # fmt: skip


def sample(name: str, people: int = 2, first: int = 1, size=SIZE, **more) -> torch.Tensor:
    domain = DOMAINS[name]
    ids = np.repeat(np.arange(first, first + people), 4)
    numbers = np.tile(np.arange(4), people)
    return render.render(domain, ids, numbers % domain.cameras, numbers, size, **more)


@pytest.mark.parametrize("name", DIGESTS)
def test_pixels_are_those_of_this_version(name):
    large = name == "256x128"
    images = sample("Market-1501" if large else name, size=(256, 128) if large else SIZE)
    digest = hashlib.sha256(images.numpy()).hexdigest()[:16]
    assert digest == DIGESTS[name], "pixels changed: raise people.VERSION"


def test_pixels_do_not_depend_on_batch_company_or_threads(monkeypatch):
    whole, threads = sample("iLIDS", people=6), torch.get_num_threads()
    monkeypatch.setattr(render, "BATCH", 5)
    assert torch.equal(sample("iLIDS", people=2, first=3), whole[8:16])
    try:
        torch.set_num_threads(3)
        assert torch.equal(sample("iLIDS", people=6), whole)
    finally:
        torch.set_num_threads(threads)


def test_sizes_that_are_no_multiple_of_8_are_drawn_too():
    assert sample("CUHK03", size=(50, 30)).shape == (8, 3, 50, 30)


def test_statistics_of_plain_images_are_those_of_their_colour():
    images = torch.zeros(2, 3, 8, 4, dtype=torch.uint8)
    images[1, 0] = 255  # pure red
    table = statistics_of({"two": ReIDSet("two", images, torch.tensor([1, 2]), torch.tensor([1, 2]))})
    black, red = table[list(STATISTICS)].to_dict("records")
    assert not any(black.values()) and table["camera"].tolist() == [1, 2]
    assert red == pytest.approx({"brightness": 29.9, "contrast": 0, "saturation": 100,
                                 "warmth": 100, "sharpness": 0})


# ---- the body bank


@pytest.fixture(scope="module")
def bank():
    return load_bank()


def test_every_map_shows_a_whole_upright_person(bank):
    limb = torch.tensor([PART[name[:-1] + "l" if name.endswith("_r") else name] for name in PARTS])
    part = limb[bank.part.flatten(0, 3).long()]  # left and right limbs are one
    count = torch.zeros((*part.shape[:2], len(PARTS)), dtype=torch.int64)
    rows = count.scatter_add_(2, part, torch.ones_like(part)).transpose(1, 2)  # (maps, parts, rows)
    seen = rows.sum(2) > 0
    for name in ("scalp", "torso", "pelvis", "upper_arm_l", "forearm_l", "thigh_l", "shin_l", "foot_l"):
        assert seen[:, PART[name]].all(), name
    head = rows[:, PART["scalp"]] + rows[:, PART["face"]]
    below = [rows[:, PART[name]] for name in ("torso", "pelvis", "thigh_l", "shin_l", "foot_l")]
    middle = [(count * torch.arange(body_bank.HEIGHT)).sum(1) / count.sum(1) for count in (head, *below)]
    for upper, lower in zip(middle, middle[1:], strict=False):
        assert (upper + 5 < lower).all()


@pytest.mark.parametrize("view, sign", [(0, 1), (6, -1)], ids=["front", "back"])
def test_left_and_right_are_the_persons_own(bank, view, sign):
    """Facing the camera, the left hand is at the image's right; from behind, the other way."""
    left, right = ((mask * torch.arange(body_bank.WIDTH)).sum((-1, -2)) / mask.sum((-1, -2)) for mask in (
        bank.part[:, :, view] == PART[f"upper_arm_{side}"] for side in "lr"))
    assert (sign * (left - right) > 0).all()


@pytest.mark.parametrize("damage", [
    None, lambda data: data[:200], lambda data: b"BODYBNK0" + data[8:], lambda data: data[:-1] + b"x"],
    ids=["missing", "cut short", "another version", "changed"])
def test_a_missing_or_damaged_bank_is_refused_with_a_remedy(tmp_path, monkeypatch, damage):
    (tmp_path / "data").mkdir()
    if damage:
        data = (ROOT / "data" / body_bank.FILE_NAME).read_bytes()
        (tmp_path / "data" / body_bank.FILE_NAME).write_bytes(damage(data))
    monkeypatch.setattr(body_bank, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="build_body_bank"):
        read_bank()
