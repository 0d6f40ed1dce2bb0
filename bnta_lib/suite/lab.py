"""The one object that a notebook opens: settings, targets, models, measured rows, and what is written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from bnta_lib.data import SOURCES, load_source, load_source_samples, load_targets, real_root
from bnta_lib.data.published import protocol_note
from bnta_lib.data.sets import ReIDSet, Target
from bnta_lib.model import BNTANet
from bnta_lib.settings import model_settings, settings
from bnta_lib.suite.runner import Measurer, Unit, measure
from bnta_lib.suite.runs import run_name, versions
from bnta_lib.suite.specs import TABLES, Spec, Table
from bnta_lib.suite.sweeps import KINDS, TARGET
from bnta_lib.suite.train import trained_model, trained_on
from bnta_lib.suite.writer import save_rows, save_table


class Lab:
    """Settings, data, models and measurements of one run. Sets the suite's style of figures.

    ``data``: "embedded", "real" for the published sets below ``$BNTA_DATA``, or a folder. ``overrides``:
    settings that differ from the profile's. Raises ValueError for what does not exist.
    """

    def __init__(self, profile: str | None = None, data: str | Path = "embedded", progress: bool = True,
                 **overrides):
        from bnta_lib.figures.base import use_style

        use_style()
        self.settings = settings(profile, **overrides)
        self.data, self.progress = data, progress
        # Names what it writes: other settings must not overwrite the profile's own figures and tables.
        self.run = "+".join([run_name(self.settings.profile, data),
                             *(f"{name}={value}" for name, value in overrides.items())])
        self._models: dict[str, BNTANet] = {}

    def __str__(self) -> str:
        return f"{versions()}; {self.run}"

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
        if what == "headroom":
            return self._headroom()
        if isinstance(what, str) and what not in TABLES:
            raise ValueError(f"unknown table {what!r}: there are {', '.join(TABLES)} and headroom")
        if unknown := [name for name in targets or () if name not in self.targets]:
            raise ValueError(f"no target {unknown[0]!r}: the targets are {', '.join(self.targets)}")
        sets = {name: self.targets[name] for name in targets or self.targets}
        if isinstance(what, str):
            return self._measure(TABLES[what], sets, what, seeds, splits).assign(table=what)
        return self._measure([Table(tuple(what))], sets, "rows", seeds, splits)

    def _measure(self, parts: Iterable[Table], targets: Mapping[str, Target], title: str,
                 seeds: int | Sequence[int] | None = None, splits: Sequence[int] | None = None):
        galleries = {name: min(len(split.gallery) for split in target.splits)
                     for name, target in targets.items()}
        units = []
        for part in parts:
            for name, spec, count in part.plan(galleries, self.settings):
                count = count if seeds is None or spec.adapter == "none" else seeds
                units += [Unit(part.experiment, name, spec, split, seed)
                          for split in splits or part.splits or range(len(targets[name].splits))
                          for seed in (range(count) if isinstance(count, int) else count)]
        by_training = {}
        for training in dict.fromkeys(unit.spec.training for unit in units):
            trained = model_settings(self.settings, training)
            by_training[training] = targets if trained.size == self.settings.size else load_targets(
                trained, self.data, progress=self.progress)
        models = {name: self.model(name) for name in by_training}
        sources = self.sources if units[0].experiment == "shift" else ()
        return measure(Measurer(self.settings, models, by_training, sources), units, self.progress, title)

    def _headroom(self) -> pd.DataFrame:
        """Ranks of every kind of set; of published ones there are no held-out people or neutral cameras."""
        settings, progress = replace(self.settings, ilids_images="single"), self.progress
        if real_root(self.data):
            sets = {TARGET: load_targets(settings, self.data, progress=progress)}
        else:
            heldout = {name: load_source(settings, name, "heldout", progress=progress) for name in SOURCES}
            sets = dict(zip(KINDS, (heldout, load_targets(settings, progress=progress),
                                    load_targets(settings, photometric=False, progress=progress))))
        parts = []
        for kind, targets in sets.items():
            spec = Spec("BNTA w/o TTA", adapter="none", labels={"part": kind})
            parts.append(self._measure([Table((spec,), experiment="headroom")], targets, kind))
        return pd.concat(parts, ignore_index=True).assign(table="headroom")

    def save(self, figure, name: str, alt: str = ""):
        """Write a figure as PDF and PNG under the run's figures, and show it; ``alt``: what it shows."""
        from bnta_lib.figures.base import save_figure

        return save_figure(figure, name, self.run, alt)

    def save_table(self, frame: pd.DataFrame, name: str, note: str = "", rows: pd.DataFrame | None = None,
                   images: str | None = None) -> pd.DataFrame:
        """Write a table as :func:`.writer.save_table` does, :attr:`about` below it; return it for display,
        with "–" for what is missing."""
        save_table(frame, name, self.run, f"{note} {self.about}".strip(), rows, images)
        return frame.astype(object).where(frame.notna(), "–")

    def save_rows(self, rows: pd.DataFrame, name: str) -> Path:
        """Write rows as CSV; returns the path."""
        return save_rows(rows, name, self.run)
