"""How long the explorers' callbacks take: ``python benchmarks/sliders.py [--profile laptop] [--csv FILE]``.

Every slider of every explorer is moved as a reader moves it, over its whole range and back, and a row
says how long the callback took that the move set off (median, and 95th percentile), against the goal of
200 ms. What the browser adds is not in it. The N and K explorer is the one that stands alone: with the
rows committed with the suite, where the results store has none.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from bnta_lib import adapt, settings
from bnta_lib.data import load_source_samples
from bnta_lib.explore import domain_explorer, layer_explorer, nk_explorer, retrieval_explorer
from bnta_lib.explore.retrieval import ranking_of
from bnta_lib.results import machine

GOAL = 200  # milliseconds
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


def moved(name: str, explorer, controls: Iterable[tuple[str, object]]) -> list[dict]:
    """A row a control."""
    rows = []
    for what, control in controls:
        explorer.milliseconds.clear()
        for value in places(control):
            control.value = value
        if explorer.trouble.value:
            raise RuntimeError(f"{name}, {what}: {explorer.trouble.value}")
        taken = [ms for own in explorer.milliseconds.values() for ms in own]
        late = float(np.percentile(taken, 95))
        rows.append({"name": f"{name}: {what}, ms", "median": round(float(np.median(taken)), 1),
                     "95th": round(late, 1), "moves": len(taken), "goal": f"95th < {GOAL}",
                     "met": "met" if late < GOAL else "missed"})
    return rows


def measured(profile: str) -> list[dict]:
    current, rows = settings(profile), []
    start = time.perf_counter()
    nk = nk_explorer(current, progress=False)
    print(f"N and K explorer: made in {time.perf_counter() - start:.1f} s")
    model, targets = nk.book.model, nk.book.targets
    for name, control in (("momentum", nk.momentum), ("metric", nk.metric), ("K", nk.K), ("N", nk.N),
                          ("split", nk.split), ("target", nk.target)):
        rows += moved("N and K", nk, [(name, control)])

    start = time.perf_counter()
    sources = list(load_source_samples(current, progress=False).values())
    layer = layer_explorer(model, targets, sources, current)
    print(f"layer explorer: made in {time.perf_counter() - start:.1f} s")
    rows += moved("layers", layer, [("BN layer", layer.index), ("channel", layer.channel),
                                    ("values", layer.values), ("target", layer.target)])

    name, target = next(iter(targets.items()))
    split = target.splits[0]
    adapted = adapt(model, target.data.images[split.gallery], current).model
    rankings = (ranking_of(m, target, split, current) for m in (model, adapted))
    probes = retrieval_explorer(target, split, *rankings)
    rows += moved("retrieval", probes, [("number", probes.place), ("probes", probes.order)])

    start = time.perf_counter()
    domain = domain_explorer(model, current)
    print(f"domain explorer: made in {time.perf_counter() - start:.1f} s")
    rows += moved("domains", domain, [*domain.sliders.items(), ("place", domain.domain)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    chosen = parser.parse_args()
    table = pd.DataFrame(measured(chosen.profile)).assign(machine=machine())
    print(table.drop(columns="machine").to_string(index=False))
    print(machine())
    if chosen.csv:
        table.to_csv(chosen.csv, mode="a", index=False, header=not chosen.csv.is_file())


if __name__ == "__main__":
    main()
