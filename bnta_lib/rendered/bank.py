"""The body bank: maps of walking people from which the embedded benchmark is rendered.

`data/build_body_bank.py` draws a parametric body (MakeHuman's assets, CC0) in S shapes, G poses,
V views and E camera elevations. For every pixel a map gives the part of the body, the point on the body
*at rest*, and the direction of the surface. A garment is then a function of part and rest coordinates, and
looks the same from every view.
"""

from __future__ import annotations

import functools
import hashlib
import json
import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bnta_lib.settings import ROOT

FILE_NAME = "body_bank.bin"
MAGIC = b"BODYBNK1"  # the last byte is the version of the layout
HEIGHT, WIDTH = 128, 64

PARTS = (
    "background", "scalp", "face", "neck", "torso", "pelvis",
    "upper_arm_l", "upper_arm_r", "forearm_l", "forearm_r", "hand_l", "hand_r",
    "thigh_l", "thigh_r", "shin_l", "shin_r", "foot_l", "foot_r",
)
PART = {name: number for number, name in enumerate(PARTS)}
ARMS = tuple(PART[f"{p}_{s}"] for p in ("upper_arm", "forearm", "hand") for s in "lr")
LEGS = tuple(PART[f"{p}_{s}"] for p in ("thigh", "shin", "foot") for s in "lr")

_SWAP = {"_l": "_r", "_r": "_l"}
_OTHER_SIDE = np.array([PART[n[:-2] + _SWAP.get(n[-2:], n[-2:])] for n in PARTS], np.uint8)

WAIST = 0.60  # rest height, of the body's, at which torso ends and pelvis begins
REST_RANGES = ((-1.5, 1.5), (0.0, 1.0), (-1.25, 1.25))  # of x, y, z over uint8 0..255
REST_BITS = (6, 7, 6)  # as stored
NORMAL_BITS = 6  # as stored, an odd number of levels around 0
COVER_LEVELS = 8
HEM_FLARE = 0.10  # widening of a span at the ankles, each side, of its width


@dataclass(frozen=True)
class Shape:
    """One body of the bank. `gender`: man, woman, child; `age`: child, young, middle, old."""

    name: str
    gender: str
    age: str
    build: str  # slim, average, heavy
    height_m: float


@dataclass(frozen=True)
class Bank:
    """Maps indexed [shape S, pose G, view V, elevation E, row 128, column 64].

    Left and right are the body's own. At view 0 the person faces the camera, at view 3 (90
    degrees) the image's right, at 6 away from the camera, at 9 the image's left. Poses 0..7 are
    one walking cycle in order (at 0 the left heel strikes, at 4 the right one), 8 and 9 stand.

    Attributes:
        part: uint8, an index into `PARTS`; 0 is background.
        alpha: uint8, share of the pixel that the body covers, 0..255 (255 inside the outline).
        rest: uint8 (..., 3), coordinates at rest; `rest_values` turns them into numbers.
            x: signed distance to the body's left, 1 = half the shoulders' width, -1.5..1.5.
            y: height, 0 = sole, 1 = crown.
            z: distance to the front of the spine in the unit of x, -1.25..1.25.
            On upper arms, forearms and hands instead: y = place along the arm, 0 = shoulder
            joint, 1 = wrist and all beyond; x = side (+1 left, -1 right) * (1 + outward offset
            from the arm's axis); z = forward offset from that axis.
        normal: int8 (..., 2), the surface normal to the image's right and up, 127 = 1; towards
            the camera it is sqrt(1 - right**2 - up**2). See `normal_values`.
        span_left, span_right: uint8 (S, G, V, E, 128), for skirts and coats: first and last
            column of the cloth around both legs in each row from the waist to the ankles;
            0 and 0 where there is none.
        span_y: uint8 (S, G, V, E, 128), rest height of that row of cloth, 0..255 = 0..1.
        shapes: S rows. phases: G, share of the walking cycle, None for standing.
        views_deg: V. elevations_deg: E. digest: sha256 of the stored maps.
    """

    part: torch.Tensor
    alpha: torch.Tensor
    rest: torch.Tensor
    normal: torch.Tensor
    span_left: torch.Tensor
    span_right: torch.Tensor
    span_y: torch.Tensor
    shapes: tuple[Shape, ...]
    phases: tuple[float | None, ...]
    views_deg: tuple[float, ...]
    elevations_deg: tuple[float, ...]
    digest: str


