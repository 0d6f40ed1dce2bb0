"""The command that checks the paper's claims: ``python -m bnta_lib.suite.claims``.

It measures what the claims need, or reads it from the store, prints a verdict on each (see
:mod:`bnta_lib.suite.judge`) and writes them with a figure.
"""

from __future__ import annotations

import argparse
import errno
import math
import shlex
import sys
from collections.abc import Sequence

import pandas as pd

from bnta_lib.data import load_targets
from bnta_lib.data.sets import Target
from bnta_lib.data.splits import protocol_note
from bnta_lib.settings import Settings, caution, data_folder, run_name, settings
from bnta_lib.suite.ablations import PAPER_TARGET, table_3_rows, table_4_rows, table_5_rows
from bnta_lib.suite.changes import steps_at
from bnta_lib.suite.environment import check_cache, shown
from bnta_lib.suite.experiments import change_rows, table_2_rows
from bnta_lib.suite.grid import grid_rows
from bnta_lib.suite.judge import claims_on, judge, time_rows, trend_rows
from bnta_lib.suite.stats import VERDICTS, in_unit
from bnta_lib.suite.writer import save_table
from bnta_lib.suite.train import trained_model, trained_on
from bnta_lib.weights import TABLE_3_MODELS

NOTE = (
    "here and paper: the same difference in our numbers and in the paper's, in points of rank 1 unless another "
    "unit is given; shares of layers and times are levels. low and high: 95 % interval of ours (Student's t over "
    "splits, paired, adaption seeds averaged first; Figures 3 and 4 have seed 0 alone). Splits share people, so "
    "that intervals are somewhat too narrow. Of many intervals, chance alone clears 5 % of zero."
)


def check(settings: Settings, data: str = "embedded", progress: bool = True) -> pd.DataFrame:
    """A verdict on each of the paper's claims, measured unless it was before.

    Raises FileNotFoundError if weights are absent or ``data`` is no folder.
    """
    rows = gather(settings, data, progress)
    return judge(rows, claims_on(rows["Table 2"]["target"].unique()))


def printed(table: pd.DataFrame) -> str:
    """:func:`check`'s table for a terminal: a block a table of the paper, a line a claim."""
    def number(value: float, unit: str) -> str:
        return "–" if math.isnan(value) else in_unit(value, unit)

    lines = []
    for where, group in table.groupby("where", sort=False):
        lines += ["", where]
        for row in group.itertuples():
            paper, here, low, high = (number(v, row.unit) for v in (row.paper, row.here, row.low, row.high))
            lines += [f"{row.id:6}{row.verdict:14} {row.claim} ({row.target})",
                      f"{'':20} here {here} [{low}, {high}] {row.unit}, paper {paper}"]
    return "\n".join(lines)


def _write(table: pd.DataFrame, run: str, about: str) -> None:
    """Print the table and write it with its figure. ``about``: the protocol, and what was trained on."""
    from bnta_lib.figures.base import save_figure, use_style
    from bnta_lib.figures.tables import claims_figure

    numbers = table["verdict"].value_counts()
    counts = f"{len(table)} claims: " + ", ".join(f"{numbers.get(word, 0)} {word}" for word in VERDICTS)
    print("\n\n".join(filter(None, [printed(table), NOTE, counts, about, caution(run)])))
    note = "\n\n".join(filter(None, [NOTE, counts, about]))
    paths = save_table(table.set_index("id").round(3), "paper_check", run, note)
    use_style()
    save_figure(claims_figure(table), "paper_check", run, "Each claim of the paper with its verdict: what is measured "
                "here, with its 95 % interval, beside the paper's number")
    paths += [paths[0].with_suffix(f".{kind}") for kind in ("pdf", "png")]
    print("\nWrote " + ", ".join(shown(path) for path in paths))


def main(arguments: Sequence[str] | None = None) -> int:
    """Check from the command line; returns the exit code, 0 whatever the verdicts.

    1: something could not be read or written; 2: a profile or folder that does not exist; 130:
    interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bnta_lib.suite.claims",
        description="Check the claims of the paper's Section 4.3 against what is measured here.",
    )
    parser.add_argument("--profile", help="smoke, laptop or paper (default: $BNTA_PROFILE, laptop)")
    parser.add_argument("--data", help='"embedded" (default), "real" ($BNTA_DATA) or a folder')
    options = parser.parse_args(arguments)
    data = options.data or "embedded"
    try:
        chosen = settings(options.profile)
        if (folder := data_folder(data)) is not None and not folder.is_dir():
            raise ValueError(f'no folder {folder}: --data takes "embedded", "real" or a folder of images')
        check_cache()
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return 2
    # With the profile, which the environment may have named.
    words = ["python", "-m", "bnta_lib.suite.claims", "--profile", chosen.profile]
    command = shlex.join(words + (["--data", options.data] if options.data else []))
    again = f"What was measured is kept; continue with the same command:\n  {command}"
    try:
        table = check(chosen, data)
        targets = load_targets(chosen, data, progress=False)
        _write(table, run_name(chosen.profile, data), protocol_note(targets, trained_on(chosen, data)))
    except KeyboardInterrupt:
        print(f"\nInterrupted. {again}", file=sys.stderr)
        return 130
    except OSError as error:  # absent weights, a full disk: the message says what to do
        print(f"\n{error if error.filename else error.strerror or error}", file=sys.stderr)
        if error.errno == errno.ENOSPC:
            print(again, file=sys.stderr)
        return 1
    except ValueError as error:  # damaged weights, a folder that does not serve
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


# ---- the measurements


def gather(
    settings: Settings, data: str = "embedded", progress: bool = True
) -> dict[str, pd.DataFrame]:
    """Rows that the claims need: "Table 2" to "Table 5", "Fig. 3", "Fig. 4" and "time".

    Measured, or read from the store. Raises FileNotFoundError if weights are absent or ``data`` is
    no folder.
    """
    targets = load_targets(settings, data, progress=progress)
    models = {name: trained_model(settings, name, progress=progress, data=data) for name in TABLE_3_MODELS}
    bnta = models["bnta"]

    def papers(table: str) -> dict[str, Target]:
        name = PAPER_TARGET[table]
        return {name: targets[name]} if name in targets else targets

    table_2 = table_2_rows(models, targets, settings, progress)
    changes = change_rows(bnta, targets, settings, progress)
    return {
        "Table 2": table_2,
        "Table 3": table_3_rows(models, papers("table_3"), settings, progress),
        "Table 4": table_4_rows(bnta, papers("table_4"), settings, progress),
        "Table 5": table_5_rows(bnta, papers("table_5"), settings, progress=progress),
        "Fig. 3": changes.assign(steps=changes["target"].map(steps_at(targets, settings))),
        "Fig. 4": trend_rows(grid_rows(bnta, papers("table_4"), settings, progress)),
        "time": time_rows(table_2, targets),
    }

if __name__ == "__main__":
    sys.exit(main())
