"""BNTA: batch-norm test-time adaption for generalizable person re-identification (AAAI 2022).

The method, in the order of the paper: :mod:`.settings`, :mod:`.model`, :mod:`.losses`, :mod:`.pairing`,
:mod:`.adaption`, :mod:`.adapters`, :mod:`.evaluation`, :mod:`.training`, :mod:`.weights`. Around it:
:mod:`.data`, :mod:`.rendered`, :mod:`.suite`, :mod:`.figures`, :mod:`.explore`, :mod:`.site`.
"""

from bnta_lib.adaption import Adaption, adapt
from bnta_lib.evaluation import Scores, evaluate
from bnta_lib.model import BNTANet, embed
from bnta_lib.pairing import Pairs, nearest_pairs
from bnta_lib.settings import Settings, settings
from bnta_lib.site.guards import AdaptionStopped, Guards
from bnta_lib.training import train
from bnta_lib.weights import Delta

__all__ = [
    "Adaption", "AdaptionStopped", "BNTANet", "Delta", "Guards", "Pairs", "Scores",
    "Settings", "adapt", "embed", "evaluate", "nearest_pairs", "settings", "train",
]
__version__ = "0.1.0"
