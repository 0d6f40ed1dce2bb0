"""What the paper leaves open: how the gain of adaption depends on each such choice.

:data:`CHOICES` holds, for each choice, the values tried, one of them the suite's default. The gain
of a value is the rank 1 after adaption minus that of the same network without adaption, read in the
same way, on the same split. :func:`survival` shows which conclusions outlive a change of a choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from bnta_lib.suite.ablations import PAPER_TARGET, TABLE_5, table_5_rows
from bnta_lib.data.sets import Target
from bnta_lib.suite.experiments import Run, run_rows
from bnta_lib.model import BNTANet
from bnta_lib.settings import Settings
from bnta_lib.suite.stats import FAILS, HOLDS, OPEN, VERDICTS, describe_by, holm
from bnta_lib.suite.tables import paper_rank_1
from bnta_lib.weights import model_settings

# What a run updates: all four quantities, or a pair of them alone, as Table 5 has it.
ALL, NONE, DIVERGED = "all", "none", "diverged"
PARTS = {"mu+var": ("mean", "var"), "gamma+beta": ("gamma", "beta")}

# Settings that cannot change what a pair of quantities does alone: without gamma and beta there is
# no gradient step, without mu and sigma^2 no running average.
_IDLE = {
    "mu+var": {"tta_optimizer", "tta_lr", "margin", "lambda3", "matching_reduction"},
    "gamma+beta": {"tta_momentum", "follow_bnneck"},
}


@dataclass(frozen=True)
class Value:
    """One value of a choice."""

    label: str  # in tables and on axes; unique in its choice
    run: Run
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
        """The value that the suite takes where nothing else is said."""
        return next(value for value in self.values if value.default)


def _numbers(name, title, key, numbers, default, scale, **more) -> Choice:
    """A choice of one numeric setting."""
    values = tuple(Value(f"{n:g}", Run(f"{name} {n:g}", overrides={key: n}), n == default, n)
                   for n in numbers)
    return Choice(name, title, values, scale, **more)


def _named(name, title, runs: Mapping[str, Run], **more) -> Choice:
    """A choice among things without an order; the first is the default."""
    values = (Value(label, run, default=i == 0) for i, (label, run) in enumerate(runs.items()))
    return Choice(name, title, tuple(values), **more)


def _rate(optimiser: str, rate: float, **more) -> dict:
    return {"tta_optimizer": optimiser, "tta_lr": rate, **more}


_BOTH = tuple(PARTS)
_RATES = {"adam": (5e-5, 5e-4, 5e-3), "sgd": (5e-4, 5e-3, 5e-2)}

CHOICES: dict[str, Choice] = {choice.name: choice for choice in (
    _numbers("momentum", "BN momentum", "tta_momentum",
             (0.0, 0.01, 0.05, 0.1, 0.3, 1.0), 0.1, "symlog", parts=_BOTH),
    Choice("optimiser", "learning rate $\\eta_{tta}$", tuple(
        Value(f"{kind} {rate:g}", Run(f"{kind} {rate:g}", overrides=_rate(kind, rate)),
              (kind, rate) == ("adam", 5e-4), rate, kind)
        for kind, rates in _RATES.items() for rate in rates), "log", parts=_BOTH),
    _numbers("epochs", "epochs of adaption", "tta_epochs", (1, 2, 4), 1, "log", parts=_BOTH),
    _named("bnneck", "statistics of bnneck", {
        "follow": Run("bnneck follows", options={"follow_bnneck": True}),
        "stay": Run("bnneck stays", options={"follow_bnneck": False})}),
    _named("distance", "features compared", {
        "L2-normalised": Run("normalised", overrides={"normalise_features": True}),
        "raw": Run("raw", overrides={"normalise_features": False})}),
    _named("stripes", "input height, pixels", {
        "height": Run("stripes of height"),
        "other height": Run("stripes of other_height", "other_stripes")}),
    _named("reduction", "Eq. (8) over pairs", {
        kind: Run(f"reduction {kind}", overrides={"matching_reduction": kind})
        for kind in ("sum", "mean")}, everywhere=False),
    _numbers("margin", "margin $\\varphi$", "margin", (0.0, 0.1, 0.3, 1.0, 3.0), 0.3, "symlog",
             everywhere=False),
    _numbers("lambda3", "weight $\\lambda_3$", "lambda3", (0.1, 1.0, 10.0), 1.0, "log",
             everywhere=False),
)}

# Table 5's two readings of "only mu": its own rows, in which "all" is the same in both.
READINGS = _named("readings", "quantities updated", {
    reading: Run(reading, options={"reading": reading}) for reading in TABLE_5},
    everywhere=False, parts=_BOTH)

# Can gamma and beta alone do what Table 5 says of them? Adam moves a parameter by about the rate at
# a step, so that rates and epochs here take them from a thousandth to the whole of their size.
AFFINE = Choice("affine", "learning rate $\\eta_{tta}$", tuple(
    Value(f"{kind} {rate:g}, {epochs} epoch{'s' * (epochs > 1)}",
          Run(f"affine {kind} {rate:g} x {epochs}", options={"quantities": PARTS["gamma+beta"]},
              overrides=_rate(kind, rate, tta_epochs=epochs)),
          (kind, rate, epochs) == ("adam", 5e-4, 1), rate, f"{kind}, {epochs}")
    for kind, rates in {"adam": (5e-4, 5e-3, 5e-2), "sgd": (5e-2, 5e-1)}.items()
    for rate in rates for epochs in (1, 4)), "log", everywhere=False)


def own_target(targets: Mapping[str, Target]) -> str:
    """The target of the paper's ablation of BN's quantities, or else the first one given."""
    own = PAPER_TARGET["table_5"]
    return own if own in targets else next(iter(targets))


def reference(run: Run) -> Run:
    """The run without adaption that a run's gain is counted from: the same network and distance."""
    kept = {k: v for k, v in run.overrides.items() if k == "normalise_features"}
    return Run(f"{run.method}; {NONE}", run.model, NONE, overrides=kept)


