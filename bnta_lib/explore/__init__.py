"""Explorers: the suite's measurements and figures under sliders, in JupyterLab."""

from bnta_lib.explore.figures import domain_explorer, layer_explorer, retrieval_explorer
from bnta_lib.explore.nk import NKExplorer

__all__ = ["NKExplorer", "domain_explorer", "layer_explorer", "retrieval_explorer"]
