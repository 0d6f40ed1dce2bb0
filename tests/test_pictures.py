"""Numbers behind the pictures of data and network."""

import pandas as pd
import pytest
import torch

from bnta_lib import BNTANet, settings
from bnta_lib.figures.network import stripe_rows, trace_shapes
from bnta_lib.rendered.statistics import image_statistics, through_cameras
from bnta_lib.settings import ROOT
from bnta_lib.suite.environment import check_environment, shown, styled_check


def test_statistics_of_plain_images_are_those_of_their_colour():
    images = torch.zeros(2, 3, 8, 4, dtype=torch.uint8)
    images[1, 0] = 255  # pure red
    black, red = image_statistics(images).to_dict("records")
    assert not any(black.values())
    assert red == pytest.approx({"brightness": 29.9, "contrast": 0, "saturation": 100,
                                 "warmth": 100, "sharpness": 0})


def test_one_person_through_all_cameras_keeps_place_and_pose():
    pictures = through_cameras("VIPeR", (3,), (96, 48))
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


def test_cache_that_cannot_be_written_is_told_with_a_remedy(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "file" / "below"))
    row = check_environment(settings("smoke")).set_index("what").loc["Cache folder"]
    assert not row["fine"] and "BNTA_CACHE" in row["remedy"]
    assert str(tmp_path) not in row["found"]


def test_html_in_what_a_check_found_is_escaped():
    rows = pd.DataFrame([{"what": "<b>GPU</b>", "found": "<script>alert(1)</script>", "fine": False,
                          "remedy": "<img src=x onerror=alert(1)>"}])
    page = styled_check(rows).to_html()
    assert not any(mark in page for mark in ("<b>", "<script", "<img"))
    assert "&lt;script&gt;" in page and "✗" in page


def test_paths_are_shown_without_the_machine(tmp_path):
    assert shown(ROOT / "data" / "x") == "data/x"
    assert shown(tmp_path / "x") == "x"
