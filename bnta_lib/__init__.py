"""BNTA: batch-norm test-time adaption for generalizable person re-identification (AAAI 2022).

The method, in the order of the paper: :mod:`.model`, :mod:`.losses`, :mod:`.pairing`,
:mod:`.adaption`. What a site gets of it: :mod:`.deltas`, :mod:`.guards`. Around it: :mod:`.data`,
:mod:`.training`, :mod:`.evaluation`, :mod:`.baselines`, :mod:`.experiments`, :mod:`.tables`,
:mod:`.figures`.
"""

import os
import signal
import sys
from typing import TYPE_CHECKING


def _stopped(*_) -> None:
    os.write(2, b"stopped before it began\n")
    os._exit(130)


# `python -m bnta_lib.…` imports this before the command can say that it was interrupted: torch alone takes a
# second, and where the import stood is of no use to anybody.
_COMMAND = sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _COMMAND:
    signal.signal(signal.SIGINT, _stopped)

from .adaption import Adaption, adapt
from .deltas import Delta, DeltaBank
from .evaluation import Scores, evaluate
from .guards import AdaptionStopped, Guards
from .model import BNTANet, embed
from .pairing import Pairs, nearest_pairs
from .settings import Settings, settings

if _COMMAND:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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