def alone(run: Run, part: str) -> Run:
    """The run with only one of PARTS free, less the settings that are idle then."""
    options = {k: v for k, v in run.options.items() if k not in _IDLE[part]}
    overrides = {k: v for k, v in run.overrides.items() if k not in _IDLE[part]}
    return Run(f"{run.method}; {part}", run.model, options={**options, "quantities": PARTS[part]},
               overrides=overrides)


def planned() -> pd.DataFrame:
    """All that :func:`choice_rows` measures itself: choice, value_label, updated, where, run.

    ``where``: "all" targets, the paper's "own", or "other" (all, at the other input height).
    """
    rows = []
    for choice in (*CHOICES.values(), AFFINE):
        for value in choice.values:
            run = value.run
            where = "all" if choice.everywhere else "own"
            where = "other" if run.model == "other_stripes" else where
            updated = "gamma+beta" if choice is AFFINE else ALL
            own = [(updated, where, run), (NONE, where, reference(run))]
            own += [(part, "own", alone(run, part)) for part in choice.parts]
            rows += [{"choice": choice.name, "value_label": value.label, "updated": updated,
                      "where": where, "run": replace(run, method=f"{choice.name}: {run.method}")}
                     for updated, where, run in own]
    return pd.DataFrame(rows)


def choice_rows(
    models: Mapping[str, BNTANet],
    targets: Mapping[str, Target],
    settings: Settings,
    other_targets: Mapping[str, Target],
    progress: bool = True,
) -> pd.DataFrame:
    """Tidy rows (see :func:`run_rows`) of every value of every choice, with one adaption seed.

    ``models``: "bnta" and "other_stripes"; ``other_targets``: the targets at the size of the
    latter, ``load_targets(model_settings(settings, "other_stripes"))``. Further columns: choice,
    value_label, updated (what was adapted: "all", "mu+var", "gamma+beta", or "none" for the
    reference). The rows of the choice "readings" are those of Table 5, with its seeds. Where a
    rate above the default's makes the losses diverge on some split of a target, the only row of
    that value there has the metric "diverged". Raises ValueError where the settings' own values
    are not the defaults marked here.
    """
    _check_defaults(settings)
    own = own_target(targets)
    places = {"all": targets, "own": {own: targets[own]}, "other": other_targets}
    plan, tables = planned(), []
    bold = plan["run"].map(lambda run: run.overrides.get("tta_lr", 0) > settings.tta_lr)
    for where, part in plan[~bold].groupby("where", sort=False):
        tables.append(run_rows("open_choices", list(part["run"]), models, places[where], settings,
                               1, progress))
    # One by one, so that one that diverges takes no other with it.
    singly = [(run, name, target) for run, where in zip(plan["run"][bold], plan["where"][bold])
             for name, target in places[where].items()]
    for run, name, target in tqdm(singly, disable=not progress, unit="run", desc="large rates"):
        try:
            rows = run_rows("open_choices", [run], models, {name: target}, settings, 1, False)
        except FloatingPointError:
            rows = pd.DataFrame([{
                "experiment": "open_choices", "profile": settings.profile, "target": name,
                "split": -1, "seed": 0, "setting": run.setting, "metric": DIVERGED, "value": 1.0,
                "method": run.method}])
        tables.append(rows)
    names = plan.assign(method=[run.method for run in plan["run"]]).drop(columns=["run", "where"])
    tables = [table.merge(names, on="method", validate="many_to_one") for table in tables]
    for reading in TABLE_5:
        rows = table_5_rows(models["bnta"], places["own"], settings, reading, progress)
        updated = rows["method"].replace({"None": NONE, "mu+var+gamma+beta": ALL})
        tables.append(rows.assign(
            experiment="open_choices", choice=READINGS.name, value_label=reading, updated=updated,
            method=f"{READINGS.name}: {reading}; " + updated))
    return pd.concat(tables, ignore_index=True)


