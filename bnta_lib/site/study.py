"""How well rank 1 by tracks tells which way adaption moves the true rank 1 across cameras.

On rendered sites both are known. ``python -m bnta_lib.site.study`` measures a dozen of them, each
adapted gently (the defaults) and in ways that move it further, some of which do harm, and writes
``data/site_study.csv``, which notebook 11 reads.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from bnta_lib.adaption import adapt
from bnta_lib.suite.experiments import score
from bnta_lib.files import atomic
from bnta_lib.model import BNTANet, embed, embed_global
from bnta_lib.settings import ROOT, Settings, settings
from bnta_lib.training import trained_model
from bnta_lib.site.judge import estimate, track_trial, true_target
from bnta_lib.site.rendered import rendered_site

PATH = ROOT / "data" / "site_study.csv"
SITES, PEOPLE, SHOTS = 12, 80, 6
ADAPTIONS = {
    "default": {},
    "10 epochs": {"tta_epochs": 10},
    "rate × 40": {"tta_lr": 0.02},
    "momentum 1": {"tta_momentum": 1.0},
}


def study_rows(model: BNTANet, chosen: Settings, sites: range = range(SITES), people: int = PEOPLE,
               progress: bool = True) -> pd.DataFrame:  # fmt: skip
    """A row a site and adaption: the change by tracks with its interval, and the true one.

    Columns: site, adaption, tracks, before, estimate, low, high, verdict (all by tracks), true
    before, true (across cameras); per cent and points of rank 1.
    """
    rows = []
    for number in tqdm(sites, desc="sites", unit="site", disable=not progress):
        site = rendered_site((chosen.height, chosen.width), number, people, SHOTS)
        trial, target = track_trial(site), true_target(site)

        def true(features) -> float:
            return score(model, target, target.splits[0], chosen, features).row()["R1"]

        frozen, local = embed(model, site.images)
        for name, changed in ADAPTIONS.items():
            adapted = adapt(model, site.images, replace(chosen, **changed), local=local).model
            moved = embed_global(adapted, site.images)
            found = estimate(frozen, moved, trial, chosen)
            difference, low, high = found.difference
            rows.append({
                "site": number, "adaption": name, "tracks": found.tracks, "before": found.before[0],
                "estimate": difference, "low": low, "high": high, "verdict": found.verdict,
                "true before": true(frozen), "true": true(moved) - true(frozen),
            })  # fmt: skip
    return pd.DataFrame(rows)


def agreement(study: pd.DataFrame) -> dict[str, float]:
    """How the two changes go together.

    cases     rows; ``moved`` of them whose true rank 1 changed at all
    same      of those, how many have an estimate of the same sign (0 is neither)
    other     and how many of the other sign
    resolved  how many estimates are clear of zero, on ``places`` sites; ``right`` have the true sign
    rank      Spearman's correlation of the two changes
    gap       mean of rank 1 by tracks minus the true one, before adaption: points
    """
    moved = study[study["true"] != 0]
    product = moved["estimate"] * moved["true"]
    resolved = study[study["verdict"] != "not resolved"]
    first = study.drop_duplicates("site")
    return {
        "cases": len(study), "moved": len(moved), "same": int((product > 0).sum()),
        "other": int((product < 0).sum()), "resolved": len(resolved), "places": resolved["site"].nunique(),
        "right": int((resolved["estimate"] * resolved["true"] > 0).sum()),
        "rank": float(study["estimate"].rank().corr(study["true"].rank())),
        "gap": float((first["before"] - first["true before"]).mean()),
    }


def agreement_sentence(study: pd.DataFrame) -> str:
    """:func:`agreement` in words."""
    a = agreement(study)
    return (f"{a['cases']} adaptions on {study['site'].nunique()} rendered sites: the estimate has the "
            f"sign of the true change in {a['same']} of {a['moved']}, the other sign in {a['other']}, "
            f"and is zero in the rest; {a['resolved']} estimates, on {a['places']} sites, are clear of "
            f"zero, {a['right']} of them with the true sign. Rank correlation of the two changes {a['rank']:.2f}. Before "
            f"adaption rank 1 by tracks lies {a['gap']:+.0f} points from the true one.")


def read_study(path: str | Path = PATH) -> pd.DataFrame:
    """The recorded rows. Raises FileNotFoundError where they are missing."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no record at {path}: restore it from version control, or measure it "
                                "with python -m bnta_lib.site.study")
    return pd.read_csv(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bnta_lib.site.study",
        description="Measure how well the estimate by tracks tells the true change.")
    parser.add_argument("--sites", type=int, default=SITES, help=f"how many (default: {SITES})")
    parser.add_argument("--out", type=Path, default=PATH, help="CSV file")
    options = parser.parse_args(arguments)
    if options.sites < 1:
        parser.error("--sites is at least 1")
    chosen = settings("laptop")
    rows = study_rows(trained_model(chosen), chosen, range(options.sites))
    with atomic(options.out) as temporary:
        rows.round(4).to_csv(temporary, index=False)
    print(agreement_sentence(rows))


if __name__ == "__main__":
    main()
