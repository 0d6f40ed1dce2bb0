"""Explorers: the suite's measurements and figures under sliders, in JupyterLab."""

from bnta_lib.explore.figures import layer_explorer, retrieval_explorer
from bnta_lib.explore.nk import NKExplorer

__all__ = ["NKExplorer", "layer_explorer", "retrieval_explorer"]
