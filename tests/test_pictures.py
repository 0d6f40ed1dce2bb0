"""Numbers behind the pictures of data and network."""

import pytest
import torch

from bnta_lib import BNTANet, settings
from bnta_lib.figures.network import stripe_rows
from bnta_lib.rendered.statistics import image_statistics
from bnta_lib.settings import ROOT
from bnta_lib.suite.environment import check_environment, shown


def test_statistics_of_plain_images_are_those_of_their_colour():
    images = torch.zeros(2, 3, 8, 4, dtype=torch.uint8)
    images[1, 0] = 255  # pure red
    black, red = image_statistics(images).to_dict("records")
    assert not any(black.values())
    assert red == pytest.approx({"brightness": 29.9, "contrast": 0, "saturation": 100,
                                 "warmth": 100, "sharpness": 0})


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
