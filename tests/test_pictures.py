"""Numbers behind the pictures of data and network."""

import pytest
import torch

from bnta_lib import BNTANet, settings
from bnta_lib.figures.network import stripe_rows, trace_shapes
from bnta_lib.rendered.statistics import image_statistics, through_cameras
from bnta_lib.settings import ROOT
from bnta_lib.suite.environment import check_environment, shown


def test_statistics_of_plain_images_are_those_of_their_colour():
    images = torch.zeros(2, 3, 8, 4, dtype=torch.uint8)
    images[1, 0] = 255  # pure red
    black, red = image_statistics(images).to_dict("records")
    assert not any(black.values())
    assert red == pytest.approx({"brightness": 29.9, "contrast": 0, "saturation": 100,
                                 "warmth": 100, "sharpness": 0})


def test_one_person_through_all_cameras_keeps_place_and_pose():
    pictures = through_cameras("VIPeR", (3,), (48, 24))
    assert list(pictures)[0] == "neutral" and len(pictures) == 9
    flat = torch.stack([p.float().mean(1).flatten() for p in pictures.values()])
    assert torch.corrcoef(flat)[0].min() > 0.8  # the same picture in other light


@pytest.mark.parametrize("rows", [6, 8, 16])
def test_stripes_drawn_are_the_rows_that_are_averaged(rows):
    current = settings("laptop")
    with torch.device("meta"):
        model = BNTANet(4, current)
    maps = torch.eye(rows)[None, :, :, None].expand(1, rows, rows, 3)  # channel r: row r alone
    averaged = model.stripe_pool(maps)[0] > 0
    drawn = torch.zeros(current.stripes, rows, dtype=torch.bool)
    for h, (start, end) in enumerate(stripe_rows(rows, current.stripes)):
        drawn[h, start:end] = True
    assert (averaged == drawn).all()


def test_traced_shapes_are_the_paper_s_at_full_size():
    full = settings("paper")
    with torch.device("meta"):
        model = BNTANet(18_530, full)
        table = trace_shapes(model, torch.zeros(2, 3, *full.size, dtype=torch.uint8))
    shape = dict(zip(table["part"], table["shape"]))
    assert shape["layer4"] == (2048, 16, 8) and shape["stripes f^h"] == (6, 2048)
    once = table.set_index("part")["BN layers"]
    assert once.sum() + 5 * once["Conv of M, each"] == 60


def test_check_of_the_environment_names_remedies_and_escapes_html(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setenv("BNTA_DEVICE", "<img src=x onerror=alert(1)>")
    page = check_environment(settings("smoke")).to_html()
    assert "$BNTA_CACHE: Not a directory" in page and "set BNTA_CACHE to a folder" in page
    assert str(tmp_path) not in page and "<img" not in page and "&lt;img src=x" in page
    assert page.count("✗") >= 2 and "trainings" in page


def test_paths_are_shown_without_the_machine(tmp_path):
    assert shown(ROOT / "data" / "x") == "data/x"
    assert shown(tmp_path / "x") == "x"
