"""BNTA: batch-norm test-time adaption for generalizable person re-identification (AAAI 2022).

The method, in the order of the paper: :mod:`.model`, :mod:`.losses`, :mod:`.pairing`,
:mod:`.adaption`. What a site gets of it: :mod:`.deltas`, :mod:`bnta_lib.site.guards`. Around it: :mod:`.data`,
:mod:`.training`, :mod:`.evaluation`, :mod:`bnta_lib.adapters`, :mod:`bnta_lib.suite.experiments`, :mod:`bnta_lib.suite.tables`,
:mod:`.figures`.
"""

import sys
from typing import TYPE_CHECKING

from bnta_lib.starting import quiet_until_main

quiet_until_main(sys.argv[:1] == ["-m"])  # `python -m bnta_lib.…` imports this first

from bnta_lib.adaption import Adaption, adapt
from bnta_lib.deltas import Delta, DeltaBank
from bnta_lib.evaluation import Scores, evaluate
from bnta_lib.site.guards import AdaptionStopped, Guards
from bnta_lib.model import BNTANet, embed
from bnta_lib.pairing import Pairs, nearest_pairs
from bnta_lib.settings import Settings, choose_algorithms, settings

choose_algorithms()

if TYPE_CHECKING:
    from bnta_lib.training import train, trained_model

__all__ = [
    "Adaption", "AdaptionStopped", "BNTANet", "Delta", "DeltaBank", "Guards", "Pairs", "Scores",
    "Settings", "adapt", "embed", "evaluate", "nearest_pairs", "settings", "train", "trained_model",
]
__version__ = "0.1.0"


def __getattr__(name: str):
    """Training is imported when it is asked for: `python -m bnta_lib.training` would find it imported."""
    if name in ("train", "trained_model"):
        from bnta_lib import training

        return getattr(training, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
