"""Pictures of people: a body out of the bank, dressed, put into a place, seen by a camera.

The same parameters (`scene`) give the same pixels on every machine, CPU or GPU, whatever the
batch. The pixel path uses only elementwise operations that IEEE 754 rounds exactly (+ - * / sqrt,
floor, round, comparison) and indexing, each its own kernel: no matmul, convolution, exp, fused or
reduced sums, whose last bits depend on the machine; nor division by a Python number, which CUDA
turns into a product with its inverse (here it is always written as that product). So tone curves
are tables, noise is a slice of a fixed table, blur is a sum of shifted pictures, JPEG a written-out
8x8 cosine transform.

Pictures are float32 (3, B, h, w) in 0..1 until they are rounded once, at the end.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bnta_lib.rendered import bank as body_bank
from bnta_lib.rendered import places, scene
from bnta_lib.rendered.domains import Domain
from bnta_lib.rendered.scene import (
    BAG, BAND, HAIR, HAT, INNER, LOWER, PRINT, SHOE, SKIN, SOLE, STOCKING, STRAP, TOP, VERSION,
)

MAP_ROWS, MAP_COLS = body_bank.HEIGHT, body_bank.WIDTH
BATCH = 64  # pictures at once: few enough to stay in a core's cache
STRANGERS = 1 << 24  # person numbers from here on are passers-by

# Groups of the bank's parts, each one test in `paint`.
NOTHING, SCALP, FACE, NECK, TRUNK, ARM, HAND, LEG, FOOT = range(9)
GROUPS = (NOTHING, SCALP, FACE, NECK, TRUNK, TRUNK, ARM, ARM, ARM, ARM, HAND, HAND,
          LEG, LEG, LEG, LEG, FOOT, FOOT)  # fmt: skip

Rows = dict[str, Tensor]  # parameters, one row an image


def render(domain: Domain, ids: np.ndarray, cams: np.ndarray, numbers: np.ndarray,
           size: tuple[int, int], device: str | torch.device = "cpu", photometric: bool = True,
           progress: bool = False) -> Tensor:  # fmt: skip
    """Images uint8 (N, 3, H, W), on the CPU, of people ``ids`` by cameras ``cams`` (from 0).

    ``numbers`` (N,) tells shots of the same person by the same camera apart. With
    ``photometric=False`` the cameras keep their places but have true colours, no blur, no noise.
    Pictures larger than the bank's maps (128, 64) are enlarged from them, as real crops are.
    """
    device = str(device)
    height, width = size
    out = torch.empty((len(ids), 3, height, width), dtype=torch.uint8)
    faces, row = np.unique(ids, return_inverse=True)
    who = scene.people(domain, faces)
    steps = range(0, len(ids), BATCH)
    for start in tqdm(steps, desc=domain.name, unit="batch", disable=not progress):
        part = slice(start, start + BATCH)
        main = {name: value[row[part]] for name, value in who.items()}
        passing = STRANGERS + (ids[part] * 131 + cams[part] * 17 + numbers[part]) % (1 << 23)
        other = scene.people(domain, passing)
        shot = scene.shots(domain, ids[part], cams[part], numbers[part], main, other, photometric)
        picture = compose(domain, _tensors(main, device), _tensors(other, device),
                          _tensors(shot, device), (min(height, MAP_ROWS), min(width, MAP_COLS)))
        picture = through_camera(picture, _tensors(shot, device),
                                 torch.from_numpy(scene.tone_curves(shot)).float().to(device))
        if (height, width) != tuple(picture.shape[2:]):
            picture = enlarge(picture, height, width)
        pixels = (picture * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8)
        out[part] = pixels.permute(1, 0, 2, 3).cpu()
    return out


def _tensors(rows: dict[str, np.ndarray], device: str) -> Rows:
    return {name: torch.from_numpy(np.ascontiguousarray(value)).to(device)
            if value.dtype.kind == "i" else torch.from_numpy(value.astype(np.float32)).to(device)
            for name, value in rows.items()}  # fmt: skip


def _cell(value: Tensor) -> Tensor:
    """(B,) or (B, ...) -> (B, 1, 1), to go with (B, h, w)."""
    return value[:, None, None]


# ---------------------------------------------------------------- tables


@functools.cache
def body_table(device: str) -> tuple[Tensor, Tensor]:
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
    return packed.view(torch.int64)[:, 0].to(device), spans.to(device)


@functools.cache
def frame_table(device: str) -> Rows:
    """`scene.map_frames` as tensors."""
    frames = scene.map_frames()
    return _tensors({**vars(frames), "foot": frames.top + frames.tall}, device)


@functools.cache
def noise_table(device: str) -> Tensor:
    """Fixed Gaussian noise, rounded so that it is the same everywhere."""
    values = np.random.Generator(np.random.Philox(key=VERSION)).standard_normal(scene.NOISE_LENGTH)
    return torch.from_numpy((np.rint(values * 256) / 256).astype(np.float32)).to(device)


@functools.cache
def fold_table(device: str) -> Tensor:
    """Soft creases of cloth in about -1..1, (64 * 64,)."""
    rng = np.random.Generator(np.random.Philox(key=VERSION))
    field = places.value_noise(rng, 64, 64, 8) + 0.7 * places.value_noise(rng, 64, 64, 3)
    return torch.from_numpy((np.rint(field * 128) / 128).astype(np.float32)).reshape(-1).to(device)


@functools.cache
def plate_table(domain: Domain, device: str) -> Tensor:
    """Plates of a domain's cameras, float32 (3, plates * ROWS * COLS) in 0..1."""
    pixels = np.stack([p.pixels for c in scene.cameras(domain) for p in c.plates], 1).reshape(3, -1)
    return torch.from_numpy(pixels).to(device).float() * (1 / 255)


