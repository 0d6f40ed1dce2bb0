"""Recorded rows measured again on this machine, all or a sample, and how far the numbers are apart.

On the machine that recorded them the numbers are equal. Another processor rounds otherwise.
"""

from itertools import chain
from random import Random

import pandas as pd
import torch

from bnta_lib.settings import AT_SIZE
from bnta_lib.suite.lab import Lab
from bnta_lib.suite.runner import Unit, measure
from bnta_lib.suite.specs import TABLES
from bnta_lib.suite.store import key_of, open_store, recorded_path

SHARE = 50  # of the units outside Table 2, one in so many is in the sample
POINTS, RATE = 0.05, 0.01  # tolerance of mAP; of rates, losses and distances, by the largest of a kind
LAYERS = 0.9  # of gamma's and beta's keep it: near a gradient of zero Adam's step is that of its sign
TOLERANCE = (f"one probe at rank 1, 5 and 10, {POINTS} points of mAP, and of other numbers {RATE:.0%} of the "
             "largest in a unit")


def measure_first(profile: str, how: str, seed: int | None = None) -> tuple[str, bool]:
    """Measure what a run needs; what to print at its end, and whether recorded numbers held.

    ``how``: which recorded rows are measured again, a "sample" (``seed``: of it), "all" or "none".
    """
    lab = Lab(profile)
    if profile == "smoke":  # its work is smaller than what it takes to share it
        torch.set_num_threads(1)
    weaker = profile not in AT_SIZE  # where weaker trainings may be absent
    parts = [part for name, table in TABLES.items() if weaker or name != "strength" for part in table]
    for plan in (lab.plan(parts, lab.targets), *lab.plan_headroom()):
        measure(*plan, True, "measuring")
    if how == "none" or not recorded_path(profile).is_file():
        return "", True
    seed = Random().randrange(10_000) if seed is None else seed
    print(f"Measuring recorded rows again: {'all' if how == 'all' else f'a sample, seed {seed}'}", flush=True)
    compared = measure_again(lab, how == "all", seed)
    return summary(compared, seed), bool(compared["within"].all())


def measure_again(lab: Lab, everything: bool, seed: int) -> pd.DataFrame:
    """Measure units again, all of them or a sample; :func:`differences` from their recorded rows.

    The sample: Table 2 on one split of each target, and at random one in SHARE of the other units. What was
    measured here before is not measured once more.
    """
    random, compared = Random(seed), []
    splits = {name: random.randrange(len(target.splits)) for name, target in lab.targets.items()}
    measurer, units = lab.plan(TABLES["table_2"], lab.targets)
    table_2 = {key_of(measurer.columns(unit)) for unit in units if unit.split == splits[unit.target]}
    for measurer, units in [lab.plan([*chain(*TABLES.values())], lab.targets), *lab.plan_headroom()]:
        by_key: dict[str, Unit] = {}
        for unit in units:  # a unit of several tables is of the first
            by_key.setdefault(key_of(measurer.columns(unit)), unit)
        others = [key for key in by_key if key not in table_2]
        drawn = {*random.sample(others, len(others) if everything else -(-len(others) // SHARE))}
        chosen = {key: unit for key, unit in by_key.items() if key in table_2 | drawn}
        measure(measurer, [*chosen.values()], lab.progress, "measured again", anew=True)
        # gamma and beta alone at high rates repeat on no other processor.
        probes = {key: len(measurer.inputs(unit)[2].probe) for key, unit in chosen.items()
                  if unit.spec.labels.get("choice") != "affine"}
        with open_store() as store:
            compared.append(differences(store.rows([*probes]), store.rows([*probes], recorded=True), probes))
    return pd.concat(compared, ignore_index=True)


def differences(measured: pd.DataFrame, recorded: pd.DataFrame, probes: dict[str, int]) -> pd.DataFrame:
    """Each number of these units but seconds, both ways, and whether it is ``within`` TOLERANCE.

    ``probes``: how many a unit has, by its key. Raises ValueError for rows of other numbers.
    """
    index = ["key", "experiment", "metric", "number"]
    values = [_scores(rows).set_index(index)["value"] for rows in (measured, recorded)]
    both = pd.concat(values, axis=1, keys=["measured", "recorded"]).reset_index()
    if both.isna().any(axis=None):
        raise ValueError("units that were measured again have other rows than the recorded ones")
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


def summary(compared: pd.DataFrame, seed: int) -> str:
    """How many numbers were measured again, their largest differences, and how many lie too far away."""
    kinds = compared["metric"].map({"R1": "rank 1", "R5": "rank 5", "R10": "rank 10", "mAP": "mAP"})
    largest = compared.groupby(kinds.fillna("others"), sort=False)["difference"].max()
    differ = ", ".join(f"{kind} {value:.2g}" for kind, value in largest.items())
    return (f"Measured here again (seed {seed}): {len(compared):,} recorded numbers of "
            f"{compared['key'].nunique():,} units.\nLargest difference: {differ}. "
            f"{(~compared['within']).sum()} lie beyond the tolerance: {TOLERANCE}.")
