"""Every row of every table, as data.

A :class:`Spec` is one row: which training, what adapts it, and what differs from the settings. :data:`TABLES`
lists the specs of each table with the targets and the number of adaption seeds that they are measured with.
Rows of Tables 2 to 5 are named as in ``data/paper_tables.csv``. The row that is BNTA itself has no options,
so that all tables share its measurements.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace

from bnta_lib.adapters import ADAPTERS
from bnta_lib.pairing import check_sizes
from bnta_lib.settings import Settings
from bnta_lib.weights import MODELS, TABLE_3_MODELS, WEAKER

# Columns of measured rows that hold a setting, and those that hold an option of `adapt`.
SETTINGS = {"momentum": "tta_momentum", "epochs": "tta_epochs", "lr": "tta_lr", "optimizer": "tta_optimizer",
            "margin": "margin", "lambda3": "lambda3", "reduction": "matching_reduction"}
OPTIONS = ("layers", "quantities", "losses", "reading", "follow_bnneck")
COLUMNS = ("training", "adapter", "N", "K", *SETTINGS, *OPTIONS, "normalise", "options")
DIVERGED = "diverged"  # the only metric of a row whose adaption diverged


@dataclass(frozen=True)
class Spec:
    """A row of a table. Raises ValueError for an unknown training, adapter, option or setting."""

    method: str  # the row's name in its table
    training: str = "bnta"
    adapter: str = "bnta"
    N: int | None = None  # adapt on so many images of the gallery; None: on all of it
    options: Mapping = field(default_factory=dict)  # keyword arguments of the adapter
    overrides: Mapping = field(default_factory=dict)  # settings that differ
    labels: Mapping = field(default_factory=dict)  # further columns of its rows

    def __post_init__(self) -> None:
        allowed = ADAPTERS[self.adapter].options if self.adapter in ADAPTERS else ()
        for what, names, known in (
            ("training", [self.training], {**MODELS, **WEAKER}), ("adapter", [self.adapter], ADAPTERS),
            (f"option of {self.adapter}", self.options, allowed),
            ("setting", self.overrides, [f.name for f in fields(Settings)]),
        ):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"{self.method}: unknown {what} {unknown[0]!r}; "
                                 f"known: {', '.join(known) or 'none'}")
        if self.N is not None and self.adapter != "bnta":
            raise ValueError(f"{self.method}: only bnta adapts on a sample of N images")

    def settings(self, settings: Settings) -> Settings:
        """The settings of this row."""
        return replace(settings, **self.overrides)

    def columns(self, settings: Settings, gallery: int) -> dict:
        """:data:`COLUMNS` with all defaults resolved, for a gallery of so many images."""
        own, adapter = self.settings(settings), ADAPTERS[self.adapter]
        options = {**adapter.options, **self.options}
        n = 0 if self.adapter == "none" else self.N or gallery
        k = options.pop("K", 0)
        k = min(own.K, n // 2) if k is None else k
        values = {column: getattr(own, name) if name in adapter.reads else None for column, name in SETTINGS.items()}
        values |= {name: _plain(options.pop(name)) if name in options else None for name in OPTIONS}
        if n and own.tta_batch != Settings.tta_batch:
            options["tta_batch"] = own.tta_batch
        return {"training": self.training, "adapter": self.adapter, "N": n, "K": k, **values,
                "normalise": int(own.normalise_features), "options": json.dumps(options) if options else ""}


def _plain(value):
    """A value as a column holds it: lists joined, truth as 0 or 1."""
    if isinstance(value, (tuple, list)):
        return "+".join(value)
    return int(value) if isinstance(value, bool) else value


@dataclass(frozen=True)
class Table:
    """Specs, the targets that they are measured on, and how many adaption seeds on each.

    ``target`` is the paper's own: all seeds of the settings are spent there and one on each other target.
    If it is not among the targets (a user's folder), each counts as the paper's.
    """

    rows: tuple[Spec, ...] | Callable[[int, int], tuple[Spec, ...]]  # or a function of gallery and settings.K
    target: str | None = None  # None: all seeds on all targets
    everywhere: bool = True  # or on the paper's own target alone
    seeds: int | None = None  # at most so many
    experiment: str = "retrieval"  # what is measured: retrieval, changes or shift
    splits: tuple[int, ...] = ()  # which; none: all

    def plan(self, galleries: Mapping[str, int], settings: Settings) -> Iterator[tuple[str, Spec, int]]:
        """(target, spec, number of seeds) of every row; ``galleries``: images in each target's smallest."""
        for name, gallery in galleries.items():
            paper = self.target in (None, name) or self.target not in galleries
            if self.everywhere or paper:
                seeds = min(settings.tta_seeds if paper else 1, self.seeds or settings.tta_seeds)
                for spec in self.rows(gallery, settings.K) if callable(self.rows) else self.rows:
                    yield name, spec, 1 if spec.adapter == "none" else seeds


# ---------------------------------------------------------------- Tables 2 to 5

# The target that the paper reports a table on.
PAPER_TARGET = {"table_3": "VIPeR", "table_4": "GRID", "table_5": "GRID"}

TABLE_2 = (
    Spec("Baseline", "baseline", "none"),
    Spec("BNTA w/o TTA", adapter="none"),
    Spec("BNTA"),
    Spec("AdaBN", adapter="adabn"),
    Spec("Tent", adapter="tent"),
)

# The losses of a training, as the paper's rows have them, and the adaptions tried on it.
_TRAININGS = dict(zip(("id", "pos", "mat", "id+pos", "id+mat", "id+pos+mat"), TABLE_3_MODELS))
_ADAPTIONS = {
    "id": (), "pos": ("pos",), "mat": ("mat",), "id+pos": ("pos",), "id+mat": ("mat",),
    "id+pos+mat": ("pos", "mat", "pos+mat"),
}
TABLE_3 = tuple(
    Spec(f"train {losses}; tta {adaption}", training, "none" if adaption == "none" else "bnta",
         options={} if adaption in ("none", "pos+mat") else {"losses": (adaption,)})
    for losses, training in _TRAININGS.items() for adaption in ("none", *_ADAPTIONS[losses])
)

TABLE_4 = (
    Spec("None", adapter="none"),
    *(Spec(name, options={} if name == "BN" else {"layers": tuple(name.lower().split("+"))})
      for name in ("Conv", "IN", "Conv+IN", "BN", "BN+Conv", "BN+IN", "BN+Conv+IN")),
)

# What "update only mu" means is open: "alone", it alone is free to move; "restore", all of them move and the
# others are put back.
READING = ("alone", "restore")
_QUANTITIES = {"mu": ("mean",), "var": ("var",), "mu+var": ("mean", "var"), "gamma": ("gamma",),
               "beta": ("beta",), "gamma+beta": ("gamma", "beta")}
TABLE_5 = {reading: (
    Spec("None", adapter="none"),
    *(Spec(name, options={"quantities": names} | ({} if reading == "alone" else {"reading": reading}))
      for name, names in _QUANTITIES.items()),
    Spec("mu+var+gamma+beta"),
) for reading in READING}

# ---------------------------------------------------------------- Figure 4


def pair_counts(n_gallery: int, default: int = 128) -> list[int]:
    """The values of K for a gallery: powers of two up to half of it, that half, the default.

    From one pair in 128 images on, and never a single pair, which has no negative. Small
    galleries have the values half way between the powers too.
    """
    largest = n_gallery // 2
    smallest = max(2, -(-n_gallery // 128))
    counts = [2**i for i in range(1, 64) if smallest <= 2**i <= largest]
    if len(counts) < 6:
        counts += [3 * k // 2 for k in counts if 3 * k // 2 <= largest]
    return sorted({*counts, largest, min(default, largest)})


def grid_specs(n_gallery: int, default: int = 128) -> tuple[Spec, ...]:
    """No adaption, and every cell of Figure 4: N by sixths of the gallery, K by :func:`pair_counts`, 2K <= N.

    Raises ValueError for fewer than 4 images.
    """
    check_sizes(n_gallery, 2)
    sizes = sorted({round(n_gallery * i / 6) for i in range(1, 7)})
    return (TABLE_2[1], *(Spec(f"N={n}, K={k}", N=n, options={"K": k})
                          for n in sizes for k in pair_counts(n_gallery, default) if 2 * k <= n))


# ---------------------------------------------------------------- open choices

# What a row updates: all four quantities, none, or a pair of them alone as Table 5 has it.
ALL, NONE = "all", "none"
PARTS = {"mu+var": ("mean", "var"), "gamma+beta": ("gamma", "beta")}
# Settings that cannot change what a pair of quantities does alone: without gamma and beta there is
# no gradient step, without mu and sigma^2 no running average.
_IDLE = {"mu+var": {"tta_optimizer", "tta_lr", "margin", "lambda3", "matching_reduction"},
         "gamma+beta": {"tta_momentum", "follow_bnneck"}}


@dataclass(frozen=True)
class Value:
    """One value of a choice."""

    label: str  # in tables and on axes; unique in its choice
    spec: Spec
    default: bool = False
    place: float | None = None  # on a numeric axis
    series: str = ""  # values of one line of the figure


@dataclass(frozen=True)
class Choice:
    """An open choice, the values tried, and where they are measured."""

    name: str
    title: str  # the axis label
    values: tuple[Value, ...]
    scale: str = "names"  # of the axis: names, log, or symlog (log, and a 0)
    everywhere: bool = True  # on all targets; otherwise on the paper's own target alone
    parts: tuple[str, ...] = ()  # of PARTS: measured alone too, on the paper's own target

    @property
    def default(self) -> Value:
        """The value that the suite takes by default."""
        return next(value for value in self.values if value.default)


def _numbers(name, title, key, numbers, default, scale, **more) -> Choice:
    values = (Value(f"{n:g}", Spec(f"{name} {n:g}", overrides={key: n}), n == default, n) for n in numbers)
    return Choice(name, title, tuple(values), scale, **more)


def _names(name, title, values: Mapping[str, dict], **more) -> Choice:
    """A choice without an order; the first value is the default."""
    return Choice(name, title, tuple(Value(label, Spec(f"{name} {label}", **how), i == 0)
                                     for i, (label, how) in enumerate(values.items())), **more)


def _rates(name, rates: Mapping[str, tuple], epochs: tuple, default: tuple, **how) -> tuple[Value, ...]:
    """Learning rates of each optimiser, for each number of epochs if there are several."""
    return tuple(
        Value(label := f"{kind} {rate:g}" + (f", {n} epoch{'s' * (n > 1)}" if len(epochs) > 1 else ""),
              Spec(f"{name} {label}", overrides={"tta_optimizer": kind, "tta_lr": rate}
                   | ({"tta_epochs": n} if len(epochs) > 1 else {}), **how),
              (kind, rate, n) == default, rate, f"{kind}, {n}" if len(epochs) > 1 else kind)
        for kind, values in rates.items() for rate in values for n in epochs)


CHOICES: dict[str, Choice] = {choice.name: choice for choice in (
    _numbers("momentum", "BN momentum", "tta_momentum",
             (0.0, 0.01, 0.05, 0.1, 0.3, 1.0), 0.1, "symlog", parts=tuple(PARTS)),
    Choice("optimiser", "learning rate $\\eta_{tta}$", _rates(
        "rate", {"adam": (5e-5, 5e-4, 5e-3), "sgd": (5e-4, 5e-3, 5e-2)}, (1,), ("adam", 5e-4, 1)),
        "log", parts=tuple(PARTS)),
    _numbers("epochs", "epochs of adaption", "tta_epochs", (1, 2, 4), 1, "log", parts=tuple(PARTS)),
    _names("bnneck", "statistics of bnneck", {
        "follow": {}, "stay": {"options": {"follow_bnneck": False}}}),
    _names("distance", "features compared", {
        "L2-normalised": {}, "raw": {"overrides": {"normalise_features": False}}}),
    _names("stripes", "input height, pixels", {"height": {}, "other height": {"training": "other_stripes"}}),
    _names("reduction", "Eq. (8) over pairs", {
        kind: {"overrides": {"matching_reduction": kind}} for kind in ("sum", "mean")}, everywhere=False),
    _numbers("margin", "margin $\\varphi$", "margin", (0.0, 0.1, 0.3, 1.0, 3.0), 0.3, "symlog",
             everywhere=False),
    _numbers("lambda3", "weight $\\lambda_3$", "lambda3", (0.1, 1.0, 10.0), 1.0, "log", everywhere=False),
)}
# Table 5's two readings of "only mu": its own rows, in which "all" is the same in both.
READINGS = _names("readings", "quantities updated", {
    reading: {"options": {"reading": reading}} for reading in TABLE_5}, everywhere=False, parts=tuple(PARTS))
# Can gamma and beta alone do what Table 5 says of them? Adam moves a parameter by about the rate at
# a step, so that rates and epochs here take them from a thousandth to the whole of their size.
AFFINE = Choice("affine", "learning rate $\\eta_{tta}$", _rates(
    "affine", {"adam": (5e-4, 5e-3, 5e-2), "sgd": (5e-2, 5e-1)}, (1, 4), ("adam", 5e-4, 1),
    options={"quantities": PARTS["gamma+beta"]}), "log", everywhere=False)


def reference(spec: Spec) -> Spec:
    """The row without adaption that a row's gain is counted from: the same network and distance."""
    kept = {k: v for k, v in spec.overrides.items() if k == "normalise_features"}
    return Spec(spec.method, spec.training, "none", overrides=kept)


def alone(spec: Spec, part: str) -> Spec:
    """The row with only one of PARTS free, less the settings that are idle then."""
    options, overrides = ({k: v for k, v in values.items() if k not in _IDLE[part]}
                          for values in (spec.options, spec.overrides))
    return replace(spec, options={**options, "quantities": PARTS[part]}, overrides=overrides)


def _labelled(spec: Spec, choice: Choice, label: str, updated: str) -> Spec:
    return replace(spec, method=f"{choice.name}: {label}; {updated}",
                   labels={"choice": choice.name, "value_label": label, "updated": updated})


def _values(everywhere: bool) -> tuple[Spec, ...]:
    """Each value of the choices that are measured on all targets, or on the paper's own alone."""
    specs = []
    for choice in (*CHOICES.values(), AFFINE):
        for value in choice.values:
            rows = {"gamma+beta" if choice is AFFINE else ALL: value.spec, NONE: reference(value.spec)}
            rows = rows if choice.everywhere == everywhere else {}
            if not everywhere:
                rows |= {part: alone(value.spec, part) for part in choice.parts}
            specs += [_labelled(spec, choice, value.label, updated) for updated, spec in rows.items()]
    return tuple(specs)


def _readings() -> tuple[Spec, ...]:
    names = {"None": NONE, "mu+var+gamma+beta": ALL}
    return tuple(_labelled(spec, READINGS, reading, names.get(spec.method, spec.method))
                 for reading, specs in TABLE_5.items() for spec in specs)


# ---------------------------------------------------------------- all of them

STRENGTH = tuple(Spec(f"{name}; {adapter}", name, adapter)
                 for name in (*WEAKER, "bnta") for adapter in ("none", "bnta"))

TABLES: dict[str, tuple[Table, ...]] = {
    "table_2": (Table(TABLE_2),),
    "table_3": (Table(TABLE_3, PAPER_TARGET["table_3"]),),
    "table_4": (Table(TABLE_4, PAPER_TARGET["table_4"]),),
    "table_5": (Table(TABLE_5["alone"], PAPER_TARGET["table_5"]),),
    "table_5_restore": (Table(TABLE_5["restore"], PAPER_TARGET["table_5"], everywhere=False),),
    "figure_4": (Table(grid_specs, seeds=1),),
    "open_choices": (Table(_values(True), seeds=1), Table(_values(False), PAPER_TARGET["table_5"], False, 1),
                     Table(_readings(), PAPER_TARGET["table_5"], False)),
    "strength": (Table(STRENGTH, seeds=1),),
    "changes": (Table((Spec("BNTA"),), seeds=1, experiment="changes"),),
    "shift": (Table((Spec("BNTA"),), seeds=1, experiment="shift", splits=(0,)),),
}
