"""Explorers: the suite's measurements and figures under sliders, in JupyterLab."""

from bnta_lib.explore.figures import domain_explorer, layer_explorer, retrieval_explorer
from bnta_lib.explore.nk import nk_explorer

__all__ = ["domain_explorer", "layer_explorer", "nk_explorer", "retrieval_explorer"]