# ---------------------------------------------------------------- the scene


def compose(domain: Domain, who: Rows, other: Rows, s: Rows, size: tuple[int, int]) -> Tensor:
    """The scene before the camera, (3, B, h, w)."""
    device = str(s["map"].device)
    frames = {name: value[s["map"]] for name, value in frame_table(device).items()}
    i = (torch.arange(size[0], device=device) + 0.5) * (1 / size[0])
    j = (torch.arange(size[1], device=device) + 0.5) * (1 / size[1])
    row = s["box_row"][:, None] + i * s["box_rows"][:, None]  # of the map
    col = s["box_col"][:, None] + j * s["box_cols"][:, None]
    # The same places in the plate.
    y = s["foot_row"][:, None] + (row - frames["foot"][:, None]) * s["scale"][:, None]
    x = (s["foot_col"][:, None]
         + (col - frames["middle"][:, None]) * (s["scale"] * who["width"])[:, None])
    picture = background(plate_table(domain, device), s["plate"], y, x)
    picture = cast_shadow(picture, y, x, s["foot_row"], s["foot_col"],
                          s["scale"] * frames["tall"], s)

    def add_stranger(picture: Tensor, kind: int) -> Tensor:
        chosen = (s["other"] == kind).nonzero()[:, 0]
        if not len(chosen):
            return picture
        t = {name: value[chosen] for name, value in s.items()}
        at = {name: value[t["other_map"]] for name, value in frame_table(device).items()}
        yy, xx = y[chosen], x[chosen]
        shaded = cast_shadow(picture[:, chosen], yy, xx, t["other_row"], t["other_col"],
                             t["other_scale"] * at["tall"], t)
        theirs = {"map": t["other_map"], "cos": t["other_cos"], "sin": t["other_sin"],
                  "light": t["light"], "sun": t["sun"]}
        rgb, alpha = paint(
            {name: value[chosen] for name, value in other.items()}, theirs,
            at["foot"][:, None] + (yy - t["other_row"][:, None]) / t["other_scale"][:, None],
            at["middle"][:, None] + (xx - t["other_col"][:, None]) / t["other_scale"][:, None])
        picture[:, chosen] = shaded + alpha * (rgb - shaded)
        return picture

    picture = add_stranger(picture, 1)
    rgb, alpha = paint(who, s, row, col)
    picture = picture + alpha * (rgb - picture)
    picture = add_stranger(picture, 2)
    return add_thing(picture, y, x, s)


