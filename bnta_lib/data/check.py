"""Whether a folder holds the published sets whole: its counts beside those of the publications."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from bnta_lib.data.published import SETS, Found, survey
from bnta_lib.data.splits import official_splits
from bnta_lib.settings import PAPER_SOURCES


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


def check(root: str | Path) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Table of the published sets below ``root``, what differs from the publications, and notes.

    Nothing is written. Raises as :func:`bnta_lib.data.published.survey`.
    """
    sets, differences, notes = survey(root)
    for name, found in sets.items():
        empty = [file for file in dict.fromkeys(sample.file for sample in found.samples)
                 if not file.is_file() or not file.stat().st_size]
        bad = [f"{file} is empty or cannot be opened" for file in empty[:20]]
        bad += [f"{len(empty):,} such images"] if len(empty) > 20 else []
        differences += (f"{name}: {sentence}" for sentence in [*differing(found), *bad])
    return found_table(sets), differences, notes


def differing(found: Found) -> list[str]:
    """What is not as published in a set, a sentence each; empty if it is whole."""
    entry, sentences = SETS[found.name], []
    samples = pd.DataFrame([(sample.part, sample.pid) for sample in found.samples], columns=["part", "pid"])
    for part, (images, people) in {"": (entry.images, entry.people), **entry.parts}.items():
        pids = samples.loc[samples["part"] == part, "pid"] if part else samples["pid"]
        shown = pids[pids > 0].nunique()
        if (len(pids), shown) != (images or len(pids), people):
            where, published = f"{part}: " if part else "", f" of {images:,}" if images else ""
            sentences.append(f"{where}{len(pids):,}{published} images, {shown:,} of {people:,} people")
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
