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


def test_a_kind_of_image_is_not_read_as_it_looks(folder):
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


def test_what_lies_behind_transparent_places_is_shown(tmp_path):
    rgba = np.dstack([noise(3), np.full((96, 48), 255, np.uint8)])
    rgba[:48, :, 3] = 0
    Image.fromarray(rgba, "RGBA").save(tmp_path / "cut.png")
    image = read_crops(tmp_path, SIZE).images[0]
    assert (image[:, :48] == 255).all()
    assert torch.equal(image[:, 48:], torch.from_numpy(noise(3)[48:].transpose(2, 0, 1)))


def test_a_photograph_lies_on_its_side(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = np.dstack([noise(4), np.full((96, 48), 255, np.uint8)])
    Image.fromarray(clear, "RGBA").rotate(90, expand=True).save(tmp_path / "a.png", exif=turned)
    assert torch.equal(read_crops(tmp_path, SIZE).images[0], torch.from_numpy(noise(4).transpose(2, 0, 1)))
    (tmp_path / "a.png").unlink()
    Image.fromarray(noise(4)).rotate(90, expand=True).save(tmp_path / "x.jpg", exif=turned, quality=95)
    image = read_crops(tmp_path, SIZE).images[0].int()
    assert (image - torch.from_numpy(noise(4).transpose(2, 0, 1)).int()).abs().float().median() <= 6


def test_a_file_that_is_no_image_stops_the_reading_or_goes_unnamed(folder):
    (folder / "notes.txt").write_text("hello")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut short.png").write_bytes((folder / "one.png").read_bytes()[:200])
    (folder / "clip.mp4").write_bytes(b"video")
    (folder / ".hidden.png").write_bytes(b"of the file system")
    site = read_crops(folder, SIZE)
    assert len(site) == 7
    assert set(site.skipped) == {"notes.txt", "broken.jpg", "empty.png", "cut short.png", "clip.mp4"}
    assert "5 files passed over" in site.summary()
    assert "video" in site.skipped["clip.mp4"] and "decoded" in site.skipped["broken.jpg"]
    assert len(site.skipped_lines(3)) == 4 and site.skipped_lines(3)[-1] == "  ... and 2 more"


def test_sizes_are_mixed_or_large(tmp_path):
    for k, (height, width) in enumerate([(30, 9), (96, 48), (640, 200), (2160, 3840), (7, 300)]):
        Image.fromarray(noise(k, (height, width)) if min(height, width) > 12 else
                        np.full((height, width, 3), 40 * k, np.uint8)).save(tmp_path / f"{k}.png")
    site = load_site(tmp_path, settings("smoke"))
    assert site.images.shape == (5, 3, 96, 48)


@pytest.mark.parametrize("count, copies, says", [
    (0, 1, "holds no image"), (1, 1, "gives 1 person crop: adaption needs at least 4"),
    (3, 1, "gives 3 person crops"), (1, 9, "all are copies of 1 picture:"),
    (3, 5, "all are copies of 3 pictures:"),
])  # fmt: skip
def test_too_few_different_crops_are_taken(tmp_path, count, copies, says):
    for k in range(count):
        for j in range(copies):
            Image.fromarray(noise(k)).save(tmp_path / f"{k}_{j}.png")
    with pytest.raises(ValueError, match=says):
        load_site(tmp_path, settings("smoke"))


def test_a_wrong_path_is_not_said_to_be_one(tmp_path):
    current = settings("smoke")
    with pytest.raises(FileNotFoundError, match="there is no .*nowhere"):
        load_site(tmp_path / "nowhere", current)
    Image.fromarray(noise(0)).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="single image"):
        load_site(tmp_path / "one.png", current)
    with pytest.raises(ValueError, match="images is empty"):
        load_site(" ", current)
    with pytest.raises(ValueError, match="'folders'"):
        read_crops(tmp_path, SIZE, tracks="persons")
    with pytest.raises(FileNotFoundError, match="probes takes a folder"):
        load_probes(tmp_path / "nowhere", current)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="probes: .* holds no image.*for one notes.txt"):
        load_probes(tmp_path / "none", current)
    assert load_probes(None, current) is None


def test_folders_are_no_tracks_when_asked_for(tmp_path):
    for track in ("b", "a"):
        (tmp_path / track).mkdir()
        for k in range(3):
            Image.fromarray(noise(k + 7 * (track == "b"))).save(tmp_path / track / f"{k}.png")
    site = load_site(tmp_path, settings("smoke"), tracks="folders")
    assert site.tracks.tolist() == [1, 1, 1, 2, 2, 2] and site.times.tolist() == [0, 1, 2] * 2


