"""The one command of the full size, as far as a machine without a GPU can go."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bnta_lib import settings
from bnta_lib.settings import AT_SIZE, ROOT, device_of
from bnta_lib.suite import full
from bnta_lib.weights import weights_path

REHEARSAL = [sys.executable, "-m", "bnta_lib.suite.full", "--profile", "rehearsal"]


def test_full_size_without_imagenet_weights_is_refused_before_rendering(tmp_path):
    offline = {"TORCH_HOME": str(tmp_path / "hub"), "https_proxy": "http://127.0.0.1:9", "BNTA_DEVICE": "cpu",
               "BNTA_CACHE": str(tmp_path / "cache")}
    for path in ("", str(tmp_path / "absent.pth")):
        done = subprocess.run([sys.executable, "-m", "bnta_lib.suite.full"], cwd=ROOT, capture_output=True, text=True,
                              env={**os.environ, **offline, "BNTA_IMAGENET": path})
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
        assert "set $BNTA_IMAGENET to" in done.stderr and "--scratch" in done.stderr and path in done.stderr
        assert not list(tmp_path.rglob("cache/**/*.*"))


def test_rehearsal_is_the_papers_experiment_but_for_its_size():
    paper, rehearsal = settings("paper"), settings("rehearsal")
    assert AT_SIZE == ("paper", "rehearsal") and device_of("rehearsal") == device_of("paper")
    for name in ("K", "tta_batch", "tta_lr", "tta_momentum", "batch", "instances", "stripes", "last_stride",
                 "loss_tri", "lambda1", "lambda2", "warmup_epochs", "label_smoothing"):
        assert getattr(paper, name) == getattr(rehearsal, name), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_full_size_without_a_gpu_is_refused(monkeypatch, capsys):
    monkeypatch.delenv("BNTA_DEVICE", raising=False)
    with pytest.raises(SystemExit, match="2"):
        full.main([])
    assert "needs an NVIDIA GPU" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [
    ["--minutes", "0"], ["--epochs", "61"], ["--epochs", "0"], ["--other-epochs", "0"], ["--profile", "smoke"],
    ["--out", str(ROOT / "README.md")],
])
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(SystemExit, match="2"):
        full.main(["--profile", "rehearsal", *wrong])


def test_small_disk_is_refused_before_training(small_disk, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(small_disk))
    with pytest.raises(ValueError, match="rendered images take .* has less: set BNTA_CACHE"):
        full.check(settings("rehearsal"), small_disk / "out")


def test_run_that_is_out_of_time_continues(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    command = [*REHEARSAL, "--epochs", "2", "--minutes", "0.01", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3 and "the same command continues" in done.stdout, done.stderr
    assert list((tmp_path / "checkpoints").glob("rehearsal-baseline-*.pt"))
    for _ in range(2):  # each trains one epoch at least
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert weights_path(replace(settings("rehearsal"), epochs=2), "baseline").is_file(), done.stdout + done.stderr


@pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="no /proc of Linux")
def test_notebook_of_a_run_that_is_ended_ends_too(tmp_path):
    """Ended by SIGTERM, as a batch system does, while a command of it runs."""
    code = ("import signal, sys\nfrom bnta_lib.suite import full\n"
            "full.sys.executable = sys.argv[1]\n"
            "signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))\n"
            "full._run(['reproduce'], lambda: 9.0, 'a notebook')")
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    run = subprocess.Popen([sys.executable, "-c", code, str(slow)], cwd=ROOT)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    until = time.monotonic() + 60
    while not any(b"sleep" in Path("/proc", child, "cmdline").read_bytes() for child in children.read_text().split()):
        assert time.monotonic() < until
        time.sleep(0.1)
    pids = children.read_text().split()
    run.terminate()
    assert run.wait(60) == 128 + signal.SIGTERM and not any(Path("/proc", pid).exists() for pid in pids)


def test_full_disk_leaves_what_was_gathered_before(small_disk, tmp_path, monkeypatch, capsys):
    earlier = small_disk / "CPU-rehearsal" / "figures" / "table_2.md"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("precious")
    monkeypatch.setenv("BNTA_FIGURES", str(tmp_path))
    monkeypatch.setenv("BNTA_DEVICE", "cpu")
    (tmp_path / "rehearsal").mkdir()
    (tmp_path / "rehearsal" / "table_2.md").write_bytes(bytes(400_000))
    for part in ("train_all", "run_notebooks"):
        monkeypatch.setattr(full, part, lambda *arguments: None)
    assert full.main(["--profile", "rehearsal", "--out", str(small_disk)]) == 1
    message = capsys.readouterr().err
    assert "No space left" in message and "the same command continues" in message
    assert earlier.read_text() == "precious" and list(small_disk.iterdir()) == [small_disk / "CPU-rehearsal"]


def test_files_of_others_beside_the_gathered_are_not_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BNTA_DEVICE", "cpu")
    (tmp_path / "CPU-rehearsal").mkdir()
    (tmp_path / "CPU-rehearsal" / "my_notes.md").write_text("precious")
    with pytest.raises(SystemExit, match="2"):
        full.main(["--profile", "rehearsal", "--out", str(tmp_path)])
    assert "holds what this command did not write" in capsys.readouterr().err
    assert (tmp_path / "CPU-rehearsal" / "my_notes.md").read_text() == "precious"
