"""The body bank: maps of walking people from which the embedded benchmark is rendered.

`data/build_body_bank.py` draws a parametric body (MakeHuman's assets, CC0). For every pixel a map gives the
part of the body, the point on the body *at rest*, and the direction of the surface. A garment is a function
of part and rest coordinates, and so looks the same from every view.
"""

import functools
import hashlib
import json
import lzma
from dataclasses import dataclass

import numpy as np
import torch

from bnta_lib.settings import ROOT

FILE_NAME = "body_bank.bin"
MAGIC = b"BODYBNK1"  # the last byte is the version of the layout
HEIGHT, WIDTH = 128, 64

PARTS = ("background", "scalp", "face", "neck", "torso", "pelvis", "upper_arm_l", "upper_arm_r", "forearm_l",
    "forearm_r", "hand_l", "hand_r", "thigh_l", "thigh_r", "shin_l", "shin_r", "foot_l", "foot_r")
PART = {name: number for number, name in enumerate(PARTS)}
LEGS = tuple(PART[f"{p}_{s}"] for p in ("thigh", "shin") for s in "lr")
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

    Left and right are the body's own. At view 0 the person faces the camera, at view 3 (90 degrees) the
    image's right, at 6 away from the camera, at 9 the image's left. Poses 0..7 are one walking cycle in order
    (at 0 the left heel strikes, at 4 the right one), 8 and 9 stand.

    Coordinates at rest, uint8 over `REST_RANGES`:
    x: signed distance to the body's left, 1 = half the shoulders' width;
    y: height, 0 = sole, 1 = crown;
    z: distance to the front of the spine in the unit of x.
    On arms and hands instead: y = place along the arm, 0 = shoulder joint, 1 = wrist and all beyond; x = side
    (+1 left, -1 right) * (1 + outward offset from the arm's axis); z = forward offset from that axis.
    """

    part: torch.Tensor  # uint8, an index into `PARTS`; 0 is background
    alpha: torch.Tensor  # uint8, share of the pixel that the body covers, 0..255
    rest: torch.Tensor  # uint8 (..., 3), coordinates at rest
    normal: torch.Tensor  # int8 (..., 2), the surface normal to the image's right and up, 127 = 1
    span_left: torch.Tensor  # uint8 (S, G, V, E, 128), first column of the cloth around both legs in a row
    span_right: torch.Tensor  # and last column; both 0 where there is none
    span_y: torch.Tensor  # and its rest height, 0..255 = 0..1
    shapes: tuple[Shape, ...]
    walking: int  # number of walking poses, which come first
    views_deg: tuple[float, ...]


@functools.cache
def load_bank() -> Bank:
    """The committed bank, kept in memory after the first call. Raises as `read_bank`."""
    header, payload = read_bank()
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
        values = np.rint(np.linspace(low, high, count)).astype(np.int16)
        return values[np.cumsum(streams[name], dtype=np.uint8)]

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
    return Bank(
        part=shown, alpha=maps(cover, cover, np.uint8),
        rest=maps(np.stack([x, y, z], 1), np.stack([255 - x, y, z], 1), np.uint8),
        normal=maps(np.stack([right, up], 1), np.stack([-right, up], 1), np.int8),
        span_left=left, span_right=last, span_y=height,
        shapes=tuple(Shape(**row) for row in header["shapes"]),
        walking=2 * walking, views_deg=tuple(header["views_deg"]))


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
    drawn, mirrored = (HEIGHT * WIDTH * maps[number] + WIDTH * row for maps in (drawn, mirrored))
    return drawn + column, mirrored + (WIDTH - 1 - column)


def read_bank() -> tuple[dict, bytes]:
    """Header and compressed streams of the committed bank. Raises ValueError if it is missing or damaged."""
    path = ROOT / "data" / FILE_NAME
    try:
        data = path.read_bytes()
        size = int.from_bytes(data[8:12], "little")
        header, payload = json.loads(data[12 : 12 + size]), data[12 + size :]
        if data[:8] != MAGIC or hashlib.sha256(payload).hexdigest() != header["sha256"]:
            raise ValueError("its content is not as it was written")
        return header, payload
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no body bank of version {MAGIC.decode()} ({error}): restore it from the "
                         "repository, or run 'python data/build_body_bank.py'") from error


def _spans(part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and last column and rest height, uint8 (..., 128), of cloth around both legs.

    Cloth hangs from the widest point above it, so a row is at least as wide as the row before
    it, and it flares by `HEM_FLARE` of its width towards the ankles.
    """
    cloth = np.isin(part, [PART["pelvis"], *LEGS])
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
