"""Pictures of the open choices: the gain of adaption against the value chosen."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from bnta_lib.suite.choices import AFFINE, ALL, CHOICES, DIVERGED, READINGS, Choice, gain_rows, split_gains
from bnta_lib.figures.base import COLOURS, TEXT_WIDTH

_COLOURS = (COLOURS["BNTA"], COLOURS["AdaBN"])
_MARKERS = ("o", "s")
_LABEL = "gain in {}, points"
_OPTIMISERS = {"adam": "Adam", "sgd": "SGD"}


def choice_figure(
    rows: pd.DataFrame, choice: Choice, metric: str = "R1", names: Mapping[str, object] | None = None
) -> Figure:
    """Gain against the values of one of CHOICES, a panel a target.

    ``rows``: of :func:`bnta_lib.suite.choices.choice_rows`; ``names``: what to call values on the axis,
    where that is not their label. A faint dot is a split; mean and 95 % interval beside them; the
    default is ringed. Values of one series (an optimiser) are joined.
    """
    means, dots = _of(rows, choice, metric)
    means, dots = means[means["updated"] == ALL], dots[dots["updated"] == ALL]
    panels = list(rows.loc[rows["choice"] == choice.name, "target"].unique())
    series = {name: [v.label for v in choice.values if v.series == name]
              for name in dict.fromkeys(v.series for v in choice.values)}
    figure, axes = _panels(len(panels))
    for axis, panel in zip(axes, panels):
        own, each = means[means["target"] == panel], dots[dots["target"] == panel]
        for number, labels in enumerate(series.values()):
            places = _places(choice, labels)
            _series(axis, own[own["value_label"].isin(labels)], each, places, number, len(series),
                    joined=choice.scale != "names", key="value_label")
            lost = rows[(rows["target"] == panel) & (rows["updated"] == ALL)]
            _say_diverged(axis, lost, choice, places, number, len(series))
        axis.set_title(panel)
        _ticks(axis, choice, names=names or {})
    _set_height(axes, dots["gain"])
    _finish(figure, axes, choice, [_OPTIMISERS.get(name, name) for name in series], metric)
    return figure


def readings_figure(rows: pd.DataFrame, metric: str = "R1") -> Figure:
    """Gain of each row of Table 5 in both readings of "update only ...", on its one target."""
    means, dots = _of(rows, READINGS, metric)
    names = list(means["updated"].unique())
    figure, axes = _panels(1, width=0.75)
    readings = [value.label for value in READINGS.values]
    for number, reading in enumerate(readings):
        own, each = (t[t["value_label"] == reading] for t in (means, dots))
        _series(axes[0], own, each, {name: i for i, name in enumerate(names)}, number, 2,
                joined=False, key="updated")
    symbols = {"mu": "$\\mu$", "var": "$\\sigma^2$", "gamma": "$\\gamma$", "beta": "$\\beta$",
               ALL: "all four"}
    axes[0].set_xticks(range(len(names)),
                       [", ".join(symbols.get(q, q) for q in name.split("+")) for name in names])
    axes[0].set(title=means["target"].iloc[0], xlim=(-0.5, len(names) - 0.5))
    _set_height(axes, dots["gain"])
    _finish(figure, axes, READINGS, readings, metric, ring=False)
    return figure


def affine_figure(rows: pd.DataFrame, metric: str = "R1", cited: float | None = None) -> Figure:
    """Gain of gamma and beta alone against the rate, a panel an optimiser, a line a number of
    epochs. ``cited``: the paper's gain, drawn as a line."""
    means, dots = _of(rows, AFFINE, metric)
    kinds = {kind: None for kind in (v.series.split(",")[0] for v in AFFINE.values)}
    epochs = list(dict.fromkeys(v.series.split(", ")[1] for v in AFFINE.values))
    figure, axes = _panels(len(kinds), width=0.85)
    for axis, kind in zip(axes, kinds):
        for number, count in enumerate(epochs):
            labels = [v.label for v in AFFINE.values if v.series == f"{kind}, {count}"]
            places = _places(AFFINE, labels)
            _series(axis, means[means["value_label"].isin(labels)], dots, places, number,
                    len(epochs), joined=True, key="value_label")
            _say_diverged(axis, rows, AFFINE, places, number, len(epochs))
        if cited is not None:
            axis.axhline(cited, color="0.35", linestyle=":", linewidth=1.2)
        axis.set_title(f"{means['target'].iloc[0]}, {_OPTIMISERS[kind]}")
        _ticks(axis, AFFINE, [v.place for v in AFFINE.values if v.series.startswith(kind)])
    _set_height(axes, [*dots["gain"], 0.0 if cited is None else cited])
    more = [] if cited is None else [
        Line2D([], [], color="0.35", linestyle=":", linewidth=1.2, label="paper, on its GRID")]
    names = [f"{count} epoch{'s' * (count != '1')}" for count in epochs]
    _finish(figure, axes, AFFINE, names, metric, more=more)
    return figure


