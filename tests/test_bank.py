"""The body bank shows whole, upright people, and a damaged file is refused."""

import pytest
import torch

from bnta_lib.rendered import bank as body_bank
from bnta_lib.rendered.bank import PART, PARTS, load_bank, read_bank
from bnta_lib.settings import ROOT

COLUMNS = torch.arange(body_bank.WIDTH)


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
    left, right = ((mask * COLUMNS).sum((-1, -2)) / mask.sum((-1, -2)) for mask in (
        bank.part[:, :, view] == PART[f"upper_arm_{side}"] for side in "lr"))
    assert (sign * (left - right) > 0).all()


@pytest.mark.parametrize("damage", [
    None, lambda data: data[:-1000], lambda data: data[:200], lambda data: b"BODYBNK0" + data[8:],
    lambda data: b"", lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
], ids=["missing", "cut short", "cut in the header", "another version", "empty", "one bit flipped"])
def test_a_missing_or_damaged_bank_is_refused_with_a_remedy(tmp_path, monkeypatch, damage):
    (tmp_path / "data").mkdir()
    if damage:
        data = (ROOT / "data" / body_bank.FILE_NAME).read_bytes()
        (tmp_path / "data" / body_bank.FILE_NAME).write_bytes(damage(data))
    monkeypatch.setattr(body_bank, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="build_body_bank"):
        read_bank()
