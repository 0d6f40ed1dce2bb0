"""The one object that a notebook opens: settings, targets, models, measured rows, and what is written."""

import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from bnta_lib.data import SOURCES, load_source, load_source_samples, load_targets, real_root
from bnta_lib.data.published import names_cameras, protocol_note
from bnta_lib.data.sets import ReIDSet, Target
from bnta_lib.files import atomic
from bnta_lib.model import BNTANet
from bnta_lib.settings import model_settings, settings
from bnta_lib.suite.runner import Measurer, Unit, measure
from bnta_lib.suite.runs import caution, figures_dir, run_name
from bnta_lib.suite.samples import images_of
from bnta_lib.suite.specs import TABLES, Spec, Table
from bnta_lib.suite.sweeps import KINDS, TARGET
from bnta_lib.suite.train import trained_model, trained_on

# The images that a table of any run may be of, and not of the run's data; see :func:`write_table`.
RENDERED = "rendered counterparts of the paper's data sets"


class Lab:
    """Settings, data, models and measurements of one run. Sets the suite's style of figures.

    ``data``: "embedded", "real" for the published sets below ``$BNTA_DATA``, or a folder. ``overrides``:
    settings that differ from the profile's. Raises ValueError for what does not exist.
    """

    def __init__(self, profile: str | None = None, data: str | Path = "embedded", progress: bool = True,
                 **overrides):
        with suppress(ImportError):  # what draws may be absent from a machine that measures alone
            from bnta_lib.figures.base import use_style

            use_style()
        self.settings = settings(profile, **overrides)
        self.data, self.progress = data, progress
        # Names what it writes: other settings must not overwrite the profile's own figures and tables.
        self.run = "+".join([run_name(self.settings.profile, data),
                             *(f"{name}={value}" for name, value in overrides.items())])
        self._models: dict[str, BNTANet] = {}

    def __str__(self) -> str:
        """The libraries that decide results, the machine's kind, and the run."""
        own, *others = [f"{name} {version(name)}" for name in
                        ("bnta_lib", "torch", "torchvision", "numpy", "pandas", "matplotlib")]
        machine = f"{sys.platform} {platform.machine()}; {self.run}"
        return ", ".join([own, f"Python {platform.python_version()}", *others, machine])

    @cached_property
    def targets(self) -> dict[str, Target]:
        """The targets by name."""
        return load_targets(self.settings, self.data, progress=self.progress)

    @cached_property
    def sources(self) -> list[ReIDSet]:
        """Some images of each source, to compare a target's with."""
        return list(load_source_samples(self.settings, self.data, progress=self.progress).values())

    @cached_property
    def about(self) -> str:
        """For under a table: protocols and what was trained on; "" if embedded."""
        return protocol_note(self.targets, trained_on(self.settings, self.data))

    def model(self, name: str = "bnta") -> BNTANet:
        """A trained model in eval mode. Raises FileNotFoundError if its weights are absent."""
        if name not in self._models:
            self._models[name] = trained_model(self.settings, name, self.progress, data=self.data)
        return self._models[name]

    def measure(self, what: str | Sequence[Spec], seeds: int | Sequence[int] | None = None,
                targets: Sequence[str] | None = None, splits: Sequence[int] | None = None) -> pd.DataFrame:
        """Rows of a table, of "changes", "shift" or "headroom", or of specs: a row a measured number.

        What the store lacks is measured. ``seeds`` (how many, or which), ``targets`` and ``splits`` are the
        table's unless given. Raises ValueError if one is unknown, FileNotFoundError if weights are absent.
        """
        title = what if isinstance(what, str) else "rows"
        if isinstance(what, str) and what not in (*TABLES, "headroom"):
            raise ValueError(f"unknown table {what!r}: there are {', '.join(TABLES)} and headroom")
        if unknown := [name for name in targets or () if name not in self.targets]:
            raise ValueError(f"no target {unknown[0]!r}: the targets are {', '.join(self.targets)}")
        if what == "headroom":
            plans = self.plan_headroom()
        else:
            parts = TABLES[what] if isinstance(what, str) else [Table(tuple(what))]
            sets = {name: self.targets[name] for name in targets or self.targets}
            plans = [self.plan(parts, sets, seeds, splits)]
        if not any(units for _, units in plans):
            raise ValueError(f"nothing of {title} to measure on {', '.join(targets or self.targets)}: it "
                             "takes 4 images or more to adapt on, and by camera the camera of each")
        rows = pd.concat([measure(*plan, self.progress, title) for plan in plans], ignore_index=True)
        if self.progress:
            print(f"{title}: {origin(rows)}")
        return rows.assign(table=title)

    def plan(self, parts: Iterable[Table], targets: Mapping[str, Target], seeds=None,
             splits=None) -> tuple[Measurer, list[Unit]]:
        """What measures these parts of tables on these targets, and the units of each."""
        galleries = {name: min(len(split.gallery) for split in target.splits)
                     for name, target in targets.items()}
        units = []
        for part in parts:
            for name, spec, count in part.plan(galleries, self.settings):
                count = count if seeds is None or spec.adapter == "none" else seeds
                if _applies(part.experiment, spec, targets[name]):
                    units += [Unit(part.experiment, name, spec, split, seed)
                              for split in splits or part.splits or range(len(targets[name].splits))
                              for seed in (range(count) if isinstance(count, int) else count)]
        by_training = {}
        for training in dict.fromkeys(unit.spec.training for unit in units):
            trained = model_settings(self.settings, training)
            same = all(getattr(trained, name) == getattr(self.settings, name)
                       for name in ("size", "misaligned"))
            by_training[training] = targets if same else load_targets(
                trained, self.data, progress=self.progress)
        models = {name: self.model(name) for name in by_training}
        shift = {"shift", "camera_shift"} & {unit.experiment for unit in units}
        sources = self.sources if shift else ()
        return Measurer(self.settings, models, by_training, sources), units

    def plan_headroom(self) -> list[tuple[Measurer, list[Unit]]]:
        """Plans for ranks on every kind of set. Of published sets nobody is held out, no camera neutral."""
        settings, progress = replace(self.settings, ilids_images="single"), self.progress
        if real_root(self.data):
            sets = {TARGET: load_targets(settings, self.data, progress=progress)}
        else:
            heldout = {name: load_source(settings, name, "heldout", progress=progress) for name in SOURCES}
            sets = dict(zip(KINDS, (heldout, load_targets(settings, progress=progress),
                                    load_targets(settings, photometric=False, progress=progress))))
        return [self.plan([Table((Spec("BNTA w/o TTA", adapter="none", labels={"part": kind}),),
                                 experiment="headroom")], targets) for kind, targets in sets.items()]

    def save(self, figure, name: str, alt: str = "", rows: pd.DataFrame | None = None):
        """Write a figure as PDF and PNG, and show it. ``alt``: what it shows; ``rows``: its data."""
        from bnta_lib.figures.base import save_figure

        return save_figure(figure, name, self.run, alt, "" if rows is None else origin(rows))

    def save_table(self, frame: pd.DataFrame, name: str, note: str = "", rows: pd.DataFrame | None = None,
                   images: str | None = None) -> pd.DataFrame:
        """:func:`write_table` with :attr:`about` below; the table for display, "–" for what is missing."""
        write_table(frame, name, self.run, f"{note} {self.about}".strip(), rows, images)
        return frame.astype(object).where(frame.notna(), "–")

    def save_rows(self, rows: pd.DataFrame, name: str) -> Path:
        """Write rows as CSV, without seconds, the machine and the day; return the path."""
        kept = rows[rows["unit"] != "s"] if "unit" in rows else rows
        kept = kept.drop(columns=["seconds", "machine", "measured_on", "recorded", "table"], errors="ignore")
        return _write(figures_dir(self.run) / f"{name}.csv", kept.round(6).to_csv(index=False))


