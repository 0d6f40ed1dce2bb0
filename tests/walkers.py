"""A rendered video of people who cross a still place, with their true boxes."""

from pathlib import Path

import cv2
import numpy as np
import torch

from bnta_lib.rendered import places, scene
from bnta_lib.rendered.bank import load_bank
from bnta_lib.rendered.dress import as_tensors, paint
from bnta_lib.rendered.people import people
from bnta_lib.site.crops import site_domain

Box = tuple[float, float, float, float] | None


def write_video(path: Path, number: int, crowd: int, seconds: float, fps: float = 12.5) -> list[list[Box]]:
    """Write people who cross one after the other before a camera of site ``number``, as MJPG .avi.

    Frames have the size of a plate. Returns, for every frame, the box (left, top, width, height) of each
    person, None if it is not wholly in the picture.
    """
    domain = site_domain(number)
    plates, table = scene.cameras(domain)
    plate, light = plates[0][0], {name: table[name][:1] for name in ("light", "sun")}
    still = plate.pixels.transpose(1, 2, 0).astype(np.float32) / 255
    random, who = np.random.default_rng(number), people(domain, np.arange(1, crowd + 1))
    feet = np.linspace(plate.horizon + 0.7 * (places.ROWS - plate.horizon), places.ROWS - 8, crowd)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (places.COLS, places.ROWS))
    truth = []
    for frame in range(round(seconds * fps)):
        picture, boxes = still + random.normal(0, 0.008, still.shape).astype(np.float32), []
        for k, foot in enumerate(feet):  # the nearest is painted last
            clothes = {name: value[k : k + 1] for name, value in who.items()}
            height = (foot - plate.horizon) / plate.height * load_bank().shapes[int(who["shape"][k])].height_m
            # Everybody needs 0.42 of the time to cross, every second one to the left.
            time = frame / fps - 1 - 0.7 * seconds / crowd * k
            column = time * (places.COLS + 80) / (0.42 * seconds) - 40
            column = places.COLS - column if k % 2 else column
            boxes.append(draw(picture, clothes, light, time, column, foot, height, 9 if k % 2 else 3))
        truth.append(boxes)
        writer.write(np.ascontiguousarray((picture.clip(0, 1) * 255 + 0.5).astype(np.uint8)[..., ::-1]))
    writer.release()
    return truth


def draw(picture, clothes, light, time: float, column: float, foot: float, height: float, view: int) -> Box:
    """Paint a person into the picture (rows, cols, 3); its box if it is wholly in it."""
    pose, frames = int(1.8 * 8 * max(time, 0)) % 8, scene.map_frames()
    number = int(scene.map_number(int(clothes["shape"][0]), pose, view, 0))
    zoom = height / frames["tall"][number]  # frame pixels a map pixel
    top, left = foot - height - zoom * frames["top"][number], column - zoom * frames["middle"][number]
    y0, y1 = max(int(top), 0), min(int(top + zoom * 128), places.ROWS)
    x0, x1 = max(int(left), 0), min(int(left + zoom * 64), places.COLS)
    if x1 <= x0 or y1 <= y0:
        return None
    angle = np.radians(load_bank().views_deg[view])
    shot = as_tensors({"map": np.array([number]), "cos": np.array([np.cos(angle)]),
                       "sin": np.array([np.sin(angle)]), **light})
    row, col = (torch.from_numpy((np.arange(a, b) + 0.5 - edge) / zoom).float()[None]
                for a, b, edge in ((y0, y1, top), (x0, x1, left)))
    rgb, alpha = paint(as_tensors(clothes), shot, row, col)
    rgb, alpha = rgb[:, 0].permute(1, 2, 0).numpy(), alpha[0, :, :, None].numpy()
    picture[y0:y1, x0:x1] += alpha * (rgb - picture[y0:y1, x0:x1])
    width = 0.42 * height
    inside = column > width / 2 and column + width / 2 < places.COLS
    return (column - width / 2, foot - height, width, height) if inside else None
