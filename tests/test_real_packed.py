"""A pack holds what Pillow decodes, is whole or absent, and is never read without need."""

import multiprocessing
import os
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from real_trees import tree, write_cuhk03_mat

from bnta_lib.data import mixture
from bnta_lib.data import packed as packing
from bnta_lib.data.__main__ import main
from bnta_lib.data.packed import pack, pack_folder
from bnta_lib.data.published import Found, find_sets
from bnta_lib.data.sets import Sample
from bnta_lib.rendered import benchmark
from bnta_lib.site.crops import read_crops

SIZE = (64, 32)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache of its own, blocks of four images, one process."""
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    monkeypatch.setattr(packing, "BLOCK", 4)


def noise(height, width, seed=0, mode="RGB"):
    rng = np.random.default_rng([seed, height, width])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)


def crops(folder, count=22, name="Market-1501", first=0):
    """A set of small JPEGs of different sizes, two images of each person."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for i in range(first, first + count):
        file = folder / f"{i // 2 + 1:04d}_c{i % 3 + 1}s1_{i:06d}_00.jpg"
        noise(20 + 7 * i % 90, 10 + 5 * i % 60, i).save(file)
        samples.append(Sample(file, i // 2 + 1, i % 3 + 1, "train"))
    return Found(name, folder, tuple(samples))


def by_pillow(samples, size=SIZE):
    """(N, 3, H, W) by Pillow and NumPy alone."""
    pictures = [ImageOps.exif_transpose(Image.open(s.file)).convert("RGB") for s in samples]
    resized = [p.resize(size[::-1], Image.Resampling.BILINEAR) for p in pictures]
    return torch.from_numpy(np.stack([np.asarray(p) for p in resized]).transpose(0, 3, 1, 2).copy())


def quiet(found, size=SIZE):
    return pack(found, size, progress=False)


# ---- pixels and labels


@pytest.mark.parametrize("workers, size", [("1", (64, 32)), ("1", (96, 48)), ("2", (64, 32))])
def test_pixels_are_those_of_pillow(tmp_path, monkeypatch, workers, size):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", workers)
    found = crops(tmp_path / "set")
    made = quiet(found, size)
    assert made.images.dtype == torch.uint8 and torch.equal(made.images, by_pillow(found.samples, size))
    assert made.pids.tolist() == [s.pid for s in found.samples]
    assert made.camids.tolist() == [s.camid for s in found.samples]
    assert np.array_equal(np.load(pack_folder(found, size) / "images.npy"), made.images.numpy())


def test_modes_formats_and_orientations_are_decoded_as_by_pillow(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures = {
        "grey.jpg": (noise(30, 20, mode="L"), {}), "cmyk.jpg": (noise(30, 20, mode="CMYK"), {}),
        "turned.jpg": (noise(30, 20), {"exif": turned}), "turned.png": (noise(30, 20), {"exif": turned}),
        "turned.webp": (noise(30, 20), {"exif": turned, "lossless": True}), "plain.bmp": (noise(30, 20), {}),
        "clear.png": (noise(30, 20, mode="RGBA"), {}), "palette.png": (noise(30, 20, mode="P"), {}),
        "bits.png": (noise(30, 20, mode="1"), {}), "large.tif": (noise(300, 200), {}),
    }
    for name, (picture, options) in pictures.items():
        picture.save(tmp_path / name, **options)
    samples = tuple(Sample(tmp_path / name, i, 1) for i, name in enumerate(pictures, 1))
    packed = quiet(Found("any", tmp_path, samples)).images
    assert torch.equal(packed, by_pillow(samples))
    site = read_crops(tmp_path, SIZE)  # another reader, and in the order of names
    assert {*pictures} <= {*site.files} and all(torch.equal(image, packed[[*pictures].index(name)])
                                                for name, image in zip(site.files, site.images, strict=True))


def test_crops_of_a_photograph_and_of_a_mat_file_are_packed(tmp_path):
    folder = tmp_path / "Fünf Sätze 行人"
    folder.mkdir()
    noise(80, 60).save(folder / "s 1.png")
    write_cuhk03_mat(folder / "cuhk-03.mat")
    cells = find_sets(folder)["CUHK03"].samples[:2]
    with h5py.File(folder / "cuhk-03.mat") as mat:
        pixels = [mat[mat[mat["detected"][0, pair]][column, row]][()].T
                  for pair, column, row in (cell.cell for cell in cells)]
    photograph = Sample(folder / "s 1.png", 1, 2)
    samples = (replace(photograph, box=(5, 10, 30, 40)), cells[1], photograph, cells[0])
    made = quiet(Found("CUHK03", folder, samples))
    expected = [Image.open(folder / "s 1.png").crop((5, 10, 35, 50)), Image.fromarray(pixels[1]),
                Image.open(folder / "s 1.png"), Image.fromarray(pixels[0])]
    for image, picture in zip(made.images, expected):
        resized = np.asarray(picture.resize((32, 64), Image.Resampling.BILINEAR))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), resized)


def test_sets_in_one_pack_are_mixed_as_the_embedded_ones(tmp_path):
    one, two = crops(tmp_path / "a", 10, "CUHK02"), crops(tmp_path / "b", 7, first=40)
    expected = benchmark.mixed([quiet(one), quiet(two)], "both")
    both = mixture({"Market-1501": two, "CUHK02": one})
    mixed = quiet(both)
    assert both.note == ("17 images of 9 people: CUHK02 (10 images, 5 people), Market-1501 (7 images, "
                         "4 people); without CUHK03, DukeMTMC-reID, CUHK-SYSU")
    assert mixed.name == both.note and torch.equal(mixed.images, expected.images)
    assert torch.equal(mixed.pids, expected.pids) and torch.equal(mixed.camids, expected.camids)
    # A set has another digest if one label or pixel is another.
    relabelled = replace(two, samples=(replace(two.samples[0], camid=9), *two.samples[1:]))
    digests = {mixed.digest, *(quiet(found).digest for found in (one, two, relabelled))}
    noise(50, 20, 99).save(two.samples[3].file, "PNG")
    digests.add(quiet(two).digest)
    assert len(digests) == 5 and quiet(replace(two, name="c")).digest == quiet(two).digest


# ---- what makes another pack


def test_another_file_label_size_or_order_makes_another_pack_and_another_place_none(tmp_path):
    found = crops(tmp_path / "set", 6)
    folders = [pack_folder(found, SIZE), pack_folder(found, (32, 32))]
    for samples in ((replace(found.samples[0], pid=77), *found.samples[1:]), found.samples[::-1]):
        folders.append(pack_folder(replace(found, samples=samples), SIZE))
    quiet(found)
    noise(50, 20, 99).save(found.samples[2].file)
    folders.append(pack_folder(found, SIZE))
    assert torch.equal(quiet(found).images, by_pillow(found.samples))
    os.utime(found.samples[1].file, ns=(1, 1))
    folders.append(pack_folder(found, SIZE))
    assert len(set(folders)) == 6
    moved = (tmp_path / "set").rename(tmp_path / "elsewhere")  # as a whole: it keeps its pack
    samples = tuple(replace(s, file=moved / s.file.name) for s in found.samples)
    assert pack_folder(replace(found, folder=moved, samples=samples), SIZE) == folders[-1]


# ---- damage, and others at work


def no_header(folder):
    with open(folder / "images.npy", "r+b") as file:
        file.write(b"\x93NUMPY\1\0" + (118).to_bytes(2, "little") + b"(((".ljust(117) + b"\n")


def another_pixel(folder):
    whole = (folder / "images.npy").read_bytes()
    (folder / "images.npy").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


@pytest.mark.parametrize("damage", [
    lambda folder: os.truncate(folder / "images.npy", 999), no_header, another_pixel,
    lambda folder: (folder / "labels.npy").unlink(),
    lambda folder: np.save(folder / "labels.npy", np.array([[{}], [{}]]), allow_pickle=True)])
def test_damaged_or_changed_pack_is_refused(tmp_path, damage):
    found = crops(tmp_path / "set", 6)
    quiet(found)
    damage(pack_folder(found, SIZE))
    with pytest.raises(ValueError, match="is damaged .*: delete it, and it is packed again"):
        quiet(found)


def test_two_processes_at_once_do_not_disturb_each_other(tmp_path):
    found = crops(tmp_path / "set", 60)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        assert torch.equal(*(made.images for made in pool.map(quiet, [found] * 2)))
    assert torch.equal(quiet(found).images, by_pillow(found.samples))


def test_unreadable_images_are_all_named(tmp_path):
    found = crops(tmp_path / "set")
    names = [found.samples[i].file for i in (2, 9, 10)]
    names[0].write_bytes(names[0].read_bytes()[:200])
    names[1].write_bytes(b"")
    names[2].unlink()
    with pytest.raises(ValueError, match="3 images cannot be decoded") as raised:
        quiet(found)
    assert all(str(name) in str(raised.value) for name in names)
    assert not pack_folder(found, SIZE).exists()


def test_full_disk_is_named_before_anything_is_decoded(tmp_path, small_disk, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(small_disk))
    found = crops(tmp_path / "set", 60)
    with pytest.raises(OSError, match="the disk is full: could not write .* free some space"):
        quiet(found)
    subprocess.run(["mount", "-o", "remount,size=2M", str(small_disk)], check=True)
    assert torch.equal(quiet(found).images, by_pillow(found.samples))


# ---- the command


def test_command_packs_the_mixture_and_every_target(tmp_path, capsys):
    tree("Market-1501", "folders", tmp_path / "data")
    top = tree("VIPeR", "bmp", tmp_path / "data")
    command = ["pack", str(tmp_path / "data"), "--profile", "smoke"]
    for _ in range(2):
        assert main(command) == 0
        assert capsys.readouterr().out == "Market-1501: 30 images of 6 people\nVIPeR: 12 images of 6 people\n"
    broken = next(top.rglob("*.bmp"))
    broken.write_bytes(b"BM")
    assert main(command) == 2 and str(broken) in capsys.readouterr().err
    (tmp_path / "nothing").mkdir()
    assert main(["pack", str(tmp_path / "nothing")]) == 2
    assert "holds none of the sets" in capsys.readouterr().err
