"""All cells of Figure 4 against the steps of their adaptions: ``python benchmarks/grid.py``.

One split of GRID's counterpart at the laptop profile, from a store that is empty. The rival are the
steps that the cells' adaptions take (:func:`bnta_lib.adaption.adapt` with its pairs given), summed over
the same run. The rest is to choose pairs, to digest, to store, and to evaluate each adapted model: it
embeds all probes and the gallery anew, which no other cell can do for it. The goal's row counts all of
that; a row beside it leaves out the evaluation. Both are of one process, so that their shares are known.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import common
from common import Row

from bnta_lib.rendered.benchmark import target as load_target
from bnta_lib.data.sets import Target
from bnta_lib.suite.grid import grid_rows
from bnta_lib.model import BNTANet
from bnta_lib.settings import Settings, settings
from bnta_lib.training import trained_model

# What a share of the time is told for, by the library's functions.
SHARES = {"evaluation": ("experiments", "score"), "pairing": ("pairing", "nearest_pairs"),
          "change rates": ("adaption", "change_rates"), "digest of the images": ("deltas", "images_digest")}


def cumulative(profile: cProfile.Profile, module: str, function: str) -> float:
    """Seconds in a function of the library and below it; 0 where it was not called."""
    stats = pstats.Stats(profile).stats
    return sum(values[3] for (file, _, name), values in stats.items()
               if name == function and Path(file).stem == module and Path(file).parent.name == "bnta_lib")


def measured(model: BNTANet, target: Target, own: Settings) -> Iterator[Row]:
    """Both rows of one target."""
    profile, found = cProfile.Profile(), []
    before = {name: os.environ.get(name) for name in ("BNTA_CACHE", "BNTA_WORKERS")}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(BNTA_CACHE=folder, BNTA_WORKERS="1")
        try:
            took = common.seconds(lambda: found.append(profile.runcall(
                grid_rows, model, {target.data.name: target}, own, progress=False)))
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
    rows = found[0]
    values = rows[rows["N"] > 0].groupby("metric")["value"]
    steps, cells = float(values.sum()["steps"]), int(values.count()["steps"])
    shares = {name: cumulative(profile, *where) for name, where in SHARES.items()}
    shares = {"steps": steps, **shares, "the rest": took - steps - sum(shares.values())}
    told = "; ".join(f"{name} {seconds / took:.0%}" for name, seconds in shares.items())
    about = f"{own.profile}, {target.data.name}, {len(target.splits)} split, {cells} cells"
    yield Row(f"N x K grid ({about})", took, "s", steps, "the adaptions' steps alone", "<= 1.3x",
              note=f"the goal's row; of the time: {told}")
    without, split = took - shares["evaluation"], target.splits[0]
    yield Row(f"N x K grid without evaluating its cells ({about})", without, "s", steps,
              "the adaptions' steps alone", note=f"{without / steps:.3g} times the steps; in the goal's row "
              f"each cell also embeds {len(split.probe) + len(split.gallery):,} images by its own model")


def rows() -> Iterator[Row]:
    own = settings("laptop")
    target = load_target("GRID", own.size, splits=own.splits)
    yield from measured(trained_model(own, progress=False), replace(target, splits=target.splits[:1]), own)


def main() -> None:
    chosen = common.parser(__doc__).parse_args()
    common.run(Path(__file__).stem, rows(), chosen.csv)


if __name__ == "__main__":
    main()
