"""Explorers: the suite's measurements and pictures under sliders, in JupyterLab.

What a widget shows is computed by the functions of the modules here, without widgets and without a
browser; :mod:`.widgets` lays sliders over them. Drawing is in :mod:`bnta_lib.figures.explore`.
"""

from bnta_lib.explore.widgets import domain_explorer, layer_explorer, nk_explorer, retrieval_explorer

__all__ = ["domain_explorer", "layer_explorer", "nk_explorer", "retrieval_explorer"]
