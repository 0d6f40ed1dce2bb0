"""What the paper leaves open: how the gain of adaption hangs on each such choice.

:data:`CHOICES` holds, for each choice, the values tried, one of them the suite's default. The gain
of a value is the rank 1 after adaption minus that of the same network without adaption, read in the
same way, on the same split. :func:`survival` says which conclusions outlive a change of a choice.
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
from bnta_lib.suite.tables import TIE, paired_test, paper_numbers, row_name, signed
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


_MORE = {"more": "difference", "more_low": "low", "more_high": "high"}


def split_gains(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Gain of every value on every split, seeds averaged first.

    ``rows``: of :func:`choice_rows`. Columns: choice, value_label, updated, target, split, gain
    (points over the value's own reference on that split).
    """
    keys = ["choice", "value_label", "updated", "target", "split"]
    mean = rows[rows["metric"] == metric].groupby(keys, sort=False)["value"].mean().reset_index()
    before = mean[mean["updated"] == NONE].drop(columns="updated")
    before = before.rename(columns={"value": "before"})
    after, shared = mean[mean["updated"] != NONE], [k for k in keys if k != "updated"]
    both = after.merge(before, on=shared, how="left", validate="many_to_one")
    if both["before"].isna().any():
        odd = both[both["before"].isna()].iloc[0]
        raise ValueError(f"no run without adaption for {odd['choice']}: {odd['value_label']}")
    return both.assign(gain=both["value"] - both["before"]).drop(columns=["value", "before"])


