"""Pictures of people: a body from the bank, dressed, put into a place, taken by a camera.

The same parameters (`scene`) give the same pixels on a machine of one kind, whatever the batch. The pixel
path uses only elementwise operations that IEEE 754 rounds exactly (+ - * / sqrt, floor, round, comparison)
and indexing, each its own kernel: no matmul, convolution, exp, fused or reduced sums, whose last bits depend
on the machine. So tone curves are tables, noise is a slice of a fixed table, blur a sum of shifted pictures,
JPEG a written-out 8x8 cosine transform. Pictures are float32 (3, B, h, w) in 0..1 until they are rounded
once, at the end.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from bnta_lib.rendered import places, scene
from bnta_lib.rendered.domains import Domain
from bnta_lib.rendered.dress import MAP_COLS, MAP_ROWS, Rows, as_tensors, cell, frames, paint
from bnta_lib.rendered.people import VERSION, people

BATCH = 64  # pictures at once: few enough to stay in a core's cache
STRANGERS = 1 << 24  # person numbers from here on are passers-by
# Rows of the orthonormal 8-point cosine transform, first half; the second follows by symmetry.
_COSINES = torch.tensor(np.rint(2**30 * np.array(
    [[np.cos((2 * n + 1) * k * np.pi / 16) * (0.5 if k else 0.125**0.5) for n in range(4)]
     for k in range(8)])) / 2**30, dtype=torch.float32)


def render(domain: Domain, ids: np.ndarray, cams: np.ndarray, numbers: np.ndarray,
           size: tuple[int, int], photometric: bool = True) -> Tensor:
    """Images uint8 (N, 3, H, W) of people ``ids`` by cameras ``cams`` (from 0).

    ``numbers`` (N,) distinguishes shots of the same person by the same camera. With
    ``photometric=False`` the cameras keep their places but have true colours, no blur, no noise.
    Pictures larger than the bank's maps (128, 64) are enlarged from them, as real crops are.
    """
    images = torch.empty((len(ids), 3, *size), dtype=torch.uint8)
    drawn = min(size[0], MAP_ROWS), min(size[1], MAP_COLS)
    for part in (slice(start, start + BATCH) for start in range(0, len(ids), BATCH)):
        taken = ids[part], cams[part], numbers[part]
        who = people(domain, taken[0])
        other = people(domain, STRANGERS + (taken[0] * 131 + taken[1] * 17 + taken[2]) % (1 << 23))
        shot = as_tensors(scene.shots(domain, *taken, who, other, photometric))
        picture = through_camera(compose(domain, as_tensors(who), as_tensors(other), shot, drawn), shot)
        if size != drawn:
            picture = enlarge(picture, *size)
        images[part] = (picture * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8).permute(1, 0, 2, 3)
    return images


@functools.cache
def plate_table(domain: Domain) -> Tensor:
    """Plates of a domain's cameras, float32 (3, plates * ROWS * COLS) in 0..1."""
    pixels = np.stack([plate.pixels for plates in scene.cameras(domain)[0] for plate in plates], 1)
    return torch.from_numpy(pixels.reshape(3, -1)).float() * (1 / 255)


def compose(domain: Domain, who: Rows, other: Rows, s: Rows, size: tuple[int, int]) -> Tensor:
    """The scene before the camera, (3, B, h, w)."""
    frame = frames(s["map"])
    i, j = ((torch.arange(n) + 0.5) * (1 / n) for n in size)
    row = s["box_row"][:, None] + i * s["box_rows"][:, None]  # of the map
    col = s["box_col"][:, None] + j * s["box_cols"][:, None]
    # The same points in the plate.
    y = s["foot_row"][:, None] + (row - frame["foot"][:, None]) * s["scale"][:, None]
    x = s["foot_col"][:, None] + (col - frame["middle"][:, None]) * (s["scale"] * who["width"])[:, None]
    picture = background(plate_table(domain), s["plate"], y, x)
    picture = cast_shadow(picture, y, x, s["foot_row"], s["foot_col"], s["scale"] * frame["tall"], s)
    picture = _add_strangers(picture, y, x, other, s, 1)
    rgb, alpha = paint(who, s, row, col)
    picture = picture + alpha * (rgb - picture)
    picture = _add_strangers(picture, y, x, other, s, 2)
    return add_thing(picture, y, x, s)