def _check_defaults(settings: Settings) -> None:
    known = asdict(settings)
    for choice in CHOICES.values():
        for key, value in choice.default.run.overrides.items():
            if known[key] != value:
                raise ValueError(f"the sweep varies one choice at a time around {key}={value}; "
                                 f"these settings have {key}={known[key]}")

# ---- gains


KEYS = ["choice", "value_label", "target", "split"]


def split_gains(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Gain of every value on every split, seeds averaged first.

    ``rows``: of :func:`choice_rows`. Columns: choice, value_label, updated, target, split, gain
    (points over the value's own reference on that split). Raises ValueError for a value without one.
    """
    scores = rows[rows["metric"] == metric]
    mean = scores.groupby([*KEYS, "updated"], sort=False)["value"].mean().reset_index()
    before = mean[mean["updated"] == NONE].set_index(KEYS)["value"].rename("before")
    gains = mean[mean["updated"] != NONE].join(before, on=KEYS)
    for row in gains[gains["before"].isna()].itertuples():
        raise ValueError(f"no run without adaption for {row.choice}: {row.value_label}")
    gains["gain"] = gains["value"] - gains["before"]
    return gains[["choice", "value_label", "updated", "target", "split", "gain"]]


def gain_rows(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Mean gain of every value: a row a value, target and what was updated.

    Columns: choice, value_label, updated, default (bool), target, then those of
    :func:`~bnta_lib.suite.stats.describe` (difference: points from the value's own reference), and
    more, more_low, more_high, more_verdict: the same of the gain minus that of the choice's default
    value on the same splits.
    """
    gains = split_gains(rows, metric)
    defaults = {c.name: c.default.label for c in (*CHOICES.values(), READINGS, AFFINE)}
    gains["default"] = gains["value_label"] == gains["choice"].map(defaults)
    same = ["choice", "updated", "target", "split"]
    usual = gains[gains["default"]].set_index(same)["gain"].rename("usual")
    gains = gains.join(usual, on=same)
    keys = ["choice", "updated", "value_label", "default", "target"]
    names = {"difference": "more", "low": "more_low", "high": "more_high", "verdict": "more_verdict"}
    more = describe_by(gains.assign(difference=gains["gain"] - gains["usual"]), keys)
    more = more[[*keys, *names]].rename(columns=names)
    return describe_by(gains, keys, "gain").merge(more, on=keys)


def choice_table(gains: pd.DataFrame, choice: str, updated: str = ALL) -> pd.DataFrame:
    """The gains of one choice, as :func:`gain_rows` has them: a row a value and target."""
    shown = gains[(gains["choice"] == choice) & (gains["updated"] == updated)]
    columns = ["default", "difference", "low", "high", "verdict", "more", "more_low", "more_high", "more_verdict"]
    return shown.set_index(["target", "value_label"])[columns].sort_index(level="target", sort_remaining=False)


def diverged(rows: pd.DataFrame) -> pd.DataFrame:
    """Values with which adaption diverged: choice, value_label, updated, target."""
    return rows.loc[rows["metric"] == DIVERGED, ["choice", "value_label", "updated", "target"]]


# ---- which conclusions survive


@dataclass(frozen=True)
class Conclusion:
    """A statement of the paper: updating one thing gives more rank 1 than updating another."""

    text: str
    source: str  # where the paper states it
    updated: str
    against: str
    everywhere: bool = False  # asked on each target, or on the paper's own


CONCLUSIONS = (
    Conclusion("adaption raises rank 1", "Table 2", ALL, NONE, everywhere=True),
    Conclusion("μ and σ² alone raise rank 1", "Table 5", "mu+var", NONE),
    Conclusion("γ and β alone raise rank 1", "Table 5", "gamma+beta", NONE),
    Conclusion("γ and β alone do more than μ and σ² alone", "Section 4.3",
               "gamma+beta", "mu+var"),
    Conclusion("all four do more than γ and β alone", "Table 5", ALL, "gamma+beta"),
)


def judged(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Every conclusion under every value that bears on it, and once under the defaults.

    Columns: conclusion, source, target, choice ("" for the defaults), value_label, those of
    :func:`~bnta_lib.suite.stats.describe`, holm (p by Holm's correction over all of these rows) and
    flips (the sign is resolved, and is not that resolved under the defaults). The verdict of a value
    with which a side diverged is DIVERGED. A value is left out if it cannot touch the conclusion, or
    if one side was not measured with it.
    """
    gains = split_gains(rows, metric).pivot_table(index=KEYS, columns="updated", values="gain", sort=False)
    lost = diverged(rows).drop_duplicates()
    targets = [*gains.index.get_level_values("target"), *lost["target"]]
    tables = [_under_each_value(conclusion, gains.assign(**{NONE: 0.0}), lost, own_target(dict.fromkeys(targets)))
              for conclusion in CONCLUSIONS]
    table = pd.concat(tables, ignore_index=True)
    table["holm"] = holm(table["p"])
    before = table[table["choice"] == ""].set_index(["conclusion", "target"])["verdict"].rename("before")
    opposite = table.join(before, on=["conclusion", "target"])["before"].map({HOLDS: FAILS, FAILS: HOLDS})
    return table.assign(flips=table["verdict"] == opposite)


def _under_each_value(
    conclusion: Conclusion, gains: pd.DataFrame, lost: pd.DataFrame, paper_target: str
) -> pd.DataFrame:
    """Rows of :func:`judged` for one conclusion: under the defaults first, then value by value."""
    sides = {conclusion.updated, conclusion.against}
    first = next(iter(CHOICES.values()))
    order = [(first.name, first.default.label)] + [
        (choice.name, value.label) for choice in (*CHOICES.values(), READINGS) for value in choice.values
        if not value.default and any(_touched(choice, value, side) for side in sides - {NONE})]
    sides_lost = lost[lost["updated"].isin(sides)].drop_duplicates(KEYS[:3])
    tests = [pd.DataFrame()]
    if sides <= set(gains.columns):
        both = (gains[conclusion.updated] - gains[conclusion.against]).dropna().rename("difference").reset_index()
        broken = both.merge(sides_lost, how="left", on=KEYS[:3])["updated"].notna()
        tests = [describe_by(both[~broken], KEYS[:3])]
    tests.append(sides_lost[KEYS[:3]].assign(verdict=DIVERGED, reason="", difference=np.nan, p=np.nan))
    table = pd.concat(tests, ignore_index=True)
    places = pd.Series(range(len(order)), pd.MultiIndex.from_tuples(order, names=KEYS[:2]), name="place")
    table = table.join(places, on=KEYS[:2]).dropna(subset="place").sort_values("place", kind="stable")
    if not conclusion.everywhere:
        table = table[table["target"] == paper_target]
    table.loc[table["place"] == 0, ["choice", "value_label"]] = ""
    table.insert(0, "source", conclusion.source)
    table.insert(0, "conclusion", conclusion.text)
    return table.drop(columns="place")


def _touched(choice: Choice, value: Value, side: str) -> bool:
    """Whether this value can change what ``side`` does."""
    if choice is READINGS:
        return side != ALL
    if side == ALL:
        return True
    value, default = (replace(alone(v.run, side), method="") for v in (value, choice.default))
    return value != default


def survival(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Which conclusions survive, as it is printed: a row a conclusion and target.

    Columns: conclusion, paper (where it stands), target, the verdict under the defaults, the
    difference there, how many other values bear on it, which choices these are of, how many of them
    give each verdict, and those under which the resolved sign is the opposite of the defaults'.
    """
    table = []
    for (text, source, target), group in judged(rows, metric).groupby(
            ["conclusion", "source", "target"], sort=False):
        usual, others = group[group["choice"] == ""].iloc[0], group[group["choice"] != ""]
        flips = others[others["flips"]]
        turned = "; ".join(f"{c}: {v}" for c, v in zip(flips["choice"], flips["value_label"])) or "none"
        counts = others["choice"].value_counts(sort=False)
        table.append({
            "conclusion": text, "paper": source, "target": target, "under the defaults": usual["verdict"],
            "points of rank 1": usual["difference"], "other values": len(others),
            "of which choices": ", ".join(f"{choice} {n}" for choice, n in counts.items()),
            **{f"{word}: values": int((others["verdict"] == word).sum()) for word in (*VERDICTS, DIVERGED)},
            "sign turned by": turned if usual["verdict"] in (HOLDS, FAILS) else "no sign to turn",
        })
    return pd.DataFrame(table).set_index("conclusion")


def comparisons(judged: pd.DataFrame) -> pd.Series:
    """How many comparisons :func:`judged` makes, are resolved, and stay so after Holm's correction."""
    resolved = judged[judged["verdict"].isin((HOLDS, FAILS))]
    return pd.Series({"comparisons": judged["p"].notna().sum(), "resolved": len(resolved),
                      "resolved by chance, at most": 0.05 * judged["p"].notna().sum(),
                      "resolved after Holm's correction": (resolved["holm"] < 0.05).sum()}, name="number")


def paper_affine_gain() -> float:
    """Points of rank 1 that Table 5 credits gamma and beta alone with, on the paper's GRID."""
    cited = paper_rank_1("5")[1]
    return cited["gamma+beta"] - cited["None"]


def picks(gains: pd.DataFrame) -> pd.DataFrame:
    """What choosing a value by its result would bring: a row a target.

    Columns: default (gain, points), best (the value with the largest gain on the target itself),
    best gain, elsewhere (the value with the largest mean gain on the other targets; empty if there
    is no other), elsewhere gain (on this one). "best" needs the target's labels, which a new place
    does not have: no fair choice. Only values with the usual reference compete.
    """
    same = [c.name for c in CHOICES.values()
            if c.everywhere and c.name not in ("distance", "stripes")]
    gains = gains[gains["choice"].isin(same) & (gains["updated"] == ALL)]
    label = gains["choice"] + ": " + gains["value_label"]
    wide = gains.assign(label=label).pivot(index="label", columns="target", values="difference")
    usual, rows = gains[(gains["choice"] == same[0]) & gains["default"]], []
    for target, default in usual.set_index("target")["difference"].items():
        best, others = wide[target].idxmax(), wide.drop(columns=target)
        elsewhere = others.mean(axis=1).idxmax() if len(others.columns) else None
        rows.append({"target": target, "default": default, "best": best,
                     "best gain": wide.loc[best, target], "elsewhere": elsewhere or "",
                     "elsewhere gain": wide.loc[elsewhere, target] if elsewhere else np.nan})
    return pd.DataFrame(rows).set_index("target")


def stripe_heights(settings: Settings) -> dict[str, int]:
    """The input height in pixels of each value of the choice "stripes"."""
    return {value.label: model_settings(settings, value.run.model).height
            for value in CHOICES["stripes"].values}
