"""Explorers: the suite's measurements and figures under sliders, in JupyterLab.

Three of them are ipywidgets' ``interactive`` around a figure function. The N and K explorer looks
measured cells up, and measures others when its button is pressed.
"""

from bnta_lib.explore.domains import domain_explorer
from bnta_lib.explore.layers import layer_explorer
from bnta_lib.explore.nk import nk_explorer
from bnta_lib.explore.retrieval import retrieval_explorer

__all__ = ["domain_explorer", "layer_explorer", "nk_explorer", "retrieval_explorer"]
