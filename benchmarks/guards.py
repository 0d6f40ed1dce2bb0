"""What guarding an adaption takes, and what the guards measure in sound adaptions and in ones that do harm.

``python benchmarks/guards.py`` measures the first. ``--study`` runs the adaptions from which the thresholds
of :class:`bnta_lib.site.guards.Guards` were chosen (laptop profile, committed weights, guards that measure
and stop nothing; about five minutes of one core) and writes ``figures/laptop/guards.csv``, ``.png`` and
``.pdf``.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import common
import matplotlib.pyplot as plt
import pandas as pd
import torch
from common import Row

from bnta_lib.adaption import adapt
from bnta_lib.data import load_targets
from bnta_lib.figures.base import save_figure, use_style
from bnta_lib.files import atomic
from bnta_lib.model import embed
from bnta_lib.settings import settings
from bnta_lib.site.guards import Guards, guarded_adapt
from bnta_lib.suite.runner import score
from bnta_lib.suite.runs import figures_dir
from bnta_lib.suite.samples import sample_of
from bnta_lib.suite.train import trained_model

OPEN = Guards(min_images=0, max_move=math.inf, min_spread=0)
KINDS = {"sound": ("#0072B2", "o"), "few images": ("#56B4E9", "^"), "strong": ("#E69F00", "s"),
         "harmful": ("#D55E00", "D")}  # colour, marker
LIMITS = {"different": Guards.min_images, "move": Guards.max_move, "spread": Guards.min_spread}
# What is measured, how it reads on an axis, and whether the threshold is a least value.
MEASURES = {
    "different": ("different images (number)", True),
    "move": ("largest move of a layer / its size", False),
    "spread": ("feature spread, after / before", True),
}


def cases(name: str, target, others: dict):
    """Every adaption on a target: kind, case, split, images, settings that differ."""
    data, split = target.data.images, target.splits[0]
    gallery = data[split.gallery]
    for number in range(min(3, len(target.splits))):
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
    for name, (_, least) in MEASURES.items():
        if row[name] < LIMITS[name] if least else row[name] > LIMITS[name]:
            return name
    return ""


def run(profile: str, quick: bool) -> pd.DataFrame:
    """A row a run; ``gain`` is of rank 1 in points, ``stopped`` the default guard that would stop it."""
    current, rows = settings(profile), []
    model, targets = trained_model(current), load_targets(current)
    torch.set_num_threads(1)
    for name, target in targets.items():
        features, _ = embed(model, target.data.images)
        before = [score(model, target, split, current, features).row()["R1"] for split in target.splits]
        for kind, case, number, images, change in islice(cases(name, target, targets), 2 if quick else None):
            result, table = guarded_adapt(model, images, replace(current, **change), OPEN)
            after = score(result.model, target, target.splits[number], current).row()["R1"]
            measured = table.set_index("guard")["measured"]
            row = {"kind": kind, "case": case, "target": name, "split": number, "N": len(images),
                   "R1": before[number], "gain": after - before[number], "different": measured["images"],
                   "move": measured["move"], "spread": measured["spread"]}
            rows.append(row | {"stopped": stopped(row)})
    return pd.DataFrame(rows)


def draw(rows: pd.DataFrame) -> plt.Figure:
    """Gain of rank 1 over what each guard measures, with the default thresholds."""
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 3.0), sharey=True, layout="constrained")
    for axis, (name, limit) in zip(axes, LIMITS.items()):
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


def study(device: str, quick: bool) -> Iterator[Row]:
    """Runs every case and writes figures/laptop/guards.csv, .png and .pdf; yields how many a guard
    stopped."""
    cases = run("smoke" if quick else "laptop", quick)
    if not quick:
        with atomic(figures_dir("laptop") / "guards.csv") as temporary:
            cases.round(4).to_csv(temporary, index=False)
        use_style()
        alt = "What each guard measures in every case, and its limit"
        save_figure(draw(cases), "guards", "laptop", alt)
    stopped = cases[cases["stopped"] != ""]
    yield Row("adaptions that a guard stops", len(stopped), "adaptions", note=f"of {len(cases)}")


def rows(device: str, quick: bool) -> Iterator[Row]:
    """Processor seconds of an adaption to each gallery with guards and without: the least of some."""
    current = settings("smoke" if quick else "laptop")
    model = trained_model(current)
    for name, target in load_targets(current).items():
        images, least = target.data.images[target.splits[0].gallery[: 32 if quick else None]], {}
        for _ in range(1 if quick else 3):
            for guards in (None, OPEN if quick else Guards()):
                start = time.process_time()
                guarded_adapt(model, images, current, guards) if guards else adapt(model, images, current)
                least[guards] = min(least.get(guards, math.inf), time.process_time() - start)
        without, guarded = least.values()
        yield Row(f"guarded adaption ({current.profile}, {name}, N={len(images)})", guarded, "s", without,
                  "the same without guards", note="processor seconds")
        if quick:
            return


if __name__ == "__main__":
    common.main(__doc__, rows, study=study)