def _add_strangers(picture: Tensor, y: Tensor, x: Tensor, other: Rows, s: Rows, kind: int) -> Tensor:
    """Paint passers-by behind (``kind`` 1) or in front (2), if there are any."""
    selected = (s["other"] == kind).nonzero()[:, 0]
    if not len(selected):
        return picture
    s = {name: value[selected] for name, value in s.items()}
    y, x, scale, frame = y[selected], x[selected], s["other_scale"], frames(s["other_map"])
    shaded = cast_shadow(picture[:, selected], y, x, s["other_row"], s["other_col"], scale * frame["tall"], s)
    rgb, alpha = paint(
        {name: value[selected] for name, value in other.items()},
        s | {"map": s["other_map"], "cos": s["other_cos"], "sin": s["other_sin"]},
        frame["foot"][:, None] + (y - s["other_row"][:, None]) / scale[:, None],
        frame["middle"][:, None] + (x - s["other_col"][:, None]) / scale[:, None])
    picture[:, selected] = shaded + alpha * (rgb - shaded)
    return picture


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
                tall: Tensor, s: Rows) -> Tensor:
    """Darken the ground around the feet, and away from the light where the sun shines."""
    light = s["light"][:, 0]
    for strength, sideways, half_width, half_height in (
            (0.45 + 0 * light, 0.0, 0.20, 0.035), (s["sun"], -0.45, 0.48, 0.045)):
        u = (x - (foot_col + sideways * light * tall)[:, None]) / (half_width * tall)[:, None]
        v = (y - (foot_row - 0.02 * tall)[:, None]) / (half_height * tall)[:, None]
        depth = (1 - (v * v)[:, :, None] - (u * u)[:, None]).clamp_min(0).sqrt()
        picture = picture * (1 - cell(strength) * depth)
    return picture


def add_thing(picture: Tensor, y: Tensor, x: Tensor, s: Rows) -> Tensor:
    """A trolley case (0), a bench (1) or a post (2) that stands in front."""
    selected = (s["thing"] >= 0).nonzero()[:, 0]
    if not len(selected):
        return picture
    s = {name: value[selected] for name, value in s.items()}
    metre = s["thing_metre"][:, None]
    u = ((x[selected] - s["thing_col"][:, None]) / metre / s["thing_half"][:, None])[:, None]
    v = ((s["thing_row"][:, None] - y[selected]) / metre / s["thing_tall"][:, None])[:, :, None]
    kind = cell(s["thing"])
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
    picture[:, selected] = torch.where(mask, thing, picture[:, selected])
    return picture


@functools.cache
def noise_table() -> Tensor:
    """Fixed Gaussian noise, rounded so that it is the same everywhere."""
    rng = np.random.Generator(np.random.Philox(key=VERSION))
    values = rng.standard_normal(scene.NOISE_LENGTH)
    return torch.from_numpy((np.rint(values * 256) / 256).astype(np.float32))


def through_camera(picture: Tensor, s: Rows) -> Tensor:
    """What the camera makes of a scene (3, B, h, w): tones, blur, noise, resolution, JPEG."""
    grey = 0.299 * picture[0] + 0.587 * picture[1] + 0.114 * picture[2]
    picture = (grey + cell(s["saturation"]) * (picture - grey)).clamp(0, 1)
    step = (picture * (scene.LEVELS - 1) + 0.5).floor().long().flatten(2)
    picture = torch.stack([s["curves"][:, k].gather(1, step[k]) for k in range(3)]).view_as(picture)
    picture = blur(blur(picture, s["blur"]), s["blur"])
    count = picture[:, 0].numel()
    slices = noise_table().unfold(0, count, 1)[s["noise_at"].long()]
    noise = slices.view(-1, *picture.shape[:1], *picture.shape[2:]).transpose(0, 1)
    picture = picture + cell(s["noise"]) * (0.35 * noise + 0.65 * noise[:1])
    picture = coarser(picture, s["resolution"])
    return jpeg(picture.clamp(0, 1), s["quality"])


