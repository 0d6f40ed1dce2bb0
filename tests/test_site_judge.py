"""The estimate without labels, against hand-made tracks and a rendered site where all is known."""

import numpy as np
import pandas as pd
import pytest
import torch

from bnta_lib.rendered.domains import DOMAINS
from bnta_lib.settings import settings
from bnta_lib.site import judge, rendered_site
from bnta_lib.site.crops import Site
from bnta_lib.site.rendered import site_domain


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path_factory.getbasetemp() / "site-cache"))


def made(tracks, times) -> Site:
    n = len(tracks)
    return Site("made", torch.zeros(n, 3, 4, 2, dtype=torch.uint8), tuple(map(str, range(n))),
                torch.tensor(tracks), torch.tensor(times))


def test_the_first_and_the_last_crop_of_a_track_are_searched():
    trial = judge.track_trial(made([2, 1, 1, 2, 3, 1, 2], [5, 9, 3, 1, 0, 4, 2]))
    assert trial.probe.tolist() == [2, 3] and trial.gallery.tolist() == [1, 0]


def test_rank_1_of_tracks_is_that_of_a_plain_sort():
    random = torch.Generator().manual_seed(0)
    site = made([k for k in range(1, 31) for _ in range(3)], [0, 1, 2] * 30)
    people = torch.randn(30, 5, generator=random).repeat_interleave(3, 0)
    features = torch.randn(90, 5, generator=random) + 2 * people
    unit = features.double() / features.double().norm(dim=1, keepdim=True)
    hits = [int((unit[2::3] - unit[3 * track]).norm(dim=1).argmin()) == track for track in range(30)]
    found = judge.estimate(features, features, judge.track_trial(site), settings("smoke"))
    assert 0 < sum(hits) < 30 and found.before[0] == found.after[0] == pytest.approx(100 * np.mean(hits))


@pytest.mark.parametrize("tracks, message", [
    (None, "has no tracks"), ([1, 1, 1], "has 1 track with"), ([1, 2, 3], "has 0 tracks with"),
])  # fmt: skip
def test_too_few_tracks_are_refused(tracks, message):
    site = made([1, 1, 1], [0, 1, 2])
    site = Site("s", site.images, site.files, None if tracks is None else torch.tensor(tracks), site.times)
    with pytest.raises(ValueError, match=message):
        judge.track_trial(site)


def test_the_interval_covers_as_often_as_it_says():
    random, covered = np.random.default_rng(1), 0
    for k in range(200):
        low, high = judge.interval(random.random(80) < 0.7, seed=k, draws=400)
        covered += low <= 0.7 <= high
    assert 0.9 <= covered / 200 <= 0.985


def test_no_error_in_few_tracks_is_not_certainty():
    assert judge.interval(np.ones(30, bool)) == (pytest.approx(0.9), 1.0)
    assert judge.interval(np.zeros(30, bool)) == (0.0, pytest.approx(0.1))
    assert judge.interval(np.zeros(30)) == (pytest.approx(-0.1), pytest.approx(0.1))


def test_the_difference_is_paired():
    site = made([k for k in range(1, 61) for _ in range(2)], [0, 1] * 60)
    trial, current = judge.track_trial(site), settings("smoke")
    good = torch.eye(60).repeat_interleave(2, 0)
    bad = good.clone()
    bad[1:40:2] = good[3:42:2].flip(0)  # twenty tracks end as somebody else
    found = judge.estimate(bad, good, trial, current)
    assert (found.after[0], found.won + found.lost) == (100, found.won) and found.won > 10
    assert found.difference[0] == pytest.approx(100 * found.won / 60)
    assert found.verdict == "better" and judge.estimate(good, bad, trial, current).verdict == "worse"
    same = judge.estimate(good, good, trial, current)
    assert same.verdict == "not resolved" and same.difference == pytest.approx((0, -5, 5))
    assert same.table()["verdict"].to_dict() == {"before": "", "after": "", "difference": "not resolved"}


