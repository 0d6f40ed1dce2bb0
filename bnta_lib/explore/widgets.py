"""What the explorers share: a widget that is a still picture where there is no kernel."""

from collections.abc import Callable

import ipywidgets as W
from IPython.display import HTML, Image, display

WIDE = {"layout": W.Layout(width="420px"), "style": {"description_width": "96px"}}
RELEASED = {"continuous_update": False, **WIDE}  # a slider calls back on release
NO_KERNEL = "Sliders: they move in JupyterLab, when this notebook is run there (make lab)."


class Explorer(W.interactive):
    """``interactive`` around a function that returns a line of numbers and then pictures; shown below."""

    def __init__(self, draw: Callable[..., tuple[str, *tuple[Image, ...]]], **controls: W.Widget):
        def show(**values) -> None:
            self.numbers, *self.pictures = draw(**values)
            # Not printed: what is printed may come late, and then stands elsewhere.
            display(HTML(as_numbers(self.numbers)), *self.pictures)

        super().__init__(show, {"manual": False, "auto_display": False}, **controls)
        self.add_class("bnta-explorer")

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        return with_still(super()._repr_mimebundle_(**kwargs), self.pictures[-1])


def as_numbers(words: str) -> str:
    """The explorer's line of numbers as HTML."""
    return f'<div class="bnta-numbers">{words}</div>'


def with_still(bundle: dict, still: Image) -> tuple[dict, dict]:
    """What a notebook keeps of a widget: its view for a kernel, ``still`` for a page without one."""
    picture, metadata = still._repr_mimebundle_()
    return {**bundle, **picture, "text/plain": NO_KERNEL}, metadata
