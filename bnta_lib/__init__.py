"""BNTA: batch-norm test-time adaption for generalizable person re-identification (AAAI 2022).

The method, in the order of the paper: :mod:`.model`, :mod:`.losses`, :mod:`.pairing`,
:mod:`.adaption`. What a site gets of it: :mod:`.deltas`, :mod:`.guards`. Around it: :mod:`.data`,
:mod:`.training`, :mod:`.evaluation`, :mod:`.baselines`, :mod:`.experiments`, :mod:`.tables`,
:mod:`.figures`.
"""

import sys
from typing import TYPE_CHECKING

from .starting import quiet_until_main

quiet_until_main(sys.argv[:1] == ["-m"])  # `python -m bnta_lib.…` imports this first

from .adaption import Adaption, adapt
from .deltas import Delta, DeltaBank
from .evaluation import Scores, evaluate
from .guards import AdaptionStopped, Guards
from .model import BNTANet, embed
from .pairing import Pairs, nearest_pairs
from .settings import Settings, choose_algorithms, settings

choose_algorithms()

if TYPE_CHECKING:
    from .training import train, trained_model

__all__ = [
    "Adaption", "AdaptionStopped", "BNTANet", "Delta", "DeltaBank", "Guards", "Pairs", "Scores",
    "Settings", "adapt", "embed", "evaluate", "nearest_pairs", "settings", "train", "trained_model",
]
__version__ = "0.1.0"


def __getattr__(name: str):
    """Training is imported when it is asked for: `python -m bnta_lib.training` would find it imported."""
    if name in ("train", "trained_model"):
        from . import training

        return getattr(training, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
