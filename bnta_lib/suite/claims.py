"""The command that checks the paper's claims: ``python -m bnta_lib.suite.claims``.

It measures what the claims need, or reads it from the store, prints a verdict on each (see
:mod:`bnta_lib.suite.judge`) and writes them with a figure.
"""

import argparse
import sys
from collections.abc import Sequence

import pandas as pd

from bnta_lib.suite.commands import exit_code, parse_run
from bnta_lib.suite.environment import shown
from bnta_lib.suite.judge import claims_on, judge, time_rows
from bnta_lib.suite.lab import Lab
from bnta_lib.suite.runs import caution, figures_dir
from bnta_lib.suite.specs import PAPER_TARGET
from bnta_lib.suite.stats import VERDICTS

NOTE = (
    "here and paper: the same difference in our numbers and in the paper's, in points of rank 1 unless "
    "another unit is given; shares of layers and times are levels. low and high: 95 % interval of ours "
    "(Student's t over splits, paired, adaption seeds averaged first; Figures 3 and 4 have seed 0 alone), "
    "but 97.5 % for the rise and decline with K, whose best K is chosen on the other splits. "
    "Splits share people, so that intervals are somewhat too narrow. Of many intervals, chance alone clears "
    "5 % of zero."
)


def gather(lab: Lab) -> dict[str, pd.DataFrame]:
    """Rows that the claims need: "Table 2" to "Table 5", "Fig. 3", "Fig. 4" and "time".

    Measured, or read from the store. Raises FileNotFoundError if weights are absent.
    """
    table_2 = lab.measure("table_2")
    rows = {"Table 2": table_2, "Fig. 3": lab.measure("changes"), "time": time_rows(table_2, lab.targets)}
    for where, table, target in (
        *((f"Table {table[-1]}", table, target) for table, target in PAPER_TARGET.items()),
        ("Fig. 4", "figure_4", PAPER_TARGET["table_4"]),
    ):
        rows[where] = lab.measure(table, targets=[target] if target in lab.targets else None)
    return rows


def check(lab: Lab) -> None:
    """Measure what was not measured before; print a verdict on each claim, and write them with a figure."""
    from bnta_lib.figures.tables import claims_figure

    table = judge(gather(lab), claims_on(lab.targets))
    numbers = table["verdict"].value_counts()
    counts = f"{len(table)} claims: " + ", ".join(f"{word} {numbers.get(word, 0)}" for word in VERDICTS)
    columns = table.set_index(["id", "verdict", "claim", "target"])[["here", "low", "high", "unit", "paper"]]
    text = columns.to_string(sparsify=False, na_rep="–", float_format="{:.3g}".format)
    print("\n\n".join(filter(None, [text, NOTE, counts, lab.about, caution(lab.run)])))
    lab.save_table(table.set_index("id").round(3), "paper_check", f"{NOTE}\n\n{counts}")
    lab.save(claims_figure(table), "paper_check", "Each claim of the paper with its verdict: what is "
             "measured here, with its 95 % interval, beside the paper's number")
    print(f"\nWrote {shown(figures_dir(lab.run) / 'paper_check')}.csv, .md, .tex, .pdf and .png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check from the command line; return the exit code, 0 whatever the verdicts."""
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.suite.claims",
                                     description="Check the claims of the paper's Section 4.3.")
    options = parse_run(parser, arguments)
    return exit_code(lambda: check(Lab(options.profile, options.data)))


if __name__ == "__main__":
    sys.exit(main())
