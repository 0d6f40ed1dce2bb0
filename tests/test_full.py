"""The one command of the full size, as far as a machine without a GPU can go."""

import signal
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch

from bnta_lib import settings
from bnta_lib.settings import AT_SIZE, PROFILES
from bnta_lib.suite import full
from bnta_lib.suite.runs import device_of
from bnta_lib.training import OutOfTime
from conftest import ends


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("BNTA_DEVICE", "cpu")
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_full_size_without_a_gpu_or_imagenet_weights_is_refused_before_rendering(
        tmp_path, monkeypatch, capsys):
    for name, value in {"TORCH_HOME": str(tmp_path / "hub"), "https_proxy": "http://127.0.0.1:9",
                        "BNTA_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    assert full.main([]) == 1
    message = capsys.readouterr().err
    assert "put https://" in message and "--scratch" in message
    monkeypatch.delenv("BNTA_DEVICE")
    with pytest.raises(SystemExit, match="2"):
        full.main([])
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
    assert not list(tmp_path.rglob("cache/**/*.*"))


def test_rehearsal_is_the_papers_experiment_but_for_its_size():
    paper, rehearsal = settings("paper"), settings("rehearsal")
    assert AT_SIZE == ("paper", "rehearsal") and device_of("rehearsal") == device_of("paper")
    for name in ("K", "tta_batch", "tta_lr", "tta_momentum", "batch", "stripes", "last_stride",
                 "loss_tri", "lambda1", "lambda2", "warmup_epochs", "label_smoothing"):
        assert getattr(paper, name) == getattr(rehearsal, name), name


@pytest.mark.parametrize("wrong", [["--epochs", "61"], ["--epochs", "0"],
                                   ["--epochs", "few"], ["--profile", "smoke"]])
def test_wrong_arguments_are_refused(wrong):
    assert ends(full.main, "--profile", "rehearsal", *wrong) > 0


def test_run_that_is_out_of_time_continues_to_its_end(tmp_path, monkeypatch, small, capsys):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "cache"))
    few = {"CUHK02": 20}
    narrow = replace(PROFILES["rehearsal"], height=48, width=24, other_height=64, base_width=4, local_dim=8,
                     people=few, images=few)
    monkeypatch.setitem(PROFILES, "rehearsal", narrow)
    for module in (full, full.train):
        monkeypatch.setattr(module, "MODELS", ("baseline", "bnta", "pos"))  # three of the seven
    runs = []
    monkeypatch.setattr(full, "run_notebooks", lambda options, end: runs.append(options))
    monkeypatch.setattr(full, "GATHERED", tmp_path)
    monkeypatch.setattr(full, "EXECUTED", tmp_path / "executed")
    monkeypatch.setattr(full, "figures_dir", lambda run: tmp_path / "figures")
    for name in ("executed/rehearsal", "figures"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "figures" / "table_2.md").write_text("a table")

    for minutes, code in (("-0.001", 3), ("10", 0)):
        assert not runs
        assert full.main(["--profile", "rehearsal", "--epochs", "2", "--minutes", minutes]) == code
    assert len(runs) == 1 and runs[0][:3] == ["--profile", "rehearsal", "--only"]
    printed = capsys.readouterr().out
    assert "out of time" in printed and "the same command continues" in printed and "gathered in" in printed
    folder = tmp_path / "CPU-rehearsal"
    assert {path.name for path in folder.iterdir()} == {"figures", "notebooks", "rows.csv.gz", "trainings"}
    assert {path.stem: len(pd.read_csv(path)) for path in (folder / "trainings").iterdir()} == dict.fromkeys(
        full.MODELS, 2)


def test_command_that_is_late_is_killed(tmp_path, monkeypatch):
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    monkeypatch.setattr(full.sys, "executable", str(slow))
    begin = time.monotonic()
    for end in (begin - 1, begin + 0.2):
        with pytest.raises(OutOfTime, match="within the notebooks"):
            full.run_notebooks([], end)
    assert time.monotonic() - begin < 60