def rest_values(rest: torch.Tensor) -> torch.Tensor:
    """Rest coordinates as float32 (..., 3) from the bank's uint8 (..., 3)."""
    low, high = torch.tensor(REST_RANGES, device=rest.device).unbind(1)
    return low + rest.float() / 255 * (high - low)


def normal_values(normal: torch.Tensor) -> torch.Tensor:
    """Unit normals float32 (..., 3): right, up, towards the camera, from int8 (..., 2)."""
    flat = normal.float() / 127
    away = (1 - flat.square().sum(-1, keepdim=True)).clamp_min(0).sqrt()
    return torch.cat([flat, away], -1)


@functools.cache
def load_bank(path: str | Path | None = None) -> Bank:
    """Load the bank, by default the committed one; kept in memory after the first call.

    Raises as `read_bank`.
    """
    header, payload = read_bank(path)
    streams, start = {}, 0
    for name, size in header["streams"].items():
        streams[name] = np.frombuffer(lzma.decompress(payload[start : start + size]), np.uint8)
        start += size

    # Stored down the columns, the values as differences from one body pixel to the next.
    grid = header["grid"]
    walking = sum(phase is not None for phase in header["phases"])
    inside = np.flatnonzero(streams["part"])
    part = streams["part"][inside]
    pixel, mirror = _pixels(inside, grid, walking)

    def levels(name: str, low: int, high: int, count: int) -> np.ndarray:
        return np.rint(np.linspace(low, high, count)).astype(np.int16)[np.cumsum(streams[name], dtype=np.uint8)]

    def maps(values: np.ndarray, mirrored: np.ndarray, kind: type) -> torch.Tensor:
        shape = (grid[0], 2 * grid[1], *grid[2:], HEIGHT, WIDTH, *values.shape[1:])
        flat = np.zeros((int(np.prod(shape[:6])), *values.shape[1:]), kind)
        flat[pixel], flat[mirror] = values, mirrored
        return torch.from_numpy(flat.reshape(shape))

    cover = np.rint(np.arange(COVER_LEVELS + 1) * 255 / COVER_LEVELS)[streams["cover"]]
    rest = [levels(f"rest{k}", 0, 255, 2**bits) for k, bits in enumerate(REST_BITS)]
    x, y, z = (values.astype(np.uint8) for values in rest)
    right, up = (levels(f"normal{k}", -127, 127, 2**NORMAL_BITS - 1).astype(np.int8) for k in range(2))
    shown = maps(part, _OTHER_SIDE[part], np.uint8)
    left, last, height = (torch.from_numpy(row) for row in _spans(shown.numpy()))
    phases = header["phases"][:walking]
    return Bank(
        part=shown, alpha=maps(cover, cover, np.uint8),
        rest=maps(np.stack([x, y, z], 1), np.stack([255 - x, y, z], 1), np.uint8),
        normal=maps(np.stack([right, up], 1), np.stack([-right, up], 1), np.int8),
        span_left=left, span_right=last, span_y=height,
        shapes=tuple(Shape(**row) for row in header["shapes"]),
        phases=(*phases, *(phase + 0.5 for phase in phases), *[None] * 2 * (grid[1] - walking)),
        views_deg=tuple(header["views_deg"]), elevations_deg=tuple(header["elevations_deg"]),
        digest=header["sha256"],
    )


