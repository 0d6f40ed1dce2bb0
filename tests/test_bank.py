"""The body bank shows whole, upright people, and a damaged file says so."""

import math

import pytest
import torch

from bnta_lib.rendered import bank as body_bank
from bnta_lib.rendered.bank import PART, PARTS, REST_RANGES, load_bank, read_bank
from bnta_lib.settings import ROOT

COLUMNS = torch.arange(body_bank.WIDTH)


@pytest.fixture(scope="module")
def bank():
    return load_bank()


@pytest.fixture(scope="module")
def rows(bank):
    """Pixels of each part in each row of every map, (maps, parts, rows); left and right limbs are one."""
    limb = torch.tensor([PART[name[:-1] + "l" if name.endswith("_r") else name] for name in PARTS])
    part = limb[bank.part.flatten(0, 3).long()]
    count = torch.zeros((*part.shape[:2], len(PARTS)), dtype=torch.int64)
    return count.scatter_add_(2, part, torch.ones_like(part)).transpose(1, 2)


def pair(part: torch.Tensor, name: str) -> torch.Tensor:
    """Where a map shows the left or the right one of a limb's part."""
    return (part == PART[f"{name}_l"]) | (part == PART[f"{name}_r"])


def extent(mask: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First and last index along -2 (rows) or -1 (columns) at which a mask is set anywhere."""
    line = mask.any(-1 if dim == -2 else -2).int()
    return line.argmax(-1), line.shape[-1] - 1 - line.flip(-1).argmax(-1)


def test_shapes_and_types_fit_together(bank):
    grid = bank.part.shape
    assert grid[4:] == (body_bank.HEIGHT, body_bank.WIDTH)
    assert grid[:3] == tuple(map(len, (bank.shapes, bank.phases, bank.views_deg)))
    assert grid[0] >= 10 and bank.phases.count(None) >= 1 and grid[2] == 12
    assert bank.alpha.shape == grid and bank.rest.shape == (*grid, 3)
    assert bank.normal.shape == (*grid, 2) and bank.normal.dtype == torch.int8
    for span in (bank.span_left, bank.span_right, bank.span_y):
        assert span.shape == grid[:5] and span.dtype == torch.uint8
    assert bank.part.max() == len(PARTS) - 1 and torch.equal(bank.alpha > 0, bank.part > 0)


def test_people_vary(bank, rows):
    assert {"man", "woman", "child"} == {s.gender for s in bank.shapes}
    assert {"slim", "average", "heavy"} == {s.build for s in bank.shapes}
    assert all(1.0 < s.height_m < 2.0 for s in bank.shapes)
    # A heavy body fills more of the same frame than a slim one.
    area = rows[:, 1:].sum((1, 2)).view(len(bank.shapes), -1).sum(1)
    slim, heavy = (area[[s.build == build for s in bank.shapes]] for build in ("slim", "heavy"))
    assert slim.max() < heavy.min()


def test_every_map_shows_a_whole_upright_person(rows):
    seen = rows.sum(2) > 0
    for name in ("scalp", "torso", "pelvis", "upper_arm_l", "forearm_l", "thigh_l", "shin_l", "foot_l"):
        assert seen[:, PART[name]].all(), name
    head = rows[:, PART["scalp"]] + rows[:, PART["face"]]
    below = [rows[:, PART[name]] for name in ("torso", "pelvis", "thigh_l", "shin_l", "foot_l")]
    middle = [(count * torch.arange(body_bank.HEIGHT)).sum(1) / count.sum(1) for count in (head, *below)]
    for upper, lower in zip(middle, middle[1:], strict=False):
        assert (upper + 5 < lower).all()


def test_the_face_shows_from_the_front_only(bank):
    face = (bank.part[:, :, [0, 6]] == PART["face"]).sum((-1, -2))
    assert (face[:, :, 0] > 25).all() and (face[:, :, 1] < 6).all()


def test_the_person_fills_the_frame_in_the_middle(bank):
    body = bank.part.flatten(0, 3) > 0
    top, bottom = extent(body, -2)
    left, right = extent(body, -1)
    assert ((bottom - top + 1) >= 0.85 * body_bank.HEIGHT).all() and (top > 0).all()
    assert (left > 0).all() and (right < body_bank.WIDTH - 1).all()
    assert ((left + right + 1 - body_bank.WIDTH).abs() <= 2).all()


@pytest.mark.parametrize("view, sign", [(0, 1), (6, -1)], ids=["front", "back"])
def test_left_and_right_are_the_persons_own(bank, view, sign):
    """Facing the camera, the left hand is at the image's right; from behind, the other way."""
    left, right = ((mask * COLUMNS).sum((-1, -2)) / mask.sum((-1, -2)) for mask in (
        bank.part[:, :, view] == PART[f"upper_arm_{side}"] for side in "lr"))
    assert (sign * (left - right) > 0).all()


def test_rest_coordinates_stay_on_their_part(bank):
    low, high = torch.tensor(REST_RANGES).unbind(1)
    part, (x, y, z) = bank.part[0], (low + bank.rest[0].float() / 255 * (high - low)).unbind(-1)
    torso, pelvis = part == PART["torso"], part == PART["pelvis"]
    assert y[torso].min() > body_bank.WAIST - 0.02 and y[pelvis].max() < body_bank.WAIST + 0.02
    assert y[part == PART["scalp"]].max() > 0.97 and y[pair(part, "foot")].max() < 0.1
    assert x[part == PART["thigh_l"]].mean() > 0.2 and x[part == PART["thigh_r"]].mean() < -0.2
    assert z[part == PART["face"]].mean() > z[part == PART["scalp"]].mean() + 0.2
    # Along an arm: shoulder 0, wrist 1.
    assert y[pair(part, "upper_arm")].mean() < 0.4 and y[pair(part, "hand")].min() > 0.9
    assert 0.4 < y[pair(part, "forearm")].mean() < 0.9


def test_the_second_half_of_the_cycle_mirrors_the_first(bank):
    walking = [k for k, phase in enumerate(bank.phases) if phase is not None]
    half = len(walking) // 2
    assert all(math.isclose(bank.phases[k + half] - bank.phases[k], 0.5) for k in walking[:half])
    first, second = bank.part[:, :half, 2] > 0, bank.part[:, half : 2 * half, len(bank.views_deg) - 2] > 0
    assert torch.equal(first.flip(-1), second)


def test_spans_cover_both_legs_from_the_waist_to_the_ankles(bank):
    part = bank.part.flatten(0, 3)
    spans = bank.span_left, bank.span_right, bank.span_y
    left, right, height = (span.flatten(0, 3).long() for span in spans)
    used = right > left
    span = used[..., None] & (left[..., None] <= COLUMNS) & (right[..., None] >= COLUMNS)
    assert not ((pair(part, "thigh") | pair(part, "shin")) & ~span).any()
    # Rest height falls from row to row, and a skirt never narrows.
    both = used[:, 1:] & used[:, :-1]
    assert (height[:, 1:] <= height[:, :-1])[both].all()
    assert ((right - left)[:, 1:] >= (right - left)[:, :-1])[both].all()


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
    with pytest.raises(ValueError if damage else FileNotFoundError, match="build_body_bank"):
        read_bank()