def test_a_ranked_table_is_ordered_by_distance(tmp_path):
    random = torch.Generator().manual_seed(0)
    probe, gallery = torch.randn(3, 4, generator=random), torch.randn(7, 4, generator=random)
    images = torch.zeros(7, 3, 4, 2, dtype=torch.uint8)
    probes = Site("p", images[:3], ("a,b.png", "é.png", "<i>.png"))
    table = judge.ranked_table(probes, Site("g", images, tuple("stuvwxy")), probe, gallery,
                               settings("smoke", normalise_features=False), 5)  # fmt: skip
    judge.save_ranked(table, tmp_path / "o ut" / "ranked.csv")
    back = pd.read_csv(tmp_path / "o ut" / "ranked.csv")
    assert list(back) == ["probe", "rank", "gallery", "distance"] and len(back) == 15
    for k, name in enumerate(probes.files):
        rows = back[back["probe"] == name]
        expected = (gallery - probe[k]).norm(dim=1)
        assert rows["rank"].tolist() == [1, 2, 3, 4, 5]
        assert rows["gallery"].tolist() == ["stuvwxy"[i] for i in expected.argsort()[:5]]
        np.testing.assert_allclose(rows["distance"], expected.sort().values[:5], atol=2e-6)
    assert "&lt;i&gt;" in table.to_html() and "<i>" not in table.to_html()
    boxes = torch.arange(28).view(7, 4)
    of_video = judge.ranked_table(probes, Site("g", images, tuple("stuvwxy"), boxes=boxes), probe, gallery,
                                  settings("smoke"), 5)  # fmt: skip
    place = of_video[["left", "top", "width", "height"]].to_numpy()
    assert [row.tolist() for row in place] == [boxes["stuvwxy".index(g)].tolist() for g in of_video["gallery"]]


def test_neighbours_leave_out_the_crop_itself_and_changes_come_first():
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    before, after = judge.neighbours(features, features, settings("smoke"), k=20)
    assert before.shape == (12, 11) and torch.equal(before, after)
    assert not (before == torch.arange(12)[:, None]).any()
    other = features.clone()
    other[3] = -features[3]
    before, after = judge.neighbours(features, other, settings("smoke"), k=3)
    assert judge.most_changed(before, after, 1)[0] == 3


def test_a_rendered_site_is_a_domain_of_its_own_with_tracks_of_one_person():
    site = rendered_site((96, 48), 3, people=10, shots=3)
    assert torch.equal(site.images, rendered_site((96, 48), 3, people=10, shots=3).images)
    assert site_domain(3).code not in {domain.code for domain in DOMAINS.values()}
    assert len(torch.unique(site.pids)) == 10 and torch.bincount(site.tracks)[1:].eq(3).all()
    for track in torch.unique(site.tracks):
        rows = site.tracks == track
        assert len(torch.unique(site.pids[rows])) == len(torch.unique(site.cameras[rows])) == 1
    target = judge.true_target(site)
    assert len(target.splits[0].probe) == len(torch.unique(site.tracks))
    # Plain colours already tell tracks apart better than chance: the people of a camera differ.
    colours, trial = site.images.float().mean((2, 3)), judge.track_trial(site)
    found = judge.estimate(colours, colours, trial, settings("smoke", normalise_features=False))
    assert found.before[0] > 300 / len(trial.probe)


def test_agreement_counts_signs():
    study = pd.DataFrame({
        "site": [0, 0, 1, 1], "estimate": [1.0, -2.0, 0.0, 3.0], "true": [2.0, 1.0, 1.0, 0.0],
        "verdict": ["better", "worse", "not resolved", "not resolved"],
        "before": [90.0, 90.0, 80.0, 80.0], "true before": [60.0, 60.0, 70.0, 70.0]})  # fmt: skip
    assert judge.agreement(study).tolist()[:7] == [4, 3, 1, 1, 2, 1, 1] and judge.agreement(study).iloc[-1] == 20
