"""One writer of tables: CSV, Markdown and LaTeX, with what they were measured on."""

import re
from pathlib import Path

import pandas as pd

from bnta_lib.files import atomic
from bnta_lib.suite.runs import caution, figures_dir

# The images that a table of any run may be of, and not of the run's data; see :func:`save_table`.
RENDERED = "rendered counterparts of the paper's data sets"

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


_TEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}",
    "<": "$<$", ">": "$>$", "±": r"$\pm$", "–": "--", "×": r"$\times$", "≤": r"$\leq$",
    "→": r"$\rightarrow$", "²": "$^2$", "η": r"$\eta$", "φ": r"$\varphi$", "λ": r"$\lambda$",
    "μ": r"$\mu$", "σ": r"$\sigma$", "γ": r"$\gamma$", "β": r"$\beta$"})


def _tex(value: object) -> str:
    """A cell or heading in LaTeX: L_mat^tta as a symbol, all else as it is."""
    if not isinstance(value, str):
        value = "–" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)
    text = re.sub(r"\bL\\_([a-z]+)\b", r"$L_{\\mathrm{\1}}$", value.translate(_TEX))
    return text.replace(r"}}$\textasciicircum{}tta", r"}}^{\mathrm{tta}}$")


def latex(table: pd.DataFrame) -> str:
    """A table as a LaTeX ``tabular`` (needs booktabs), without a caption.

    Upper levels of the columns become spanning headings. A label of the index that repeats is printed once.
    """
    depth, names = table.index.nlevels, [name or "" for name in table.index.names]
    flat = table.reset_index(names=names, col_level=table.columns.nlevels - 1).map(_tex).rename(columns=_tex)
    numbers = flat.iloc[:, depth:].apply(lambda column: column.str.match(r"[-+]?\d|(--)?$").all())
    # A label is left out if it and all before it are as in the row above.
    labels = flat.iloc[:, :depth - 1]
    flat.iloc[:, :depth - 1] = labels.mask(labels.eq(labels.shift()).cummin(axis=1), "")
    return flat.style.hide(axis="index").to_latex(
        hrules=True, multicol_align="c",
        column_format="l" * depth + "".join("r" if number else "l" for number in numbers))


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
    if table.map(lambda value: isinstance(value, str) and "±" in value).any(axis=None):
        parts.append("±: standard deviation over splits, adaption seeds averaged first.")
    return " ".join(filter(None, parts))


def save_table(table: pd.DataFrame, name: str, run: str, note: str = "", rows: pd.DataFrame | None = None,
               images: str | None = None) -> list[Path]:
    """Write ``name``.csv, .md and .tex under the run's figures, with a plain note; returns the paths.

    ``rows``: those that the table was made from. ``images``: on what, if not on those of the run.
    """
    lines = f"{note}\n\n{provenance(table, run, rows, images)}".strip().splitlines()
    # A rounded -0.0 is written as 0.0.
    table = table.apply(lambda column: column + 0.0 if column.dtype.kind == "f" else column)
    texts = {"csv": table.to_csv(), "md": "\n".join([markdown(table), "", *map(_text, lines), ""]),
             "tex": "".join(f"% {line}\n" for line in lines) + latex(table)}
    return [_write(figures_dir(run) / f"{name}.{kind}", text) for kind, text in texts.items()]


def save_rows(rows: pd.DataFrame, name: str, run: str) -> Path:
    """Write tidy rows as ``name``.csv under the run's figures: without seconds, the machine and the day."""
    kept = rows[rows["unit"] != "s"] if "unit" in rows else rows
    kept = kept.drop(columns=["seconds", "machine", "measured_on", "recorded", "table"], errors="ignore")
    return _write(figures_dir(run) / f"{name}.csv", kept.round(6).to_csv(index=False))


def _write(path: Path, text: str) -> Path:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