def blur(picture: Tensor, weight: Tensor) -> Tensor:
    """Each pixel takes ``weight`` (B,) of the difference to each of its four neighbours in turn."""
    weight = cell(weight)
    for axis in (2, 3):
        n = picture.shape[axis]
        before = torch.cat((picture.narrow(axis, 0, 1), picture.narrow(axis, 0, n - 1)), axis)
        after = torch.cat((picture.narrow(axis, 1, n - 1), picture.narrow(axis, n - 1, 1)), axis)
        picture = picture + weight * (before + after - picture - picture)
    return picture


def coarser(picture: Tensor, share: Tensor) -> Tensor:
    """Keep ``share`` (B,) of rows and columns and interpolate linearly between them."""
    share = share[:, None]
    for axis, n in ((2, picture.shape[2]), (3, picture.shape[3])):
        kept = (share * n).floor()
        at = (torch.arange(n) + 0.5) * (kept * (1 / n)) - 0.5
        at = torch.minimum(at.clamp_min(0), kept - 1)
        low = at.floor()
        high = torch.minimum(low + 1, kept - 1)
        t = at - low
        index = [((k + 0.5) * n / kept).floor().long().unsqueeze(4 - axis) for k in (low, high)]
        a, b = (picture.gather(axis, k.expand_as(picture)) for k in index)
        picture = a + t.unsqueeze(4 - axis) * (b - a)
    return picture


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
    order = torch.arange(8.0)[:, None] + torch.arange(8.0)
    step = torch.stack((10 + 8 * order, 14 + 12 * order, 14 + 12 * order), -1)
    step = (step[..., None] * scale).clamp_min(1.0)[..., None, None]
    blocks = _cosine_back(_cosine_back((blocks / step).round() * step, 0), 1)
    luma, b, r = blocks.permute(2, 3, 4, 0, 5, 1).reshape(3, -1, height, width)
    luma = luma + 128
    red, blue = luma + r * (1 / 0.713), luma + b * (1 / 0.564)
    green = (luma - 0.299 * red - 0.114 * blue) * (1 / 0.587)
    coded = picture.clone()
    coded[:, :, :height, :width] = torch.stack((red, green, blue)) * (1 / 255)
    return coded


def _cosine(x: Tensor, axis: int) -> Tensor:
    """8-point cosine transform along a leading axis of length 8, by fixed sums."""
    x = x.transpose(0, axis)
    shape = (4,) + (1,) * (x.ndim - 1)
    reverse = x[[7, 6, 5, 4]]
    out = torch.empty_like(x)
    for parity, half in ((0, x[:4] + reverse), (1, x[:4] - reverse)):
        terms = [_COSINES[parity::2, n].view(shape) * half[n] for n in range(4)]
        out[parity::2] = terms[0] + terms[1] + (terms[2] + terms[3])
    return out.transpose(0, axis)


def _cosine_back(x: Tensor, axis: int) -> Tensor:
    """The inverse of `_cosine`."""
    x = x.transpose(0, axis)
    shape = (4,) + (1,) * (x.ndim - 1)
    even, odd = ([_COSINES[k].view(shape) * x[k] for k in range(start, 8, 2)] for start in (0, 1))
    even = even[0] + even[1] + (even[2] + even[3])
    odd = odd[0] + odd[1] + (odd[2] + odd[3])
    return torch.cat((even + odd, (even - odd)[[3, 2, 1, 0]])).transpose(0, axis)


def enlarge(picture: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize of (3, B, h, w) to more rows and columns."""
    for axis, n in ((2, height), (3, width)):
        old = picture.shape[axis]
        at = ((torch.arange(n) + 0.5) * (old / n) - 0.5).clamp(0, old - 1)
        low = at.floor()
        t = (at - low).view(-1, *(1,) * (3 - axis))
        low = low.long()
        a = picture.index_select(axis, low)
        picture = a + t * (picture.index_select(axis, (low + 1).clamp_max(old - 1)) - a)
    return picture