def overview_figure(rows: pd.DataFrame, metric: str = "R1") -> Figure:
    """All values of all CHOICES as a forest plot, a column a target: mean gain, 95 % interval.

    The dotted line is the gain under the defaults; a filled marker is a default value. What was
    not measured on a target says so.
    """
    gains = gain_rows(rows, metric)
    gains = gains[(gains["updated"] == ALL) & gains["choice"].isin(list(CHOICES))]
    targets = list(gains["target"].unique())
    heights, names, y = {}, {}, 0.0
    for choice in CHOICES.values():
        names[choice.name] = y
        for value in choice.values:
            heights[choice.name, value.label] = y
            y += 1
        y += 0.7
    figure, axes = plt.subplots(1, len(targets), figsize=(TEXT_WIDTH, 0.19 * y + 1.2),
                                squeeze=False, sharey=True, layout="constrained")
    for axis, target in zip(axes[0], targets):
        own = gains[gains["target"] == target]
        axis.axvline(0, color="0.35", linewidth=0.8)
        usual = own[own["default"]]["difference"].iloc[0]
        axis.axvline(usual, color=COLOURS["BNTA"], linewidth=1, linestyle=":")
        for row in own.itertuples():
            _whisker(axis, row, heights[row.choice, row.value_label])
        lost = rows[(rows["metric"] == DIVERGED) & (rows["updated"] == ALL) & (rows["target"] == target)]
        lost = [place for place in zip(lost["choice"], lost["value_label"]) if place in heights]
        for place in lost:
            axis.text(0, heights[place], DIVERGED, fontsize=7, va="center", ha="center",
                      backgroundcolor="white")
        _say_unmeasured(axis, heights, {*zip(own["choice"], own["value_label"]), *lost})
        axis.set(title=target, xlabel=_LABEL.format(_name(metric)))
    labels = [label for _, label in heights]
    axes[0, 0].set_yticks(list(heights.values()), labels)
    axes[0, 0].set_ylim(y - 0.2, -1)
    for name, place in names.items():
        name = {"lambda3": r"$\mathbf{\lambda_3}$"}.get(name, name)
        axes[0, 0].annotate(name, (0, place), (-76, 0), axes[0, 0].get_yaxis_transform(),
                            "offset points", ha="right", va="center", fontweight="bold")
    figure.legend(handles=_overview_legend(), loc="outside lower center", ncols=4, fontsize=8,
                  handletextpad=0.4, columnspacing=1.2)
    return figure


def _say_unmeasured(axis: Axes, heights: Mapping[tuple[str, str], float], there: set) -> None:
    """Words where values have no row: once for a choice that has none at all."""
    for choice in CHOICES:
        places = [place for place in heights if place[0] == choice]
        missing = [heights[place] for place in places if place not in there]
        for y in [np.mean(missing)] if len(missing) == len(places) else missing:
            axis.text(0.5, y, "not measured", transform=axis.get_yaxis_transform(), fontsize=7,
                      color="0.35", va="center", ha="center", backgroundcolor="white")


def _overview_legend() -> list[Line2D]:
    mark = {"color": COLOURS["BNTA"], "linewidth": 1.1, "marker": "o", "markersize": 4}
    return [Line2D([], [], **mark, label="default, 95 % interval"),
            Line2D([], [], **mark, markerfacecolor="white", label="another value"),
            Line2D([], [], color=COLOURS["BNTA"], linewidth=1, linestyle=":", label="gain under the defaults"),
            Line2D([], [], color="0.35", linewidth=0.8, label="no gain")]


