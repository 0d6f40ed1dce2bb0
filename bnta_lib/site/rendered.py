"""Sites that the suite renders itself: several cameras, people who pass them, a track each.

A site is a domain of its own (`bnta_lib.rendered.domains`). Its places, light, lenses and people are drawn
from its number; its people are known, so that an estimate without labels can be compared with the truth.
"""

import functools
from dataclasses import replace

import numpy as np
import torch

from bnta_lib.rendered.benchmark import cached_images
from bnta_lib.rendered.domains import DOMAINS, Domain
from bnta_lib.rendered.people import VERSION
from bnta_lib.rendered.places import KINDS
from bnta_lib.site.crops import Site

FIRST_CODE = 32  # domains of sites begin here: those of the benchmark have lower codes


@functools.cache
def site_domain(number: int = 0) -> Domain:
    """The look of site ``number``: places, light, lens and people, drawn once from the number."""
    rng = np.random.Generator(np.random.Philox(key=((FIRST_CODE + number) << 64) | VERSION))

    def span(low: float, high: float, width: float) -> tuple[float, float]:
        start = rng.uniform(low, high)
        return start, start + width

    people = DOMAINS[str(rng.choice(list(DOMAINS)))]  # what is worn: a season of the benchmark's
    warm = rng.uniform(-0.14, 0.14)
    return replace(
        people, name=f"site {number}", stands_for="A place that no training has seen.",
        code=FIRST_CODE + number, cameras=4, paired=False, sites=2,
        places=tuple(rng.choice(list(KINDS), 2, replace=False).tolist()),
        gain=(1 + warm, 1.0, 1 - warm), cast=0.05, exposure=span(0.55, 1.2, 0.35),
        gamma=span(0.85, 1.1, 0.15), contrast=span(0.7, 1.05, 0.15), haze=span(0.0, 0.1, 0.06),
        haze_colour=tuple(rng.integers(110, 210, 3).tolist()), saturation=span(0.5, 1.0, 0.2),
        resolution=span(0.45, 0.75, 0.2), blur=span(0.05, 0.14, 0.08), noise=span(0.006, 0.018, 0.01),
        quality=span(40, 70, 20), sun=span(0.0, 0.4, 0.2), same_walk=False, wander=30.0,
        azimuths=(0, float(rng.uniform(60, 120)), float(rng.uniform(150, 210)), -30.0),
        camera_height=(2.4, 3.6), steep=float(rng.uniform(0.1, 0.6)),
        occlusion=float(rng.uniform(0.03, 0.2)), passers_by=float(rng.uniform(0.05, 0.3)))


def rendered_site(size: tuple[int, int], number: int = 0, people: int = 100, shots: int = 6, *,
                  progress: bool = False) -> Site:
    """Site ``number``: ``people`` people, each seen by two or three of four cameras.

    A track is ``shots`` crops of one person by one camera: place and direction stay, pose, box
    and what stands in front differ. Crops have shape (H, W) = ``size``. Kept in the cache.
    """
    domain = site_domain(number)
    rng = np.random.Generator(np.random.Philox(key=(domain.code << 64) | (people << 8) | shots))
    seen_by = [np.sort(rng.permutation(domain.cameras)[: rng.integers(2, 4)]) for _ in range(people)]
    pids = np.repeat(np.arange(1, people + 1), [len(cameras) for cameras in seen_by])
    each_track = pids, np.concatenate(seen_by), np.arange(1, len(pids) + 1)
    pid, camera, track = (np.repeat(values, shots) for values in each_track)
    shot = np.tile(np.arange(shots), len(pids))
    images = cached_images(domain, (pid, camera, shot), size, progress=progress)
    files = tuple(f"camera {c + 1}, track {t}, crop {k + 1}" for c, t, k in zip(camera, track, shot))
    tracks, times, cameras, pids = (torch.from_numpy(x).long() for x in (track, shot, camera + 1, pid))
    note = ("Rendered: the crops of a track share place and direction, and follow each other in no "
            "particular time.")
    return Site(domain.name, images, files, tracks, times, cameras, pids, notes=(note,))
