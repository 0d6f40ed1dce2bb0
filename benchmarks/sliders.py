"""How long the explorers' callbacks take: ``python benchmarks/sliders.py [--profile laptop] [--csv FILE]``.

Every slider of every explorer is moved as a reader moves it, over its whole range and back. An explorer's
row is of its slowest control: the 95th percentile of how long the callback took that a move set off, and
beside it what the others took. What the browser adds is not in it. The N and K explorer is the one that
stands alone: with the rows committed with the suite, where the results store has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np
from common import Row

from bnta_lib import adapt, settings
from bnta_lib.data import load_source_samples
from bnta_lib.explore import domain_explorer, layer_explorer, nk_explorer, retrieval_explorer
from bnta_lib.explore.retrieval import ranking_of

GOAL = "< 200 ms"
MOVES = 24  # of each control, at most


def places(control) -> list:
    """Values of a control from end to end and back."""
    if hasattr(control, "options"):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
    else:
        values = np.linspace(control.min, control.max, MOVES)
        values = [type(control.value)(v) for v in values]
    step = -(-2 * len(values) // MOVES)
    return [*values[::step], *values[::-step]]


def moved(name: str, explorer, controls: dict[str, object], note: str = "") -> Row:
    """The row of one explorer. Raises RuntimeError where a callback failed."""
    found = {}
    for what, control in controls.items():
        explorer.milliseconds.clear()
        for value in places(control):
            control.value = value
        if explorer.trouble.value:
            raise RuntimeError(f"{name}, {what}: {explorer.trouble.value}")
        taken = [ms for own in explorer.milliseconds.values() for ms in own]
        found[what] = float(np.percentile(taken, 95)), float(np.median(taken))
    slowest = max(found, key=found.get)
    each = ", ".join(f"{what} {late:.0f} ({median:.0f})" for what, (late, median) in found.items())
    return Row(f"explorer of {name}, its slowest slider", found[slowest][0], "ms", goal=GOAL,
               note=f"{slowest}; 95th percentile (median) of each, ms: {each}{note}")


def rows(profile: str) -> Iterator[Row]:
    current, made = settings(profile), {}

    def timed(name: str, make):
        took = common.seconds(lambda: made.update({name: make()}))
        return made[name], f"; made in {took:.1f} s"

    nk, note = timed("nk", lambda: nk_explorer(current, progress=False))
    yield moved("N and K", nk, {"momentum": nk.momentum, "metric": nk.metric, "K": nk.K, "N": nk.N,
                                "split": nk.split, "target": nk.target}, note)
    model, targets = nk.book.model, nk.book.targets

    sources = list(load_source_samples(current, progress=False).values())
    layer, note = timed("layer", lambda: layer_explorer(model, targets, sources, current))
    yield moved("layers", layer, {"BN layer": layer.index, "channel": layer.channel,
                                  "values": layer.values, "target": layer.target}, note)

    target = next(iter(targets.values()))
    split = target.splits[0]
    adapted = adapt(model, target.data.images[split.gallery], current).model
    rankings = (ranking_of(m, target, split, current) for m in (model, adapted))
    probes = retrieval_explorer(target, split, *rankings)
    yield moved("retrieval", probes, {"number": probes.place, "probes": probes.order})

    domain, note = timed("domain", lambda: domain_explorer(model, current))
    yield moved("domains", domain, {**domain.sliders, "place": domain.domain}, note)


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--profile", default="laptop")
    chosen = parser.parse_args()
    common.run(Path(__file__).stem, rows(chosen.profile), chosen.csv)


if __name__ == "__main__":
    main()
