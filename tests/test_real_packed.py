"""A pack holds what Pillow decodes, survives kills and damage, and is never read without need."""

import argparse
import errno
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from apart import begun, ended
from PIL import Image, ImageOps

from bnta_lib.rendered import benchmark
from bnta_lib.data import packed as packing, records
from bnta_lib.data.packed import open_pack, packed
from bnta_lib.data.records import Found, Sample
from bnta_lib.data.sets import ReIDSet
from bnta_lib.training import prefetch_batches, train

SIZE = (64, 32)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache of its own, blocks of four images, every block flushed."""
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BNTA_WORKERS", "1")
    monkeypatch.setattr(packing, "BLOCK", 4)
    monkeypatch.setattr(packing, "FLUSH_SECONDS", 0.0)


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
    return Found(name, "folders", folder, tuple(samples))


def by_pillow(samples, size=SIZE):
    """(N, 3, H, W) by Pillow and NumPy alone."""
    pictures = [ImageOps.exif_transpose(Image.open(s.file)).convert("RGB") for s in samples]
    resized = [p.resize(size[::-1], Image.Resampling.BILINEAR) for p in pictures]
    return torch.from_numpy(np.stack([np.asarray(p) for p in resized]).transpose(0, 3, 1, 2).copy())


def quiet(*arguments, **options):
    return packed(*arguments, progress=False, **options)


def quiet_in_small_blocks(found):
    """What `cache` arranges here, in a process of its own."""
    packing.BLOCK, packing.FLUSH_SECONDS = 4, 0.0
    quiet(found, SIZE)


def decoded_blocks(monkeypatch):
    """A list that grows by the number of each block that is decoded from here on."""
    real, blocks = packing._decode_block, []

    def counted(images, block, *rest):
        blocks.append(block)
        return real(images, block, *rest)

    monkeypatch.setattr(packing, "_decode_block", counted)
    return blocks


# ---------------------------------------------------------------- pixels and labels


@pytest.mark.parametrize("size", [(64, 32), (96, 48)])
def test_pixels_are_not_those_of_pillow(tmp_path, size):
    found = crops(tmp_path / "set")
    pack = quiet(found, size)
    assert pack.images.dtype == torch.uint8 and torch.equal(pack.images, by_pillow(found.samples, size))
    assert pack.pids.tolist() == [s.pid for s in found.samples]
    assert pack.camids.tolist() == [s.camid for s in found.samples]
    assert np.array_equal(np.load(pack.folder / "images.npy"), pack.images.numpy())
    assert pack.damaged() == [] and pack.unreadable == ()


def test_an_image_that_grows_has_other_pixels_than_pillows():
    rng = np.random.default_rng(0)
    sides = [(1, 1), (1, 64), (128, 1), (128, 64)]
    sides += [(int(rng.integers(1, 129)), int(rng.integers(1, 65))) for _ in range(400)]
    assert packing._torch_agrees()
    for height, width in sides:
        picture = noise(height, width)
        by_torch = packing._by_torch(picture, (128, 64))
        expected = np.asarray(picture.resize((64, 128), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert np.array_equal(by_torch, expected), (height, width)


def test_modes_formats_and_orientations_are_decoded_otherwise_than_by_pillow(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures = {
        "grey.jpg": (noise(30, 20, mode="L"), {}), "cmyk.jpg": (noise(30, 20, mode="CMYK"), {}),
        "turned.jpg": (noise(30, 20), {"exif": turned}), "turned.png": (noise(30, 20), {"exif": turned}),
        "turned.webp": (noise(30, 20), {"exif": turned, "lossless": True}), "plain.bmp": (noise(30, 20), {}),
        "clear.png": (noise(30, 20, mode="RGBA"), {}), "palette.png": (noise(30, 20, mode="P"), {}),
        "bits.png": (noise(30, 20, mode="1"), {}), "large.tif": (noise(300, 200), {}),
    }  # fmt: skip
    samples = []
    for i, (name, (picture, options)) in enumerate(pictures.items()):
        picture.save(tmp_path / name, **options)
        samples.append(Sample(tmp_path / name, i + 1, 1))
    assert torch.equal(quiet(samples, SIZE).images, by_pillow(samples))


def test_crops_of_a_photograph_and_of_a_mat_file_are_others(tmp_path):
    folder = tmp_path / "Fünf Sätze 行人"
    folder.mkdir()
    noise(80, 60).save(folder / "s 1.png")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 12, 3), np.uint8)
    with h5py.File(folder / "cuhk.mat", "w") as file:
        for i in range(2):
            file[f"r{i}"] = pixels[i].T  # MATLAB's order
    samples = (Sample(folder / "s 1.png", 1, 1, box=(5, 10, 30, 40)),
               Sample(folder / "cuhk.mat", 2, 1, cell="r1"), Sample(folder / "s 1.png", 1, 2),
               Sample(folder / "cuhk.mat", 3, 1, cell="r0"))
    pack = quiet(Found("CUHK03", "mat", folder, samples), SIZE)
    expected = [Image.open(folder / "s 1.png").crop((5, 10, 35, 50)), Image.fromarray(pixels[1]),
                Image.open(folder / "s 1.png"), Image.fromarray(pixels[0])]
    for image, picture in zip(pack.images, expected):
        resized = np.asarray(picture.resize((32, 64), Image.Resampling.BILINEAR))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), resized)


def test_sets_in_one_pack_are_mixed_otherwise_than_the_embedded_ones(tmp_path):
    one, two = crops(tmp_path / "a", 10), crops(tmp_path / "b", 7, "CUHK02", first=40)
    pack = quiet([one, two], SIZE)
    assert pack.spans == {"Market-1501": range(10), "CUHK02": range(10, 17)}
    sets = [pack.as_set("Market-1501"), pack.as_set("CUHK02")]
    expected = benchmark.mixed(sets, 17, "both")
    got = pack.mixed("both")
    assert torch.equal(got.images, expected.images) and got.images.data_ptr() == pack.images.data_ptr()
    assert torch.equal(got.pids, expected.pids) and torch.equal(got.camids, expected.camids)
    # A set is the same by itself, and another where one label or pixel is.
    alone = quiet(two, SIZE).as_set()
    assert alone.digest == sets[1].digest and torch.equal(alone.images, sets[1].images)
    digests = {sets[0].digest, sets[1].digest, got.digest}
    relabelled = replace(two, samples=(replace(two.samples[0], camid=9), *two.samples[1:]))
    digests.add(quiet(relabelled, SIZE).as_set().digest)
    picture = Image.open(two.samples[3].file).convert("RGB")
    picture.putpixel((0, 0), (0, 0, 0) if picture.getpixel((0, 0))[0] > 99 else (255, 255, 255))
    picture.save(two.samples[3].file, "PNG")
    digests.add(quiet(two, SIZE).as_set().digest)
    assert len(digests) == 5
    with pytest.raises(ValueError, match="name one of the sets in this pack: Market-1501, CUHK02"):
        pack.as_set()
    with pytest.raises(ValueError, match="this pack has no 'VIPeR'"):
        pack.as_set("VIPeR")
    distractors = replace(two, samples=(replace(two.samples[0], pid=0), *two.samples[1:]))
    with pytest.raises(ValueError, match="CUHK02 has distractors"):
        quiet([one, distractors], SIZE).mixed("both")
    with pytest.raises(ValueError, match="a set is there twice"):
        quiet([one, one], SIZE)
    with pytest.raises(ValueError, match="no image to pack"):
        quiet([], SIZE)


def test_several_processes_pack_other_pixels_than_one(monkeypatch, tmp_path):
    found = crops(tmp_path / "set", 40)
    alone = quiet(found, SIZE)
    kept = alone.images.clone()
    monkeypatch.setattr(packing, "SMALL", 0)
    (alone.folder / "pack.json").unlink()
    (alone.folder / "journal").unlink()
    (alone.folder / "images.npy").write_bytes(b"")
    assert torch.equal(quiet(found, SIZE, workers=2).images, kept)
    for wrong in ("many", "0", "-1"):
        monkeypatch.setenv("BNTA_WORKERS", wrong)
        with pytest.raises(ValueError, match="BNTA_WORKERS is a number of processes"):
            quiet(found, (32, 32))


def test_writing_into_an_open_pack_changes_its_file(tmp_path):
    found = crops(tmp_path / "set", 5)
    pack = quiet(found, SIZE)
    pack.images[:] = 0
    assert torch.equal(open_pack(pack.folder).images, by_pillow(found.samples))


# ---------------------------------------------------------------- what makes another pack


def test_another_file_label_size_or_order_opens_the_same_pack(tmp_path, monkeypatch):
    found = crops(tmp_path / "set", 6)
    first = quiet(found, SIZE)
    blocks = decoded_blocks(monkeypatch)
    assert quiet(found, SIZE).folder == first.folder and blocks == []
    relabelled = replace(found, samples=(replace(found.samples[0], pid=77), *found.samples[1:]))
    turned = replace(found, samples=found.samples[::-1])
    others = [quiet(relabelled, SIZE), quiet(found, (32, 32)), quiet(turned, SIZE)]
    noise(50, 20, 99).save(found.samples[2].file)
    others.append(quiet(found, SIZE))
    assert torch.equal(others[-1].images, by_pillow(found.samples))
    os.utime(found.samples[1].file, ns=(1, 1))
    others.append(quiet(found, SIZE))
    assert len({first.folder, *(pack.folder for pack in others)}) == 6


def test_a_set_that_was_moved_as_a_whole_is_packed_again(tmp_path, monkeypatch):
    found = crops(tmp_path / "set", 6)
    first = quiet(found, SIZE)
    blocks = decoded_blocks(monkeypatch)
    moved = (tmp_path / "set").rename(tmp_path / "elsewhere")
    samples = tuple(replace(s, file=moved / s.file.name) for s in found.samples)
    assert quiet(Found(found.name, found.layout, moved, samples), SIZE).folder == first.folder and not blocks


def test_a_file_that_changes_while_it_is_packed_goes_unnoticed(tmp_path, monkeypatch):
    found = crops(tmp_path / "set", 10)
    real = packing._decoded

    def meanwhile(*arguments):
        noise(50, 20, 99).save(found.samples[5].file)
        return real(*arguments)

    monkeypatch.setattr(packing, "_decoded", meanwhile)
    with pytest.raises(ValueError, match=f"1 files changed while .*{found.samples[5].file.name}: run again"):
        quiet(found, SIZE)
    monkeypatch.setattr(packing, "_decoded", real)
    blocks = decoded_blocks(monkeypatch)
    assert torch.equal(quiet(found, SIZE).images, by_pillow(found.samples)) and blocks == [1]


# ---------------------------------------------------------------- kills and damage


def journalled(cache):
    """How many blocks the journal of an unfinished pack in ``cache`` calls finished."""
    journals = list((cache / "packed").glob("*.part/journal"))
    return journals[0].read_bytes().count(b"\n") if journals else 0


def test_a_killed_packing_loses_finished_blocks_or_leaves_wrong_pixels(tmp_path, monkeypatch):
    found = crops(tmp_path / "set", 240)
    expected = by_pillow(found.samples)
    rng, resumed = np.random.default_rng(0), 0
    for trial in range(6):
        monkeypatch.setenv("BNTA_CACHE", str(tmp_path / f"cache {trial}"))
        begin, child = rng.integers(40), begun(quiet_in_small_blocks, found)
        while child.is_alive() and journalled(tmp_path / f"cache {trial}") < begin:
            time.sleep(0.001)
        time.sleep(float(rng.uniform(0, 0.02)))
        child.kill()
        ended(child)
        parts = list((tmp_path / f"cache {trial}" / "packed").glob("*.part"))
        finished = journalled(tmp_path / f"cache {trial}")
        with monkeypatch.context() as patch:
            blocks = decoded_blocks(patch)
            pack = quiet(found, SIZE)
        assert torch.equal(pack.images, expected) and pack.damaged() == []
        assert len(blocks) == (60 - finished if parts else len(blocks))
        assert not list(pack.folder.parent.glob("*.part"))
        resumed += 0 < finished < 60
    assert resumed >= 2


def unfinished(found):
    """A pack whose last block is missing, as a kill leaves it; the folder."""
    pack = quiet(found, SIZE)
    part = packing._identity(packing._sets(found), SIZE)[1]
    (pack.folder / "pack.json").unlink()
    pack.folder.rename(part)
    lines = (part / "journal").read_bytes().splitlines(keepends=True)
    (part / "journal").write_bytes(b"".join(lines[:-1]))
    return part


@pytest.mark.parametrize("damage, again", [
    ("nothing", [5]), ("cut line", [4, 5]), ("edited line", [1, 5]), ("no journal", range(6)),
    ("pixel", [2, 5]), ("truncated", range(6)), ("other shape", range(6)), ("binary", [5]),
])  # fmt: skip
def test_a_damaged_part_is_taken_for_finished(tmp_path, monkeypatch, damage, again):
    found = crops(tmp_path / "set")
    part = unfinished(found)
    journal, images = part / "journal", part / "images.npy"
    text = journal.read_bytes()
    if damage == "cut line":
        journal.write_bytes(text[:-20])
    elif damage == "edited line":
        lines = text.splitlines(keepends=True)
        lines[1] = lines[1].replace(lines[1][20:24], b"0000" if lines[1][20:24] != b"0000" else b"1111")
        journal.write_bytes(b"".join(lines))
    elif damage == "binary":
        journal.write_bytes(text + b"\xff\x00 \xfe\n")
    elif damage == "no journal":
        journal.unlink()
    elif damage == "pixel":
        np.load(images, mmap_mode="r+")[9, 1, 3, 3] ^= 255
    elif damage == "truncated":
        os.truncate(images, images.stat().st_size - 1)
    elif damage == "other shape":
        np.save(images, np.zeros((3, 3), np.uint8))
    blocks = decoded_blocks(monkeypatch)
    assert torch.equal(quiet(found, SIZE).images, by_pillow(found.samples))
    assert blocks == list(again)


@pytest.mark.parametrize("damage", ["truncated", "label", "header", "no labels", "not json", "other version"])
def test_a_damaged_pack_is_opened(tmp_path, damage):
    found = crops(tmp_path / "set")
    folder = quiet(found, SIZE).folder
    header = folder / "pack.json"
    if damage == "truncated":
        os.truncate(folder / "images.npy", (folder / "images.npy").stat().st_size - 1)
    elif damage == "label":
        np.load(folder / "labels.npy", mmap_mode="r+")[3, 0] += 1
    elif damage == "header":
        header.write_text(header.read_text().replace('"Market-1501"', '"Market-1502"'))
    elif damage == "no labels":
        (folder / "labels.npy").unlink()
    elif damage == "not json":
        header.write_text(header.read_text()[:-9])
    elif damage == "other version":
        header.write_text(header.read_text().replace(f'"version": {packing.VERSION}', '"version": 1'))
    with pytest.raises(ValueError, match="the pack .* is damaged"):
        open_pack(folder)
    with pytest.warns(UserWarning, match="is damaged.*packed again"):
        pack = quiet(found, SIZE)
    assert torch.equal(pack.images, by_pillow(found.samples)) and pack.folder == folder
    with pytest.raises(FileNotFoundError, match="no finished pack"):
        open_pack(folder.parent)


@pytest.mark.parametrize("file", ["images.npy", "labels.npy", "pack.json"])
@pytest.mark.parametrize("header", [
    "(((", "  1\n 2", "{'descr': '|u1', 'fortran_order': False, 'shape': (%d,)}" % (1 << 70),
    "{'descr': '|u1', 'fortran_order': False, 'shape': (True,)}", "[" * 60_000,
], ids=["TokenError", "IndentationError", "OverflowError", "TypeError", "RecursionError"])  # fmt: skip
def test_a_header_that_breaks_its_parser_is_not_called_damage(tmp_path, file, header):
    found = crops(tmp_path / "set", 6)
    folder = quiet(found, SIZE).folder
    text = header.ljust(117).encode() + b"\n"
    start = b"" if file == "pack.json" else b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little")
    with open(folder / file, "r+b") as opened:
        opened.write(start + text)
    with pytest.raises(ValueError, match="the pack .* is damaged"):
        open_pack(folder)
    with pytest.warns(UserWarning, match="is damaged.*packed again"):
        assert torch.equal(quiet(found, SIZE).images, by_pillow(found.samples))


def test_two_processes_at_once_disturb_each_other(tmp_path):
    found = crops(tmp_path / "set", 60)
    children = [begun(quiet_in_small_blocks, found) for _ in range(3)]
    assert [ended(child) for child in children] == [0, 0, 0]
    assert torch.equal(quiet(found, SIZE).images, by_pillow(found.samples))


# ---------------------------------------------------------------- unreadable images


def test_an_unreadable_image_is_not_named_or_the_others_are_lost(tmp_path, monkeypatch):
    found = crops(tmp_path / "set")
    names = [found.samples[i].file for i in (2, 9, 10)]
    whole = by_pillow(found.samples)
    good = [file.read_bytes() for file in names]
    names[0].write_bytes(good[0][:200])
    names[1].write_bytes(b"")
    names[2].unlink()
    with pytest.raises(ValueError, match="3 of the images cannot be read") as raised:
        quiet(found, SIZE)
    assert all(str(name) in str(raised.value) for name in names)
    for name, data in zip(names, good):
        name.write_bytes(data)
    blocks = decoded_blocks(monkeypatch)
    assert torch.equal(quiet(found, SIZE).images, whole) and blocks == [0, 2]


def test_leaving_unreadable_images_out_shifts_labels(tmp_path):
    one, two = crops(tmp_path / "a", 13), crops(tmp_path / "b", 9, "CUHK02", first=30)
    samples = [*one.samples, *two.samples]
    whole, out = by_pillow(samples), [0, 6, 7, 14]
    for i in out:
        samples[i].file.write_bytes(b"no image")
    pack = quiet([one, two], SIZE, skip_unreadable=True)
    keep = [i for i in range(22) if i not in out]
    assert torch.equal(pack.images, whole[keep]) and pack.damaged() == []
    assert pack.pids.tolist() == [samples[i].pid for i in keep]
    assert pack.spans == {"Market-1501": range(10), "CUHK02": range(10, 18)}
    assert len(pack.unreadable) == 4 and samples[14].file.name in pack.unreadable[3]
    assert quiet([one, two], SIZE, skip_unreadable=True).folder == pack.folder
    assert quiet([one, two], SIZE, skip_unreadable=None).unreadable == pack.unreadable
    with pytest.raises(ValueError, match="4 of the images cannot be read"):
        quiet([one, two], SIZE)
    with pytest.raises(ValueError, match="2 of the images cannot be read"):
        quiet([samples[0], samples[6]], SIZE, skip_unreadable=True)
    with pytest.raises(ValueError, match="2 of the images cannot be read"):  # None leaves nothing out by itself
        quiet([samples[0], samples[1], samples[6]], SIZE, skip_unreadable=None)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_an_image_that_the_system_cannot_read_once_is_left_out_for_ever(tmp_path, monkeypatch, number):
    found = crops(tmp_path / "set", 6)
    with h5py.File(tmp_path / "set" / "cuhk.mat", "w") as file:
        file["r0"] = np.asarray(noise(24, 12)).T
    found = replace(found, samples=(*found.samples, Sample(tmp_path / "set" / "cuhk.mat", 9, 1, cell="r0")))

    def failing(*_, **__):
        raise OSError(number, os.strerror(number))

    for place, name in ((records, "opened_image"), (h5py, "File")):
        with monkeypatch.context() as patch:
            patch.setattr(packing, "_plain", lambda path: None)
            patch.setattr(place, name, failing)
            with pytest.raises(OSError, match=rf"(jpg|mat r0) cannot be read \({os.strerror(number)}\)"):
                quiet(found, SIZE, skip_unreadable=True)
    pack = quiet(found, SIZE, skip_unreadable=True)
    assert len(pack) == 7 and not pack.unreadable


# ---------------------------------------------------------------- disks


def test_a_disk_that_is_too_small_is_filled(tmp_path, small_disk, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(small_disk))
    found = crops(tmp_path / "set", 60)
    with pytest.raises(OSError, match=r"the pack needs 0.00 GB.* has 0.00 GB left: free some space"):
        quiet(found, SIZE)
    # Where space goes while it packs (some systems cannot reserve it), what was done is kept.
    monkeypatch.setattr(packing, "_check_space", lambda *_: None)
    monkeypatch.delattr(os, "posix_fallocate")
    with pytest.raises(OSError, match="the disk is full: .* free some space and run again"):
        quiet(found, SIZE)
    subprocess.run(["mount", "-o", "remount,size=2M", str(small_disk)], check=True)
    blocks = decoded_blocks(monkeypatch)
    assert torch.equal(quiet(found, SIZE).images, by_pillow(found.samples))
    assert 0 < len(blocks) < 15


def test_a_read_only_cache_cannot_be_used(tmp_path, small_disk, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(small_disk))
    found = crops(tmp_path / "set", 8)
    quiet(found, SIZE)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    pack = quiet(found, SIZE)
    assert torch.equal(pack.images, by_pillow(found.samples))
    pack.images[0] = 0  # in memory alone
    with pytest.raises(OSError, match="no permission to write below .*: set BNTA_CACHE"):
        quiet(found, (32, 32))
    del pack


@pytest.mark.parametrize("place", ["/proc/bnta", "file"])
def test_a_cache_that_cannot_be_made_is_not_said(tmp_path, monkeypatch, place):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / place))
    with pytest.raises(OSError, match="cannot be made .*: set BNTA_CACHE to a folder"):
        quiet(crops(tmp_path / "set", 8), SIZE)


def test_opening_or_drawing_reads_a_whole_pack(tmp_path):
    # 190 GB, more than any memory here; a hole in the file takes no disk.
    shape = (121_765, 3, 1024, 512)
    (part := tmp_path / "full.part").mkdir()
    np.lib.format.open_memmap(part / "images.npy", "w+", np.uint8, shape)
    samples = tuple(Sample(Path("-"), i // 7 + 1, i % 6 + 1) for i in range(shape[0]))
    sets = [("full", Path("-"), samples)]
    packing._finish(tmp_path / "full", part, sets, np.zeros(shape[0], np.int64), [], shape)

    def resident():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS"))

    before, start = resident(), time.perf_counter()
    pack = open_pack(tmp_path / "full")
    data = pack.mixed("all")
    assert time.perf_counter() - start < 2  # to read it takes minutes
    drawn = list(torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:32].split(8))
    for batch in prefetch_batches(data.images, drawn, torch.device("cpu")):
        assert batch.shape == (8, *shape[1:]) and not batch.any()
    assert resident() - before < 300  # MB; the batches are 50


# ---------------------------------------------------------------- training from it


@pytest.mark.parametrize("ahead", [0, 1, 2, 50])
def test_batches_gathered_ahead_are_others(images, ahead):
    drawn = [torch.tensor(rows) for rows in ([3, 1], [0, 0, 9], [5], [2, 4])]
    got = list(prefetch_batches(images, drawn, torch.device("cpu"), ahead))
    assert len(got) == 4 and all(torch.equal(a, images[i]) for a, i in zip(got, drawn))
    assert list(prefetch_batches(images, [], torch.device("cpu"), ahead)) == []
    wrong = prefetch_batches(images, [*drawn, torch.tensor([99])], torch.device("cpu"), ahead)
    with pytest.raises(IndexError):
        list(wrong)


def test_training_from_a_pack_gives_other_weights(tmp_path, small):
    found = crops(tmp_path / "set", 12)
    data = quiet(found, small.size).mixed("people")
    memory = ReIDSet("people", by_pillow(found.samples, small.size), data.pids, data.camids)
    quick = replace(small, epochs=2, batch=4)
    (first, one), (second, two) = (train(chosen, quick, progress=False) for chosen in (data, memory))
    assert one.drop(columns="seconds").equals(two.drop(columns="seconds"))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


# ---------------------------------------------------------------- the command


def test_the_command_packs_something_else_or_leaves_damage(tmp_path, capsys):
    from real_trees import tree

    tree("Market-1501", "folders", tmp_path / "data")
    tree("VIPeR", "bmp", tmp_path / "data")
    parser = argparse.ArgumentParser()
    packing.add_parser(parser.add_subparsers())

    def run(*more):
        args = parser.parse_args(["pack", str(tmp_path / "data"), "--profile", "smoke", *more])
        assert args.run(args) == 0
        return capsys.readouterr().out

    said = run()
    folders = sorted(line.rsplit(" in ", 1)[1] for line in said.splitlines())
    assert len(folders) == 2 and "Market-1501 " in said and "VIPeR " in said
    pixels = [open_pack(folder).images.clone() for folder in folders]
    np.load(Path(folders[0]) / "images.npy", mmap_mode="r+")[5, 0, 0, 0] ^= 1
    assert open_pack(folders[0]).damaged() == [5]
    assert run() == said  # a flipped bit is not looked for
    assert "1 images of" in (again := run("--verify")) and "one number 5" in again
    assert all(torch.equal(open_pack(folder).images, kept) for folder, kept in zip(folders, pixels))
    assert run("--set", "VIPeR").count("images in") == 1
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="holds none of the sets"):
        args = parser.parse_args(["pack", str(tmp_path / "nothing")])
        args.run(args)


def test_files_that_traded_names_are_packed_as_before(tmp_path):
    found = crops(tmp_path / "set", 8)
    files = [sample.file for sample in found.samples[:2]]
    for file, seed in zip(files, (1, 2)):
        noise(20, 10, seed).save(file, "BMP")
        os.utime(file, (1e9, 1e9))
    assert files[0].stat().st_size == files[1].stat().st_size
    quiet(found, SIZE)
    files[0].rename(tmp_path / "aside")
    files[1].rename(files[0])
    (tmp_path / "aside").rename(files[1])
    assert torch.equal(quiet(found, SIZE).images, by_pillow(found.samples))