def test_a_sample_repeats_crops_or_changes_between_runs():
    site = Site("s", torch.zeros(50, 3, 4, 2, dtype=torch.uint8), ("x",) * 50)
    rows = adaption_sample(site, 20, seed=1)
    assert len(set(rows.tolist())) == 20 and torch.equal(rows, rows.sort().values)
    assert torch.equal(rows, adaption_sample(site, 20, seed=1))
    assert not torch.equal(rows, adaption_sample(site, 20, seed=2))
    assert torch.equal(adaption_sample(site, 50), torch.arange(50))
    with pytest.raises(ValueError, match="at least 4"):
        adaption_sample(site, 3)


def test_results_of_a_site_leave_their_folder(tmp_path):
    images = torch.zeros(1, 3, 4, 2, dtype=torch.uint8)
    for name in ("../../etc", "<b>", "..", "/"):
        folder = results_dir(Site(name, images, ("x",)))
        assert folder.parent.name == "site" and folder.name not in ("", ".", "..")
    assert results_dir(Site("a", images, ("x",)), tmp_path / "out") == tmp_path / "out"


def test_sites_of_one_name_do_not_share_a_folder(tmp_path):
    from bnta_lib import settings
    from bnta_lib.site import load_site

    for place in "ab":
        folder = tmp_path / place / ("same" + "L" * 200)
        folder.mkdir(parents=True)
        for k in range(20):
            Image.fromarray(noise(k)).save(folder / f"{k}.png")
    own = [results_dir(load_site(tmp_path / place / ("same" + "L" * 200), settings("smoke"))) for place in "ab"]
    assert own[0] != own[1] and all(folder.name.startswith("sameLL") and len(folder.name) < 80 for folder in own)


def test_columns_of_a_site_do_not_fit():
    with pytest.raises(ValueError, match="1 files do not fit 2 images"):
        Site("s", torch.zeros(2, 3, 4, 2, dtype=torch.uint8), ("x",))


def test_a_pipe_among_crops_keeps_no_reader_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    Image.new("RGB", (20, 40)).save(tmp_path / "a.png")
    assert read_crops(tmp_path, (48, 24)).files == ("a.png",)


def test_a_picture_of_too_many_pixels_is_said_to_be_so(tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 40) if name == "a.png" else (200, 400)).save(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert "more pixels" in read_crops(tmp_path, (48, 24)).skipped["b.png"]


GOOD = {"N": 2000, "places": 20, "seed": 0, "guarded": True}


@pytest.mark.parametrize("change, words", [
    ({"images": 3}, "images is a path; got 3"), ({"images": None}, "images is a path"),
    ({"probes": 3}, "probes is a path"), ({"out": True}, "out is a path; got True"),
    ({"N": "abc"}, "N is a whole number of at least 4; got 'abc'"), ({"N": 1.5}, "N is a whole number"),
    ({"places": -3}, "places is a whole number of at least 1"), ({"seed": "x"}, "seed is a whole number; got 'x'"),
    ({"seed": 1 << 63}, "seed is a whole number from 0 to"), ({"seed": -1}, "seed is a whole number from 0 to"),
    ({"out": " "}, "out is empty: is a variable not set"), ({"probes": ""}, "probes is empty"),
    ({"images": ""}, "images is empty"), ({"images": "~nobody-of-this-name/x"}, "images names a home folder"),
    ({"images": "https://host/a.mp4"}, "images is a folder or a video of this machine"),
    ({"probes": "ftp://host/a"}, "probes is a folder or"),
    ({"guarded": "no"}, "guarded is True or False; got 'no'")])
def test_a_parameter_of_another_kind_is_named_before_anything_is_read(change, words):
    given = {"images": "rendered", "probes": None, "out": None, **GOOD, **change}
    with pytest.raises(ValueError, match=words):
        check_choices(given.pop("images"), given.pop("probes"), given.pop("out"), **given)


def test_results_that_could_not_be_kept_are_found_before_the_work(tmp_path):
    check_choices("rendered", None, tmp_path / "new", **GOOD)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="a file stands where a folder should be"):
        check_choices("rendered", None, tmp_path / "file", **GOOD)
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "taken" / "ranked.csv").mkdir(parents=True)
    with pytest.raises(OSError, match="a folder stands in its place"):
        check_choices("rendered", None, tmp_path / "taken", **GOOD)
