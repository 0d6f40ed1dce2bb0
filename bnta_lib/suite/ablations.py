"""Section 4.3's ablations: Tables 3, 4 and 5 as lists of :class:`~bnta_lib.suite.experiments.Run`.

Rows are named as in ``data/paper_tables.csv``. The row that is BNTA itself has no options, so that
its measurements are those of Table 2. The paper has one target a table, we have three.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from bnta_lib.data.sets import Target
from bnta_lib.suite.experiments import Run, run_rows
from bnta_lib.model import BNTANet
from bnta_lib.settings import Settings
from bnta_lib.weights import TABLE_3_MODELS

# The target that the paper reports a table on; all adaption seeds are spent there.
PAPER_TARGET = {"table_3": "VIPeR", "table_4": "GRID", "table_5": "GRID"}

# Table 3: the losses of a training (as the paper's rows have them) and the adaptions tried on it.
_TRAININGS = dict(zip(("id", "pos", "mat", "id+pos", "id+mat", "id+pos+mat"), TABLE_3_MODELS))
_ADAPTIONS = {
    "id": (), "pos": ("pos",), "mat": ("mat",), "id+pos": ("pos",), "id+mat": ("mat",),
    "id+pos+mat": ("pos", "mat", "pos+mat"),
}


def _adapted(method: str, model: str, losses: str) -> Run:
    # Both losses are the default of adapt(): said or not, it is BNTA.
    return Run(method, model, options={} if losses == "pos+mat" else {"losses": (losses,)})


TABLE_3 = tuple(
    Run(f"train {training}; tta none", model, "none") if losses == "none"
    else _adapted(f"train {training}; tta {losses}", model, losses)
    for training, model in _TRAININGS.items() for losses in ("none", *_ADAPTIONS[training])
)

# Table 4: the layers that Eq. (14) updates.
TABLE_4 = (
    Run("None", adapter="none"),
    Run("Conv", options={"layers": ("conv",)}),
    Run("IN", options={"layers": ("in",)}),
    Run("Conv+IN", options={"layers": ("conv", "in")}),
    Run("BN"),
    Run("BN+Conv", options={"layers": ("bn", "conv")}),
    Run("BN+IN", options={"layers": ("bn", "in")}),
    Run("BN+Conv+IN", options={"layers": ("bn", "conv", "in")}),
)

# Table 5: the quantities of BN that are updated, in the two readings of "only mu" [O]: "alone",
# it alone is free to move; "restore", all of them move and the others are put back.
_QUANTITIES = {
    "mu": ("mean",), "var": ("var",), "mu+var": ("mean", "var"),
    "gamma": ("gamma",), "beta": ("beta",), "gamma+beta": ("gamma", "beta"),
}
TABLE_5 = {
    reading: (
        Run("None", adapter="none"),
        *(Run(name, options={"quantities": chosen, **more})
          for name, chosen in _QUANTITIES.items()),
        Run("mu+var+gamma+beta"),
    )
    for reading, more in (("alone", {}), ("restore", {"reading": "restore"}))
}


def seeds_of(targets: Mapping[str, Target], table: str, settings: Settings) -> dict[str, int]:
    """Adaption seeds of each target: ``tta_seeds`` on the paper's own, one on the others.

    Where the paper's is not among them (a user's folder), each counts as the paper's.
    """
    own = PAPER_TARGET[table]
    return {name: settings.tta_seeds if name == own or own not in targets else 1
            for name in targets}


def table_3_rows(
    models: Mapping[str, BNTANet], targets: Mapping[str, Target], settings: Settings,
    progress: bool = True,
) -> pd.DataFrame:
    """Rows of Table 3 (see :func:`run_rows`); ``models`` holds all of TABLE_3_MODELS."""
    seeds = seeds_of(targets, "table_3", settings)
    return run_rows("table_3", TABLE_3, models, targets, settings, seeds, progress)


def table_4_rows(
    model: BNTANet, targets: Mapping[str, Target], settings: Settings, progress: bool = True
) -> pd.DataFrame:
    """Rows of Table 4 (see :func:`run_rows`); ``model`` is the one trained with all losses."""
    seeds = seeds_of(targets, "table_4", settings)
    return run_rows("table_4", TABLE_4, {"bnta": model}, targets, settings, seeds, progress)


def table_5_rows(
    model: BNTANet, targets: Mapping[str, Target], settings: Settings, reading: str = "alone",
    progress: bool = True,
) -> pd.DataFrame:
    """Rows of Table 5 (see :func:`run_rows`) in one reading of "only mu".

    ``reading`` "alone": experiment "table_5", on all targets; "restore": "table_5_restore", on
    the paper's target (a user's folder counts as that). Raises ValueError for another reading.
    """
    if reading not in TABLE_5:
        raise ValueError(f"reading is 'alone' or 'restore', not {reading!r}")
    own = PAPER_TARGET["table_5"]
    if reading == "restore" and own in targets:
        targets = {own: targets[own]}
    experiment = "table_5" if reading == "alone" else "table_5_restore"
    return run_rows(experiment, TABLE_5[reading], {"bnta": model}, targets, settings,
                    seeds_of(targets, "table_5", settings), progress)
