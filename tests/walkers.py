"""A rendered video of people who cross a still place, with their true boxes."""

from pathlib import Path

import cv2
import numpy as np
import torch

from bnta_lib.rendered import places, scene
from bnta_lib.rendered.bank import load_bank
from bnta_lib.rendered.dress import as_tensors, paint
from bnta_lib.rendered.people import people
from bnta_lib.site.rendered import site_domain

Boxes = list[tuple[float, float, float, float] | None]


def write_video(path: Path, number: int, crowd: int, seconds: float, fps: float = 12.5) -> list[Boxes]:
    """Write people who cross one after the other before a camera of site ``number``, as MJPG .avi.

    Frames have the size of a plate. Returns, for every frame, the box (left, top, width, height) of each
    person, None if it is not wholly in the picture.
    """
    domain = site_domain(number)
    plates, table = scene.cameras(domain)
    plate, light = plates[0][0], {name: table[name][:1] for name in ("light", "sun")}
    still = plate.pixels.transpose(1, 2, 0).astype(np.float32) / 255
    rng = np.random.Generator(np.random.Philox(key=(domain.code << 64) | 77))
    walkers = walkers_of(domain, np.arange(1, crowd + 1), plate, seconds, rng)
    noise = rng.normal(0, 0.008, (places.ROWS, 2 * places.COLS, 3)).astype(np.float32)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (places.COLS, places.ROWS))
    truth = []
    for frame in range(round(seconds * fps)):
        picture, boxes = draw(still, walkers, frame / fps, light)
        truth.append(boxes)
        start = int(rng.integers(places.COLS))  # another part of the noise in every frame
        pixels = ((picture + noise[:, start : start + places.COLS]).clip(0, 1) * 255 + 0.5).astype(np.uint8)
        writer.write(np.ascontiguousarray(pixels[..., ::-1]))
    writer.release()
    return truth


def walkers_of(domain, ids, plate, seconds, rng) -> list[dict]:
    """Who walks where and when: a person enters at one side, at a depth of its own."""
    who, walkers = people(domain, ids), []
    nearest = places.ROWS - 8.0
    furthest = max(plate.wall + 6, plate.horizon + 0.55 * (nearest - plate.horizon))
    depth = np.linspace(furthest, nearest, len(ids))[rng.permutation(len(ids))]
    for k in range(len(ids)):
        to_right = bool(rng.random() < 0.5)
        shape = int(who["shape"][k])
        walkers.append({
            "who": as_tensors({name: value[k : k + 1] for name, value in who.items()}),
            "shape": shape, "view": 3 if to_right else 9, "foot": depth[k],
            "tall": (depth[k] - plate.horizon) / plate.height * load_bank().shapes[shape].height_m,
            # Everybody needs a third of the time to cross, and starts after the one before.
            "start": 1.0 + 0.7 * seconds / len(ids) * k, "speed": (places.COLS + 80) / (0.42 * seconds),
            "right": to_right,
        })  # fmt: skip
    return sorted(walkers, key=lambda walker: walker["foot"])  # the nearest is painted last


def draw(still: np.ndarray, walkers: list[dict], time: float, light: dict) -> tuple[np.ndarray, Boxes]:
    """The picture (rows, cols, 3) at a time, and the box of everyone who is wholly in it."""
    picture, boxes, frames = still.copy(), [], scene.map_frames()
    for walker in walkers:
        gone = walker["speed"] * (time - walker["start"]) - 40
        column = gone if walker["right"] else places.COLS - gone
        pose = int(1.8 * 8 * (time - walker["start"])) % 8 if time > walker["start"] else 0
        number = int(scene.map_number(walker["shape"], pose, walker["view"], 0))
        zoom = walker["tall"] / frames["tall"][number]  # frame pixels a map pixel
        top = walker["foot"] - zoom * (frames["top"][number] + frames["tall"][number])
        left = column - zoom * frames["middle"][number]
        y0, y1 = max(int(top), 0), min(int(top + zoom * 128), places.ROWS)
        x0, x1 = max(int(left), 0), min(int(left + zoom * 64), places.COLS)
        height, width = walker["tall"], 0.42 * walker["tall"]
        inside = column - width / 2 > 0 and column + width / 2 < places.COLS
        box = column - width / 2, walker["foot"] - height, width, height
        boxes.append(box if inside and x1 > x0 else None)
        if x1 <= x0 or y1 <= y0:
            continue
        angle = np.radians(load_bank().views_deg[walker["view"]])
        shot = as_tensors({"map": np.array([number]), "cos": np.array([np.cos(angle)]),
                           "sin": np.array([np.sin(angle)]), **light})
        row, col = ((np.arange(a, b) + 0.5 - edge) / zoom for a, b, edge in ((y0, y1, top), (x0, x1, left)))
        row, col = (torch.from_numpy(values).float()[None] for values in (row, col))
        rgb, alpha = paint(walker["who"], shot, row, col)
        rgb, alpha = rgb[:, 0].permute(1, 2, 0).numpy(), alpha[0, :, :, None].numpy()
        picture[y0:y1, x0:x1] += alpha * (rgb - picture[y0:y1, x0:x1])
    return picture, boxes
