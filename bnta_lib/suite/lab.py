"""The one object that a notebook opens: settings, targets, models, measured rows, and what is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from bnta_lib.data import SOURCES, load_source, load_source_samples, load_targets, real_root
from bnta_lib.data.sets import ReIDSet, Target
from bnta_lib.data.splits import protocol_note, with_protocol
from bnta_lib.model import BNTANet
from bnta_lib.settings import run_name, settings
from bnta_lib.suite.environment import versions
from bnta_lib.suite.headroom import KINDS
from bnta_lib.suite.runner import Bench, Unit, measure
from bnta_lib.suite.specs import TABLES, Spec, Table
from bnta_lib.suite.writer import save_rows, save_table
from bnta_lib.suite.train import trained_model, trained_on
from bnta_lib.weights import model_settings


class Lab:
    """Settings, data, models and measurements of one run. Sets the suite's style of figures.

    ``data``: "embedded", "real" for the published sets below ``$BNTA_DATA``, or a folder.
    ``overrides``: settings that differ from the profile's.

    Raises:
        ValueError: for an unknown profile or setting, or data that is no folder.
    """

    def __init__(self, profile: str | None = None, data: str | Path = "embedded", progress: bool = True,
                 **overrides):
        from bnta_lib.figures.base import use_style

        use_style()
        self.settings = settings(profile, **overrides)
        self.data, self.progress = data, progress
        # Names what it writes: other settings must not overwrite the profile's own figures and tables.
        self.run = "+".join([run_name(self.settings.profile, data), *(f"{k}={v}" for k, v in overrides.items())])
        self._models: dict[str, BNTANet] = {}

    def __str__(self) -> str:
        """Versions, and the name of the run."""
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
    def trained_on(self) -> str:
        """The published sets that models were trained on; "" for the embedded ones."""
        return trained_on(self.settings, self.data)

    @cached_property
    def about(self) -> str:
        """For under a table: protocols and what was trained on; "" if embedded."""
        return protocol_note(self.targets, self.trained_on)

    def model(self, name: str = "bnta") -> BNTANet:
        """A trained model in eval mode. Raises FileNotFoundError if its weights are absent."""
        if name not in self._models:
            self._models[name] = trained_model(self.settings, name, self.progress, data=self.data)
        return self._models[name]

    def models(self, *names: str) -> dict[str, BNTANet]:
        """Trained models by name."""
        return {name: self.model(name) for name in names}

    def measure(
        self, what: str | Sequence[Spec], seeds: int | Sequence[int] | None = None,
        targets: Iterable[str] | Mapping[str, Target] | None = None, splits: Sequence[int] | None = None,
    ) -> pd.DataFrame:
        """Rows of a table, of "changes", "shift" or "headroom", or of specs: a row a measured number.

        What the store lacks is measured. Rows of a table have its name in the column ``table``.

        seeds    how many, or which; default: the table's rule
        targets  names, or others than the lab's own
        splits   which; default: all, of "shift" the first

        Raises:
            ValueError: for an unknown table, target or split.
            FileNotFoundError: if weights are absent.
        """
        if what == "headroom":
            return self._headroom()
        if isinstance(what, str) and what not in TABLES:
            raise ValueError(f"unknown table {what!r}: there are {', '.join(TABLES)} and headroom")
        chosen = self._targets(targets)
        smallest = {name: min(len(split.gallery) for split in target.splits)
                    for name, target in chosen.items()}
        units = []
        for part in TABLES[what] if isinstance(what, str) else (Table(tuple(what)),):
            for name, spec, count in part.plan(smallest, self.settings):
                count = count if seeds is None or spec.adapter == "none" else seeds
                units += [Unit(part.experiment, name, spec, split, seed)
                          for split in splits or part.splits or range(len(chosen[name].splits))
                          for seed in (range(count) if isinstance(count, int) else count)]
        rows = self._measure(units, chosen, what if isinstance(what, str) else "rows")
        return rows.assign(table=what) if isinstance(what, str) else rows

    def _targets(self, targets) -> Mapping[str, Target]:
        if targets is None or isinstance(targets, Mapping):
            return targets or self.targets
        if unknown := [name for name in targets if name not in self.targets]:
            raise ValueError(f"no target {unknown[0]!r}: the targets are {', '.join(self.targets)}")
        return {name: self.targets[name] for name in targets}

    def _measure(self, units: Sequence[Unit], targets: Mapping[str, Target], title: str) -> pd.DataFrame:
        by_training = {}
        for training in dict.fromkeys(unit.spec.training for unit in units):
            own = model_settings(self.settings, training)
            same = own.size == self.settings.size
            if not same and targets is not self.targets and not all(n in self.targets for n in targets):
                raise ValueError(f"{training} takes images of {own.size[0]} x {own.size[1]} pixels: give it targets "
                                 "by name, so that they are loaded at its size")
            by_training[training] = targets if same else load_targets(own, self.data, progress=self.progress)
        sources = self.sources if units[0].experiment == "shift" else ()
        bench = Bench(self.settings, self.models(*by_training), by_training, sources)
        return measure(bench, units, self.progress, title)

    def _headroom(self) -> pd.DataFrame:
        """Ranks of every kind of set; of published ones there are no held-out people or neutral cameras."""
        own, more = replace(self.settings, ilids_images="single"), {"progress": self.progress}
        root = real_root(self.data)
        loads = {KINDS[1]: lambda: load_targets(own, self.data if root else "embedded", **more)}
        if not root:
            loads[KINDS[0]] = lambda: {name: load_source(own, name, "heldout", **more) for name in SOURCES}
            loads[KINDS[2]] = lambda: load_targets(own, photometric=False, **more)
        parts = []
        for kind in (kind for kind in KINDS if kind in loads):
            spec, sets = Spec("BNTA w/o TTA", adapter="none", labels={"part": kind}), loads[kind]()
            units = [Unit("headroom", name, spec, split, 0) for name, target in sets.items()
                     for split in range(len(target.splits))]
            parts.append(self._measure(units, sets, kind))
        return pd.concat(parts, ignore_index=True).assign(table="headroom")

    def save(self, figure, name: str, alt: str = ""):
        """Write a figure as PDF and PNG under the run's figures, and show it; ``alt``: what it shows."""
        from bnta_lib.figures.base import save_figure

        return save_figure(figure, name, self.run, alt)

    def save_table(self, frame: pd.DataFrame, name: str, note: str = "", rows: pd.DataFrame | None = None,
                   images: str | None = None) -> pd.DataFrame:
        """Write a table as CSV, Markdown and LaTeX with its note and :attr:`about`; returns it for display.

        ``rows``: those that it was made from. ``images``: on what, if not on what the run's name says.
        """
        save_table(frame, name, self.run, f"{note} {self.about}".strip(), rows, images)
        return frame

    def save_rows(self, rows: pd.DataFrame, name: str) -> Path:
        """Write rows as CSV, with protocols and sources where there are such; returns the path."""
        return save_rows(with_protocol(rows, self.targets, self.trained_on), name, self.run)
