"""Whether a folder holds the published sets whole: ``python -m bnta_lib.data check ROOT``.

Counts images and people of each set that is found, holds them against the catalogue and the mixture
of the sources against the paper's, and names each difference with its likely cause. Nothing is
written in ROOT; with ``--deep``, files that could be decoded are remembered in the cache.

Exit code: 0 where all that is found is as published (sets that are not there are named, and do not
count), 1 where something differs, 2 where no set is found or ROOT cannot be read.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import pandas as pd
from tqdm.auto import tqdm

from bnta_lib.data.catalogue import CATALOGUE, DISTRACTORS, JUNK, Description
from bnta_lib.data.layouts import expected, survey
from bnta_lib.data.splits import official_splits
from bnta_lib.data.records import Found, Sample, read_image, visible
from bnta_lib.files import a_path
from bnta_lib.settings import PAPER_SOURCES, cache_dir, worker_count
from bnta_lib.workers import side_by_side

_SHOWN = 20  # unreadable files that are named, of each set
_CHUNK = 128  # images that a worker decodes before it reports


@dataclass(frozen=True)
class Report:
    """What :func:`check` saw."""

    root: Path
    found: dict[str, Found]
    differences: dict[str, list[str]]  # by set: what is not as published, a sentence each
    notes: dict[str, list[str]]  # by set: what is worth knowing, and does not count
    problems: tuple[str, ...]  # of the folder as a whole
    labeled: bool = False
    decoded: int | None = None  # images that were decoded, now or before; None without ``deep``

    @property
    def exit_code(self) -> int:
        """0: all that is found is as published; 1: something differs; 2: no set is found."""
        if not self.found:
            return 2
        return int(bool(self.problems) or any(self.differences.values()))

    def table(self) -> pd.DataFrame:
        """Images and people of each set found and of the mixture of the sources: counted, published."""
        rows = [_row(name, found.layout, len(found), found.people, *expected(name, self.labeled))
                for name, found in self.found.items()]
        sources = [self.found[name] for name in PAPER_SOURCES if name in self.found]
        published = [expected(name, self.labeled) for name in PAPER_SOURCES]
        rows.append(_row("mixture", f"{len(sources)} of {len(PAPER_SOURCES)} sources",
                         sum(len(found) for found in sources), sum(found.people for found in sources),
                         sum(images for images, _ in published), sum(people for _, people in published)))
        return pd.DataFrame(rows)

    def text(self) -> str:
        """The report in words."""
        if not self.found:
            lines = [f"no published set was found below {self.root}: point to the folder that you unpacked "
                     "the sets in"]
        else:
            lines = [f"below {self.root}:", "", self.table().to_string(index=False), ""]
        said = []
        for name in self.found:
            said += [f"{name}: {sentence}" for sentence in self.differences[name]]
            said += [f"{name}, for information: {sentence}" for sentence in self.notes[name]]
        lines += [visible(sentence) for sentence in (*said, *self.problems)]
        if self.decoded is not None:
            lines.append(f"{self.decoded:,} images can be decoded")
        lines += [_where(described) for described in CATALOGUE.values() if described.name not in self.found]
        return "\n".join(lines)


def _row(name: str, layout: str, images: int, people: int, of_images: int, of_people: int) -> dict:
    same = (images, people) == (of_images, of_people)
    return {"set": name, "images": f"{images:,}", "published": f"{of_images:,}", "people": f"{people:,}",
            "published ": f"{of_people:,}", "": "exact" if same else "differs", "layout": layout}


def _where(described: Description) -> str:
    """Where a set that is not there may be had."""
    if described.url:
        return f"{described.name} is not there: python -m bnta_lib.data fetch {described.name} ROOT gets it"
    note = f" ({described.note})" if described.note else ""
    return f"{described.name} is not there: {described.licence}; ask {described.ask}{note}"


def check(
    root: str | Path, *, deep: bool = False, labeled: bool = False, progress: bool = False
) -> Report:
    """Find the published sets below ``root`` and hold them against the catalogue.

    ``deep`` decodes every image too, on all cores; what was decoded once is remembered in the cache
    by path, size and time of change. ``labeled`` expects CUHK03's boxes drawn by hand.
    Raises FileNotFoundError where there is no such folder, PermissionError where it cannot be read.
    """
    seen = survey(root, labeled=labeled)
    differences = {name: differing(found, labeled) for name, found in seen.found.items()}
    notes = {name: _worth_knowing(found) for name, found in seen.found.items()}
    decoded = None
    if deep:
        decoded = 0
        total = sum(map(len, seen.found.values()))
        with (tqdm(total=total, unit="image", desc="decoding", disable=not progress) as bar,
              _Notes(cache_dir() / "decoded.txt") as memory):
            for name, found in seen.found.items():
                good, broken, clipped = _decode_all(found, bar, memory)
                decoded += good
                differences[name] += _named(broken, "that cannot be decoded, to be unpacked again")
                if clipped:
                    notes[name].append(f"{clipped:,} boxes reach out of their pictures, and are clipped")
    return Report(Path(root).expanduser().absolute(), seen.found, differences, notes,
                  seen.problems + seen.likenesses, labeled, decoded)


# ---- what differs, and why


def differing(found: Found, labeled: bool = False) -> list[str]:
    """What is not as published in a set, a sentence each with its likely cause; none where it is whole."""
    described = CATALOGUE[found.name]
    images, people = expected(found.name, labeled)
    said = []
    by_hand = found.layout.endswith("_labeled") or len(found) == described.labeled
    if described.labeled and by_hand and not labeled:
        said.append(f"these are the labeled boxes, {described.labeled:,} where whole; the paper's are the "
                    f"detected ones, {described.images:,} (--labeled expects these)")
        images = described.labeled
    elif described.labeled and labeled and not by_hand:
        said.append("these are the detected boxes: no labeled ones are there")
        images = described.images
    parts = _by_part(found)
    held = [part for part in described.parts if part in parts]
    if lacking := [part for part in described.parts if part not in parts]:
        only = f"only {held[0]} is there: " if len(held) == 1 else ""
        said.append(f"{only}{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing")
    by_part = False
    for part in held:
        of_images, of_people = described.parts[part]
        sentence = _against(f"{part}: ", *parts[part], of_images, of_people, described)
        said += sentence
        by_part = by_part or bool(sentence and of_images)
    if not lacking and not by_part:  # the whole says nothing more than its parts do
        said += _against("", len(found), found.people, images, people, described)
    for reason, number in found.left_out.items():
        if reason not in (JUNK, DISTRACTORS, "the same image again"):
            said.append(f"{number:,} left out: {reason}")
    if found.name == "GRID":
        try:
            official_splits(found)
        except (OSError, ValueError) as error:
            said.append(str(error))
    return said + _empty_files(found)


def _against(
    where: str, images: int, people: int, of_images: int | None, of_people: int | None, described: Description
) -> list[str]:
    if of_images is not None and images < of_images:
        return [f"{where}{images:,} of {of_images:,} images ({of_images - images:,} missing), as after a "
                "download or an unpacking that was cut short"]
    if of_images is not None and images > of_images:
        more = images - of_images
        kept = {sum(described.left_out.values()): "junk and distractors",
                **{number: reason for reason, number in described.left_out.items()}}
        cause = (f"as many as its {kept[more]} are, kept under other names" if more in kept
                 else "images of another part or set lie among them")
        return [f"{where}{images:,} images, {more:,} more than published: {cause}"]
    if of_people is not None and people != of_people:
        return [f"{where}{people:,} people instead of {of_people:,}: files were renamed, or are missing"]
    return []


def _by_part(found: Found) -> dict[str, tuple[int, int]]:
    """Images and people (distractors not counted) of each part."""
    images, people = Counter(), {}
    for sample in found.samples:
        images[sample.part] += 1
        people.setdefault(sample.part, set()).add(sample.pid)
    return {part: (number, len(people[part] - {0})) for part, number in images.items()}


def _empty_files(found: Found) -> list[str]:
    sizes = _sizes(found)
    empty, absent = ([str(file) for file, size in sizes.items() if size == of] for of in (0, -1))
    return (_named(empty, "without content (0 bytes), to be unpacked again")
            + _named(absent, "that cannot be opened (broken links, or no permission)"))


def _sizes(found: Found) -> dict[Path, int]:
    """Bytes of each file, -1 where it cannot be opened."""
    sizes = {}
    for file in dict.fromkeys(sample.file for sample in found.samples):
        try:
            sizes[file] = os.stat(file).st_size
        except OSError:
            sizes[file] = -1
    return sizes


def _named(files: list[str], what: str) -> list[str]:
    if not files:
        return []
    more = f", and {len(files) - _SHOWN:,} more" if len(files) > _SHOWN else ""
    count = f"{len(files):,} {'file' if len(files) == 1 else 'files'}"
    return [f"{count} {what}: {', '.join(files[:_SHOWN])}{more}"]


def _worth_knowing(found: Found) -> list[str]:
    described, said = CATALOGUE[found.name], list(found.notes)
    for reason, published in described.left_out.items():
        number = found.left_out.get(reason, 0)
        if number != published:
            said.append(f"{number:,} of {published:,} {reason} are in this copy; they are left out anyway")
    if again := found.left_out.get("the same image again"):
        said.append(f"{again:,} images lie here more than once, and count once")
    return said + ([described.note] if described.note else [])


# ---- every image decoded


def _decode_all(found: Found, bar: tqdm, notes: _Notes) -> tuple[int, list[str], int]:
    """How many images of a set can be decoded, which files cannot, and how many boxes are clipped."""
    units: dict[tuple[Path, str], list[Sample]] = {}  # what is decoded at once: a file, or a cell of one
    for sample in found.samples:
        units.setdefault((sample.file, sample.cell), []).append(sample)
    known, sizes = _remembered(notes.path), _sizes(found)
    good, broken, clipped, waiting = 0, [], 0, []
    for unit in units.values():
        key = _key(unit)
        if sizes[unit[0].file] == 0:  # named as such already
            bar.update(len(unit))
        elif key in known:
            good, clipped = good + len(unit), clipped + known[key]
            bar.update(len(unit))
        else:
            waiting.append((key, unit))
    if not waiting:
        return good, broken, clipped
    chunks = [waiting[i : i + _CHUNK] for i in range(0, len(waiting), _CHUNK)]
    workers = min(len(chunks), worker_count())
    for chunk in side_by_side(_decode, ((chunk,) for chunk in chunks), workers, in_order=False):
        for key, number, error, out in chunk:
            if error:
                broken.append(error)
            else:
                good, clipped = good + number, clipped + out
                notes.write(f"{key} {out}\n")
            bar.update(number)
    return good, sorted(broken), clipped


class _Notes:
    """Adds lines to a file, so that what a stopped run has decoded is not decoded again.

    Where that cannot be, it is said once: the report comes all the same.
    """

    def __init__(self, path: Path):
        self.path, self.file, self.failed = path, None, False

    def __enter__(self) -> _Notes:
        return self

    def __exit__(self, *exc) -> None:
        if self.file is not None:
            with suppress(OSError):
                self.file.close()

    def write(self, line: str) -> None:
        if self.failed:
            return
        try:
            if self.file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.file = open(self.path, "a", encoding="ascii", buffering=1)  # a line at a time
                self.file.write("\n")  # ends a line that was cut short
            self.file.write(line)
        except OSError as error:
            self.failed = True
            warnings.warn(f"what is decoded cannot be noted in {self.path} ({error.strerror}), so a later "
                          "check decodes it again: set BNTA_CACHE to a folder that you may write to",
                          stacklevel=4)


def _decode(chunk: list[tuple[str, list[Sample]]]) -> list[tuple[str, int, str, int]]:
    """Of each unit its key, its number of images, what is wrong with it, and its clipped boxes."""
    done, opened = [], {}
    try:
        for key, unit in chunk:
            first, error, out = unit[0], "", 0
            try:
                if first.cell and first.file not in opened:
                    opened[first.file] = h5py.File(first.file, "r")
                picture = read_image(replace(first, box=None), opened.get(first.file))
                for left, top, width, height in (sample.box for sample in unit if sample.box):
                    if left >= picture.width or top >= picture.height or min(left + width, top + height) <= 0:
                        raise ValueError(f"{first.file}: the box {left, top, width, height} lies outside its "
                                         f"{picture.width} x {picture.height} pixels")
                    out += (min(left, top) < 0 or left + width > picture.width
                            or top + height > picture.height)
            except (OSError, ValueError) as wrong:
                error = str(wrong)
            done.append((key, len(unit), error, out))
    finally:
        for file in opened.values():
            file.close()
    return done


def _key(unit: list[Sample]) -> str:
    """What a decoded unit is remembered by: path, size and time of change, cell and boxes."""
    try:
        at = os.stat(unit[0].file)
        size, changed = at.st_size, at.st_mtime_ns
    except OSError:
        size = changed = -1  # it will not be decoded either
    text = repr((os.fsencode(unit[0].file), size, changed, unit[0].cell, [sample.box for sample in unit]))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _remembered(memory: Path) -> dict[str, int]:
    """Clipped boxes by key, of what was decoded before. A line that was cut short is passed over."""
    try:
        lines = memory.read_text(encoding="ascii", errors="replace").split("\n")
    except OSError:  # none yet; or it may not be read, which writing to it will say
        return {}
    held = (line.split() for line in lines[:-1])
    return {parts[0]: int(parts[1]) for parts in held if len(parts) == 2 and parts[1].isdecimal()}


# ---- the command


def add_parser(sub) -> None:
    """Adds ``check`` to the commands of ``python -m bnta_lib.data``."""
    parser = sub.add_parser(
        "check", help="hold the published sets below a folder against their counts",
        description=__doc__.partition("\n\n")[2], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=a_path, metavar="ROOT", help="folder below which the sets lie")
    parser.add_argument("--deep", action="store_true", help="decode every image, from where it stopped")
    parser.add_argument("--labeled", action="store_true", help="expect CUHK03's labeled boxes")
    parser.set_defaults(run=main_check)


def main_check(args: argparse.Namespace) -> int:
    try:
        report = check(args.root, deep=args.deep, labeled=args.labeled, progress=sys.stderr.isatty())
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    print(report.text())
    return report.exit_code
