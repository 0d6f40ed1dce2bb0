"""The estimate without labels, against hand-made tracks and a rendered site where all is known."""

import numpy as np
import pandas as pd
import pytest
import torch

from bnta_lib.rendered.domains import DOMAINS
from bnta_lib.settings import settings
from bnta_lib.site import judge
from bnta_lib.site.crops import Site, rendered_site, site_domain

SMOKE, RAW = settings("smoke"), settings("smoke", normalise_features=False)


def made(tracks, times, **more) -> Site:
    n = len(times)
    return Site("made", torch.zeros(n, 3, 4, 2, dtype=torch.uint8), tuple(map(str, range(n))),
                None if tracks is None else torch.tensor(tracks), torch.tensor(times), **more)


def test_the_first_and_the_last_crop_of_a_track_are_searched():
    early, late = judge.track_trial(made([2, 1, 1, 2, 3, 1, 2], [5, 9, 3, 1, 0, 4, 2]))
    assert early.tolist() == [2, 3] and late.tolist() == [1, 0]


def test_tracks_are_searched_among_those_of_their_camera():
    random = torch.Generator().manual_seed(0)
    cameras = torch.randint(1, 4, (40, 1), generator=random).repeat(1, 2)
    cameras[30:, 1] = cameras[30:, 0] % 3 + 1  # ten people walk on to the next
    cameras[0] = 0
    people = torch.randn(40, 1, 5, generator=random)
    before, after = (people + noise * torch.randn(40, 2, 5, generator=random) for noise in (0.9, 0.4))
    names, tracks = {1: "hall", 2: "yard", 3: "gate"}, [k for k in range(40) for _ in range(2)]
    site = made(tracks, [0, 1] * 40, cameras=cameras.flatten(), camera_names=names)
    table = judge.tracks_by_camera(site, before.flatten(0, 1), after.flatten(0, 1), RAW)
    assert [*table.index] == ["hall", "yard", "gate", "from one to another"]
    of_cameras = [[k for k in range(30) if cameras[k, 0] == camera] for camera in names]
    for row, tracks in enumerate([*of_cameras, range(30, 40)]):
        assert table["tracks"].iloc[row] == len(tracks) > 2
        for column, f in (("before", before), ("after", after)):
            hits = [min(tracks, key=lambda j: float((f[j, 1] - f[k, 0]).norm())) == k for k in tracks]
            assert table[column].iloc[row] == pytest.approx(100 * np.mean(hits))


@pytest.mark.parametrize("tracks, message", [
    (None, "has no tracks"), ([1, 1, 1], "has 1 track with"), ([1, 2, 3], "has 0 tracks with")])
def test_too_few_tracks_are_refused(tracks, message):
    with pytest.raises(ValueError, match=message):
        judge.track_trial(made(tracks, [0, 1, 2]))


def test_the_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(1)
    bounds = np.array([judge.interval(random.random(80) < 0.7, seed=k) for k in range(200)])
    assert 0.9 <= ((bounds[:, 0] <= 0.7) & (bounds[:, 1] >= 0.7)).mean() <= 0.985


def test_no_error_in_few_tracks_is_not_certainty():
    assert judge.interval(np.ones(30, bool)) == (pytest.approx(0.9), 1.0)
    assert judge.interval(np.zeros(30, bool)) == (0.0, pytest.approx(0.1))
    assert judge.interval(np.zeros(30)) == (pytest.approx(-0.1), pytest.approx(0.1))


def test_the_difference_is_paired():
    trial = judge.track_trial(made([k for k in range(1, 61) for _ in range(2)], [0, 1] * 60))
    good = torch.eye(60).repeat_interleave(2, 0)
    bad = good.clone()
    bad[1:40:2] = good[3:42:2].flip(0)  # twenty tracks end as somebody else
    found = judge.estimate(bad, good, trial, SMOKE)
    assert (found.after[0], found.won + found.lost) == (100, found.won) and found.won > 10
    assert found.difference[0] == pytest.approx(100 * found.won / 60)
    assert found.verdict == "better" and judge.estimate(good, bad, trial, SMOKE).verdict == "worse"
    same = judge.estimate(good, good, trial, SMOKE)
    assert same.difference == pytest.approx((0, -5, 5))
    assert same.table()["verdict"].to_dict() == {"before": "", "after": "", "difference": "not resolved"}


