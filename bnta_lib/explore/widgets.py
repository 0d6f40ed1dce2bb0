"""What the explorers share: a widget that is a still picture where there is no kernel."""

from collections.abc import Callable

import ipywidgets as W
from IPython.display import Image

WIDE = {"layout": W.Layout(width="420px"), "style": {"description_width": "96px"}}
RELEASED = {"continuous_update": False, **WIDE}  # a slider calls back on release
NO_KERNEL = "Sliders: they move in JupyterLab, when this notebook is run there (make lab)."


class Explorer(W.interactive):
    """``interactive`` whose function returns a picture; ``result`` is the one that is shown."""

    def __init__(self, draw: Callable[..., Image], **controls: W.Widget):
        super().__init__(draw, {"manual": False, "auto_display": True}, **controls)
        self.add_class("bnta-explorer")

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        return with_still(super()._repr_mimebundle_(**kwargs), self.result)


def with_still(bundle: dict, still: Image) -> tuple[dict, dict]:
    """What a notebook keeps of a widget: its view for a kernel, ``still`` for a page without one."""
    picture, metadata = still._repr_mimebundle_()
    return {**bundle, **picture, "text/plain": NO_KERNEL}, metadata
