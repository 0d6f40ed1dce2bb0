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

from bnta_lib.settings import caution, data_folder, settings
from bnta_lib.suite.changes import steps_at
from bnta_lib.suite.environment import check_cache, shown
from bnta_lib.suite.judge import claims_on, judge, time_rows, trend_rows
from bnta_lib.suite.lab import Lab
from bnta_lib.suite.specs import PAPER_TARGET
from bnta_lib.suite.stats import VERDICTS, in_unit
from bnta_lib.suite.writer import save_table

NOTE = (
    "here and paper: the same difference in our numbers and in the paper's, in points of rank 1 unless another "
    "unit is given; shares of layers and times are levels. low and high: 95 % interval of ours (Student's t over "
    "splits, paired, adaption seeds averaged first; Figures 3 and 4 have seed 0 alone). Splits share people, so "
    "that intervals are somewhat too narrow. Of many intervals, chance alone clears 5 % of zero."
)


def check(lab: Lab) -> pd.DataFrame:
    """A verdict on each of the paper's claims, measured unless it was before.

    Raises FileNotFoundError if weights are absent.
    """
    rows = gather(lab)
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
        lab = Lab(chosen.profile, data)
        _write(check(lab), lab.run, lab.about)
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


def gather(lab: Lab) -> dict[str, pd.DataFrame]:
    """Rows that the claims need: "Table 2" to "Table 5", "Fig. 3", "Fig. 4" and "time".

    Measured, or read from the store. Raises FileNotFoundError if weights are absent.
    """
    def papers(table: str) -> list[str] | None:
        return [PAPER_TARGET[table]] if PAPER_TARGET[table] in lab.targets else None

    table_2, changes = lab.measure("table_2"), lab.measure("changes")
    return {
        "Table 2": table_2,
        **{f"Table {n}": lab.measure(f"table_{n}", targets=papers(f"table_{n}")) for n in (3, 4, 5)},
        "Fig. 3": changes.assign(steps=changes["target"].map(steps_at(lab.targets, lab.settings))),
        "Fig. 4": trend_rows(lab.measure("figure_4", targets=papers("table_4"))),
        "time": time_rows(table_2, lab.targets),
    }


if __name__ == "__main__":
    sys.exit(main())
