"""What would make a score say something else than it seems to: found in the data, before it is measured."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

from bnta_lib.data.sets import Split, Target


def problems(target: Target) -> list[str]:
    """What is wrong with the splits of a target, a sentence each; none where all is well.

    Probes whom the gallery does not show by another camera (they are left out of every score), probes
    that lie in the gallery as the very same picture (matched without any knowledge of people), and
    pictures under two persons' names. Counts are those of the split that has most.
    """
    data, checks = target.data, checksums(target.data.images)
    most = {"unmatched": 0, "same": 0}
    for split in target.splits:
        most["unmatched"] = max(most["unmatched"], _unmatched(target, split))
        most["same"] = max(most["same"], _again(data.images, checks, split))
    two = _two_names(data.images, checks, data.pids)
    said = []
    if most["unmatched"]:
        said.append(f"{_probes(most['unmatched'], len(target.splits))} without a match by another camera, and "
                    "left out of every score")
    if most["same"]:
        said.append(f"{_probes(most['same'], len(target.splits))} in the gallery as the very same picture: "
                    "nothing need be known of people to match it")
    if two:
        said.append(f"{two} {'picture is' if two == 1 else 'pictures are'} there under more than one person's "
                    "name")
    return [f"{data.name}: {sentence}" for sentence in said]


def shared(sources: Tensor, target: Tensor, source_checks: Tensor | None = None) -> int:
    """How many of the target's pictures (uint8 (N, 3, h, w)) are among those trained on, pixel by pixel.

    ``source_checks`` (S,): :func:`checksums` of the sources where they are at hand; then only what may be
    equal is looked at.
    """
    if sources.shape[1:] != target.shape[1:]:
        raise ValueError(f"pictures of {tuple(sources.shape[1:])} and {tuple(target.shape[1:])} are not comparable")
    theirs = checksums(sources) if source_checks is None else source_checks
    own = checksums(target)
    rows = _rows_by_check(theirs, torch.isin(theirs, own).nonzero()[:, 0].tolist())
    return sum(any(torch.equal(sources[row], picture) for row in rows.get(check, ()))
               for check, picture in zip(own.tolist(), target, strict=True))


def checksums(images: Iterable[Tensor]) -> Tensor:
    """CRC-32 of each picture's pixels, int64 (N,), as packs keep them."""
    return torch.tensor([zlib.crc32(image.contiguous().numpy()) for image in images], dtype=torch.int64)


def _rows_by_check(checks: Tensor, rows: Iterable[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row in rows:
        found.setdefault(int(checks[row]), []).append(row)
    return found


def _again(images: Tensor, checks: Tensor, split: Split) -> int:
    """How many probes are in the gallery, pixel by pixel: checksums only say where to look."""
    maybe = split.gallery[torch.isin(checks[split.gallery], checks[split.probe])]
    rows = _rows_by_check(checks, maybe.tolist())
    return sum(any(torch.equal(images[row], images[probe]) for row in rows.get(int(checks[probe]), ()))
               for probe in split.probe.tolist())


def _unmatched(target: Target, split: Split) -> int:
    pids, camids = target.data.pids, target.data.camids
    seen = {(p, c) for p, c in zip(pids[split.gallery].tolist(), camids[split.gallery].tolist()) if p > 0}
    cameras: dict[int, set[int]] = {}
    for person, camera in seen:
        cameras.setdefault(person, set()).add(camera)
    return sum(not cameras.get(p, set()) - {c}
               for p, c in zip(pids[split.probe].tolist(), camids[split.probe].tolist()))


def _two_names(images: Tensor, checks: Tensor, pids: Tensor) -> int:
    count = 0
    for rows in _rows_by_check(checks, (pids > 0).nonzero()[:, 0].tolist()).values():
        while len(rows) > 1:  # pictures of one checksum, but perhaps several
            same = [row for row in rows if torch.equal(images[row], images[rows[0]])]
            count += len({int(pids[row]) for row in same}) > 1
            rows = [row for row in rows if row not in same]
    return count


def _probes(count: int, splits: int) -> str:
    where = "" if splits == 1 else " of a split"
    return f"{count} {'probe' if count == 1 else 'probes'}{where} {'is' if count == 1 else 'are'}"
