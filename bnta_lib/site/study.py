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
from bnta_lib.files import atomic
from bnta_lib.model import BNTANet, embed, embed_global
from bnta_lib.settings import ROOT, Settings, settings
from bnta_lib.site.judge import estimate, track_trial, true_target
from bnta_lib.site.rendered import rendered_site
from bnta_lib.suite.runner import score
from bnta_lib.suite.train import trained_model

PATH = ROOT / "data" / "site_study.csv"
SITES, PEOPLE, SHOTS = 12, 80, 6
ADAPTIONS = {
    "default": {}, "10 epochs": {"tta_epochs": 10}, "rate × 40": {"tta_lr": 0.02},
    "momentum 1": {"tta_momentum": 1.0},
}


def study_rows(model: BNTANet, settings: Settings, sites: range = range(SITES), people: int = PEOPLE) -> pd.DataFrame:
    """A row a site and adaption: the change by tracks with its interval, and the true one.

    Columns: site, adaption, tracks, before, estimate, low, high, verdict (all by tracks), true
    before, true (across cameras); per cent and points of rank 1.
    """
    rows = []
    for number in tqdm(sites, desc="sites", unit="site"):
        site = rendered_site(settings.size, number, people, SHOTS)
        trial, target = track_trial(site), true_target(site)
        frozen, local = embed(model, site.images)
        true_before = score(model, target, target.splits[0], settings, frozen).row()["R1"]
        for name, changed in ADAPTIONS.items():
            adapted = adapt(model, site.images, replace(settings, **changed), local=local).model
            features = embed_global(adapted, site.images)
            result = estimate(frozen, features, trial, settings)
            true_after = score(adapted, target, target.splits[0], settings, features).row()["R1"]
            rows.append((number, name, result.tracks, result.before[0], *result.difference, result.verdict,
                         true_before, true_after - true_before))
    return pd.DataFrame(rows, columns=["site", "adaption", "tracks", "before", "estimate", "low", "high",
                                       "verdict", "true before", "true"])


def agreement(study: pd.DataFrame) -> pd.Series:
    """How the two changes go together: counts of adaptions, but for the last two rows."""
    moved = study[study["true"] != 0]
    product = moved["estimate"] * moved["true"]
    resolved = study[study["verdict"] != "not resolved"]
    first = study.drop_duplicates("site")
    return pd.Series({
        "adaptions": len(study), "true rank 1 changed": len(moved),
        "of these, estimate of the same sign": int((product > 0).sum()),
        "of these, estimate of the other sign": int((product < 0).sum()),
        "estimate clear of zero": len(resolved), "sites of these": resolved["site"].nunique(),
        "of these, true sign": int((resolved["estimate"] * resolved["true"] > 0).sum()),
        "rank correlation of both changes": float(study["estimate"].rank().corr(study["true"].rank())),
        "rank 1 by tracks minus the true one, before adaption, points":
            float((first["before"] - first["true before"]).mean()),
    })


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bnta_lib.site.study", description=__doc__.split("\n")[0])
    parser.add_argument("--sites", type=int, default=SITES, help=f"how many (default: {SITES})")
    parser.add_argument("--out", type=Path, default=PATH, help="CSV file")
    options = parser.parse_args(arguments)
    if options.sites < 1:
        parser.error("--sites is at least 1")
    laptop = settings("laptop")
    rows = study_rows(trained_model(laptop), laptop, range(options.sites))
    with atomic(options.out) as temporary:
        rows.round(4).to_csv(temporary, index=False)
    print(agreement(rows).to_string())


if __name__ == "__main__":
    main()
