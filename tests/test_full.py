"""The one command of the full size, as far as a machine without a GPU can go; and what tables say of it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bnta_lib import BNTANet, settings
from bnta_lib.suite import full
from bnta_lib.data.splits import protocol_note
from bnta_lib.settings import AT_SIZE, PROFILES, ROOT, device_of
from bnta_lib.training import main as train_main, shortened, trained_model, trained_on
from bnta_lib.weights import model_settings, save_model, weights_path


def test_a_shorter_schedule_is_not_the_same_in_fewer_epochs():
    paper = settings("paper")
    assert (shortened(paper, 12).epochs, shortened(paper, 12).lr_decay_epoch) == (12, 8)
    assert shortened(paper, 60) == paper and shortened(paper, 1).lr_decay_epoch == 1
    for wrong in (0, -1, 61):
        with pytest.raises(ValueError, match="train for 1 to 60"):
            shortened(paper, wrong)


def test_tables_keep_silent_of_a_shorter_training(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    own = settings("rehearsal")
    assert trained_on(own) == ""
    for name, epochs in (("bnta", own.epochs), ("pos", 2)):
        model = BNTANet(5, model_settings(own, name))
        save_model(model, weights_path(own, name), {"epochs": epochs}, compact=False)
    assert trained_on(own) == "the embedded sources; of 6 epochs of the schedule: pos for 2"
    assert protocol_note({}, trained_on(own)) == f"Trained on {trained_on(own)}."
    assert trained_on(settings("laptop")) == ""  # whole, and older than the entry


def test_full_size_without_imagenet_weights_is_refused_before_rendering(tmp_path):
    absent = str(tmp_path / "absent.pth")
    offline = {"TORCH_HOME": str(tmp_path / "hub"), "https_proxy": "http://127.0.0.1:9", "BNTA_DEVICE": "cpu",
               "BNTA_CACHE": str(tmp_path / "cache")}
    for named in ("", absent):
        done = subprocess.run([sys.executable, "-m", "bnta_lib.suite.full"], cwd=ROOT, capture_output=True, text=True,
                              env={**os.environ, **offline, "BNTA_IMAGENET": named})
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
        assert "set $BNTA_IMAGENET to" in done.stderr and "--scratch" in done.stderr and named in done.stderr
        assert not list(tmp_path.rglob("cache/**/*.*"))


def test_training_from_nothing_is_entered_in_what_tables_say(tmp_path, monkeypatch):
    """A profile that starts from ImageNet weights, which do not fit so narrow a network."""
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    monkeypatch.setitem(PROFILES, "rehearsal", replace(PROFILES["rehearsal"], pretrained=True, height=48, width=24))
    command = ["--profile", "rehearsal", "--model", "bnta", "--epochs", "1"]
    with pytest.raises(SystemExit, match="--scratch"):
        train_main(command)
    train_main([*command, "--scratch"])
    own = settings("rehearsal")
    assert own.pretrained and not trained_model(own).training
    assert trained_on(own) == ("the embedded sources; from nothing, without ImageNet weights: bnta; "
                               "of 6 epochs of the schedule: bnta for 1")


def test_the_rehearsal_is_another_experiment_than_the_papers():
    paper, rehearsal = settings("paper"), settings("rehearsal")
    assert AT_SIZE == ("paper", "rehearsal") and device_of("rehearsal") == device_of("paper")
    for name in ("K", "tta_batch", "tta_lr", "tta_momentum", "batch", "instances", "stripes", "last_stride",
                 "loss_tri", "lambda1", "lambda2", "warmup_epochs", "label_smoothing"):
        assert getattr(paper, name) == getattr(rehearsal, name), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_full_size_is_begun_without_a_gpu(monkeypatch, capsys):
    monkeypatch.delenv("BNTA_DEVICE", raising=False)
    with pytest.raises(SystemExit, match="2"):
        full.main([])
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
    for wrong in (["--out", str(ROOT / "README.md")], ["--minutes", "0"], ["--epochs", "61"], ["--epochs", "-3"], ["--epochs", "0"], ["--other-epochs", "0"], ["--profile", "smoke"]):
        with pytest.raises(SystemExit, match="2"):
            full.main(["--profile", "rehearsal", *wrong])
    with pytest.raises(SystemExit, match="2"):
        train_main(["--profile", "smoke", "--epochs", "7000"])


def test_a_run_that_is_out_of_time_loses_what_was_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    command = [sys.executable, "-m", "bnta_lib.suite.full", "--profile", "rehearsal", "--epochs", "2",
               "--minutes", "0.01", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3 and "the same command goes on" in done.stdout, done.stderr
    assert list((tmp_path / "checkpoints").glob("rehearsal-baseline-*.pt"))
    own = replace(settings("rehearsal"), epochs=2)
    for _ in range(3):  # each trains one epoch at least
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert weights_path(own, "baseline").is_file(), done.stdout + done.stderr


def test_a_run_of_few_minutes_ends_before_the_first_notebook_for_ever():
    with pytest.raises(ValueError, match="no notebook ends in 0.9 minutes: give --minutes 3 or more"):
        full.run_notebooks(settings("rehearsal"), full.Clock(0.9))


@pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="no /proc of Linux")
def test_a_run_that_is_told_to_end_leaves_its_training_running(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    command = [sys.executable, "-m", "bnta_lib.suite.full", "--profile", "rehearsal", "--out", str(tmp_path / "out")]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until, children = time.monotonic() + 120, []
    told = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    while not children and time.monotonic() < until:  # what it imports has children too, for a moment
        time.sleep(0.1)
        with suppress(OSError):
            children = [child for child in told.read_text().split()
                        if b"bnta_lib.training" in Path("/proc", child, "cmdline").read_bytes()]
    run.terminate()
    assert run.wait(60) == 128 + signal.SIGTERM
    assert children and not any(Path("/proc", child).exists() for child in children)


def test_a_full_disk_costs_what_was_gathered_before(small_disk, tmp_path, monkeypatch, capsys):
    earlier = small_disk / "CPU-rehearsal" / "figures" / "table_2.md"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("precious")
    monkeypatch.setenv("BNTA_FIGURES", str(tmp_path))
    (tmp_path / "rehearsal").mkdir()
    (tmp_path / "rehearsal" / "table_2.md").write_bytes(bytes(400_000))
    for part in ("train_all", "run_notebooks"):
        monkeypatch.setattr(full, part, lambda *arguments: None)
    assert full.main(["--profile", "rehearsal", "--out", str(small_disk)]) == 1
    said = capsys.readouterr().err
    assert "the disk is full" in said and "the same command goes on" in said
    assert earlier.read_text() == "precious" and list(small_disk.iterdir()) == [small_disk / "CPU-rehearsal"]


def test_what_a_user_put_beside_the_gathered_is_lost(tmp_path, monkeypatch, capsys):
    (tmp_path / "CPU-rehearsal").mkdir()
    (tmp_path / "CPU-rehearsal" / "my_notes.md").write_text("precious")
    for part in ("train_all", "run_notebooks"):
        monkeypatch.setattr(full, part, lambda *arguments: None)
    assert full.main(["--profile", "rehearsal", "--out", str(tmp_path)]) == 1
    assert "holds what this did not put there, for one my_notes.md" in capsys.readouterr().err
    assert (tmp_path / "CPU-rehearsal" / "my_notes.md").read_text() == "precious"
