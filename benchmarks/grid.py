"""All cells of Figure 4 against the steps of their adaptions: ``python benchmarks/grid.py``.

One split of GRID's counterpart at the laptop profile, from an empty store. The rival is the time of the
adaptions' steps (:func:`bnta_lib.adaption.adapt` with its pairs given), summed over the same run. The rest is
finding pairs, storing, and evaluating each adapted model, which embeds all probes and the gallery anew.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace

import common
from common import Row

from bnta_lib.data.sets import Split
from bnta_lib.rendered.benchmark import target as load_target
from bnta_lib.suite.lab import Lab


def rows(device: str, quick: bool) -> Iterator[Row]:
    name, lab = ("iLIDS", Lab("smoke", progress=False)) if quick else ("GRID", Lab("laptop", progress=False))
    chosen, results = lab.settings, []
    lab.model()
    # One split more than the suite has: rows of the others are recorded.
    target = load_target(name, chosen.size, splits=11)
    split = target.splits[-1]
    split = Split(split.probe[:16], split.gallery[:16]) if quick else split
    lab.targets = {name: replace(target, splits=(split,))}
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BNTA_CACHE"] = folder
        took = common.seconds(lambda: results.append(lab.measure("figure_4")))
    cells = results[0][results[0]["N"] > 0]
    steps, images = cells[cells["metric"] == "steps"]["value"], len(split.probe) + len(split.gallery)
    yield Row(f"N x K grid ({chosen.profile}, {name}, 1 split, {len(steps)} cells)", took, "s",
              float(steps.sum()), "the adaptions' steps alone", "<= 1.3x",
              note=f"each cell also embeds {images:,} images by its own model, which takes longer than its "
              "steps")


if __name__ == "__main__":
    common.main(__doc__, rows)
