"""Bytes from a fuzzer into everything that reads a file from elsewhere.

``python tests/fuzz.py [--seconds 60] [--only archive image]`` (``make fuzz``). Atheris, which this needs and
the environment does not hold (``pip install atheris``), changes good files at random and keeps what reaches
new code. A reader must return what it read, or raise OSError or ValueError with a sentence. Prints how many
inputs each reader was given. Exits with 1 if one raised something else, ended the process, or took longer
than ``SLOW`` seconds, and leaves that input in ``--keep``.
"""

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

SLOW = 20  # seconds for one input
EXPECTED = (OSError, ValueError)


# ---------------------------------------------------------------- readers: name -> (good files, reader)


def archive(place: Path) -> tuple[list[bytes], Callable[[Path], object]]:
    """Zip, tar, gz, xz and 7z, unpacked into a folder: nothing may appear beside it."""
    import py7zr

    from bnta_lib.data.__main__ import prepare

    source, home, good = place / "source", place / "home", []
    for folder in (source / "a", home):
        folder.mkdir(parents=True)
    for name, data in {"a/1.txt": b"one" * 30, "a/2.txt": b"", "b.txt": bytes(range(256))}.items():
        (source / name).write_bytes(data)
    for kind in ("zip", "tar", "gztar", "xztar"):
        good.append(Path(shutil.make_archive(place / "good", kind, source)).read_bytes())
    with py7zr.SevenZipFile(place / "good.7z", "w") as file:
        file.writeall(source, "")
    good.append((place / "good.7z").read_bytes())

    def read(path: Path) -> None:
        root = home / "root"
        try:
            prepare(path, root)
        finally:
            if [entry.name for entry in home.iterdir()] not in ([], ["root"]):
                raise AssertionError("something was written beside the folder")
            shutil.rmtree(root, ignore_errors=True)

    return good, read


def _network():
    """A small network, and its settings."""
    import torch

    from bnta_lib import BNTANet, settings

    small = settings("smoke", height=48, width=24, base_width=4, local_dim=8, stripes=3)
    torch.manual_seed(0)
    return BNTANet(5, small).eval(), small


def delta(place: Path) -> tuple[list[bytes], Callable[[Path], object]]:
    """A site's delta, read and put on its model."""
    from bnta_lib.weights import Delta, bn_tensors, model_digest

    model, _ = _network()
    Delta(bn_tensors(model), model_digest(model)).save(place / "good")

    def read(path: Path) -> None:
        with Delta.load(path).applied(model):
            pass

    return [(place / "good").read_bytes()], read


def weights(place: Path) -> tuple[list[bytes], Callable[[Path], object]]:
    """A weights file."""
    from bnta_lib.weights import load_model, save_model

    model, small = _network()
    save_model(model, place / "good", small)
    return [(place / "good").read_bytes()], lambda path: load_model(path, small)


def image(place: Path) -> tuple[list[bytes], Callable[[Path], object]]:
    """A crop, in the formats that the sets and cameras come in."""
    import numpy as np
    from PIL import Image

    from bnta_lib.data.sets import Sample, read_image

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 12, 3), np.uint8))
    deep, good = Image.fromarray(np.arange(288, dtype=np.uint16).reshape(24, 12)), []
    for ending, mode in (("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"),
                         ("BMP", "RGB"), ("GIF", "P"), ("WEBP", "RGB"), ("TIFF", "RGB"), ("PPM", "RGB")):
        (deep if mode == "I;16" else picture.convert(mode)).save(held := io.BytesIO(), ending)
        good.append(held.getvalue())
    return good, lambda path: read_image(Sample(path, 1, 1))


def _in_tree(place: Path, name: str, layout: str, file: str) -> tuple[list[bytes], Callable[[Path], object]]:
    """One .mat file of a published tree; the search of the tree must not fail, whatever it holds."""
    import real_trees

    from bnta_lib.data.published import find_sets, target_splits
    from bnta_lib.data.sets import read_image
    from bnta_lib.settings import settings

    top = real_trees.tree(name, layout, place / "tree", people=3)
    mat = next(top.rglob(file))
    good = mat.read_bytes()

    def read(path: Path) -> None:
        os.replace(path, mat)
        try:
            found = find_sets(place / "tree")
        except EXPECTED as error:
            raise AssertionError(f"the search gave up: {error}") from error
        if name == "GRID":
            target_splits(found["GRID"], settings("smoke"))
        elif name in found:
            for sample in found[name].samples[:3]:
                read_image(sample)

    return [good], read


READERS: dict[str, Callable] = {
    "archive": archive, "delta": delta, "weights": weights, "image": image,
    "cuhk03": partial(_in_tree, name="CUHK03", layout="mat", file="cuhk-03.mat"),
    "sysu": partial(_in_tree, name="CUHK-SYSU", layout="scenes", file="Person.mat"),
    "grid": partial(_in_tree, name="GRID", layout="folders", file="features_and_partitions.mat"),
}


# ---------------------------------------------------------------- one reader in a process of its own


def fuzz(name: str, place: Path, seconds: int, keep: Path) -> None:
    """Does not return: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["bnta_lib", "zipfile", "tarfile", "py7zr", "PIL", "scipy.io",
                                             "safetensors"]):
        good, read = READERS[name](place)
    warnings.simplefilter("ignore")
    corpus, inbox = place / "corpus", place / "inbox"
    corpus.mkdir()
    inbox.mkdir()
    for number, data in enumerate(good):
        (corpus / f"good {number}").write_bytes(data)
        (inbox / "input.bin").write_bytes(data)
        read(inbox / "input.bin")  # a seed that is refused would prove nothing

    def once(data: bytes) -> None:
        path = inbox / "input.bin"
        path.write_bytes(data)
        with suppress(*EXPECTED):
            read(path)

    atheris.Setup([sys.argv[0], str(corpus), f"-max_total_time={seconds}", f"-timeout={SLOW}", "-verbosity=0",
                   "-seed=1", "-rss_limit_mb=6000", "-print_final_stats=1",
                   f"-max_len={2 * max(map(len, good)) + 512}", f"-artifact_prefix={keep}/{name}-"], once)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--only", nargs="+", choices=list(READERS), default=list(READERS))
    parser.add_argument("--keep", type=Path, default=Path("fuzzed"), help="folder for inputs that were found")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        fuzz(chosen.work[0], Path(chosen.work[1]), chosen.seconds, chosen.keep)
        return 0
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("Atheris is not installed: pip install atheris, then run again", file=sys.stderr)
        return 2
    chosen.keep.mkdir(exist_ok=True)
    failed = 0
    for name in chosen.only:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            environment = {**os.environ, "BNTA_CACHE": f"{place}/cache", "OMP_NUM_THREADS": "1"}
            command = [sys.executable, __file__, "--seconds", str(chosen.seconds),
                       "--keep", str(chosen.keep.resolve()), "--work", name, place]
            ended = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
        count = re.search(r"number_of_executed_units:\s*(\d+)", ended.stderr)
        number = f"{int(count[1]):,} inputs" if count else "no count"
        print(f"{name}: {number}, {'a fault' if ended.returncode else 'no fault'}", flush=True)
        if ended.returncode:
            failed = 1
            print(ended.stderr[-3000:], file=sys.stderr)
    if not any(chosen.keep.iterdir()):
        chosen.keep.rmdir()
    return failed


if __name__ == "__main__":
    sys.exit(main())