def _pixels(stored: np.ndarray, grid: list[int], walking: int) -> tuple[np.ndarray, np.ndarray]:
    """Where stored pixels belong in (S, 2 G, V, E, 128, 64), as drawn and mirrored, flat indices.

    A mirrored walker is the same walker half a cycle later, seen from the opposite view. Order of
    the poses: walking, walking mirrored, standing, standing mirrored.
    """
    shape, pose, view, elevation = np.indices(grid).reshape(4, -1)
    full = (grid[0], 2 * grid[1], *grid[2:])
    stands = pose >= walking
    drawn = np.ravel_multi_index((shape, pose + stands * walking, view, elevation), full)
    moved = pose + np.where(stands, grid[1], walking)
    mirrored = np.ravel_multi_index((shape, moved, -view % grid[2], elevation), full)
    number, within = np.divmod(stored, HEIGHT * WIDTH)
    column, row = np.divmod(within, HEIGHT)
    start = row * WIDTH
    return (
        drawn[number] * (HEIGHT * WIDTH) + start + column,
        mirrored[number] * (HEIGHT * WIDTH) + start + (WIDTH - 1 - column),
    )


def read_bank(path: str | Path | None = None) -> tuple[dict, bytes]:
    """Header and compressed streams of a bank file, by default the committed one.

    Raises FileNotFoundError if there is none, ValueError if it is damaged or of another version.
    """
    path = ROOT / "data" / FILE_NAME if path is None else Path(path)
    remedy = "restore it from the repository or run 'python data/build_body_bank.py'"
    if not path.is_file():
        raise FileNotFoundError(f"no body bank at {path}: {remedy}")
    data = path.read_bytes()
    if data[:8] != MAGIC:
        raise ValueError(f"{path} is not a body bank of version {MAGIC.decode()}: {remedy}")
    size = int.from_bytes(data[8:12], "little")
    header, payload = data[12 : 12 + size], data[12 + size :]
    try:
        header = json.loads(header)
        intact = hashlib.sha256(payload).hexdigest() == header["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the header of the body bank {path} is damaged: {remedy}") from error
    if not intact:
        raise ValueError(f"the body bank {path} is damaged, it does not match its digest: {remedy}")
    return header, payload


def _spans(part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and last column and rest height, uint8 (..., 128), of cloth around both legs.

    Cloth hangs from the widest point above it, so a row is at least as wide as the row before
    it, and it flares by `HEM_FLARE` of its width towards the ankles.
    """
    table = np.zeros(len(PARTS), bool)
    table[[PART["pelvis"], *(PART[f"{p}_{s}"] for p in ("thigh", "shin") for s in "lr")]] = True
    cloth = table[part]
    rows = np.arange(HEIGHT)
    present = cloth.any(-1)
    waist = (part == PART["pelvis"]).any(-1).argmax(-1)[..., None]
    ankle = HEIGHT - 1 - present[..., ::-1].argmax(-1)[..., None]
    ground = HEIGHT - 1 - (part > 0).any(-1)[..., ::-1].argmax(-1)[..., None]
    # From the waist, at WAIST, straight down to the soles, at 0.
    down = np.clip((rows - waist) / np.maximum(ground - waist, 1), 0, 1)
    used = (rows >= waist) & (rows <= ankle)
    left = np.where(used & present, cloth.argmax(-1), WIDTH - 1)
    right = np.where(used & present, WIDTH - 1 - cloth[..., ::-1].argmax(-1), 0)
    left, right = np.minimum.accumulate(left, -1), np.maximum.accumulate(right, -1)
    flare = HEM_FLARE * down * (right - left)
    left = np.clip(np.rint(left - flare), 0, WIDTH - 1)
    right = np.clip(np.rint(right + flare), 0, WIDTH - 1)
    height = np.rint((1 - down) * WAIST * 255)
    return tuple(np.where(used, value, 0).astype(np.uint8) for value in (left, right, height))
