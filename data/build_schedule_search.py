"""The search for a steadier schedule: learning rate and weight decay of the small network's training.

``python data/build_schedule_search.py`` trains every schedule of SCHEDULES on half the people of each source
and writes rank 1 of other people of the sources, without adaption, to ``data/schedule_search.csv``: no target
and no adaption has a say. It continues where it was stopped. ``--only 3`` trains the fourth schedule alone.
"""

import argparse
from dataclasses import replace
from statistics import mean

import pandas as pd

from bnta_lib.data import load_source, load_sources
from bnta_lib.evaluation import evaluate
from bnta_lib.files import atomic
from bnta_lib.model import embed
from bnta_lib.settings import ROOT, SOURCES, settings
from bnta_lib.suite.runs import checkpoint_path
from bnta_lib.training import train

KEYS = ["lr", "weight_decay", "epochs", "lr_decay_epoch"]
SCHEDULES = ((0.002, 0.0, 8, 6), (0.004, 0.3, 8, 6), (0.008, 0.3, 8, 6), (0.016, 0.3, 8, 6),
             (0.008, 0.5, 8, 6), (0.002, 0.0, 16, 12))  # the last is the one that the profile had
PATH = ROOT / "data" / "schedule_search.csv"

parser = argparse.ArgumentParser(description="search for a schedule on held-out people of the sources")
parser.add_argument("--only", type=int, choices=range(len(SCHEDULES)), help="the number of one schedule")
only, whole = parser.parse_args().only, settings("laptop")
halves = {name: {source: count // 2 for source, count in getattr(whole, name).items()}
          for name in ("people", "images")}
for number, schedule in enumerate(SCHEDULES):
    search = pd.read_csv(PATH) if PATH.is_file() else pd.DataFrame(columns=KEYS)
    if only not in (None, number) or schedule in search[KEYS].itertuples(index=False, name=None):
        continue
    chosen = replace(whole, **halves, **dict(zip(KEYS, schedule)))
    sources = load_sources(chosen, progress=True)
    checkpoint = checkpoint_path(sources, chosen, "search")
    model, _ = train(sources, chosen, checkpoint)
    rank_1 = {}
    for name in SOURCES:
        people = load_source(chosen, name, "heldout")
        data, features = people.data, embed(model, people.data.images)[0]
        sides = ((split.probe, split.gallery) for split in people.splits)
        rank_1[name] = 100 * mean(evaluate(*(of[side] for of in (features, data.pids, data.camids)
                                             for side in both)).cmc(1) for both in sides)
    row = dict(zip(KEYS, schedule)) | rank_1 | {"mean": mean(rank_1.values())}
    with atomic(PATH) as temporary:
        pd.concat([search, pd.DataFrame([row])]).round(4).to_csv(temporary, index=False)
    checkpoint.unlink(missing_ok=True)
print(pd.read_csv(PATH).to_string(index=False))
