"""How well rank 1 by tracks tells which way adaption moves the true rank 1 across cameras.

On rendered sites both are known. ``python data/build_site_study.py`` measures a dozen of them with the
laptop's model, each adapted gently (the defaults) and in ways that move it further, some of which do harm,
and writes ``data/site_study.csv``, which notebook 11 reads.
"""

from dataclasses import replace

import pandas as pd
from tqdm.auto import tqdm

from bnta_lib.adaption import adapt
from bnta_lib.model import embed
from bnta_lib.settings import settings
from bnta_lib.site.crops import rendered_site
from bnta_lib.site.judge import STUDY, agreement, estimate, track_trial, true_rank_1
from bnta_lib.suite.train import trained_model

SITES, PEOPLE, SHOTS = 12, 80, 6
ADAPTIONS = {
    "default": {}, "10 epochs": {"tta_epochs": 10}, "rate × 40": {"tta_lr": 0.02},
    "momentum 1": {"tta_momentum": 1.0},
}

laptop, rows = settings("laptop"), []
model = trained_model(laptop)
for number in tqdm(range(SITES), desc="sites", unit="site"):
    site = rendered_site(laptop.size, number, PEOPLE, SHOTS)
    trial = track_trial(site)
    frozen, local = embed(model, site.images)
    for name, changed in ADAPTIONS.items():
        adapted = adapt(model, site.images, replace(laptop, **changed), local=local).model
        features = embed(adapted, site.images)[0]
        result = estimate(frozen, features, trial, laptop)
        true_before, true_after = true_rank_1(site, laptop, frozen, features)
        rows.append((number, name, result.tracks, result.before[0], *result.difference, result.verdict,
                     true_before, true_after - true_before))
study = pd.DataFrame(rows, columns=["site", "adaption", "tracks", "before", "estimate", "low", "high",
                                    "verdict", "true before", "true"])
study.round(4).to_csv(STUDY, index=False)
print(agreement(study).to_string())
