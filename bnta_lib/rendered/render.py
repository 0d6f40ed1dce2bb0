"""Pictures of people: a body out of the bank, dressed, put into a place, seen by a camera.

The same parameters (`scene`) give the same pixels on a machine of one kind, whatever the batch. The pixel
path uses only elementwise operations that IEEE 754 rounds exactly (+ - * / sqrt, floor, round, comparison)
and indexing, each its own kernel: no matmul, convolution, exp, fused or reduced sums, whose last bits depend
on the machine; nor division by a Python number, which CUDA turns into a product with its inverse (here always
written as that product). So tone curves are tables, noise is a slice of a fixed table, blur a sum of shifted
pictures, JPEG a written-out 8x8 cosine transform. Pictures are float32 (3, B, h, w) in 0..1 until they are
rounded once, at the end.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from bnta_lib.rendered import places, scene
from bnta_lib.rendered.camera import enlarge, through_camera
from bnta_lib.rendered.domains import Domain
from bnta_lib.rendered.dress import MAP_COLS, MAP_ROWS, Rows, as_tensors, cell, frame_table, paint
from bnta_lib.rendered.people import Parameters, people

BATCH = 64  # pictures at once: few enough to stay in a core's cache
STRANGERS = 1 << 24  # person numbers from here on are passers-by


def render(domain: Domain, ids: np.ndarray, cams: np.ndarray, numbers: np.ndarray,
           size: tuple[int, int], device: str = "cpu", photometric: bool = True) -> Tensor:
    """Images uint8 (N, 3, H, W), on the CPU, of people ``ids`` by cameras ``cams`` (from 0).

    ``numbers`` (N,) distinguishes shots of the same person by the same camera. With
    ``photometric=False`` the cameras keep their places but have true colours, no blur, no noise.
    Pictures larger than the bank's maps (128, 64) are enlarged from them, as real crops are.
    """
    images = torch.empty((len(ids), 3, *size), dtype=torch.uint8)
    for start in range(0, len(ids), BATCH):
        part = slice(start, start + BATCH)
        scenes, shot = stage(domain, ids[part], cams[part], numbers[part], size, device, photometric)
        images[part] = photograph(scenes, shot, size).cpu()
    return images


def stage(domain: Domain, ids: np.ndarray, cams: np.ndarray, numbers: np.ndarray, size: tuple[int, int],
          device: str = "cpu", photometric: bool = True) -> tuple[Tensor, Parameters]:
    """Scenes before the camera (3, B, h, w), and their rows of `scene.shots`; arguments as in `render`."""
    who = people(domain, ids)
    other = people(domain, STRANGERS + (ids * 131 + cams * 17 + numbers) % (1 << 23))
    shot = scene.shots(domain, ids, cams, numbers, who, other, photometric)
    rows = (as_tensors(p, device) for p in (who, other, shot))
    return compose(domain, *rows, (min(size[0], MAP_ROWS), min(size[1], MAP_COLS))), shot


def photograph(scenes: Tensor, shot: Parameters, size: tuple[int, int]) -> Tensor:
    """Images uint8 (B, 3, H, W) of scenes (3, B, h, w) by the cameras of ``shot``."""
    device = str(scenes.device)
    curves = torch.from_numpy(scene.tone_curves(shot)).float().to(device)
    picture = through_camera(scenes, as_tensors(shot, device), curves)
    if size != tuple(picture.shape[2:]):
        picture = enlarge(picture, *size)
    return (picture * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8).permute(1, 0, 2, 3)


@functools.cache
def plate_table(domain: Domain, device: str) -> Tensor:
    """Plates of a domain's cameras, float32 (3, plates * ROWS * COLS) in 0..1."""
    pixels = np.stack([plate.pixels for plates in scene.cameras(domain)[0] for plate in plates], 1)
    return torch.from_numpy(pixels.reshape(3, -1)).to(device).float() * (1 / 255)


def compose(domain: Domain, who: Rows, other: Rows, s: Rows, size: tuple[int, int]) -> Tensor:
    """The scene before the camera, (3, B, h, w)."""
    device = str(s["map"].device)
    frames = {name: value[s["map"]] for name, value in frame_table(device).items()}
    i = (torch.arange(size[0], device=device) + 0.5) * (1 / size[0])
    j = (torch.arange(size[1], device=device) + 0.5) * (1 / size[1])
    row = s["box_row"][:, None] + i * s["box_rows"][:, None]  # of the map
    col = s["box_col"][:, None] + j * s["box_cols"][:, None]
    # The same points in the plate.
    y = s["foot_row"][:, None] + (row - frames["foot"][:, None]) * s["scale"][:, None]
    x = (s["foot_col"][:, None] + (col - frames["middle"][:, None]) * (s["scale"] * who["width"])[:, None])
    picture = background(plate_table(domain, device), s["plate"], y, x)
    picture = cast_shadow(picture, y, x, s["foot_row"], s["foot_col"], s["scale"] * frames["tall"], s)
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
    frame = {name: value[s["other_map"]] for name, value in frame_table(str(y.device)).items()}
    y, x, scale = y[selected], x[selected], s["other_scale"]
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
