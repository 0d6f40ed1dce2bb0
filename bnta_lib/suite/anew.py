"""Recorded rows measured again: equal on the processor that recorded them, close on others."""

from random import Random

import pandas as pd

from bnta_lib.suite.lab import Lab
from bnta_lib.suite.runner import Measurer, Unit, measure
from bnta_lib.suite.specs import TABLES
from bnta_lib.suite.store import key_of, open_store, recorded_path

SHARE = 50  # of the units outside Table 2, one in so many is in the sample
POINTS, RATE = 0.05, 0.01  # tolerance of mAP; of rates, losses and distances, by the largest of a kind
LAYERS = 0.9  # of γ's and β's layers must keep it: if a gradient is near zero, its sign decides Adam's step
TOLERANCE = (f"one probe at rank 1, 5 and 10, {POINTS} points of mAP, and of other numbers {RATE:.0%} of the "
             f"largest in a unit (γ and β: in {LAYERS:.0%} of the layers)")


def measure_first(profile: str, how: str, seed: int | None = None) -> tuple[str, bool]:
    """Measure what a run needs, and recorded rows again: a "sample" (``seed``: of it), "all" or "none".
    Returns what to print at the run's end, and whether recorded numbers held."""
    lab = Lab(profile)
    # Smoke's seconds mean nothing: all tables first, at once, which leaves nothing of Table 2 to be measured.
    for plan in plans(lab)[:: -1 if profile == "smoke" else 1]:
        measure(*plan, True, "measuring")
    if how == "none" or not recorded_path(profile).is_file():
        return "", True
    seed = Random().randrange(10_000) if seed is None else seed
    print(f"Measuring recorded rows again: {'all' if how == 'all' else f'a sample, seed {seed}'}", flush=True)
    compared, new = measure_again(lab, how == "all", seed)
    print(words := summary(compared, new))
    return words, bool(compared["within"].all())


def plans(lab: Lab) -> list[tuple[Measurer, list[Unit]]]:
    """All that the notebooks measure. Table 2 comes first and alone: its seconds are for its own K."""
    parts = [part for table in TABLES.values() for part in table]
    tables = [lab.plan(some, lab.targets) for some in (TABLES["table_2"], parts)]
    return [*tables, *lab.plan_headroom()]


def measure_again(lab: Lab, everything: bool, seed: int) -> tuple[pd.DataFrame, int]:
    """Measure recorded units again; return :func:`differences`, and how many units are new.

    A sample is Table 2 on one split of each target, and at random one in SHARE of the other units. Units
    that were measured on this machine before are compared, but not measured again.
    """
    random, done, seen, new = Random(seed), [], set(), 0
    splits = {name: random.randrange(len(target.splits)) for name, target in lab.targets.items()}
    for number, (measurer, units) in enumerate(plans(lab)):
        by_key = {key_of(measurer.columns(unit)): unit for unit in reversed(units)}  # the first of a key
        with open_store() as store:
            store.fill(lab.settings.profile)
            rows = store.rows([*by_key], recorded=True).query("recorded == 1")
            own = {*store.rows([*by_key]).query("recorded == 0")["key"]}
        if not (keys := [key for key in dict.fromkeys(rows["key"]) if key not in seen]):
            continue
        seen.update(keys)
        drawn = random.sample(keys, -(-len(keys) // (1 if everything else SHARE)))  # mixed: an even pace
        if number == 0 and not everything:
            drawn = [key for key in keys if by_key[key].split == splits[by_key[key].target]]
        measure(measurer, [by_key[key] for key in drawn], lab.progress, "measured again", anew=True)
        new += len({*drawn} - own)
        # gamma and beta alone at high rates repeat on no other processor.
        probes = {key: len(measurer.inputs(by_key[key])[2].probe) for key in drawn
                  if by_key[key].spec.labels.get("choice") != "affine"}
        with open_store() as store:
            done.append(differences(store.rows([*probes]), rows[rows["key"].isin(probes)], probes))
    return pd.concat(done, ignore_index=True), new


def differences(measured: pd.DataFrame, recorded: pd.DataFrame, probes: dict[str, int]) -> pd.DataFrame:
    """Both values of each number, without seconds. ``within``: TOLERANCE; ``probes``: their count by key."""
    index = ["key", "experiment", "metric", "number"]
    values = [_scores(rows).set_index(index)["value"] for rows in (measured, recorded)]
    both = pd.concat(values, axis=1, keys=["measured", "recorded"]).reset_index()
    kind, largest = both["metric"], both.groupby(["key", "metric"])["recorded"].transform("max")
    tolerance = (RATE * largest).mask(kind == "mAP", POINTS)
    tolerance = tolerance.mask(kind.isin(["R1", "R5", "R10"]), 1.01 * 100 / both["key"].map(probes))
    both["difference"] = (both["measured"] - both["recorded"]).abs()
    both["within"] = both["difference"] <= tolerance
    share = both.groupby(["key", "metric"])["within"].transform("mean")
    both["within"] |= kind.isin(["rate gamma", "rate beta"]) & (share >= LAYERS)
    return both


def _scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows without seconds; those of a headroom as rank 1, 5 and 10."""
    headroom = rows["experiment"] == "headroom"
    shares = [rows[headroom].assign(metric=f"R{k}", value=100.0 * (rows["value"] <= k)) for k in (1, 5, 10)]
    means = pd.concat(shares).groupby(["key", "experiment", "metric"], as_index=False)["value"].mean()
    return pd.concat([rows[(rows["unit"] != "s") & ~headroom], means.assign(number=0)])


def summary(compared: pd.DataFrame, new: int) -> str:
    """How many numbers were measured again, their largest differences, and how many lie too far away."""
    kinds = compared["metric"].map({"R1": "rank 1", "R5": "rank 5", "R10": "rank 10", "mAP": "mAP"})
    groups, units = compared.groupby(kinds.fillna("others"), sort=False), compared["key"].nunique()
    largest = ", ".join(f"{kind} {value:.2g}" for kind, value in groups["difference"].max().items())
    return (f"Measured here again: {len(compared):,} numbers of {units:,} units, {new:,} in this run.\n"
            f"Largest difference: {largest}. Beyond tolerance ({TOLERANCE}): {(~compared['within']).sum()}.")
