"""Folders of crops as engineers have them: any names and kinds of file, each read or named."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from bnta_lib.settings import settings
from bnta_lib.site import adaption_sample, check_choices, load_probes, load_site, read_crops, results_dir
from bnta_lib.site.crops import Site

SIZE = (96, 48)


def noise(seed: int, size=(96, 48), channels: int = 3) -> np.ndarray:
    """Blocks of random colour, that JPEG keeps."""
    grid = np.random.default_rng(seed).integers(0, 256, (6, 3, channels), np.uint8)
    return np.kron(grid, np.ones((size[0] // 6, size[1] // 3, 1), np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Six crops of six kinds, in folders with spaces, accents and mark-up in their names."""
    root = tmp_path / "Caméra 1"
    deep = root / "<script>alert(1)<" / "a b"
    deep.mkdir(parents=True)
    colour = Image.fromarray(noise(0))
    colour.save(root / "one.png")
    colour.save(root / "two.JPG", quality=95)
    Image.fromarray(noise(1)[..., 0]).save(deep / "grey.png")
    Image.fromarray((noise(2)[..., 0].astype(np.uint16) << 8)).save(deep / "sixteen.png")
    colour.convert("CMYK").save(root / "print.jpeg", quality=95)
    colour.quantize(32).save(root / "palette.bmp")
    colour.save(root / "web.webp", lossless=True)
    return root


def test_every_kind_of_image_is_read_as_it_looks(folder):
    site = read_crops(folder, SIZE)
    pixels = dict(zip((name.split("/")[-1] for name in site.files), site.images.int(), strict=True))
    expected = torch.from_numpy(noise(0).transpose(2, 0, 1)).int()
    assert set(pixels) == {"one.png", "two.JPG", "grey.png", "sixteen.png", "print.jpeg",
                           "palette.bmp", "web.webp"}  # fmt: skip
    assert torch.equal(pixels["one.png"], expected) and torch.equal(pixels["web.webp"], expected)
    for name, tolerance in (("two.JPG", 6), ("palette.bmp", 6), ("print.jpeg", 12)):
        assert (pixels[name] - expected).abs().float().median() <= tolerance, name
    for name, seed in (("grey.png", 1), ("sixteen.png", 2)):
        assert (pixels[name] == torch.from_numpy(noise(seed)[..., 0]).int()).all(), name
    assert site.tracks is None and not site.skipped


def test_files_that_are_no_image_are_named_and_passed_over(folder):
    (folder / "notes.txt").write_text("hello")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut short.png").write_bytes((folder / "one.png").read_bytes()[:200])
    (folder / "clip.mp4").write_bytes(b"video")
    (folder / ".hidden.png").write_bytes(b"of the file system")
    site = read_crops(folder, SIZE)
    assert len(site) == 7
    assert set(site.skipped) == {"notes.txt", "broken.jpg", "empty.png", "cut short.png", "clip.mp4"}
    assert site.summary() == "Caméra 1: 7 crops, 5 skipped files"
    assert "video" in site.skipped["clip.mp4"] and "decoded" in site.skipped["broken.jpg"]
    assert len(site.skipped_lines(3)) == 4 and site.skipped_lines(3)[-1] == "  ... and 2 more"


@pytest.mark.parametrize("count, message", [
    (0, "holds no image"), (1, "gives 1 person crop: adaption needs at least 4"), (3, "gives 3 person crops")])
def test_too_few_crops_are_refused(tmp_path, count, message):
    for k in range(count):
        Image.fromarray(noise(k)).save(tmp_path / f"{k}.png")
    with pytest.raises(ValueError, match=message):
        load_site(tmp_path, settings("smoke"))


def test_a_wrong_path_is_named(tmp_path):
    current = settings("smoke")
    with pytest.raises(FileNotFoundError, match="there is no .*nowhere"):
        load_site(tmp_path / "nowhere", current)
    Image.fromarray(noise(0)).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="single image"):
        load_site(tmp_path / "one.png", current)
    with pytest.raises(ValueError, match="'folders'"):
        read_crops(tmp_path, SIZE, tracks="persons")
    with pytest.raises(FileNotFoundError, match="no such folder: .*nowhere"):
        load_probes(tmp_path / "nowhere", current)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="holds no image.* such as notes.txt"):
        load_probes(tmp_path / "none", current)
    assert load_probes(None, current) is None


def test_each_folder_can_be_a_track(tmp_path):
    for track in ("b", "a"):
        (tmp_path / track).mkdir()
        for k in range(3):
            Image.fromarray(noise(k + 7 * (track == "b"))).save(tmp_path / track / f"{k}.png")
    site = load_site(tmp_path, settings("smoke"), tracks="folders")
    assert site.tracks.tolist() == [1, 1, 1, 2, 2, 2] and site.times.tolist() == [0, 1, 2] * 2


def test_a_sample_draws_crops_once_and_by_its_seed():
    site = Site("s", torch.zeros(50, 3, 4, 2, dtype=torch.uint8), ("x",) * 50)
    rows = adaption_sample(site, 20, seed=1)
    assert len(set(rows.tolist())) == 20 and torch.equal(rows, rows.sort().values)
    assert torch.equal(rows, adaption_sample(site, 20, seed=1))
    assert not torch.equal(rows, adaption_sample(site, 20, seed=2))
    assert torch.equal(adaption_sample(site, 50), torch.arange(50))


def test_results_of_a_site_stay_in_a_folder_of_its_own(tmp_path):
    images = torch.zeros(1, 3, 4, 2, dtype=torch.uint8)
    for name in ("../../etc", "<b>", "..", "/"):
        folder = results_dir(Site(name, images, ("x",)))
        assert folder.parent.name == "site" and folder.name not in ("", ".", "..")
    assert results_dir(Site("a", images, ("x",)), tmp_path / "out") == tmp_path / "out"
    one, other = (results_dir(Site("same" + "L" * 200, images, ("x",), path=path)) for path in ("/a/same", "/b/same"))
    assert one != other and all(folder.name.startswith("sameLL") and len(folder.name) < 80 for folder in (one, other))


def test_a_pipe_among_crops_keeps_no_reader_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    Image.new("RGB", (20, 40)).save(tmp_path / "a.png")
    assert read_crops(tmp_path, (48, 24)).files == ("a.png",)


@pytest.mark.parametrize("change, message", [
    ({"images": None}, "images is a path"), ({"out": True}, "out is a path; got True"),
    ({"out": " "}, "out is a path"), ({"N": "abc"}, "N is a whole number of at least 4; got 'abc'"),
    ({"places": -3}, "places is a whole number of at least 1")])
def test_a_wrong_parameter_is_named_before_anything_is_read(change, message):
    given = {"images": "rendered", "probes": None, "out": None, "N": 2000, "places": 20, "seed": 0, **change}
    with pytest.raises(ValueError, match=message):
        check_choices(**given)


def test_results_that_cannot_be_written_are_noticed_before_the_work(tmp_path):
    check_choices("rendered", None, tmp_path / "new", N=2000, places=20, seed=0)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="cannot write to .*file"):
        check_choices("rendered", None, tmp_path / "file", N=2000, places=20, seed=0)
    assert (tmp_path / "file").read_text() == "mine"
