"""Sites that the suite renders itself: several cameras, people who pass them, a track each.

A site is a domain of its own (`bnta_lib.rendered.domains`) that is none of the eight of the benchmark:
its places, light, lenses and people are drawn from its number. Here, and here alone, it is known
who the people are, so that an estimate without labels can be held against the truth.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from bnta_lib.rendered import bank as body_bank
from bnta_lib.rendered import benchmark, places, render, scene
from bnta_lib.rendered.domains import DOMAINS, Domain
from bnta_lib.files import atomic
from bnta_lib.settings import cache_dir
from bnta_lib.site.crops import Site

FIRST_CODE = 32  # domains of sites begin here: those of the benchmark have lower codes
SITES = 200  # numbers 0..199


@functools.cache
def site_domain(number: int = 0) -> Domain:
    """The look of site ``number``: places, light, lens and people, drawn once from the number.

    Raises ValueError for a number that is not one of `SITES`.
    """
    if not 0 <= number < SITES:
        raise ValueError(f"rendered sites are numbered 0 to {SITES - 1}, not {number}")
    rng = np.random.Generator(np.random.Philox(key=((FIRST_CODE + number) << 64) | scene.VERSION))

    def span(low: float, high: float, width: float) -> tuple[float, float]:
        start = rng.uniform(low, high)
        return start, start + width

    people = DOMAINS[str(rng.choice(list(DOMAINS)))]  # what is worn: a season of the benchmark's
    warm = rng.uniform(-0.14, 0.14)
    return replace(
        people, name=f"site {number}", stands_for="A place that no training has seen.",
        code=FIRST_CODE + number, cameras=4, paired=False, sites=2,
        places=tuple(rng.choice(list(places.KINDS), 2, replace=False).tolist()),
        gain=(1 + warm, 1.0, 1 - warm), cast=0.05, exposure=span(0.55, 1.2, 0.35),
        gamma=span(0.85, 1.1, 0.15), contrast=span(0.7, 1.05, 0.15), haze=span(0.0, 0.1, 0.06),
        haze_colour=tuple(rng.integers(110, 210, 3).tolist()), saturation=span(0.5, 1.0, 0.2),
        resolution=span(0.45, 0.75, 0.2), blur=span(0.05, 0.14, 0.08), noise=span(0.006, 0.018, 0.01),
        quality=span(40, 70, 20), sun=span(0.0, 0.4, 0.2), same_walk=False, wander=30.0,
        azimuths=(0, float(rng.uniform(60, 120)), float(rng.uniform(150, 210)), -30.0),
        camera_height=(2.4, 3.6), steep=float(rng.uniform(0.1, 0.6)),
        occlusion=float(rng.uniform(0.03, 0.2)), passers_by=float(rng.uniform(0.05, 0.3)),
    )  # fmt: skip


def rendered_site(
    size: tuple[int, int], number: int = 0, people: int = 100, shots: int = 6, *,
    progress: bool = False,
) -> Site:  # fmt: skip
    """Site ``number``: ``people`` people, each seen by two or three of four cameras.

    A track is ``shots`` crops of one person by one camera: place and direction stay, pose, box
    and what stands in front differ. Crops have shape (H, W) = ``size``. Kept in the cache.
    """
    domain = site_domain(number)
    rng = np.random.Generator(np.random.Philox(key=(domain.code << 64) | (people << 8) | shots))
    seen = [np.sort(rng.permutation(domain.cameras)[: rng.integers(2, 4)]) for _ in range(people)]
    pid = np.repeat(np.arange(1, people + 1), [len(cameras) for cameras in seen])
    camera, track = np.concatenate(seen), np.arange(1, len(pid) + 1)
    plan = np.repeat(pid, shots), np.repeat(camera, shots), np.tile(np.arange(shots), len(pid))
    path = cache_dir() / "sets" / f"{benchmark._key(domain, plan, size, True)}.safetensors"
    images = benchmark._read(path)
    if images is None:
        images = render.render(domain, *plan, size, progress=progress)
        benchmark._write(path, images)
    files = tuple(f"camera {c + 1}, track {t}, crop {k + 1}"
                  for c, t, k in zip(plan[1], np.repeat(track, shots), plan[2], strict=True))
    return Site(
        domain.name, images, files, torch.from_numpy(np.repeat(track, shots)).long(),
        torch.from_numpy(plan[2]).long(), torch.from_numpy(plan[1] + 1).long(),
        torch.from_numpy(plan[0]).long(),
        notes=("Rendered: the crops of a track share place and direction, and follow each other "
               "in no particular time.",),
    )


# ---------------------------------------------------------------- a video


def rendered_video(
    path: str | Path, number: int = 0, people: int = 4, seconds: float = 12.0, fps: float = 12.5,
    scale: int = 2,
) -> list[list[tuple[float, float, float, float] | None]]:  # fmt: skip
    """Write a video of people who cross a still place one after the other, before one camera.

    ``path`` ends in .avi (MJPG) or .mp4 (mp4v). Frames are ``scale`` times a plate, 192 x 512.
    Returns, for every frame, the box (left, top, width, height) of each person, None where a
    person is not wholly in the picture. Raises OSError where no such video can be written.
    """
    path = Path(path)
    code = {".avi": "MJPG", ".mp4": "mp4v"}.get(path.suffix)
    if code is None:
        raise ValueError(f"videos are written as .avi or .mp4, not {path.name!r}")
    domain = site_domain(number)
    camera = scene.cameras(domain)[0]
    plate = camera.plates[0]
    rows, cols = places.ROWS * scale, places.COLS * scale
    still = cv2.resize(plate.pixels.transpose(1, 2, 0), (cols, rows)).astype(np.float32) / 255
    rng = np.random.Generator(np.random.Philox(key=(domain.code << 64) | 77))
    ids = np.arange(1, people + 1)
    walkers = _walkers(domain, ids, camera, plate, seconds, rng)
    truth, noise = [], rng.normal(0, 0.008, (rows, 2 * cols, 3)).astype(np.float32)
    with atomic(path) as temporary:
        # The coder is chosen by the ending.
        partial = temporary.with_name(temporary.name + path.suffix)
        writer = cv2.VideoWriter(str(partial), cv2.VideoWriter_fourcc(*code), fps, (cols, rows))
        if not writer.isOpened():
            raise OSError(f"this OpenCV cannot write {path.suffix} videos with the coder {code}")
        try:
            for frame in range(round(seconds * fps)):
                picture, boxes = _frame(still, walkers, frame / fps, scale)
                truth.append(boxes)
                start = int(rng.integers(cols))  # another part of the noise in every frame
                noisy = picture + noise[:, start : start + cols]
                pixels = (noisy.clip(0, 1) * 255 + 0.5).astype(np.uint8)
                writer.write(np.ascontiguousarray(pixels[..., ::-1]))
        finally:
            writer.release()
            if partial.exists():
                partial.replace(temporary)
    return truth


def _walkers(domain, ids, camera, plate, seconds, rng) -> list[dict]:
    """Who walks where and when: a person enters at one side, at a depth of its own."""
    who = scene.people(domain, ids)
    bank, walkers = body_bank.load_bank(), []
    nearest = places.ROWS - 8.0
    furthest = max(plate.wall + 6, plate.horizon + 0.55 * (nearest - plate.horizon))
    depth = np.linspace(furthest, nearest, len(ids))[rng.permutation(len(ids))]
    gap = 0.7 * seconds / len(ids)
    for k in range(len(ids)):
        to_right = bool(rng.random() < 0.5)
        metre = (depth[k] - plate.horizon) / plate.height  # plate pixels
        walkers.append({
            "who": render._tensors({n: v[k : k + 1] for n, v in who.items()}, "cpu"),
            "shape": int(who["shape"][k]), "view": 3 if to_right else 9, "foot": depth[k],
            "tall": metre * bank.shapes[int(who["shape"][k])].height_m,
            # Everybody needs a third of the time to cross, and starts after the one before.
            "start": 1.0 + gap * k, "speed": (places.COLS + 80) / (0.42 * seconds),
            "right": to_right, "light": camera.light, "sun": camera.sun,
        })  # fmt: skip
    return sorted(walkers, key=lambda walker: walker["foot"])  # the nearest is painted last


def _frame(still: np.ndarray, walkers: list[dict], time: float, scale: int):
    """The picture (rows, cols, 3) at a time, and the box of everyone who is wholly in it."""
    picture, boxes = still.copy(), []
    frames = scene.map_frames()
    for walker in walkers:
        gone = walker["speed"] * (time - walker["start"]) - 40
        column = gone if walker["right"] else places.COLS - gone
        pose = int(1.8 * 8 * (time - walker["start"])) % 8 if time > walker["start"] else 0
        number = int(scene.map_number(np.array(walker["shape"]), np.array(pose),
                                      np.array(walker["view"]), 0))
        zoom = scale * walker["tall"] / frames.tall[number]  # frame pixels a map pixel
        top = scale * walker["foot"] - zoom * (frames.top[number] + frames.tall[number])
        left = scale * column - zoom * frames.middle[number]
        y0, y1 = max(int(top), 0), min(int(top + zoom * 128), len(picture))
        x0, x1 = max(int(left), 0), min(int(left + zoom * 64), picture.shape[1])
        height, width = zoom * frames.tall[number], 0.42 * zoom * frames.tall[number]
        inside = scale * column - width / 2 > 0 and scale * column + width / 2 < picture.shape[1]
        boxes.append((scale * column - width / 2, scale * walker["foot"] - height, width, height)
                     if inside and x1 > x0 else None)
        if x1 <= x0 or y1 <= y0:
            continue
        row = torch.from_numpy((np.arange(y0, y1) + 0.5 - top) / zoom).float()[None]
        col = torch.from_numpy((np.arange(x0, x1) + 0.5 - left) / zoom).float()[None]
        angle = np.radians(body_bank.load_bank().views_deg[walker["view"]])
        shot = render._tensors({
            "map": np.array([number]), "cos": np.array([np.cos(angle)]),
            "sin": np.array([np.sin(angle)]), "light": walker["light"][None],
            "sun": np.array([walker["sun"]])}, "cpu")  # fmt: skip
        rgb, alpha = render.paint(walker["who"], shot, row, col)
        rgb, alpha = rgb[:, 0].permute(1, 2, 0).numpy(), alpha[0, :, :, None].numpy()
        cut = picture[y0:y1, x0:x1]
        picture[y0:y1, x0:x1] = cut + alpha * (rgb - cut)
    return picture, boxes
