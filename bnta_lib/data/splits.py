"""Who is probe and who is in the gallery, on the published targets.

GRID has ten official splits. The suite's own ten of the others lie in ``data/splits/<set>.json``, as numbers
of people: person k is the k-th, in order of the file names, of those whom both sides show.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from bnta_lib.data.folders import files_below
from bnta_lib.data.published import SETS, Found
from bnta_lib.data.sets import Split, Target
from bnta_lib.settings import ROOT, TARGETS, Settings


def official_splits(found: Found) -> list[set[int]]:
    """The people trained on in each official split. Raises OSError or ValueError without the owner's .mat."""
    import scipy.io

    name = SETS[found.name].official
    mat = next((path for path in files_below(found.folder) if path.name.lower() == name), None)
    if mat is None:
        raise FileNotFoundError(f"{name} is not below {found.folder}: take it from the owner's archive")
    try:
        return [set(cell[0][0][2][0].tolist()) for cell in scipy.io.loadmat(mat)["trainIdxAll"][0]]
    except Exception as error:  # what SciPy raises for a damaged file shares no base class
        raise ValueError(f"{mat} does not hold {found.name}'s splits ({error}): unpack it again") from error


def target_splits(found: Found, settings: Settings) -> tuple[tuple[Split, ...], str]:
    """Splits of a target as indices into its samples, and the protocol in a sentence for under a table.

    Raises ValueError for too few people, and as :func:`official_splits`.
    """
    sides = SETS[found.name].sides
    rows = {side: defaultdict(list) for side in sides or ("",)}  # of each person, in order of file names
    for row, sample in sorted(enumerate(found.samples), key=lambda numbered: numbered[1].file.name):
        rows[sample.part][sample.pid].append(row)
    first, other = rows[next(iter(rows))], dict(zip(rows, reversed(rows)))
    people = sorted(pid for pid in set(first).intersection(*rows.values())
                    if pid and (sides or len(first[pid]) > 1))
    splits, which = _splits(found, people)
    if settings.splits < len(splits):
        splits, which = splits[: settings.splits], f"the first {settings.splits} of {which}"
    if sides:
        probing = settings.viper_probe if found.name == "VIPeR" else sides[0]
        probing = [side for side in sides if probing in (side, "both")]
        pairs = [_paired(rows[side], rows[other[side]], people, split)
                 for split in splits for side in probing]
        how = f"single images, probes by {' and '.join(probing)}"
    else:
        several = settings.ilids_images == "multi"
        pairs = [_picked(first, people, split, several) for split in splits]
        how = f"one probe and {'all other images' if several else 'one gallery image'} of a person, at random"
    sizes = [" to ".join(str(n) for n in sorted({len(rows) for rows in side})) for side in zip(*pairs)]
    words = f"{sizes[0]} probes, {sizes[1]} gallery images, {how}; {which}."
    return tuple(Split(*map(torch.tensor, pair)) for pair in pairs), words


def _splits(found: Found, people: Sequence[int]) -> tuple[list[dict], str]:
    """Splits of ``people``, numbered from 1 in this order, and which they are in words."""
    if SETS[found.name].official:
        splits = [{"test": [k for k, pid in enumerate(people, 1) if pid not in train]}
                  for train in official_splits(found)]
        return splits, "the ten official splits"
    file = ROOT / "data" / "splits" / f"{found.name.lower()}.json"
    splits = json.loads(file.read_text(encoding="utf-8"))
    whole, which = len(splits[0]["train"] + splits[0]["test"]), "this suite's ten seeded splits"
    if len(people) < whole:
        which += f", of its {whole} people the {len(people)} that are here (no published number compares)"
    return splits, f"{which} (data/splits/{file.name})"


def _paired(probe: dict, gallery: dict, people: Sequence[int], split: dict) -> tuple[list[int], list[int]]:
    """First images of the test people by either side; the gallery adds everyone whom it alone shows."""
    test = [people[k - 1] for k in split["test"] if k <= len(people)]
    alone = [row for pid, rows in gallery.items() if not pid or pid not in probe for row in rows]
    return [probe[pid][0] for pid in test], sorted([gallery[pid][0] for pid in test] + alone)


def _picked(rows: dict, people: Sequence[int], split: dict, several: bool) -> tuple[list[int], list[int]]:
    """One image of each test person picked as probe, and one or all of the others as gallery."""
    probe, gallery = [], []
    for k, first, second in zip(split["test"], split["probe"], split["gallery"], strict=True):
        if k <= len(people):
            others = list(rows[people[k - 1]])
            probe.append(others.pop(int(first * len(others))))
            gallery += others if several else [others[int(second * len(others))]]
    return probe, gallery


def protocol_note(targets: Mapping[str, Target], sources: str = "") -> str:
    """For under a table: protocols of targets, which are missing, and what was trained on."""
    words = [f"{name}: {target.protocol}" for name, target in targets.items() if target.protocol]
    if words:
        missing = ", ".join(name for name in TARGETS if name not in targets)
        words = ["Protocol.", *words, *([f"Not there of the paper's targets: {missing}."] if missing else [])]
    return " ".join([*words, *([f"Trained on {sources}."] if sources else [])])