def background(plates: Tensor, plate: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear cut (3, B, h, w) out of the plates at rows y (B, h) and columns x (B, w)."""
    y = (y - 0.5).clamp(0, places.ROWS - 1.001)
    x = (x - 0.5).clamp(0, places.COLS - 1.001)
    top, left = y.floor(), x.floor()
    v, u = (y - top)[:, :, None], (x - left)[:, None]
    at = (plate[:, None] * places.ROWS + top.long()) * places.COLS
    at = at[:, :, None] + left.long()[:, None]
    upper = plates[:, at]
    upper = upper + u * (plates[:, at + 1] - upper)
    at = at + places.COLS
    lower = plates[:, at]
    lower = lower + u * (plates[:, at + 1] - lower)
    return upper + v * (lower - upper)


def cast_shadow(picture: Tensor, y: Tensor, x: Tensor, foot_row: Tensor, foot_col: Tensor,
                tall: Tensor, s: Rows) -> Tensor:  # fmt: skip
    """Darken the ground around the feet, and away from the light where the sun shines."""
    light = s["light"][:, 0]
    for strength, sideways, half_width, half_height in (
        (0.45 + 0 * light, 0.0, 0.20, 0.035), (s["sun"], -0.45, 0.48, 0.045),
    ):  # fmt: skip
        u = (x - (foot_col + sideways * light * tall)[:, None]) / (half_width * tall)[:, None]
        v = (y - (foot_row - 0.02 * tall)[:, None]) / (half_height * tall)[:, None]
        depth = (1 - (v * v)[:, :, None] - (u * u)[:, None]).clamp_min(0).sqrt()
        picture = picture * (1 - _cell(strength) * depth)
    return picture


def add_thing(picture: Tensor, y: Tensor, x: Tensor, s: Rows) -> Tensor:
    """A trolley case (0), a bench (1) or a post (2) that stands in front."""
    chosen = (s["thing"] >= 0).nonzero()[:, 0]
    if not len(chosen):
        return picture
    s = {name: value[chosen] for name, value in s.items()}
    metre = s["thing_metre"][:, None]
    u = ((x[chosen] - s["thing_col"][:, None]) / metre / s["thing_half"][:, None])[:, None]
    v = ((s["thing_row"][:, None] - y[chosen]) / metre / s["thing_tall"][:, None])[:, :, None]
    kind = _cell(s["thing"])
    w = 2 * v - 1
    rounded = u * u * u * u + w * w * w * w * w * w < 1  # a case's outline
    upright = (u.abs() < 1) & (v > 0) & (v < 1)
    # The handle of a case; legs and slats of a bench.
    handle = (kind == 0) & (v >= 0.9) & (v < 1.45) & ((u.abs() - 0.45).abs() < 0.09)
    handle = handle | ((kind == 0) & (v >= 1.37) & (v < 1.45) & (u.abs() < 0.45))
    gap = (kind == 1) & (v < 0.62) & (u.abs() < 0.85)
    mask = torch.where(kind == 0, rounded, upright & ~gap) | handle
    shade = (1 - 0.35 * u * u) * (0.8 + 0.2 * v.clamp(0, 1))
    ribs = (kind == 0) & (((u * 3.2) - (u * 3.2).floor()) < 0.2)
    shade = torch.where(handle, 0.5, torch.where(ribs, shade * 0.85, shade))
    thing = s["thing_colour"].T[:, :, None, None] * shade
    under = picture[:, chosen]
    picture[:, chosen] = torch.where(mask, thing, under)
    return picture


def paint(p: Rows, s: Rows, row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
    """Dressed people (3, B, h, w) and their coverage (B, h, w).

    ``p`` are rows of `scene.people`; ``s`` holds map, cos and sin of the view, light and sun;
    ``row`` (B, h) and ``col`` (B, w) are places in the map.
    """
    device = str(row.device)
    bodies, spans = body_table(device)
    frame = {name: value[s["map"]] for name, value in frame_table(device).items()}
    c = {name: _cell(value) for name, value in p.items() if value.ndim == 1}
    cos, sin = _cell(s["cos"]), _cell(s["sin"])
    rows = row.floor().clamp(0, MAP_ROWS - 1).long() + s["map"][:, None] * MAP_ROWS
    cols = col.floor().clamp(0, MAP_COLS - 1).long()
    pixel = bodies[(rows * MAP_COLS)[:, :, None] + cols[:, None]].view(torch.uint8)
    pixel = pixel.view(*pixel.shape[:2], -1, 8)
    group, alpha = pixel[..., 0].contiguous(), pixel[..., 1] * (1 / 255)
    x, z = pixel[..., 2] * (1 / 85) - 1.5, pixel[..., 4] * (1 / 102) - 1.25
    y = pixel[..., 3] * (1 / 255)
    right, up = ((pixel[..., k].float() - 128) * (1 / 127) for k in (5, 6))

    # Skirts, dresses and coats hang around both legs: a cylinder turned with the body.
    first, last, height = (spans[rows][..., k, None] for k in range(3))
    height = height * (1 / 255)
    t = (2 * col[:, None] - first - last - 1) / (last - first + 1)
    arm, leg, trunk = group == ARM, group == LEG, group == TRUNK
    free = (group == NOTHING) | leg | (group == FOOT) | (trunk & (y < body_bank.WAIST))
    cloth = free & (t.abs() < 1) & (height > c["cloth_end"])
    t = t.clamp(-1, 1)
    front = (1 - t * t).sqrt()
    x = torch.where(cloth, t * cos - front * sin, x)
    z = torch.where(cloth, front * cos + t * sin, z)
    y = torch.where(cloth, height, y)
    right, up = torch.where(cloth, 0.8 * t, right), torch.where(cloth, 0.0, up)
    alpha = torch.where(cloth, 1.0, alpha)
    trunk, leg = trunk | cloth, leg & ~cloth
    facing, across = z > 0, x.abs()

    kind = torch.zeros_like(group)  # SKIN
    kind.masked_fill_((group == SCALP), HAIR)
    kind.masked_fill_((group == SCALP) & (y > c["hat_end"]), HAT)
    kind.masked_fill_((group == NECK) & (c["scarf"] > 0), BAND)
    kind.masked_fill_(leg, LOWER)
    kind.masked_fill_(leg & (y < c["leg_end"]), STOCKING)
    kind.masked_fill_((group == FOOT) | (leg & (y < c["boot_end"])), SHOE)
    kind.masked_fill_((group == FOOT) & (y < 0.014), SOLE)
    kind.masked_fill_(trunk, LOWER)
    on_top = (trunk | (leg & (c["leg_end"] < 1))) & (y > c["hem"])
    on_top = torch.where(cloth, c["cloth_is_top"] > 0, on_top) | (arm & (y < c["sleeve"]))
    kind.masked_fill_(on_top, TOP)
    neck_edge = c["neckline"] + 0.3 * across
    kind.masked_fill_(trunk & facing & (y > neck_edge) & (c["open"] == 0), SKIN)
    gap = trunk & facing & (across < c["open"])
    kind.masked_fill_(gap & on_top, INNER)
    kind.masked_fill_(gap & (y < 0.5), LOWER)
    kind.masked_fill_(((group == NECK) | trunk) & (z < 0.05) & (y > c["hair_end"]) & (across < 0.5),
                      HAIR)
    straps = (c["straps"] > 0) & facing & (y > 0.64) & ((across - 0.5).abs() < 0.08)
    hips = torch.where(c["sling_cross"] > 0, 0.95 - (y - 0.5) * 4.24, 0.72)
    straps = straps | ((c["sling"] != 0) & (y > 0.5) & ((x * c["sling"] - hips).abs() < 0.07))
    kind.masked_fill_(straps & trunk & (kind != SKIN) & (kind != HAIR), STRAP)

    # Prints: 0 the garment's own colour, 1 its second.
    level = torch.where(arm, 0.82 - 0.33 * y, y)
    stripe = level * c["rows_per_height"]
    column = x * c["columns_per_side"]
    amount = ((stripe - stripe.floor()) < c["row_share"]).float()
    amount = amount + ((column - column.floor()) < c["column_share"])
    whole = (level > c["yoke"]) | (arm & (c["sleeve_print"] > 0))
    whole = whole | ((level > c["band_low"]) & (level < c["band_top"]))
    whole = whole | (trunk & facing & (across < c["logo_x"]) & ((y - 0.72).abs() < c["logo_y"]))
    amount = torch.where(whole, 1.0, amount) * c["print"] * (kind == TOP)

    # Bags are rounded boxes in the picture: on the back, at a hip, in a hand.
    unit, middle = _cell(frame["torso"]), _cell(frame["middle"])
    shoulders = _cell(frame["shoulders"])
    bag_right = torch.zeros_like(right)
    bag = torch.zeros_like(trunk)
    hand = (c["carried"] < 0).long()[:, 0]
    hand_row = _cell(frame["hand_row"].gather(1, hand)[:, 0])
    hand_col = _cell(frame["hand_col"].gather(1, hand)[:, 0])
    for size, centre_row, centre_col, half_height, half_width, before in (
        (c["backpack"], shoulders + 0.56 * unit, middle - 0.42 * unit * sin,
         0.5, 0.38 * cos.abs() + 0.18 * sin.abs(), cos < -0.1),
        (c["sling"].abs() * c["sling_size"], shoulders + 1.42 * unit,
         middle + 0.5 * unit * c["sling"] * cos,
         0.26, 0.16 * cos.abs() + 0.34 * sin.abs(), c["sling"] * sin < 0.3),
        (c["carried"].abs() * c["carried_size"], hand_row + 0.34 * unit, hand_col,
         0.34, 0.16 * cos.abs() + 0.34 * sin.abs(), hand_row > 0),
    ):  # fmt: skip
        reach = unit * size + 1e-3
        v = (row[:, :, None] - centre_row) / (half_height * reach)
        u = (col[:, None] - centre_col) / (half_width * reach)
        u2, v2 = u * u, v * v
        inside = (u2 * u2 + v2 * v2 < 1) & (size > 0) & (before | (alpha < 0.5))
        inside = inside & (hand_row > 0) if half_height == 0.34 else inside
        bag, bag_right = bag | inside, torch.where(inside, 0.7 * u, bag_right)
    kind.masked_fill_(bag, BAG)
    alpha = torch.where(bag, 1.0, alpha)
    right = torch.where(bag, bag_right.clamp(-1, 1), right)
    up = torch.where(bag, 0.1, up)
    amount = amount * ~bag

    # Cloth under a soft light.
    forward = (1 - right * right - up * up).clamp_min(0).sqrt()
    light = [_cell(s["light"][:, k]) for k in range(3)]
    lit = (right * light[0] + up * light[1] + forward * light[2]).clamp_min(0)
    direct = _cell(0.35 + 0.5 * s["sun"])
    shade = (1.05 - 0.75 * direct) + direct * lit
    shade = shade * (0.78 + 0.22 * forward)
    crease = (y * 52 + c["seed"]).floor()
    crease = (crease - (crease * (1 / 64)).floor() * 64) * 64
    along = (x * 9 + z * 5 + c["seed"]).floor()
    crease = crease + (along - (along * (1 / 64)).floor() * 64)
    folded = (kind >= TOP) & (kind <= LOWER)
    shade = shade * (1 + c["fold"] * folded * fold_table(device)[crease.long()])

    flat = kind.long().flatten(1)
    palette = p["palette"]
    channels = []
    for k in range(3):
        colour = palette[:, :, k].gather(1, flat).view_as(shade)
        colour = colour + amount * _cell(palette[:, PRINT, k] - palette[:, TOP, k])
        channels.append(colour * shade)
    return torch.stack(channels), alpha


# ---------------------------------------------------------------- the camera


def through_camera(picture: Tensor, s: Rows, curves: Tensor) -> Tensor:
    """What the camera makes of a scene (3, B, h, w); ``curves`` (B, 3, levels) are its tones."""
    grey = 0.299 * picture[0] + 0.587 * picture[1] + 0.114 * picture[2]
    picture = (grey + _cell(s["saturation"]) * (picture - grey)).clamp(0, 1)
    levels = curves.shape[-1]
    step = (picture * (levels - 1) + 0.5).floor().long().flatten(2)
    picture = torch.stack([curves[:, k].gather(1, step[k]) for k in range(3)]).view_as(picture)
    picture = blur(blur(picture, s["blur"]), s["blur"])
    count = picture[:, 0].numel()
    slices = noise_table(str(picture.device)).unfold(0, count, 1)[s["noise_at"].long()]
    noise = slices.view(-1, *picture.shape[:1], *picture.shape[2:]).transpose(0, 1)
    picture = picture + _cell(s["noise"]) * (0.35 * noise + 0.65 * noise[:1])
    picture = coarser(picture, s["resolution"])
    return jpeg(picture.clamp(0, 1), s["quality"])


def blur(picture: Tensor, weight: Tensor) -> Tensor:
    """Each pixel takes ``weight`` (B,) of the difference to each of its four neighbours in turn."""
    weight = _cell(weight)
    for axis in (2, 3):
        n = picture.shape[axis]
        before = torch.cat((picture.narrow(axis, 0, 1), picture.narrow(axis, 0, n - 1)), axis)
        after = torch.cat((picture.narrow(axis, 1, n - 1), picture.narrow(axis, n - 1, 1)), axis)
        picture = picture + weight * (before + after - picture - picture)
    return picture


def coarser(picture: Tensor, share: Tensor) -> Tensor:
    """Keep ``share`` (B,) of rows and columns and interpolate linearly between them."""
    channels, batch, height, width = picture.shape
    share = share[:, None]
    for axis, n in ((2, height), (3, width)):
        kept = (share * n).floor()
        at = (torch.arange(n, device=picture.device) + 0.5) * (kept * (1 / n)) - 0.5
        at = torch.minimum(at.clamp_min(0), kept - 1)
        low = at.floor()
        high = torch.minimum(low + 1, kept - 1)
        t = at - low
        index = [((k + 0.5) * n / kept).floor().long() for k in (low, high)]
        if axis == 2:
            first = torch.arange(channels * batch, device=picture.device) * n
            first = first.view(channels, batch, 1)
            lines = picture.reshape(-1, width)
            a, b = (lines[first + k] for k in index)
            t = t[None, :, :, None]
        else:
            a, b = (picture.gather(3, k[None, :, None].expand_as(picture)) for k in index)
            t = t[None, :, None]
        picture = a + t * (b - a)
    return picture


# Rows of the orthonormal 8-point cosine transform, first half; the second follows by symmetry.
_COSINES = np.rint(2**30 * np.array(
    [[np.cos((2 * n + 1) * k * np.pi / 16) * (0.5 if k else 0.125**0.5) for n in range(4)]
     for k in range(8)])) / 2**30  # fmt: skip


def jpeg(picture: Tensor, quality: Tensor) -> Tensor:
    """Quantise 8x8 blocks of luma and colour differences as a JPEG coder of ``quality`` (B,) does.

    Rows and columns beyond a multiple of 8 are left as they are.
    """
    height, width = picture.shape[2] // 8 * 8, picture.shape[3] // 8 * 8
    red, green, blue = picture[:, :, :height, :width] * 255
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = torch.stack((luma - 128, (blue - luma) * 0.564, (red - luma) * 0.713))
    blocks = planes.reshape(3, -1, height // 8, 8, width // 8, 8).permute(3, 5, 0, 1, 2, 4)
    blocks = _cosine(_cosine(blocks.contiguous(), 0), 1)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality * (1 / 50))
    order = torch.arange(8, device=picture.device).float()
    order = order[:, None] + order
    step = torch.stack((10 + 8 * order, 14 + 12 * order, 14 + 12 * order), -1)
    step = (step[..., None] * scale).clamp_min(1.0)[..., None, None]
    blocks = _cosine_back(_cosine_back((blocks / step).round() * step, 0), 1)
    luma, b, r = blocks.permute(2, 3, 4, 0, 5, 1).reshape(3, -1, height, width)
    luma = luma + 128
    red, blue = luma + r * (1 / 0.713), luma + b * (1 / 0.564)
    green = (luma - 0.299 * red - 0.114 * blue) * (1 / 0.587)
    coded = torch.stack((red, green, blue)) * (1 / 255)
    if (height, width) != tuple(picture.shape[2:]):
        coded = torch.cat((coded, picture[:, :, :height, width:]), 3)
        coded = torch.cat((coded, picture[:, :, height:]), 2)
    return coded


def _cosine(x: Tensor, axis: int) -> Tensor:
    """8-point cosine transform along a leading axis of length 8, by fixed sums."""
    x = x.transpose(0, axis)
    shape = (4,) + (1,) * (x.ndim - 1)
    table = torch.tensor(_COSINES, dtype=torch.float32, device=x.device)
    reverse = x[[7, 6, 5, 4]]
    out = torch.empty_like(x)
    for parity, half in ((0, x[:4] + reverse), (1, x[:4] - reverse)):
        terms = [table[parity::2, n].view(shape) * half[n] for n in range(4)]
        out[parity::2] = terms[0] + terms[1] + (terms[2] + terms[3])
    return out.transpose(0, axis)


def _cosine_back(x: Tensor, axis: int) -> Tensor:
    """The inverse of `_cosine`."""
    x = x.transpose(0, axis)
    shape = (4,) + (1,) * (x.ndim - 1)
    table = torch.tensor(_COSINES, dtype=torch.float32, device=x.device)
    even, odd = ([table[k].view(shape) * x[k] for k in range(start, 8, 2)] for start in (0, 1))
    even = even[0] + even[1] + (even[2] + even[3])
    odd = odd[0] + odd[1] + (odd[2] + odd[3])
    return torch.cat((even + odd, (even - odd)[[3, 2, 1, 0]])).transpose(0, axis)


def enlarge(picture: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize of (3, B, h, w) to more rows and columns."""
    for axis, n in ((2, height), (3, width)):
        old = picture.shape[axis]
        at = ((torch.arange(n, device=picture.device) + 0.5) * (old / n) - 0.5).clamp(0, old - 1)
        low = at.floor()
        t = (at - low).view(-1, *(1,) * (3 - axis))
        low = low.long()
        a = picture.index_select(axis, low)
        picture = a + t * (picture.index_select(axis, (low + 1).clamp_max(old - 1)) - a)
    return picture