def gain_rows(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Mean gain of every value: a row a value, target and what was updated.

    Columns: choice, value_label, updated, default (bool), then those of :func:`paired_test`
    (target, difference in points from the value's own reference, low and high of its 95 %
    interval, p, better, splits), and more, more_low, more_high: the gain minus that of the
    choice's default value on the same splits.
    """
    gains = split_gains(rows, metric).rename(columns={"value_label": "method", "gain": "value"})
    gains = gains.assign(metric="gain", seed=0)
    defaults = {c.name: c.default.label for c in (*CHOICES.values(), READINGS, AFFINE)}
    tables = []
    for (choice, updated), own in gains.groupby(["choice", "updated"], sort=False):
        nothing = own.drop_duplicates(["target", "split"]).assign(method=NONE, value=0.0)
        for label in own["method"].unique():
            both = own[own["method"] == label]
            test = paired_test(pd.concat([both, nothing]), label, NONE, "gain")
            test = test.dropna(subset="difference").drop(columns="seed_std").assign(
                choice=choice, value_label=label, updated=updated,
                default=label == defaults[choice])
            more = paired_test(own, label, defaults[choice], "gain").set_index("target")
            for column, source in _MORE.items():
                test[column] = test["target"].map(more[source])
            tables.append(test)
    table = pd.concat(tables, ignore_index=True)
    first = ["choice", "value_label", "updated", "default"]
    return table[[*first, *(c for c in table.columns if c not in first)]]


# ---- which conclusions survive


@dataclass(frozen=True)
class Conclusion:
    """A statement of the paper: updating one thing gives more rank 1 than updating another."""

    text: str
    source: str  # where the paper says so
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
STATUS = ("holds", "does not hold", "not resolved", DIVERGED)


def status(low: float, high: float) -> str:
    """Of a difference that should be positive, from its 95 % interval: one of STATUS's first three.

    "holds": above zero; "does not hold": below, so that the opposite is resolved; "not resolved":
    it contains zero, or there is none (one split, or no spread).
    """
    return "holds" if low > 0 else "does not hold" if high < 0 else "not resolved"


def judged(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Every conclusion under every value that bears on it, and once under the defaults.

    Columns: conclusion, source, target, choice ("" for the defaults), value_label, difference,
    low, high (points), p, holm (p by Holm's correction over all of these rows), status, flips
    (the sign is resolved, and is not that resolved under the defaults). A value is left out where
    it cannot touch the conclusion, or where one side was not measured with it.
    """
    gains, tables = split_gains(rows, metric), []
    lost = rows[rows["metric"] == DIVERGED]
    first = next(iter(CHOICES.values()))
    for conclusion in CONCLUSIONS:
        sides = [s for s in (conclusion.updated, conclusion.against) if s != NONE]
        usual = _judge(gains, lost, conclusion, first, first.default)
        tables.append(usual.assign(choice="", value_label=""))
        for choice in (*CHOICES.values(), READINGS):
            for value in choice.values:
                if not value.default and any(_touched(choice, value, side) for side in sides):
                    tables.append(_judge(gains, lost, conclusion, choice, value))
    table = pd.concat([t for t in tables if len(t)], ignore_index=True)
    resolved = [status(low, high) for low, high in zip(table["low"], table["high"])]
    table["status"] = np.where(table["difference"].isna(), DIVERGED, resolved)
    table["holm"] = holm(table["p"])
    keys = ["conclusion", "target"]
    before = table[table["choice"] == ""].set_index(keys)["status"].rename("before")
    before = table.join(before, on=keys)["before"]
    opposite = {"holds": "does not hold", "does not hold": "holds"}
    table["flips"] = table["status"] == before.map(opposite)
    order = ["conclusion", "source", "target", "choice", "value_label", "difference", "low", "high",
             "p", "holm", "status", "flips"]
    return table[order]


def _touched(choice: Choice, value: Value, side: str) -> bool:
    """Whether this value can change what ``side`` does."""
    if choice is READINGS:
        return side != ALL
    if side == ALL:
        return True
    ours, usual = (replace(alone(v.run, side), method="") for v in (value, choice.default))
    return ours != usual


def _judge(
    gains: pd.DataFrame, lost: pd.DataFrame, conclusion: Conclusion, choice: Choice, value: Value
) -> pd.DataFrame:
    """A row a target: the difference of both sides under one value, empty where one diverged.

    No rows where a side was not measured with this value.
    """
    gains, lost = (t[(t["choice"] == choice.name) & (t["value_label"] == value.label)]
                   for t in (gains, lost))
    nothing = gains.drop_duplicates(["target", "split"]).assign(updated=NONE, gain=0.0)
    frame = pd.concat([gains, nothing]).rename(columns={"updated": "method", "gain": "value"})
    frame = frame.assign(metric="gain", seed=0)
    sides, tables = {conclusion.updated, conclusion.against}, []
    targets = [*gains["target"], *lost["target"]]
    for target in dict.fromkeys(targets):
        if conclusion.everywhere or target == own_target(dict.fromkeys(targets)):
            own, broken = frame[frame["target"] == target], lost[lost["target"] == target]
            if sides & set(broken["updated"]):
                tables.append(pd.DataFrame([{"target": target}]))
            elif sides <= set(own["method"]):
                tables.append(paired_test(own, conclusion.updated, conclusion.against, "gain"))
    about = {"conclusion": conclusion.text, "source": conclusion.source, "choice": choice.name,
             "value_label": value.label}
    return pd.concat(tables).assign(**about) if tables else pd.DataFrame()


def holm(p: pd.Series) -> pd.Series:
    """Holm's correction of p values for their number; missing ones are no tests and stay so."""
    known = p.dropna().sort_values()
    factor = np.arange(len(known), 0, -1)
    return (known * factor).cummax().clip(upper=1).reindex(p.index)


def survival(rows: pd.DataFrame, metric: str = "R1") -> pd.DataFrame:
    """Which conclusions survive: a row a conclusion and target.

    Columns: conclusion, source, target, default (status under the defaults), points (the
    difference there), values (how many other values bear on it), choices (those whose values these
    are, each with its number), one for each of STATUS (how many of them), flips (under which the
    resolved sign is the opposite of the defaults').
    """
    result = []
    for (text, source, target), own in judged(rows, metric).groupby(
            ["conclusion", "source", "target"], sort=False):
        usual, others = own[own["choice"] == ""].iloc[0], own[own["choice"] != ""]
        flips = others[others["flips"]]
        result.append({
            "conclusion": text, "source": source, "target": target, "default": usual["status"],
            "points": usual["difference"], "values": len(others),
            "choices": ", ".join(f"{c} {n}" for c, n in others["choice"].value_counts(sort=False).items()),
            **{word: int((others["status"] == word).sum()) for word in STATUS},
            "flips": "; ".join(f"{c}: {v}" for c, v in zip(flips["choice"], flips["value_label"])),
        })
    return pd.DataFrame(result)


# ---- in words


def survival_sentence(row: pd.Series) -> str:
    """A row of :func:`survival` in words."""
    counts = ", ".join(f"{word} under {row[word]}" for word in STATUS
                       if row[word] or word != DIVERGED)
    flips = ("Its sign is not resolved under the defaults: there is none to turn."
             if row["default"] not in STATUS[:2] else f"Its sign is turned by {row['flips']}."
             if row["flips"] else "No value turns its sign.")
    return (f"{row['target']}: that {row['conclusion']} ({row['source']}) {_is(row['default'])} "
            f"under the defaults ({signed(row['points'])} points); of {row['values']} other values "
            f"({row['choices']}): {counts}. {flips}")


def survival_table(survival: pd.DataFrame) -> pd.DataFrame:
    """:func:`survival` as it is printed."""
    names = {"source": "paper", "default": "under the defaults", "points": "points of rank 1",
             "values": "other values", "choices": "of which choices",
             **{word: f"{word}: values" for word in STATUS}, "flips": "sign turned by"}
    table = survival.assign(flips=survival["flips"].where(
        survival["default"].isin(STATUS[:2]), "no sign to turn").replace("", "none"))
    return table.rename(columns=names).set_index("conclusion")


def survival_note(table: pd.DataFrame) -> str:
    """What to know beside :func:`survival_table`; ``table``: of :func:`judged`."""
    return (
        "Under the defaults: what the 95 % interval of the difference says, in points of rank 1, one "
        "adaption seed (Tables 2 to 5 average more, so that they can differ in the last digit). Other "
        "values: how many values of the open choices bear on the conclusion, of which choices, and "
        "under how many of them it holds, does not hold, is not resolved, or adaption diverged. What "
        "γ and β alone do is asked of the optimiser's rates, of the epochs and of Table 5's other "
        "reading: the momentum moves μ and σ² alone, and the sweep over γ and β alone is not counted. "
        "A value turns the sign where the opposite of what is resolved under the defaults is resolved. "
        + caveat(table))


def _is(word: str) -> str:
    return {"not resolved": "is not resolved", DIVERGED: "cannot be asked (adaption diverged)",
            "does not hold": "does not hold (the opposite is resolved)"}.get(word, word)


def _interval(row: pd.Series) -> str:
    if np.isnan(row["low"]):
        return "no interval"
    return f"95 % interval {signed(row['low'])} to {signed(row['high'])}"


def caveat(table: pd.DataFrame) -> str:
    """How many comparisons :func:`judged` makes, and how many outlive Holm's correction."""
    tests, resolved = int(table["p"].notna().sum()), table["status"].isin(STATUS[:2])
    left = int((table.loc[resolved, "holm"] < 0.05).sum())
    return (f"{tests} comparisons: were there nothing to find, about {0.05 * tests:.0f} of them "
            f"would still look resolved. {int(resolved.sum())} are, and {left} of these remain at "
            "5 % after Holm's correction for their number.")


def diverged(rows: pd.DataFrame) -> list[str]:
    """Values with which adaption diverged, each with its target and what was updated."""
    lost = rows[rows["metric"] == DIVERGED]
    return [f"{row.choice}: {row.value_label}, updating {row_name(row.updated)}, on {row.target}"
            for row in lost.itertuples()]


def choice_sentence(gains: pd.DataFrame, choice: Choice) -> str:
    """What a choice does to the gain, a line a target; ``gains``: of :func:`gain_rows`."""
    lines = []
    chosen = gains[(gains["choice"] == choice.name) & (gains["updated"] == ALL)]
    for target, own in chosen.groupby("target", sort=False):
        least, most = own.loc[own["difference"].idxmin()], own.loc[own["difference"].idxmax()]
        usual = own[own["default"]].iloc[0]
        if most["difference"] == least["difference"]:
            lines.append(f"{target}: gain {signed(usual['difference'])} points with every value.")
            continue
        lines.append(
            f"{target}: gain {signed(least['difference'])} ({least['value_label']}) to "
            f"{signed(most['difference'])} ({most['value_label']}) points, {signed(usual['difference'])} "
            f"with the default {usual['value_label']}; above the default's: "
            f"{_names(own, own['more_low'] > 0)}; below it: {_names(own, own['more_high'] < 0)}.")
    return "\n".join(lines)


def idle_sentence(gains: pd.DataFrame, choice: Choice) -> str:
    """That nothing hangs on a number of the losses, and why; empty where half a point does."""
    own = gains[(gains["choice"] == choice.name) & (gains["updated"] == ALL)]
    most = own["more"].abs().max()
    if most >= 0.5:
        return ""
    apart = f"at most {most:.1f} points" if most > TIE else "the same gain with every value"
    return (f"Nothing hangs on it here ({apart}): L_pos is near zero "
            "from the start, so that L_mat is nearly all of Eq. (13), whatever its weight; the few "
            "steps of Adam move γ and β by about η_tta each, however large the loss is; and μ and σ², "
            "which carry the gain, follow the images and no loss.")


def _names(table: pd.DataFrame, chosen: pd.Series) -> str:
    return ", ".join(table.loc[chosen, "value_label"]) or "none resolved"


def readings_sentence(gains: pd.DataFrame) -> str:
    """Where the two readings of "update only ..." differ, from :func:`gain_rows`."""
    own = gains[(gains["choice"] == READINGS.name) & (gains["value_label"] == "restore")]
    own = own[own["updated"] != ALL]
    apart = own[(own["more_low"] > 0) | (own["more_high"] < 0)]
    named = [f"{row_name(row['updated'])} ({signed(row['more'])} points)"
             for _, row in apart.iterrows()]
    return (f"{own['target'].iloc[0]}: of {len(own)} rows of Table 5, restoring the others "
            f"instead of leaving them out changes {len(apart)}"
            + (f": {', '.join(named)}." if named else "."))


def paper_affine_gain() -> float:
    """Points of rank 1 that Table 5 credits gamma and beta alone with, on the paper's GRID."""
    cited = paper_numbers().query("table == '5'").set_index("row")["value"].astype(float)
    return cited["gamma+beta"] - cited["None"]


def affine_sentence(gains: pd.DataFrame) -> str:
    """The most rank 1 that gamma and beta alone bring, beside the paper's; from R1's gains."""
    paper = paper_affine_gain()
    own = gains[gains["choice"] == AFFINE.name]
    usual, most = own[own["default"]].iloc[0], own.loc[own["difference"].idxmax()]
    reached = own[own["difference"] >= paper]["value_label"]
    names = ", ".join(reached) if len(reached) else "none"
    return (f"{own['target'].iloc[0]}, γ and β alone: {signed(usual['difference'])} points "
            f"({_interval(usual)}) with {usual['value_label']}; the most of {len(own)} settings is "
            f"{signed(most['difference'])} ({_interval(most)}) with {most['value_label']}. The "
            f"paper's is {signed(paper)} on its GRID. Settings that reach that here: {names}.")


def picks(gains: pd.DataFrame) -> pd.DataFrame:
    """What choosing a value by its result would bring: a row a target.

    Columns: default (gain, points), best (the value with the largest gain on the target itself),
    best gain, elsewhere (the value with the largest mean gain on the other targets; empty where
    there is no other), elsewhere gain (on this one). "best" needs the target's labels, which a new
    place does not have: no fair choice. Only values with the usual reference compete.
    """
    same = [c.name for c in CHOICES.values()
            if c.everywhere and c.name not in ("distance", "stripes")]
    own = gains[gains["choice"].isin(same) & (gains["updated"] == ALL)]
    label = own["choice"] + ": " + own["value_label"]
    wide = own.assign(label=label).pivot(index="label", columns="target", values="difference")
    usual, rows = own[(own["choice"] == same[0]) & own["default"]], []
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


def stripes_sentence(settings: Settings) -> str:
    """Which maps the two values of the choice "stripes" cut into stripes, and how."""
    words = []
    for label, name in (("height", "bnta"), ("other height", "other_stripes")):
        chosen = model_settings(settings, name)
        rows = chosen.height // (16 * chosen.last_stride)
        cut = "none shared" if rows % chosen.stripes == 0 else "overlapping bins"
        words.append(f"{label}: {chosen.height} x {chosen.width} pixels, {rows} rows in "
                     f"{chosen.stripes} stripes, {cut}")
    return "; ".join(words) + "."
