"""The body bank shows whole, upright people, and a damaged file says so."""

import math

import pytest
import torch

from bnta_lib.rendered import bank as body_bank
from bnta_lib.rendered.bank import PART, PARTS, load_bank, normal_values, rest_values
from bnta_lib.settings import ROOT

FILE = ROOT / "data" / body_bank.FILE_NAME


@pytest.fixture(scope="module")
def bank():
    return load_bank()


def pair(part: torch.Tensor, name: str) -> torch.Tensor:
    """Where a map shows the left or the right one of a limb's part."""
    return (part == PART[f"{name}_l"]) | (part == PART[f"{name}_r"])


def mean_row(mask: torch.Tensor) -> torch.Tensor:
    """Mean row (...) of a mask (..., 128, 64)."""
    count = mask.sum(-1).float()
    return (count * torch.arange(mask.shape[-2])).sum(-1) / count.sum(-1)


def extent(mask: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First and last index along -2 (rows) or -1 (columns) at which a mask is set anywhere."""
    line = mask.any(-1 if dim == -2 else -2).int()
    return line.argmax(-1), line.shape[-1] - 1 - line.flip(-1).argmax(-1)


def test_shapes_and_types_fit_together(bank):
    grid = bank.part.shape
    assert grid[4:] == (body_bank.HEIGHT, body_bank.WIDTH)
    assert grid[:4] == tuple(map(len, (bank.shapes, bank.phases, bank.views_deg, bank.elevations_deg)))
    assert grid[0] >= 10 and bank.phases.count(None) >= 1 and grid[2] == 12
    assert bank.alpha.shape == grid and bank.rest.shape == (*grid, 3)
    assert bank.normal.shape == (*grid, 2) and bank.normal.dtype == torch.int8
    for span in (bank.span_left, bank.span_right, bank.span_y):
        assert span.shape == grid[:5] and span.dtype == torch.uint8
    assert bank.part.max() == len(PARTS) - 1
    assert torch.equal(bank.alpha > 0, bank.part > 0)


def test_people_vary(bank):
    assert {"man", "woman", "child"} == {s.gender for s in bank.shapes}
    assert {"slim", "average", "heavy"} == {s.build for s in bank.shapes}
    assert all(1.0 < s.height_m < 2.0 for s in bank.shapes)
    # A heavy body fills more of the same frame than a slim one.
    area = (bank.part > 0).sum((1, 2, 3, 4, 5))
    slim, heavy = (area[[s.build == build for s in bank.shapes]] for build in ("slim", "heavy"))
    assert slim.max() < heavy.min()


def test_every_map_shows_a_whole_person(bank):
    part = bank.part.flatten(0, 3)
    for name in ("scalp", "torso", "pelvis"):
        assert (part == PART[name]).any(-1).any(-1).all(), name
    for name in ("upper_arm", "forearm", "thigh", "shin", "foot"):
        assert pair(part, name).any(-1).any(-1).all(), name


def test_the_face_shows_from_the_front_only(bank):
    face = (bank.part == PART["face"]).sum((-1, -2))
    assert (face[:, :, 0] > 25).all()
    assert (face[:, :, 6] < 6).all()


def test_head_hips_knees_and_feet_follow_downwards(bank):
    part = bank.part.flatten(0, 3)
    head = mean_row((part == PART["scalp"]) | (part == PART["face"]))
    rows = [mean_row(part == PART["torso"]), mean_row(part == PART["pelvis"])]
    rows += [mean_row(pair(part, name)) for name in ("thigh", "shin", "foot")]
    for upper, lower in zip([head, *rows], rows, strict=False):
        assert (upper + 5 < lower).all()


def test_the_person_fills_the_frame_in_the_middle(bank):
    body = bank.part.flatten(0, 3) > 0
    top, bottom = extent(body, -2)
    left, right = extent(body, -1)
    assert ((bottom - top + 1) >= 0.85 * body_bank.HEIGHT).all() and (top > 0).all()
    assert (left > 0).all() and (right < body_bank.WIDTH - 1).all()
    assert ((left + right + 1 - body_bank.WIDTH).abs() <= 2).all()


def test_arms_hang_beside_the_trunk_when_standing(bank):
    """Front view: elbows and hands stay within a little of the shoulders' width."""
    standing = [k for k, phase in enumerate(bank.phases) if phase is None]
    part = bank.part[:, standing, 0, 0].flatten(0, 1)
    first, last = extent(pair(part, "upper_arm"), -1)
    left, right = extent(pair(part, "forearm") | pair(part, "hand"), -1)
    assert ((first - left) <= 4).all() and ((right - last) <= 4).all()


def test_left_and_right_are_the_persons_own(bank):
    """Facing the camera, the left hand is at the image's right; from behind, the other way."""
    columns = torch.arange(body_bank.WIDTH)

    def middle(part: torch.Tensor, name: str) -> torch.Tensor:
        mask = part == PART[name]
        return (mask * columns).sum((-1, -2)) / mask.sum((-1, -2))

    front, back = bank.part[:, :, 0], bank.part[:, :, 6]
    assert (middle(front, "upper_arm_l") > middle(front, "upper_arm_r")).all()
    assert (middle(back, "upper_arm_l") < middle(back, "upper_arm_r")).all()


def test_rest_coordinates_stay_on_their_part(bank):
    part, rest = bank.part[0], rest_values(bank.rest[0])
    x, y, z = rest.unbind(-1)
    torso, pelvis = part == PART["torso"], part == PART["pelvis"]
    assert y[torso].min() > body_bank.WAIST - 0.02 and y[pelvis].max() < body_bank.WAIST + 0.02
    assert y[part == PART["scalp"]].max() > 0.97 and y[pair(part, "foot")].max() < 0.1
    assert x[part == PART["thigh_l"]].mean() > 0.2 and x[part == PART["thigh_r"]].mean() < -0.2
    assert z[part == PART["face"]].mean() > z[part == PART["scalp"]].mean() + 0.2
    # Along an arm: shoulder 0, wrist 1.
    assert y[pair(part, "upper_arm")].mean() < 0.4 and y[pair(part, "hand")].min() > 0.9
    assert 0.4 < y[pair(part, "forearm")].mean() < 0.9


def test_normals_are_of_length_one_and_turn_with_the_outline(bank):
    part, normal = bank.part[:, 0, 0, 0], normal_values(bank.normal[:, 0, 0, 0])
    assert torch.allclose(normal[part > 0].norm(dim=-1), torch.tensor(1.0), atol=0.05)
    trunk, columns = part == PART["torso"], torch.arange(body_bank.WIDTH).expand_as(part)
    assert normal[..., 0][trunk & (columns > 40)].mean() > 0.2
    assert normal[..., 0][trunk & (columns < 24)].mean() < -0.2


def test_the_second_half_of_the_cycle_mirrors_the_first(bank):
    walking = [k for k, phase in enumerate(bank.phases) if phase is not None]
    half = len(walking) // 2
    assert all(math.isclose(bank.phases[k + half] - bank.phases[k], 0.5) for k in walking[:half])
    view, opposite = 2, len(bank.views_deg) - 2
    first, second = bank.part[:, :half, view] > 0, bank.part[:, half : 2 * half, opposite] > 0
    assert torch.equal(first.flip(-1), second)


def test_spans_cover_both_legs_from_the_waist_to_the_ankles(bank):
    part = bank.part.flatten(0, 3)
    left, right, height = (span.flatten(0, 3).long() for span in (bank.span_left, bank.span_right, bank.span_y))
    columns = torch.arange(body_bank.WIDTH)
    used = (right > left).unsqueeze(-1)
    span = used & (columns >= left.unsqueeze(-1)) & (columns <= right.unsqueeze(-1))
    for name in ("thigh", "shin"):
        assert not (pair(part, name) & ~span).any(), name
    # Rest height falls from row to row, and a skirt never narrows.
    both = (used[:, 1:] & used[:, :-1]).squeeze(-1)
    assert (height[:, 1:] <= height[:, :-1])[both].all()
    assert ((right - left)[:, 1:] >= (right - left)[:, :-1])[both].all()


def test_a_missing_bank_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="build_body_bank"):
        load_bank(tmp_path / "none.bin")


@pytest.mark.parametrize(("damage", "message"), [
    (lambda data: data[:-1000], "digest"), (lambda data: data[:200], "header"),
    (lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "digest"),
    (lambda data: b"BODYBNK0" + data[8:], "version"), (lambda data: b"", "version"),
], ids=["cut short", "cut in the header", "one bit flipped", "another version", "empty"])  # fmt: skip
def test_a_damaged_bank_is_refused(tmp_path, damage, message):
    path = tmp_path / body_bank.FILE_NAME
    path.write_bytes(damage(FILE.read_bytes()))
    with pytest.raises(ValueError, match=message):
        load_bank(path)
