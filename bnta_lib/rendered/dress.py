"""Dressed people: the colour of each pixel of a body from the bank.

Its rules of arithmetic are those of `render`: elementwise operations that round exactly, one at a time.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bnta_lib.rendered import bank as body_bank
from bnta_lib.rendered import people, places, scene

MAP_ROWS, MAP_COLS = body_bank.HEIGHT, body_bank.WIDTH

# Groups of the bank's parts, each one test in `paint`.
NOTHING, SCALP, FACE, NECK, TRUNK, ARM, HAND, LEG, FOOT = range(9)
GROUPS = (NOTHING, SCALP, FACE, NECK, TRUNK, TRUNK, ARM, ARM, ARM, ARM, HAND, HAND,
          LEG, LEG, LEG, LEG, FOOT, FOOT)

Rows = dict[str, Tensor]  # parameters, one row an image


def as_tensors(rows: dict[str, np.ndarray]) -> Rows:
    """Parameters as tensors: int64, or float32."""
    return {name: torch.from_numpy(value if value.dtype.kind == "i" else value.astype(np.float32))
            for name, value in rows.items()}


def cell(value: Tensor) -> Tensor:
    """(B,) or (B, ...) -> (B, 1, 1), to go with (B, h, w)."""
    return value[:, None, None]


@functools.cache
def body_table() -> tuple[Tensor, Tensor]:
    """The bank for one look-up a pixel.

    int64 (M * 128 * 64,): eight bytes of group, alpha, rest x, y, z, normal right, up (+ 128); and
    float32 (M * 128, 3): left, right and rest height of the cloth around both legs.
    """
    bank = body_bank.load_bank()
    packed = torch.zeros((bank.part.numel(), 8), dtype=torch.uint8)
    packed[:, 0] = torch.tensor(GROUPS, dtype=torch.uint8)[bank.part.reshape(-1).int()]
    packed[:, 1] = bank.alpha.reshape(-1)
    packed[:, 2:5] = bank.rest.reshape(-1, 3)
    packed[:, 5:7] = (bank.normal.reshape(-1, 2).to(torch.int16) + 128).to(torch.uint8)
    spans = torch.stack((bank.span_left, bank.span_right, bank.span_y), -1).reshape(-1, 3).float()
    return packed.view(torch.int64)[:, 0], spans


def frames(numbers: Tensor) -> Rows:
    """Of `scene.map_frames`, the rows of maps (B,)."""
    return {name: value[numbers] for name, value in as_tensors(scene.map_frames()).items()}


@functools.cache
def fold_table() -> Tensor:
    """Soft creases of cloth in about -1..1, (64 * 64,)."""
    rng = np.random.Generator(np.random.Philox(key=people.VERSION))
    field = places.value_noise(rng, 64, 64, 8) + 0.7 * places.value_noise(rng, 64, 64, 3)
    return torch.from_numpy((np.rint(field * 128) / 128).astype(np.float32)).reshape(-1)


def paint(p: Rows, s: Rows, row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
    """Dressed people (3, B, h, w) and their coverage (B, h, w).

    ``p`` are rows of `people.people`; ``s`` holds map, cos and sin of the view, light and sun;
    ``row`` (B, h) and ``col`` (B, w) are coordinates in the map.
    """
    c = {name: cell(value) for name, value in p.items() if value.ndim == 1}
    surface = _look_up(s, row, col, c["cloth_end"])
    kind = _kinds(surface, c)
    amount = _print_amount(surface, c) * (kind == people.TOP)
    bag = _hang_bags(surface, c, s, row, col)
    kind.masked_fill_(bag, people.BAG)
    amount = amount * ~bag
    shade = _shade(surface, c, s, kind)
    flat, palette, channels = kind.long().flatten(1), p["palette"], []
    for k in range(3):
        colour = palette[:, :, k].gather(1, flat).view_as(shade)
        colour = colour + amount * cell(palette[:, people.PRINT, k] - palette[:, people.TOP, k])
        channels.append(colour * shade)
    return torch.stack(channels), surface.alpha


@dataclass
class _Surface:
    """What each pixel (B, h, w) shows: a place on the body at rest, and which way it faces."""

    alpha: Tensor  # coverage
    x: Tensor  # rest coordinates, see `bank.Bank`
    y: Tensor
    z: Tensor
    right: Tensor  # the normal in the picture
    up: Tensor
    group: Tensor
    cloth: Tensor  # a skirt or coat around both legs
    arm: Tensor
    leg: Tensor
    trunk: Tensor


def _look_up(s: Rows, row: Tensor, col: Tensor, cloth_end: Tensor) -> _Surface:
    """Read the bank at rows (B, h) and columns (B, w) of maps (B,), and hang cloth around the legs."""
    bodies, spans = body_table()
    cos, sin = cell(s["cos"]), cell(s["sin"])
    rows = row.floor().clamp(0, MAP_ROWS - 1).long() + s["map"][:, None] * MAP_ROWS
    cols = col.floor().clamp(0, MAP_COLS - 1).long()
    pixel = bodies[(rows * MAP_COLS)[:, :, None] + cols[:, None]].view(torch.uint8)
    pixel = pixel.view(*pixel.shape[:2], -1, 8)
    group, alpha = pixel[..., 0].contiguous(), pixel[..., 1] * (1 / 255)
    x, z = pixel[..., 2] * (1 / 85) - 1.5, pixel[..., 4] * (1 / 102) - 1.25
    y = pixel[..., 3] * (1 / 255)
    right, up = ((pixel[..., k].float() - 128) * (1 / 127) for k in (5, 6))
    arm, leg, trunk = group == ARM, group == LEG, group == TRUNK

    # Skirts, dresses and coats: a cylinder turned with the body.
    first, last, height = (spans[rows][..., k, None] for k in range(3))
    height = height * (1 / 255)
    t = (2 * col[:, None] - first - last - 1) / (last - first + 1)
    free = (group == NOTHING) | leg | (group == FOOT) | (trunk & (y < body_bank.WAIST))
    cloth = free & (t.abs() < 1) & (height > cloth_end)
    t = t.clamp(-1, 1)
    front = (1 - t * t).sqrt()
    return _Surface(
        alpha=torch.where(cloth, 1.0, alpha), x=torch.where(cloth, t * cos - front * sin, x),
        y=torch.where(cloth, height, y), z=torch.where(cloth, front * cos + t * sin, z),
        right=torch.where(cloth, 0.8 * t, right), up=torch.where(cloth, 0.0, up),
        group=group, cloth=cloth, arm=arm, leg=leg & ~cloth, trunk=trunk | cloth)


def _kinds(of: _Surface, c: Rows) -> Tensor:
    """The kind of each pixel, uint8 (B, h, w), bags left out: later rules paint over earlier ones."""
    group, leg, trunk, y = of.group, of.leg, of.trunk, of.y
    facing, across = of.z > 0, of.x.abs()
    kind = torch.zeros_like(group)  # people.SKIN
    kind.masked_fill_((group == SCALP), people.HAIR)
    kind.masked_fill_((group == SCALP) & (y > c["hat_end"]), people.HAT)
    kind.masked_fill_((group == NECK) & (c["scarf"] > 0), people.BAND)
    kind.masked_fill_(leg, people.LOWER)
    kind.masked_fill_(leg & (y < c["leg_end"]), people.STOCKING)
    kind.masked_fill_((group == FOOT) | (leg & (y < c["boot_end"])), people.SHOE)
    kind.masked_fill_((group == FOOT) & (y < 0.014), people.SOLE)
    kind.masked_fill_(trunk, people.LOWER)
    on_top = (trunk | (leg & (c["leg_end"] < 1))) & (y > c["hem"])
    on_top = torch.where(of.cloth, c["cloth_is_top"] > 0, on_top) | (of.arm & (y < c["sleeve"]))
    kind.masked_fill_(on_top, people.TOP)
    neck_edge = c["neckline"] + 0.3 * across
    kind.masked_fill_(trunk & facing & (y > neck_edge) & (c["open"] == 0), people.SKIN)
    gap = trunk & facing & (across < c["open"])
    kind.masked_fill_(gap & on_top, people.INNER)
    kind.masked_fill_(gap & (y < 0.5), people.LOWER)
    behind = ((group == NECK) | trunk) & (of.z < 0.05) & (across < 0.5)
    kind.masked_fill_(behind & (y > c["hair_end"]), people.HAIR)
    straps = (c["straps"] > 0) & facing & (y > 0.64) & ((across - 0.5).abs() < 0.08)
    hips = torch.where(c["sling_cross"] > 0, 0.95 - (y - 0.5) * 4.24, 0.72)
    straps = straps | ((c["sling"] != 0) & (y > 0.5) & ((of.x * c["sling"] - hips).abs() < 0.07))
    return kind.masked_fill_(straps & trunk & (kind != people.SKIN) & (kind != people.HAIR), people.STRAP)


def _print_amount(of: _Surface, c: Rows) -> Tensor:
    """Share of a top's second colour (B, h, w): 0 its own colour, 1 the second."""
    level = torch.where(of.arm, 0.82 - 0.33 * of.y, of.y)
    stripe = level * c["rows_per_height"]
    column = of.x * c["columns_per_side"]
    amount = ((stripe - stripe.floor()) < c["row_share"]).float()
    amount = amount + ((column - column.floor()) < c["column_share"])
    whole = (level > c["yoke"]) | (of.arm & (c["sleeve_print"] > 0))
    whole = whole | ((level > c["band_low"]) & (level < c["band_top"]))
    on_chest = of.trunk & (of.z > 0) & (of.x.abs() < c["logo_x"])
    whole = whole | (on_chest & ((of.y - 0.72).abs() < c["logo_y"]))
    return torch.where(whole, 1.0, amount) * c["print"]


