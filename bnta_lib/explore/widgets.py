"""The explorers' widgets: sliders over the functions of this package, and nothing more.

Every callback is timed (``milliseconds``), and an error in one is shown below the pictures: Jupyter
itself would pass it over in silence. Sliders answer on release from what was computed beforehand.
"""

from __future__ import annotations

import functools
import html
import io
import math
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Mapping, Sequence

import ipywidgets as W
import pandas as pd
from IPython.display import Image as Still
from PIL import Image
from torch import Tensor

from bnta_lib.data import load_targets
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.evaluation import Ranking
from bnta_lib.figures import explore as draw
from bnta_lib.figures.grid import PAPERS
from bnta_lib.model import BNTANet
from bnta_lib.settings import Settings
from bnta_lib.settings import settings as load_settings
from bnta_lib.training import trained_model
from bnta_lib.explore import domains, layers, nk, retrieval

NO_KERNEL = "Sliders: they move in JupyterLab, when this notebook is run there (make lab)."
_WIDE = W.Layout(width="420px")
_STYLE = {"description_width": "96px"}


def _callback(method):
    """A callback that is timed, ignored while the explorer sets its own controls, never silent."""
    @functools.wraps(method)
    def call(self: Explorer, *change) -> None:
        if self._quiet:
            return
        start = time.perf_counter()
        try:
            with self._lock:
                method(self, *change)
            self.trouble.value = ""
        except Exception:
            self._tell_trouble()
        self.milliseconds[method.__name__].append(1000 * (time.perf_counter() - start))
    return call


class Explorer:
    """What all explorers share; shown by a notebook as the last value of a cell, or by display()."""

    def __init__(self, controls: Sequence[W.Widget], pictures: Sequence[W.Image], sideways=False):
        self.milliseconds: dict[str, list[float]] = defaultdict(list)
        self._quiet, self._lock = False, threading.RLock()
        self.sentence, self.trouble = W.HTML(), W.HTML()
        self.pictures, self._sideways = list(pictures), sideways
        box = W.HBox if sideways else W.VBox
        self.view = W.VBox([*controls, self.sentence, box(self.pictures), self.trouble])
        self.view.add_class("bnta-explorer")

    def still(self) -> Still:
        """The pictures as they stand, for readers without a kernel."""
        parts = [Image.open(io.BytesIO(p.value)).convert("RGB") for p in self.pictures if p.value]
        along, across = (0, 1) if self._sideways else (1, 0)
        size = [0, 0]
        size[along], size[across] = (sum(p.size[along] for p in parts) + 8 * (len(parts) - 1),
                                     max(p.size[across] for p in parts))
        sheet, place = Image.new("RGB", tuple(size), "white"), [0, 0]
        for part in parts:
            sheet.paste(part, tuple(place))
            place[along] += part.size[along] + 8
        return Still(draw.png(sheet))

    def _repr_mimebundle_(self, **kwargs) -> dict:
        return {**self.view._repr_mimebundle_(**kwargs), "text/plain": NO_KERNEL}

    def _say(self, text: str) -> None:
        self.sentence.value = f'<div class="bnta-numbers">{html.escape(text)}</div>'

    def _tell_trouble(self) -> None:
        """The error being handled, in red, with its traceback folded away."""
        text = traceback.format_exc()
        last = html.escape(text.strip().splitlines()[-1])
        self.trouble.value = (
            f'<div class="bnta-error" style="color:#a40000;line-height:1.4"><b>{last}</b>'
            f"<details><summary>where</summary><pre>{html.escape(text)}</pre></details></div>")

    def _set(self, slider: W.SelectionSlider, options: list, value) -> None:
        """Give a slider other options without a callback in between."""
        quiet, self._quiet = self._quiet, True
        try:
            if list(slider.options) != options:
                slider.options = options
            slider.value = value
        finally:
            self._quiet = quiet


