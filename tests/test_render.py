"""What the renderer draws: the same pixels everywhere, and people who stay themselves."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from bnta_lib.rendered import camera, people, places, render, scene
from bnta_lib.rendered.domains import COLOURS, DOMAINS

SIZE = (96, 48)
# sha256 of eight images of each domain (two people, four shots over the cameras), 96 x 48.
DIGESTS = {
    "CUHK02": "91f3f63ded430d13", "CUHK03": "8a5ff5c5a3336bd0", "Market-1501": "abc5833481b27ba7",
    "DukeMTMC-reID": "5cecb7707cec451d", "CUHK-SYSU": "66239a18f8d95463",
    "VIPeR": "e853125c1337fc91", "GRID": "657bdecc33000752", "iLIDS": "4089dca6ab984957",
    "256x128": "af478e91ca8c5125",
}  # fmt: skip


def sample(name: str, people: int = 2, first: int = 1, size=SIZE, **more) -> torch.Tensor:
    domain = DOMAINS[name]
    ids = np.repeat(np.arange(first, first + people), 4)
    numbers = np.tile(np.arange(4), people)
    return render.render(domain, ids, numbers % domain.cameras, numbers, size, **more)


def sha(images: torch.Tensor) -> str:
    return hashlib.sha256(images.numpy()).hexdigest()[:16]


@pytest.mark.parametrize("name", DOMAINS)
def test_pixels_are_those_of_this_version(name):
    assert sha(sample(name)) == DIGESTS[name], "pixels changed: raise people.VERSION"


def test_larger_pictures_are_those_of_this_version():
    images = sample("Market-1501", size=(256, 128))
    assert images.shape == (8, 3, 256, 128)
    assert sha(images) == DIGESTS["256x128"]


def test_pixels_do_not_depend_on_batch_or_company(monkeypatch):
    whole = sample("iLIDS", people=6)
    monkeypatch.setattr(render, "BATCH", 5)
    assert torch.equal(sample("iLIDS", people=6), whole)
    assert torch.equal(sample("iLIDS", people=2, first=3), whole[8:16])


def test_pixels_do_not_depend_on_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = sample("GRID", people=6)
        torch.set_num_threads(3)
        assert torch.equal(sample("GRID", people=6), one)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_pixels_are_the_same_on_a_gpu():
    for name in DOMAINS:
        assert torch.equal(sample(name, device="cuda"), sample(name))


def test_a_person_looks_more_like_itself_than_like_others():
    """Torso colours at two views by a neutral camera, without company or occlusion."""
    domain = replace(DOMAINS["VIPeR"], occlusion=0.0, passers_by=0.0, backpack=0.0)
    ids = np.repeat(np.arange(1, 41), 2)
    cams = np.tile([0, 1], 40)
    images = render.render(domain, ids, cams, 0 * ids, SIZE, photometric=False).double()
    colour = images[:, :, 26:42, 20:28].mean((2, 3))
    distance = torch.cdist(colour[0::2], colour[1::2])
    own = distance.diagonal()
    assert own.median() < 0.35 * distance.median()
    assert ((distance < own[:, None]).float().mean(1) < 0.1).float().mean() > 0.5


def test_stripes_are_there_from_every_side():
    """A person in stripes has more up-and-down change on the torso than plain, at each view."""
    domain = DOMAINS["CUHK02"]
    rows = people.people(domain, np.arange(1, 400))
    striped = (rows["row_share"] > 0) & (rows["column_share"] == 0) & (rows["rows_per_height"] < 20)
    p = {k: v[striped][:1].repeat(12, 0) for k, v in rows.items()}
    p["palette"][:, people.TOP], p["palette"][:, people.PRINT] = 0.8, 0.1
    p |= {"open": 0 * p["open"], "backpack": 0 * p["open"], "hair_end": 2 + 0 * p["open"]}
    views = np.arange(12)
    angle = np.radians(30.0 * views)
    maps = scene.map_number(p["shape"], 0 * views, views, 0)
    s = {"map": maps, "cos": np.cos(angle), "sin": np.sin(angle), "sun": 0.0 * angle,
         "light": np.tile([0.0, 0.6, 0.8], (12, 1))}  # fmt: skip
    frames = scene.map_frames()
    row = torch.arange(128.0).repeat(12, 1) + 0.5
    col = torch.arange(64.0).repeat(12, 1) + 0.5
    rgb, alpha = render.paint(render.as_tensors(p, "cpu"), render.as_tensors(s, "cpu"), row, col)
    for k in range(12):
        top, middle = int(frames["shoulders"][maps[k]]), int(frames["middle"][maps[k]])
        line = rgb[:, k, top + 6 : top + 26, middle].mean(0)
        assert line.max() - line.min() > 0.3, f"no stripes at {30 * k} degrees"


def test_nothing_of_a_bag_is_painted_on_skin_of_those_without():
    rows = people.people(DOMAINS["CUHK02"], np.arange(1, 200))
    assert ((rows["backpack"] > 0) == (rows["straps"] > 0)).all()
    assert not ((rows["backpack"] > 0) & (rows["sling"] != 0)).any()


def test_people_are_the_same_in_every_call():
    one = people.people(DOMAINS["GRID"], np.array([7]))
    many = people.people(DOMAINS["GRID"], np.arange(1, 20))
    assert all(np.array_equal(many[name][6], one[name][0]) for name in one)


def test_neutral_camera_keeps_people_and_places_and_drops_the_cast():
    seen, true = sample("GRID", people=8), sample("GRID", people=8, photometric=False)
    assert not torch.equal(seen, true)
    assert true.float().std() > 1.2 * seen.float().std(), "the station's camera is of low contrast"


def test_domains_do_not_share_people_and_name_known_things():
    assert len({d.code for d in DOMAINS.values()}) == len(DOMAINS)
    for domain in DOMAINS.values():
        assert set(domain.places) <= set(places.KINDS)
        assert set(domain.tops) | set(domain.lowers) <= set(COLOURS)
        assert set(domain.garments) <= set(people.TOPS) and set(domain.legs) <= set(people.LOWERS)
        assert len(domain.stands_for) > 30


def test_cosine_transform_is_orthonormal_and_a_fine_coder_changes_little():
    x = torch.rand(3, 2, 96, 48)
    block = torch.rand(8, 8, 5)
    there = camera._cosine(camera._cosine(block, 0), 1)
    assert torch.allclose(there.square().sum(), block.square().sum(), rtol=1e-4)
    assert torch.allclose(camera._cosine_back(camera._cosine_back(there, 0), 1), block, atol=1e-5)
    fine, rough = (camera.jpeg(x, torch.full((2,), q)) for q in (99.0, 20.0))
    assert (fine - x).abs().max() < 0.03 < (rough - x).abs().max()


def test_odd_sizes_are_drawn_too():
    assert sample("CUHK03", size=(50, 30)).shape == (8, 3, 50, 30)
