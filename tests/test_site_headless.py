"""Notebook 11 as a batch step: one papermill run makes the delta, the ranking and the record."""

import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bnta_lib import embed, settings
from bnta_lib.adaption import Delta
from bnta_lib.settings import ROOT
from bnta_lib.site.crops import load_site, read_crops
from bnta_lib.suite.reproduce import run_notebook
from bnta_lib.suite.runs import figures_dir, run_name
from bnta_lib.suite.train import trained_model
from bnta_lib.weights import load_deltas
from conftest import crop

NOTEBOOK = ROOT / "notebooks" / "11_your_own_gallery.ipynb"


def write_crops(folder, seeds):
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        Image.fromarray(crop(seed)).save(folder / f"é {seed}.png")


@pytest.mark.parametrize("cameras", [None, "folders"])
def test_one_command_writes_the_deltas_the_ranking_and_the_record(tmp_path, cameras):
    crops = tmp_path / "my crops"
    write_crops(crops / "<script>alert(1)<", range(20))
    write_crops(crops / "b", range(20, 60))
    (crops / "notes <b>.txt").write_text("no image")
    write_crops(tmp_path / "probes", [3])
    write_crops(tmp_path / "probes" / "b", [99])
    out = tmp_path / "out put"
    out.mkdir()
    (out / "ranked.csv").write_text("of another delta")
    folders = {"images": str(crops), "probes": str(tmp_path / "probes"), "out": str(out)}
    try:
        run_notebook(NOTEBOOK, tmp_path / "record.ipynb", {"profile": "smoke", "cameras": cameras, **folders})
    finally:
        shutil.rmtree(figures_dir(run_name("smoke", str(crops))), ignore_errors=True)
    record = nbformat.read(tmp_path / "record.ipynb", as_version=4)

    current = settings("smoke")
    model = trained_model(current)
    site, probes = load_site(crops, current), read_crops(tmp_path / "probes", current.size)
    table = pd.read_csv(out / "ranked.csv")
    assert list(table) == ["probe", "rank", "gallery", "distance"] and len(table) == 2 * 20
    deltas = {"all crops": Delta.load(out / "delta.safetensors")}
    if cameras:
        deltas = {delta.meta["name"]: delta for delta in load_deltas(out / "deltas.safetensors").values()}
        assert [*deltas] == ["all crops", "<script>alert(1)<", "b"]
    features = []
    for name, image in zip(probes.files + site.files, torch.cat((probes.images, site.images)), strict=True):
        with deltas.get(name.split("/")[0], deltas["all crops"]).applied(model):
            features.append(torch.nn.functional.normalize(embed(model, image[None])[0].double()))
    unit = torch.cat(features[2:])
    for name, own in zip(probes.files, features[:2], strict=True):
        d = (unit - own).norm(dim=1)
        shown = table[table["probe"] == name]
        np.testing.assert_allclose(shown["distance"], d.sort().values[:20], atol=1e-4)
        nearest = shown["gallery"].iloc[0]
        assert d[site.files.index(nearest)] == pytest.approx(float(d.min()), abs=1e-5)
    assert table[table["probe"] == "é 3.png"]["gallery"].iloc[0] == "<script>alert(1)</é 3.png"

    outputs = [output for cell in record.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.get("text", "") for output in outputs)
    assert (out / "ranked.earlier.csv").read_text() == "of another delta"
    assert "1 of 2 probes are among the crops themselves" in said
    assert "1 skipped file" in said and "notes <b>.txt: no image" in said
    assert "No estimate: my crops has no tracks" in said
    assert ("alert(1)< takes the delta of all crops: fewer than 32 images" in said) == bool(cameras)
    assert ("1 of 2 probes are of no known camera" in said) == bool(cameras)
    assert (out / "deltas.safetensors").exists() == bool(cameras)
    html = "".join(output.data.get("text/html", "") for output in outputs if "data" in output)
    assert "&lt;script&gt;" in html and "<script>" not in html
