"""A network and images small enough to adapt in a fraction of a second."""

import os
import subprocess
from dataclasses import replace

import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
import torch

from bnta_lib.data.published import protocol_note
from bnta_lib.data.sets import ReIDSet, Split, Target
from bnta_lib.figures import base
from bnta_lib.model import BNTANet, bn_layers
from bnta_lib.settings import Settings, settings

torch.set_num_threads(1)  # the networks of these tests are too small to share
os.environ.pop("BNTA_FIGURES", None)  # of the caller: tests write elsewhere


@pytest.fixture(scope="session")
def small() -> Settings:
    """Settings of a 57-BN-layer network on 48x24 pixels: maps of 3x2, three stripes."""
    return settings("smoke", base_width=4, local_dim=8)


@pytest.fixture
def model(small: Settings) -> BNTANet:
    """A network of 5 people whose BN tensors are all different from their initial values."""
    torch.manual_seed(0)
    net = BNTANet(5, small)
    with torch.no_grad():
        for layer in bn_layers(net).values():
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.normal_(0, 0.1)
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return net.eval()


@pytest.fixture
def images() -> torch.Tensor:
    """Ten images of noise, uint8 (10, 3, 48, 24)."""
    return noise(10, 3, 48, 24, seed=1)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own that holds 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        # Only a real full disk shows what a full disk does, and only a mount, which needs root, makes a small
        # one. CI runs as root, and the summary names what was skipped.
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def style():
    """The suite's style of figures, drawn without a screen; all are closed afterwards."""
    matplotlib.use("Agg")
    base.use_style()
    yield
    matplotlib.pyplot.close("all")


def coloured_people():
    """Twenty images of five people, who differ in the colours of their clothes."""
    g = torch.Generator().manual_seed(0)
    pids = torch.arange(20) % 5 + 1
    clothes = torch.randint(30, 226, (6, 3, 2, 1), generator=g)[pids]  # upper and lower half
    images = clothes.repeat_interleave(24, 2) + torch.randint(-30, 31, (20, 3, 48, 24), generator=g)
    return ReIDSet("people", images.to(torch.uint8), pids, torch.ones_like(pids))


def identical(a, b) -> bool:
    """Whether two models have the same tensors, bit by bit."""
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def damaged(file: bytes) -> list[bytes]:
    """A safetensors file cut short, or with one bit changed, at places of all kinds."""
    header = 8 + int.from_bytes(file[:8], "little")
    broken = [file[:length] for length in (0, 7, 8, 12, header, len(file) - 1)]
    for place in [*range(0, header, 1997), header, len(file) - 3]:
        changed = bytearray(file)
        changed[place] ^= 1 << place % 8
        broken.append(bytes(changed))
    return broken


def ends(command, *arguments) -> int:
    """The exit code of a command line."""
    try:
        return command([*arguments])
    except SystemExit as end:
        return end.code


def lab_of(own: Settings, models: dict, targets: dict, sources=()):
    """A lab of these settings, models and targets instead of those that it would load."""
    from bnta_lib.suite.lab import Lab

    lab = Lab(own.profile, progress=False)
    lab.settings, lab.targets, lab.sources = own, targets, list(sources)
    lab.about = protocol_note(targets)
    lab._models = dict(models)
    return lab


@pytest.fixture(scope="session")
def tiny(small) -> Settings:
    """Settings of a network that adapts to 24 images in a tenth of a second."""
    return replace(small, tta_batch=4, tta_seeds=2)


@pytest.fixture(scope="session")
def tiny_models(tiny) -> dict[str, BNTANet]:
    """Networks of 6 people under the names of trainings, drawn from different seeds."""
    models = {}
    for seed, name in enumerate(("bnta", "baseline", "pos", "mat", "id_pos", "id_mat")):
        torch.manual_seed(seed)
        models[name] = BNTANet(6, tiny).eval()
    return models


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Images of noise, uint8 (N, 3, H, W)."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def crop(seed: int) -> np.ndarray:
    """Blocks of random colour, which JPEG keeps, uint8 (96, 48, 3)."""
    grid = np.random.default_rng(seed).integers(0, 256, (6, 3, 3), np.uint8)
    return np.kron(grid, np.ones((16, 16, 1), np.uint8))


def target_of_dots(size: tuple[int, int] = (48, 24)):
    """A target of 12 people with a whole split and a part of one."""
    images = noise(24, 3, *size)
    data = ReIDSet("dots", images, torch.arange(1, 13).repeat(2), torch.tensor([1, 2]).repeat_interleave(12))
    splits = Split(torch.arange(12), torch.arange(12, 24)), Split(torch.arange(8), torch.arange(12, 22))
    return Target(data, splits)


@pytest.fixture(scope="session")
def dots():
    return target_of_dots()


@pytest.fixture(scope="session")
def cameras():
    """Twelve people of the test; of others 22 images each by cameras 1 and 2, and 5 by camera 3."""
    gallery, others = torch.arange(24), torch.arange(49)
    pids = torch.cat([torch.arange(12), gallery % 12, others % 12 + 20]) + 1
    camids = torch.cat([torch.arange(12) % 2, (gallery // 12 + gallery) % 3, others % 2]) + 1
    camids[80:] = 3
    images = noise(85, 3, 48, 24) // camids[:, None, None, None].to(torch.uint8)
    return Target(ReIDSet("place", images, pids, camids), (Split(torch.arange(12), torch.arange(12, 36)),))


@pytest.fixture(scope="session")
def photos() -> torch.Tensor:
    """Eighty images of noise at the size of the laptop profile, uint8 (80, 3, 96, 48)."""
    return noise(80, 3, 96, 48)
