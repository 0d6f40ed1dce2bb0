"""What the guards measure in adaptions that are sound and in ones that do harm.

The thresholds of :class:`bnta_lib.site.guards.Guards` were chosen from these runs: laptop profile, the
committed weights, guards that measure and stop nothing. ``python benchmarks/guards.py`` runs them
again (about five minutes of one core) and writes ``figures/laptop/guards.csv``, ``.png``, ``.pdf``;
``--figure`` draws what the CSV holds. ``--cost [--csv benchmarks/results.csv]`` measures instead what
guarding an adaption takes, which is the part of this that the speed suite runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import common
import matplotlib.pyplot as plt
import pandas as pd
import torch
from common import Row

from bnta_lib.adaption import adapt
from bnta_lib.data import load_targets
from bnta_lib.data.sets import Target
from bnta_lib.suite.experiments import sample_of, score
from bnta_lib.figures.base import save_figure, use_style
from bnta_lib.files import atomic
from bnta_lib.site.guards import Guards
from bnta_lib.model import BNTANet, embed
from bnta_lib.settings import Settings, figures_dir, settings
from bnta_lib.training import trained_model

OPEN = Guards(min_images=0, max_duplicates=1, max_move=math.inf, min_spread=0)
KINDS = {"sound": ("#0072B2", "o"), "few images": ("#56B4E9", "^"), "strong": ("#E69F00", "s"),
         "harmful": ("#D55E00", "D")}  # colour, marker
# What is measured, how it reads on an axis, and whether the threshold is a least value.
MEASURES = {
    "different": ("different images (number)", True),
    "duplicates": ("repeated images, share", False),
    "move": ("largest move of a layer / its size", False),
    "spread": ("feature spread, after / before", True),
}


def cases(name: str, target, others: dict):
    """Every adaption on a target: kind, case, split, images, settings that differ."""
    data, split = target.data.images, target.splits[0]
    gallery = data[split.gallery]
    for number in range(3):
        yield "sound", "gallery", number, data[target.splits[number].gallery], {}
    for n in (4, 8, 16, 32, 48):
        yield "few images", f"N = {n}", 0, data[sample_of(split, n)], {}
    yield "strong", "momentum 0.3", 0, gallery, {"tta_momentum": 0.3}
    yield "strong", "momentum 1", 0, gallery, {"tta_momentum": 1.0}
    yield "strong", "10 epochs", 0, gallery[:200], {"tta_epochs": 10}
    for times in (10, 100, 1000):
        yield "harmful", f"rate x {times}", 0, gallery, {"tta_lr": 0.0005 * times}
    for n in (4, 8, 16, 32):
        yield "harmful", f"momentum 1, N = {n}", 0, data[sample_of(split, n)], {"tta_momentum": 1.0}
    yield "harmful", "one image x 128", 0, gallery[:1].repeat(128, 1, 1, 1), {}
    yield "harmful", "one image x 32, 10 epochs", 0, gallery[:1].repeat(32, 1, 1, 1), {"tta_epochs": 10}
    yield "harmful", "16 images x 8", 0, gallery[:16].repeat(8, 1, 1, 1), {}
    person = data[target.data.pids == target.data.pids[target.data.pids > 0].mode().values]
    yield "harmful", "one person", 0, person.repeat(64 // len(person), 1, 1, 1), {}
    random = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (128, *data.shape[1:]), dtype=torch.uint8, generator=random)
    yield "harmful", "noise", 0, noise, {}
    black = torch.zeros_like(noise)
    yield "harmful", "black", 0, black, {}
    yield "harmful", "7 of 8 black", 0, torch.cat([gallery[:16], black[16:]]), {}
    names = list(others)
    other = names[(names.index(name) + 1) % len(names)]
    yield "harmful", f"images of {other}", 0, others[other].data.images[others[other].splits[0].gallery], {}


def stopped(row) -> str:
    """The first guard that would stop a run by the default thresholds, or ""."""
    limits = {"different": Guards.min_images, "duplicates": Guards.max_duplicates, "move": Guards.max_move,
              "spread": Guards.min_spread}
    for name, (_, least) in MEASURES.items():
        if row[name] < limits[name] if least else row[name] > limits[name]:
            return name
    return ""


def run(profile: str = "laptop") -> pd.DataFrame:
    """A row a run; ``gain`` is of rank 1 in points, ``stopped`` the default guard that would stop it."""
    own = settings(profile)
    model, targets = trained_model(own), load_targets(own)
    rows = []
    for name, target in targets.items():
        features, _ = embed(model, target.data.images)
        before = [score(model, target, split, own, features).row()["R1"] for split in target.splits]
        for kind, case, number, images, change in cases(name, target, targets):
            chosen = replace(own, **change)
            row = {"kind": kind, "case": case, "target": name, "split": number, "N": len(images),
                   "R1": before[number]}
            result = adapt(model, images, chosen, guards=OPEN)
            after = score(result.model, target, target.splits[number], own).row()["R1"]
            found = result.guarded.set_index("guard")["measured"]
            row |= {"gain": after - before[number], "different": found["images"],
                    "duplicates": found["duplicates"], "move": found["move"], "spread": found["spread"]}
            rows.append(row | {"stopped": stopped(row)})
            print(", ".join(f"{k} {v:.3g}" if isinstance(v, float) else str(v) for k, v in row.items()),
                  flush=True)
    return pd.DataFrame(rows)


def cost(own: Settings, model: BNTANet, targets: dict[str, Target], guards: Guards = Guards(),
         repeats: int = 3) -> Iterator[Row]:
    """Processor seconds of an adaption to each gallery with guards and without: the least of some."""
    for name, target in targets.items():
        images, least = target.data.images[target.splits[0].gallery], {}
        for _ in range(repeats):
            for chosen in (None, guards):
                start = time.process_time()
                adapt(model, images, own, guards=chosen)
                least[chosen] = min(least.get(chosen, math.inf), time.process_time() - start)
        without, guarded = least.values()
        yield Row(f"guarded adaption ({own.profile}, {name}, N={len(images)})", guarded, "s", without,
                  "the same without guards", note="processor seconds")


def draw(rows: pd.DataFrame) -> plt.Figure:
    """Gain of rank 1 over what each guard measures, with the default thresholds."""
    limits = {"different": Guards.min_images, "move": Guards.max_move, "spread": Guards.min_spread}
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 3.0), sharey=True, layout="constrained")
    for axis, (name, limit) in zip(axes, limits.items()):
        label, least = MEASURES[name]
        for kind, (colour, marker) in KINDS.items():
            of = rows[rows["kind"] == kind]
            for caught in (False, True):
                some = of[(of["stopped"] != "") == caught]
                axis.scatter(some[name], some["gain"], s=16, marker=marker, linewidth=1.1, edgecolors=colour,
                             facecolors=colour if caught else "none", alpha=0.8)
        axis.axvline(limit, color="0.4", linestyle="--", linewidth=1)
        axis.text(limit, 1.02, f"stops {'below' if least else 'above'} {limit:g}", ha="center", fontsize=7,
                  transform=axis.get_xaxis_transform())
        axis.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axis.set_xlabel(label)
        if name != "spread":
            axis.set_xscale("log")
    axes[0].set_ylabel("change of rank 1 (points)")
    marks = [plt.Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5, label=kind)
             for kind, (colour, marker) in KINDS.items()]
    marks += [plt.Line2D([], [], color="0.3", marker="o", linestyle="", markersize=5,
                         markerfacecolor=filled, label=label)
              for filled, label in (("0.3", "filled: stopped by a guard"), ("none", "hollow: goes on"))]
    figure.legend(handles=marks, loc="outside lower center", ncol=6, fontsize=7, handletextpad=0.2)
    return figure


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--cost", action="store_true", help="measure what guarding takes, and nothing else")
    parser.add_argument("--figure", action="store_true", help="draw the CSV's rows, and run nothing")
    options = parser.parse_args()
    own = settings("laptop")
    if options.cost:
        common.run("guards", cost(own, trained_model(own), load_targets(own)), options.csv)
        return
    path = figures_dir("laptop") / "guards.csv"
    if options.figure:
        if not path.is_file():
            parser.error(f"no {path}: run without --figure first")
        rows = pd.read_csv(path, keep_default_na=False)
        rows["stopped"] = [stopped(row) for _, row in rows.iterrows()]
    else:
        torch.set_num_threads(1)
        rows = run()
    with atomic(path) as temporary:
        rows.round(4).to_csv(temporary, index=False)
    use_style()
    for written in (path, *save_figure(draw(rows), "guards", "laptop")):
        print(written.relative_to(figures_dir("laptop").parents[1]))


if __name__ == "__main__":
    main()