def _hang_bags(of: _Surface, c: Rows, s: Rows, row: Tensor, col: Tensor) -> Tensor:
    """Where bags are, bool (B, h, w): rounded boxes on the back, at a hip and in a hand, put into ``of``."""
    frame, cos, sin = frames(s["map"]), cell(s["cos"]), cell(s["sin"])
    unit, middle, shoulders = (cell(frame[name]) for name in ("torso", "middle", "shoulders"))
    hand = (c["carried"] < 0).long()[:, 0]
    hand_row, hand_col = (cell(frame[name].gather(1, hand)[:, 0]) for name in ("hand_row", "hand_col"))
    bag, bag_right = torch.zeros_like(of.trunk), torch.zeros_like(of.right)
    deep, flat = 0.38 * cos.abs() + 0.18 * sin.abs(), 0.16 * cos.abs() + 0.34 * sin.abs()
    for size, centre_row, centre_col, half_height, half_width, before in (
        (c["backpack"], shoulders + 0.56 * unit, middle - 0.42 * unit * sin, 0.5, deep, cos < -0.1),
        (c["sling"].abs() * c["sling_size"], shoulders + 1.42 * unit, middle + 0.5 * unit * c["sling"] * cos,
         0.26, flat, c["sling"] * sin < 0.3),
        (c["carried"].abs() * c["carried_size"] * (hand_row > 0), hand_row + 0.34 * unit, hand_col,
         0.34, flat, hand_row > 0)):
        reach = unit * size + 1e-3
        v = (row[:, :, None] - centre_row) / (half_height * reach)
        u = (col[:, None] - centre_col) / (half_width * reach)
        u2, v2 = u * u, v * v
        inside = (u2 * u2 + v2 * v2 < 1) & (size > 0) & (before | (of.alpha < 0.5))
        bag, bag_right = bag | inside, torch.where(inside, 0.7 * u, bag_right)
    of.alpha = torch.where(bag, 1.0, of.alpha)
    of.right = torch.where(bag, bag_right.clamp(-1, 1), of.right)
    of.up = torch.where(bag, 0.1, of.up)
    return bag


def _shade(of: _Surface, c: Rows, s: Rows, kind: Tensor) -> Tensor:
    """Brightness (B, h, w) of cloth, with its folds, under a soft light."""
    right, up = of.right, of.up
    forward = (1 - right * right - up * up).clamp_min(0).sqrt()
    light = [cell(s["light"][:, k]) for k in range(3)]
    lit = (right * light[0] + up * light[1] + forward * light[2]).clamp_min(0)
    direct = cell(0.35 + 0.5 * s["sun"])
    shade = (1.05 - 0.75 * direct) + direct * lit
    shade = shade * (0.78 + 0.22 * forward)
    crease = (of.y * 52 + c["seed"]).floor()
    crease = (crease - (crease * (1 / 64)).floor() * 64) * 64
    along = (of.x * 9 + of.z * 5 + c["seed"]).floor()
    crease = crease + (along - (along * (1 / 64)).floor() * 64)
    folded = (kind >= people.TOP) & (kind <= people.LOWER)
    return shade * (1 + c["fold"] * folded * fold_table()[crease.long()])