def _applies(experiment: str, spec: Spec, target: Target) -> bool:
    """Whether a target has the images that a spec adapts on, and names the cameras that it needs."""
    by_camera = spec.by != "place" or experiment == "camera_shift"
    if by_camera and not names_cameras(target):
        return False
    camids = target.data.camids[images_of(target, target.splits[0], spec.images)]
    enough = (spec.N or 0) < camids.unique(return_counts=True)[1].median() if by_camera else True
    return len(camids) >= 4 and bool(enough)


def write_table(table: pd.DataFrame, name: str, run: str, note: str = "", rows: pd.DataFrame | None = None,
                images: str | None = None) -> list[Path]:
    """Write ``name``.csv, .md and .tex under the run's figures, with a plain note; return the paths.
    ``rows``: those that the table was made from. ``images``: on what, if not on those of the run."""
    lines = f"{note}\n\n{provenance(table, run, rows, images)}".strip().splitlines()
    # A rounded -0.0 is written as 0.0.
    table = table.apply(lambda column: column + 0.0 if column.dtype.kind == "f" else column)
    texts = {"csv": table.to_csv(), "md": "\n".join([markdown(table), "", *map(_text, lines), ""]),
             "tex": "".join(f"% {line}\n" for line in lines) + latex(table)}
    return [_write(figures_dir(run) / f"{name}.{kind}", text) for kind, text in texts.items()]