def _choice(description: str, options, value=None, **more) -> W.SelectionSlider:
    return W.SelectionSlider(description=description, options=options, continuous_update=False,
                             value=options[0] if value is None else value, layout=_WIDE,
                             style=_STYLE, **more)


def _image() -> W.Image:
    """A picture in its own size: boxes would stretch it."""
    return W.Image(format="png", layout=W.Layout(align_self="flex-start", max_width="100%"))


def _toggle(options, **more) -> W.ToggleButtons:
    return W.ToggleButtons(options=options, style={"button_width": "100px"}, **more)


def _labelled(label: str, control: W.Widget) -> W.HBox:
    """A label beside buttons, where their own would stand above them."""
    words = W.Label(label, layout=W.Layout(width="96px", display="flex", justify_content="flex-end"))
    return W.HBox([words, control])


# ---------------------------------------------------------------- N and K


class NKExplorer(Explorer):
    """See :func:`nk_explorer`. ``cells`` is what is measured, with what was run by hand."""

    def __init__(self, cells: pd.DataFrame, book: nk.PairBook, settings: Settings, note: str = ""):
        self.cells, self.book, self.settings = cells, book, settings
        self.thread: threading.Thread | None = None
        self._cancelled = threading.Event()
        self._frames: dict[tuple, draw.NKFrame] = {}
        targets = list(book.targets)
        first = PAPERS if PAPERS in targets else targets[0]
        self.target = W.Dropdown(description="target", options=targets, value=first, layout=_WIDE,
                                 style=_STYLE)
        self.split, self.N, self.K = (_choice(name, [0]) for name in ("split", "N", "K"))
        momenta = sorted({*nk.momentum_runs(), settings.tta_momentum})
        self.momentum = _choice("momentum", [(f"{m:g}", m) for m in momenta], settings.tta_momentum)
        self.metric = _toggle([("rank 1", "R1"), ("mAP", "mAP")])
        self.values = _toggle(
            ["measured", "any"],
            tooltips=["the values of Figure 4: answers are stored", "every value: press Run to measure"])
        self.run = W.Button(description="Run", button_style="primary", icon="play",
                            tooltip="adapt with this setting now, and evaluate")
        self.cancel = W.Button(description="Cancel", icon="stop", disabled=True)
        self.progress = W.FloatProgress(min=0, max=1, description="live run", style=_STYLE,
                                        layout=_WIDE)
        self.status = W.HTML(html.escape(note))
        self.curves, self.couples = _image(), _image()
        left = W.VBox([self.target, self.split, self.N, self.K, self.momentum])
        right = W.VBox([_labelled("metric", self.metric), _labelled("N and K", self.values),
                        _labelled("", W.HBox([self.run, self.cancel])), self.progress, self.status])
        super().__init__([W.HBox([left, right])], [self.curves, self.couples])
        self.target.observe(self.on_target, "value")
        self.values.observe(self.on_target, "value")
        self.N.observe(self.on_n, "value")
        for control in (self.split, self.K, self.momentum, self.metric):
            control.observe(self.on_move, "value")
        self.run.on_click(self.on_run)
        self.cancel.on_click(self.on_cancel)
        for target in targets:
            for _, metric in self.metric.options:
                self._frame(target, metric).ready()
        self.on_target()

    def setting(self) -> tuple[str, int, int, int, float]:
        """Target, split, N, K and momentum that the controls stand at."""
        return (self.target.value, self.split.value, self.N.value, self.K.value, self.momentum.value)

    @_callback
    def on_target(self, change=None) -> None:
        """Other splits and sizes; N and K go to the whole gallery and the paper's K."""
        own = self.book.targets[self.target.value]
        fresh = change is None or change["owner"] is self.target
        splits = list(range(len(own.splits)))
        self._set(self.split, splits, 0 if fresh else self.split.value)
        gallery = min(len(split.gallery) for split in own.splits)
        ns = nk.sizes(self.cells, self.target.value, gallery, self.values.value == "any")
        self._set(self.N, ns, ns[-1] if fresh else nk.nearest(ns, self.N.value))
        self._follow(min(self.settings.K, self.N.value // 2) if fresh else self.K.value)
        self._draw()

    @_callback
    def on_n(self, change=None) -> None:
        """The K slider's range follows N: never 2K > N."""
        self._follow(self.K.value)
        self._draw()

    @_callback
    def on_move(self, change=None) -> None:
        self._draw()

    @_callback
    def on_run(self, button=None) -> None:
        """Adapt with the chosen setting on a thread; sliders go on answering meanwhile."""
        if self.thread is not None and self.thread.is_alive():
            return
        self._cancelled.clear()
        self.run.disabled, self.cancel.disabled = True, False
        self.progress.value, self.progress.bar_style = 0, ""
        self.thread = threading.Thread(target=self._work, args=self.setting(), daemon=True)
        self.thread.start()

    @_callback
    def on_cancel(self, button=None) -> None:
        self._cancelled.set()
        self.status.value = "stopping after this batch ..."

    def _work(self, target: str, split: int, n: int, k: int, momentum: float) -> None:
        where = f"{target}, split {split}, N = {n}, K = {k}, momentum {momentum:g}"
        try:
            cell = nk.run_live(self.book.model, self.book.targets[target], split, self.settings, n, k,
                               momentum, self._tick)
            with self._lock:
                # The dict's name of a target, which need not be its set's.
                row = pd.DataFrame([cell | {"target": target}])
                self.cells = pd.concat([self.cells, row], ignore_index=True)
                self._draw()
            self.progress.bar_style = "success"
            self.status.value = (f"{html.escape(where)}: rank 1 {cell['R1']:.1f} %, mAP "
                                 f"{cell['mAP']:.1f} %, {cell['seconds']:.1f} s. It is the star.")
        except nk.Cancelled:
            self.progress.bar_style = "warning"
            self.status.value = f"{html.escape(where)}: cancelled, nothing was added."
        except Exception:
            self.progress.bar_style = "danger"
            self.status.value = f"{html.escape(where)}: failed, see below."
            self._tell_trouble()
        finally:
            self.run.disabled, self.cancel.disabled = False, True

    def _tick(self, stage: str, share: float) -> None:
        if self._cancelled.is_set():
            raise nk.Cancelled
        self.progress.value = share
        self.status.value = f"{stage} ..."

    def _frame(self, target: str, metric: str) -> draw.NKFrame:
        """The axes for a target and metric, made anew where a live run has added to its cells."""
        own = self.cells[self.cells["target"] == target]
        key = target, metric, len(own)
        if key not in self._frames:
            largest = min(len(split.gallery) for split in self.book.targets[target].splits)
            self._frames[key] = draw.NKFrame(own, metric, largest)
        return self._frames[key]

    def _follow(self, wanted: int) -> None:
        ks = nk.pair_choices(self.cells, self.target.value, self.N.value, self.values.value == "any")
        self._set(self.K, ks, nk.nearest(ks, wanted))

    def _draw(self) -> None:
        target, split, n, k, momentum = self.setting()
        metric, cells = self.metric.value, self.cells
        lines = {f"{along} {which}": nk.curve(
            cells, target, momentum, split=split if which == "split" else None,
            **({"n": n} if along == "K" else {"k": k}))
            for along in ("K", "N") for which in ("split", "mean")}
        live = cells[cells["live"].astype(bool) & (cells["target"] == target)
                     & (cells["split"] == split) & ((cells["momentum"] - momentum).abs() < 1e-9)]
        frozen = nk.find(cells, target, split, 0, 0, math.nan)
        figure = self._frame(target, metric).show(
            lines, nk.find(cells, target, split, n, k, momentum), live,
            math.nan if frozen is None else float(frozen[metric]), n, k)
        pairs = self.book.pairs(target, split, n, k)
        couples = draw.couples_picture(self.book.images(target, split, n), pairs, self.settings,
                                       nk.shown_pairs(k, 6))
        self.curves.value, self.couples.value = draw.png(figure), draw.png(couples)
        self._say(nk.sentence(cells, target, split, n, k, momentum, metric))


def nk_explorer(
    profile: str | Settings | None = None,
    data: str = "embedded",
    *,
    rows: pd.DataFrame | None = None,
    model: BNTANet | None = None,
    targets: Mapping[str, Target] | None = None,
    progress: bool = True,
) -> NKExplorer:
    """Sliders for N, K, target, split and momentum over what is measured, and a button to measure.

    ``profile`` and ``data`` as in the notebooks. ``rows`` (of :func:`bnta_lib.suite.grid.grid_rows`),
    ``model`` and ``targets``: where they are at hand. What the results store has for this model and
    these targets is added. The rows committed with the suite fill the cells that neither has, if they
    are of this model; a note in the explorer names them. Embeds all targets and pairs all samples once.
    Raises what :func:`~bnta_lib.data.load_targets` and :func:`~bnta_lib.training.trained_model` raise.
    """
    current = profile if isinstance(profile, Settings) else load_settings(profile)
    targets = load_targets(current, data, progress=progress) if targets is None else targets
    model = trained_model(current, progress=progress, data=data) if model is None else model
    book = nk.PairBook(model, targets, current)
    measured = [] if rows is None else [nk.cells_of(rows, current)]
    measured.append(nk.known_cells(model, targets, current))
    measured = [cells for cells in measured if len(cells)]
    recorded, note = _exported(book, targets, current, data)
    if measured and recorded.empty:
        note = ""
    kept = [*measured, recorded] if len(recorded) else measured or [recorded]
    cells = pd.concat(kept, ignore_index=True)
    cells = cells.drop_duplicates(nk.KEYS, keep="first", ignore_index=True)
    book.prepare(cells, progress)
    return NKExplorer(cells, book, current, note)


def _exported(book, targets, settings: Settings, data: str) -> tuple[pd.DataFrame, str]:
    """The committed rows where they fit, else none, and a sentence on which."""
    empty = pd.DataFrame(columns=nk.COLUMNS).astype({"live": bool})
    if data != "embedded":
        return empty, "Nothing is measured on this folder yet: run 10_figure_4 on it, or press Run."
    try:
        cells = nk.exported_cells(targets, settings)
    except FileNotFoundError as error:
        return empty, str(error)
    name = next(iter(targets))
    if not nk.belongs(cells, name, 0, book.frozen_scores(name, 0)):
        return empty, ("The rows committed with the suite are of other weights than these: run "
                       "10_figure_4, or press Run.")
    return cells, ("Numbers: this machine's where it has them, else the rows committed with the suite, with "
                   "the seconds of their machine.")


# ---------------------------------------------------------------- layers


class LayerExplorer(Explorer):
    """See :func:`layer_explorer`."""

    def __init__(self, books: Mapping[str, layers.LayerBook], layer: str | None = None):
        self.books, self.frame = dict(books), draw.LayerFrame()
        book = next(iter(self.books.values()))
        start = book.layers.index(layer) + 1 if layer else 1
        self.target = W.Dropdown(description="target", options=list(self.books), style=_STYLE,
                                 layout=_WIDE)
        self.index = W.IntSlider(description="BN layer", min=1, max=len(book.layers), value=start,
                                 continuous_update=False, layout=_WIDE, style=_STYLE)
        self.channel = W.IntSlider(description="channel", min=0, max=1, value=0, layout=_WIDE,
                                   continuous_update=False, style=_STYLE)
        self.values = _toggle([("y = γx̂ + β", True), ("x̂", False)])
        self.image = _image()
        hint = W.HTML('<span style="color:#555">channel 0: all channels together</span>')
        controls = [W.HBox([W.VBox([self.target, _labelled("values", self.values)]),
                            W.VBox([self.index, W.HBox([self.channel, hint])])])]
        super().__init__(controls, [self.image])
        self.index.observe(self.on_layer, "value")
        for control in (self.target, self.channel, self.values):
            control.observe(self.on_move, "value")
        self.on_layer()

    @_callback
    def on_layer(self, change=None) -> None:
        """The channel slider's range follows the layer."""
        book = self.books[self.target.value]
        self._quiet = True
        try:
            name = layers.layer_name(book, self.index.value)
            self.channel.max = len(book.affine["source"][name][0])
            self.channel.value = 0
        finally:
            self._quiet = False
        self._draw()

    @_callback
    def on_move(self, change=None) -> None:
        self._draw()

    def _draw(self) -> None:
        book, index = self.books[self.target.value], self.index.value
        channel, name = self.channel.value or None, layers.layer_name(book, index)
        values = layers.outputs(book, index, channel, self.values.value)
        edges, densities = layers.densities(values)
        if channel is None:
            distances = {kind: book.distances[kind][index - 1] for kind in ("frozen", "adapted")}
        else:
            distances = layers.channel_distance(values)
        # d is that of the outputs y: beside the normalised values it would be another thing.
        distances = distances if self.values.value or channel else {}
        what = "output" if self.values.value else "normalised input"
        label = f"{what} of {name.removeprefix('backbone.')}"
        figure = self.frame.show(
            densities, edges, distances, book.changes[name], book.rates.loc[index].to_dict(),
            label + (f", channel {channel}" if channel else ""), channel)
        self.image.value = draw.png(figure)
        self._say(layers.layer_sentence(book, index))


def layer_explorer(
    model: BNTANet,
    targets: Mapping[str, Target],
    sources: Sequence[ReIDSet],
    settings: Settings,
    split: int = 0,
    seed: int = 0,
    layer: str | None = None,
) -> LayerExplorer:
    """Any BN layer: its outputs on source and target, and the change of μ, σ², γ and β.

    Adapts to one split of each target and passes some images through the models; the sliders then need
    no network. ``layer``: the one to begin with, by name. Takes any targets and sources.
    """
    return LayerExplorer(layers.layer_books(model, targets, sources, settings, split, seed), layer)


# ---------------------------------------------------------------- retrieval


class RetrievalExplorer(Explorer):
    """See :func:`retrieval_explorer`."""

    def __init__(self, probes: Tensor, gallery: Tensor, before: Ranking, after: Ranking):
        self.probes, self.gallery, self.before, self.after = probes, gallery, before, after
        self.order = W.Dropdown(description="probes", options=retrieval.ORDERS, style=_STYLE,
                                layout=_WIDE)
        self.place = W.IntSlider(description="number", min=1, max=len(probes), value=1, layout=_WIDE,
                                 continuous_update=False, style=_STYLE)
        self.image = _image()
        super().__init__([W.HBox([self.order, self.place])], [self.image])
        for control in (self.order, self.place):
            control.observe(self.on_move, "value")
        self.on_move()

    @property
    def probe(self) -> int:
        """The probe that is shown, as a row of the probes."""
        order = retrieval.probe_order(self.before, self.after, self.order.value)
        return int(order[self.place.value - 1])

    @_callback
    def on_move(self, change=None) -> None:
        probe = self.probe
        rows = {"before": (self.before, probe), "after": (self.after, probe)}
        self.image.value = draw.png(draw.ranking_picture(self.probes[probe], self.gallery, rows))
        self._say(retrieval.rank_sentence(probe, self.before, self.after))


def retrieval_explorer(
    target: Target, split: Split, before: Ranking, after: Ranking
) -> RetrievalExplorer:
    """Any probe of a split: its gallery ranking before and after adaption, right ones marked.

    ``before`` and ``after``: of :func:`bnta_lib.explore.retrieval.ranking_of`, or of
    :func:`bnta_lib.evaluation.top_gallery` on the split's images. Takes any target.
    """
    images = target.data.images
    return RetrievalExplorer(images[split.probe], images[split.gallery], before, after)


# ---------------------------------------------------------------- domains


class DomainExplorer(Explorer):
    """See :func:`domain_explorer`."""

    def __init__(self, scenes: Mapping[str, domains.Scene], model: BNTANet, shown: int = 7):
        self.scenes, self.model, self.shown = dict(scenes), model, shown
        pictures = {name: domains.seen(of) for name, of in self.scenes.items()}
        self._set_pictures = {name: images[:shown] for name, images in pictures.items()}
        self._set_moments = {name: domains.stem_moments(model, p) for name, p in pictures.items()}
        self.frame = draw.StemFrame(pd.concat([self._stem(name, domains.seen(of, **{what: end}))
                                               for name, of in self.scenes.items()
                                               for what, ends in domains.TURNED.items()
                                               for end in ends[:2]]))
        self.domain = W.Dropdown(description="place", options=list(self.scenes), style=_STYLE,
                                 layout=_WIDE)
        self.sliders = {name: W.FloatSlider(description=name, min=low, max=high, step=step, value=low,
                                            readout_format=".3f" if step < 0.01 else ".2f",
                                            continuous_update=False, layout=_WIDE, style=_STYLE)
                        for name, (low, high, step) in domains.TURNED.items()}
        self.reset = W.Button(description="As in the set", icon="undo")
        self.people, self.stem = _image(), _image()
        sliders = list(self.sliders.values())
        controls = [W.HBox([W.VBox([self.domain, *sliders[:2]]), W.VBox([self.reset, *sliders[2:]])])]
        super().__init__(controls, [self.people, self.stem], sideways=True)
        for control in sliders:
            control.observe(self.on_move, "value")
        self.domain.observe(self.on_domain, "value")
        self.reset.on_click(self.on_domain)
        self.on_domain()
        exposure = self.sliders["exposure"]  # begins with something moved: half the light
        exposure.value = max(exposure.min, exposure.value / 2)

    def _stem(self, name: str, images: Tensor) -> pd.DataFrame:
        moved = domains.stem_moments(self.model, images)
        return domains.stem_statistics(self.model, self._set_moments[name], moved)

    @_callback
    def on_domain(self, change=None) -> None:
        """All sliders go to what the set's own cameras have, on average."""
        self._quiet = True
        try:
            for name, value in self.scenes[self.domain.value].own().items():
                self.sliders[name].value = value
        finally:
            self._quiet = False
        self._draw()

    @_callback
    def on_move(self, change=None) -> None:
        self._draw()

    def _draw(self) -> None:
        of = self.scenes[self.domain.value]
        own, turned = of.own(), {name: slider.value for name, slider in self.sliders.items()}
        # A slider that was not moved leaves each camera its own value.
        moved = {name: value for name, value in turned.items() if abs(value - own[name]) > 1e-9}
        images = domains.seen(of, **moved)
        stem = self._stem(of.name, images)
        people = draw.people_picture({"as in\nthe set": self._set_pictures[of.name],
                                      "moved": images[: self.shown]})
        self.people.value, self.stem.value = draw.png(people), draw.png(self.frame.show(stem))
        self._say(domains.domain_sentence(of, stem, turned))


def domain_explorer(
    model: BNTANet, settings: Settings, names: Sequence[str] = ("VIPeR", "GRID", "iLIDS"),
    people: int = 48,
) -> DomainExplorer:
    """Exposure, haze, resolution and noise of an embedded place under sliders, on the same people.

    Beside them: mean and deviation of what enters the first BN layer, over ``people`` pictures, against
    what that layer has stored. Of the embedded benchmark: a folder's crops cannot be taken again.
    """
    return DomainExplorer({name: domains.scene_of(name, settings.size, people) for name in names}, model)
