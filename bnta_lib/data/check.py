"""Whether a folder holds the published sets whole: its counts beside those of the publications."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from bnta_lib.data.published import SETS, Found, Sample, read_image, survey
from bnta_lib.data.splits import official_splits
from bnta_lib.settings import PAPER_SOURCES, worker_count

_SHOWN = 20  # files that are named, of each set


def found_table(found: Mapping[str, Found]) -> pd.DataFrame:
    """A row for each published set, and one for the mixture of the sources: counts here beside the published.

    Columns: role, layout ("" if the set is not there), people and images (published | here), equal.
    """
    rows = {}
    for name, entry in SETS.items():
        here = found.get(name) or Found(name, "", Path(), ())
        rows[name] = ["source" if name in PAPER_SOURCES else "target", here.layout, entry.people, here.people,
                      entry.images, len(here)]
    sums = [sum(counts) for counts in zip(*(rows[name][2:] for name in PAPER_SOURCES))]
    rows["mixture"] = ["sources", f"{sum(name in found for name in PAPER_SOURCES)} of 5", *sums]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[
        "role", "layout", "people, published", "people, here", "images, published", "images, here"])
    equal = (table.iloc[:, 2] == table.iloc[:, 3]) & (table.iloc[:, 4] == table.iloc[:, 5])
    return table.assign(equal=equal).rename_axis("set")


def check(root: str | Path, *, deep: bool = False,
          progress: bool = False) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Table of the published sets below ``root``, what differs from the publications, and notes.

    ``deep`` decodes every image. Nothing is written. Raises as :func:`bnta_lib.data.published.survey`.
    """
    sets, differences = survey(root)
    notes = [f"{name}: {note}" for name, found in sets.items() for note in found.notes]
    for name, found in sets.items():
        differences += (f"{name}: {sentence}" for sentence in differing(found))
        bad = _unreadable(found, progress) if deep else [
            f"{file} is empty or cannot be opened" for file in dict.fromkeys(s.file for s in found.samples)
            if not file.is_file() or not file.stat().st_size]
        differences += (f"{name}: {sentence}" for sentence in bad[:_SHOWN])
        differences += [f"{name}: {len(bad) - _SHOWN:,} more such images"] if len(bad) > _SHOWN else []
    return found_table(sets), differences, notes


def differing(found: Found) -> list[str]:
    """What is not as published in a set, a sentence each; empty if it is whole."""
    entry = SETS[found.name]
    images, people = Counter(sample.part for sample in found.samples), Counter()
    for _, part in {(sample.pid, sample.part) for sample in found.samples if sample.pid}:
        people[part] += 1
    counts = [("", len(found), found.people, entry.images, entry.people),
              *((f"{part}: ", images[part], people[part], *counts) for part, counts in entry.parts.items())]
    sentences = [
        f"{part}{here:,}{f' of {of_images:,}' if of_images else ''} images, {shown:,} of {of_people:,} people"
        for part, here, shown, of_images, of_people in counts
        if (here, shown) != (of_images or here, of_people)]
    if found.layout.endswith("_labeled"):
        sentences.append("these are the boxes drawn by hand; the paper's are the detected ones")
    if not entry.market:  # its rule drops junk and distractors
        sentences += (f"{count:,} left out: {reason}" for reason, count in found.left_out.items())
    if entry.official:
        try:
            official_splits(found)
        except (OSError, ValueError) as error:
            sentences.append(str(error))
    return sentences


def _unreadable(found: Found, progress: bool) -> list[str]:
    """A sentence for each image that cannot be decoded."""
    done = Parallel(worker_count(), return_as="generator")(map(delayed(_error), found.samples))
    return [error for error in tqdm(done, found.name, len(found), disable=not progress) if error]


def _error(sample: Sample) -> str:
    try:
        read_image(sample)
    except (OSError, ValueError) as error:
        return str(error)
    return ""