def provenance(table: pd.DataFrame, run: str, rows: pd.DataFrame | None, images: str | None) -> str:
    """What a table was measured on: profile, images, splits and adaption seeds."""
    name, *changes = run.split("+")
    profile, _, folder = name.partition("_")
    if images is None:
        images = "images of the folder that the run was given" if folder else RENDERED
    changed = f" with {', '.join(changes)}" if changes else ""
    parts = [f"Profile {profile}{changed}{', ' if images else ''}{images}.", caution(run)]
    if rows is not None:
        for name, numbers in rows.groupby("target", sort=False)[["split", "seed"]].nunique().items():
            each = ", ".join(f"{target} {number}" for target, number in numbers.items())
            parts.append(f"{name.capitalize()}s: {numbers.iloc[0] if numbers.nunique() == 1 else each}.")
        parts.append(origin(rows))
    if table.map(lambda value: isinstance(value, str) and "±" in value).any(axis=None):
        parts.append("±: standard deviation over splits, adaption seeds averaged first.")
    return " ".join(filter(None, parts))


def origin(rows: pd.DataFrame) -> str:
    """When and on what these rows were measured, and how many of them here."""
    recorded = rows[rows["recorded"] > 0]
    days = sorted({*recorded["measured_on"]})
    when = "" if recorded.empty else "recorded {} on {}, ".format(
        " to ".join(dict.fromkeys([days[0], days[-1]])), "; ".join(sorted({*recorded["machine"]})))
    return f"{len(rows):,} numbers: {when}{len(rows) - len(recorded):,} measured here."


def _write(path: Path, text: str) -> Path:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


# What begins markup within a line of Markdown; an underscore between letters, as in L_mat, does not.
_MARKUP = re.compile(r"[\\`*~$\[|<&]|(?<![^\W_])_|_(?![^\W_])")


def _text(value: object) -> object:
    """Text on one line that Markdown shows as it is: names of folders may hold markup."""
    if isinstance(value, tuple):  # of a column's levels
        value = " ".join(map(str, value)).strip()
    if isinstance(value, str):
        return _MARKUP.sub(r"\\\g<0>", " ".join(value.splitlines()))
    return "–" if pd.isna(value) else value


def markdown(table: pd.DataFrame) -> str:
    """A table as GitHub Markdown. Levels of index and columns are joined with a space."""
    flat = table.reset_index(names=[name or "" for name in table.index.names]).map(_text)
    flat.columns = flat.columns.to_flat_index().map(_text)
    # Text stays as it is printed: 48.0 is not 48.
    return flat.to_markdown(index=False, disable_numparse=True)


_SYMBOLS = str.maketrans({
    "±": r"$\pm$", "–": "--", "×": r"$\times$", "≤": r"$\leq$", "→": r"$\rightarrow$", "²": "$^2$",
    "η": r"$\eta$", "φ": r"$\varphi$", "λ": r"$\lambda$", "μ": r"$\mu$", "σ": r"$\sigma$", "γ": r"$\gamma$",
    "β": r"$\beta$", "<": "$<$", ">": "$>$"})

_SPECIAL = str.maketrans({symbol: rf"\{symbol}" for symbol in "&%$#_{}"})


def latex(table: pd.DataFrame) -> str:
    """A table as a LaTeX ``tabular`` (needs booktabs), without a caption."""
    table = table.rename_axis(index=lambda name: (name or "").translate(_SPECIAL),
                              columns=lambda name: name and name.translate(_SPECIAL))
    style = table.style.format(
        lambda value: f"{value:g}" if isinstance(value, float) else value, na_rep="--", escape="latex")
    for axis in ("index", "columns"):
        style.format_index(escape="latex", axis=axis)
    text = style.to_latex(hrules=True, multirow_align="naive", multicol_align="c")
    # A row that begins with a bracket would be an argument of the line break before it.
    return text.translate(_SYMBOLS).replace("\n[", "\n{[}")