def _of(rows: pd.DataFrame, choice: Choice, metric: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    own = rows[rows["choice"] == choice.name]
    return gain_rows(own, metric), split_gains(own, metric)


def _panels(count: int, width: float = 1.0) -> tuple[Figure, list[Axes]]:
    size = (TEXT_WIDTH * (width if count > 1 or width < 1 else 0.5), 2.7)
    figure, axes = plt.subplots(1, count, figsize=size, squeeze=False, sharey=True,
                                layout="constrained")
    return figure, list(axes[0])


def _places(choice: Choice, labels: list[str]) -> dict[str, float]:
    """Where the values stand on the axis: at their number, or one after the other."""
    return {v.label: float(i if v.place is None else v.place)
            for i, v in enumerate(choice.values) if v.label in labels}


def _series(axis, means, dots, places, number, count, joined, key) -> None:
    """One series: its splits as dots on the left, mean and interval on the right of a place.

    Shifts are in points on paper, so that they look alike on any scale.
    """
    colour, marker = _COLOURS[number], _MARKERS[number]
    shift = _shift(number, count)
    splits = sorted(dots["split"].unique())
    for i, split in enumerate(splits):
        own = dots[(dots["split"] == split) & dots[key].isin(list(places))]
        aside = shift - 5.5 + 4 * i / max(1, len(splits) - 1)
        axis.plot(own[key].map(places), own["gain"], ".", color=colour, alpha=0.5, markersize=4,
                  markeredgewidth=0, transform=_moved(axis, aside))
    means = means.sort_values(key, key=lambda names: names.map(places))
    x, y = means[key].map(places), means["difference"]
    moved = _moved(axis, shift + 2.5)
    if joined:
        axis.plot(x, y, "-", color=colour, linewidth=0.9, alpha=0.6, transform=moved)
    half = (means["high"] - y).fillna(0)
    axis.errorbar(x, y, half, fmt=marker, color=colour, markersize=4, elinewidth=1.3, capsize=2.5,
                  transform=moved)
    chosen = means["default"] & (key == "value_label")
    axis.plot(x[chosen], y[chosen], "o", markerfacecolor="none", markeredgecolor="black",
              markersize=9, transform=moved)


def _moved(axis: Axes, points: float):
    return axis.transData + ScaledTranslation(points / 72, 0, axis.figure.dpi_scale_trans)


def _ticks(
    axis: Axes, choice: Choice, numbers: list[float] | None = None, names: Mapping = MappingProxyType({})
) -> None:
    if choice.scale == "names":
        axis.set_xticks(range(len(choice.values)), [names.get(v.label, v.label) for v in choice.values])
        axis.set_xlim(-0.6, len(choice.values) - 0.4)
        return
    numbers = sorted(set(numbers or [v.place for v in choice.values]))
    least = min(n for n in numbers if n > 0)
    more = {"linthresh": least, "linscale": 0.4} if choice.scale == "symlog" else {}
    axis.set_xscale(choice.scale, **more)
    leaning = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if len(numbers) > 3 else {}
    axis.set_xticks(numbers, [np.format_float_positional(n, trim="-") for n in numbers], **leaning)
    axis.minorticks_off()
    scale = axis.xaxis.get_transform()  # room for the dots on the left, on the scale as drawn
    first, last = scale.transform([[numbers[0]], [numbers[-1]]])[:, 0]
    room = last - first
    axis.set_xlim(*scale.inverted().transform([[first - 0.22 * room], [last + 0.14 * room]])[:, 0])


def _whisker(axis: Axes, row, y: float) -> None:
    half, colour = 0 if pd.isna(row.high) else row.high - row.difference, COLOURS["BNTA"]
    axis.errorbar(row.difference, y, xerr=half, fmt="o", color=colour, markersize=4,
                  elinewidth=1.1, markerfacecolor=colour if row.default else "white")


def _say_diverged(axis, rows, choice, places, number, count) -> None:
    lost = rows[(rows["choice"] == choice.name) & (rows["metric"] == DIVERGED)]
    for label in lost["value_label"]:
        if label in places:
            axis.annotate(DIVERGED, (places[label], 0.03), (_shift(number, count) + 2.5, 0),
                          axis.get_xaxis_transform(), "offset points", rotation=90, fontsize=7,
                          ha="center", color=_COLOURS[number])


def _shift(number: int, count: int) -> float:
    """Points aside of the place, for one of several series."""
    return 9 * (number - (count - 1) / 2)


def _set_height(axes: list[Axes], gains) -> None:
    """The splits and zero fill the panels; shifted points do not scale them by themselves."""
    least, most = min(0.0, *gains), max(0.0, *gains)
    room = 0.08 * (most - least) or 1.0
    axes[0].set_ylim(least - room, most + room)


def _name(metric: str) -> str:
    return {"R1": "rank 1", "R5": "rank 5", "R10": "rank 10"}.get(metric, metric)


def _finish(figure, axes, choice, names, metric, ring=True, more=()) -> None:
    """Zero lines, axis labels, and a legend below."""
    for axis in axes:
        axis.axhline(0, color="0.35", linewidth=0.8, zorder=0)
        axis.set_xlabel(choice.title)
    axes[0].set_ylabel(_LABEL.format(_name(metric)))
    marks = [{"color": _COLOURS[i], "marker": _MARKERS[i], "markersize": 4, "label": name}
             for i, name in enumerate(names) if len(names) > 1]
    marks.append({"color": "0.5", "marker": ".", "label": "a split"})
    marks.append({"color": "0.35", "marker": "|", "markersize": 9, "markeredgewidth": 1.3,
                  "label": "mean, 95 % interval"})
    if ring:
        marks.append({"color": "black", "marker": "o", "markersize": 8, "markerfacecolor": "none",
                      "label": "default"})
    handles = [*(Line2D([], [], linestyle="none", **mark) for mark in marks), *more]
    one_row = figure.get_figwidth() > 4 and len(handles) < 6
    figure.legend(handles=handles, loc="outside lower center", handletextpad=0.4,
                  ncols=len(handles) if one_row else 3, columnspacing=1.2)