def test_a_ranked_table_is_ordered_by_distance(tmp_path):
    random = torch.Generator().manual_seed(0)
    probe, gallery = torch.randn(3, 4, generator=random), torch.randn(7, 4, generator=random)
    boxes = torch.arange(28).view(7, 4)
    probes = Site("p", torch.zeros(3), ("a,b.png", "é.png", "<i>.png"))
    site = made(None, [0] * 7, boxes=boxes)
    table = judge.ranked_table(probes, site, probe, gallery, RAW, 5)
    judge.save_ranked(table, tmp_path / "o ut" / "ranked.csv")
    back = pd.read_csv(tmp_path / "o ut" / "ranked.csv")
    assert list(back) == ["probe", "rank", "gallery", "distance", "left", "top", "width", "height"]
    for k, name in enumerate(probes.files):
        rows = back[back["probe"] == name]
        expected = (gallery - probe[k]).norm(dim=1)
        assert rows["rank"].tolist() == [1, 2, 3, 4, 5]
        assert rows["gallery"].tolist() == expected.argsort()[:5].tolist()
        np.testing.assert_allclose(rows["distance"], expected.sort().values[:5], atol=2e-6)
    assert back.iloc[:, 4:].to_numpy().tolist() == [boxes[row].tolist() for row in back["gallery"]]
    assert "&lt;i&gt;" in table.to_html() and "<i>" not in table.to_html()


def test_neighbours_leave_out_the_crop_itself_and_changes_come_first():
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    near = judge.neighbours(features, None, SMOKE, k=20)
    assert near.shape == (12, 11) and not (near == torch.arange(12)[:, None]).any()
    assert torch.equal(judge.neighbours(features, features, SMOKE, k=1)[:, 0], torch.arange(12))
    other = features.clone()
    other[3] = -features[3]
    before, after = (judge.neighbours(x, None, SMOKE, k=3) for x in (features, other))
    assert judge.most_changed(before, after)[0] == 3


def test_a_rendered_site_is_a_domain_of_its_own_with_tracks_of_one_person(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    site = rendered_site((48, 24), 3, people=10, shots=3)
    assert site_domain(3).code not in {domain.code for domain in DOMAINS.values()}
    assert len(torch.unique(site.pids)) == 10 and torch.bincount(site.tracks)[1:].eq(3).all()
    for track in torch.unique(site.tracks):
        rows = site.tracks == track
        assert len(torch.unique(site.pids[rows])) == len(torch.unique(site.cameras[rows])) == 1
    # Persons as features find themselves; colours tell tracks apart better than chance.
    assert judge.true_rank_1(site, SMOKE, torch.eye(11)[site.pids]) == (100,)
    colours, trial = site.images.float().mean((2, 3)), judge.track_trial(site)
    hits = []  # of the early crop of each track, in all crops that are of no track the early one
    for k in range(0, len(site), 3):
        same = (site.pids == site.pids[k]) & (site.cameras == site.cameras[k])
        d = (colours - colours[k]).double().norm(dim=1).masked_fill(same | (site.times == 0), torch.inf)
        hits.append(bool(site.pids[d.argmin()] == site.pids[k]))
    assert judge.true_rank_1(site, RAW, colours) == (pytest.approx(100 * np.mean(hits)),)
    assert judge.estimate(colours, colours, trial, RAW).before[0] > 300 / len(trial[0])
    assert judge.true_rank_1(made([1, 2], [0, 0]), SMOKE) is None


def test_agreement_counts_signs():
    study = pd.DataFrame({
        "site": [0, 0, 1, 1], "estimate": [1.0, -2.0, 0.0, 3.0], "true": [2.0, 1.0, 1.0, 0.0],
        "verdict": ["better", "worse", "not resolved", "not resolved"]})
    assert judge.agreement(study).tolist() == [4, 3, 1, 1, 2, 1, 1]
