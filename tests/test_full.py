"""The one command of the full size, as far as a machine without a GPU can go."""

import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from bnta_lib import settings
from bnta_lib.settings import AT_SIZE, PROFILES
from bnta_lib.suite import full, train
from bnta_lib.suite.runs import device_of
from bnta_lib.suite.store import recorded_path
from bnta_lib.suite.train import trained_model, trained_on
from bnta_lib.training import OutOfTime
from conftest import ends, identical


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
    assert full.main(["--scratch"]) == 1
    message = capsys.readouterr().err
    assert "needs an NVIDIA GPU" in message and "driver" in message and torch.__version__ in message
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


@pytest.fixture
def narrow(tmp_path, monkeypatch):
    """A rehearsal that trains three of seven models on few people and notes what it would measure and run."""
    few, calls = {"CUHK02": 20}, []
    tiny = replace(PROFILES["rehearsal"], height=48, width=24, other_height=64, base_width=4, local_dim=8,
                   people=few, images=few)
    monkeypatch.setitem(PROFILES, "rehearsal", tiny)
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BNTA_FIGURES", str(tmp_path / "figures"))
    for name, value in {"MODELS": ("bnta", "baseline", "pos"), "TABLES": ("table_3",), "PART": 50_000,
                        "GATHERED": tmp_path, "EXECUTED": tmp_path / "executed"}.items():
        monkeypatch.setattr(full, name, value)
    monkeypatch.setattr(full.Lab, "measure", lambda lab, what: calls.append(what))
    monkeypatch.setattr(full, "save_deltas", lambda lab: calls.append("deltas"))
    monkeypatch.setattr(full, "run_notebooks", lambda profile, numbers: calls.append(numbers))
    return calls


def test_run_that_is_out_of_time_has_gathered_and_continues_to_its_end(tmp_path, narrow, monkeypatch, capsys):
    command = ["--profile", "rehearsal", "--epochs", "2", "--lr", "0.003"]
    folder, main = tmp_path / "CPU-rehearsal", train.main
    with monkeypatch.context() as patch:
        patch.setattr(full.train, "main", lambda command: 3 if "baseline" in command else main(command))
        assert full.main(command) == 3 and "out of time" in capsys.readouterr().out
    assert {path.stem for path in (folder / "trainings").iterdir()} == {"bnta"}  # it comes first
    assert narrow[0] == "deltas" and {spec.training for spec in narrow[1]} == {"bnta"} and len(narrow) == 3
    assert full.main([*command, "--plain"]) == 0
    assert narrow[5:] == ["table_2", "figure_4", "changes", "table_3", "headroom"]  # without notebooks
    assert "needed" in (printed := capsys.readouterr().out) and f"gathered in {folder}" in printed
    assert {path.name for path in folder.iterdir()} == {"deltas", "figures", "notebooks", "rows.csv.gz",
                                                        "trainings", "weights"}
    assert {path.stem: len(pd.read_csv(path)) for path in (folder / "trainings").iterdir()} == dict.fromkeys(
        full.MODELS, 2)
    assert max(path.stat().st_size for path in (folder / "weights").iterdir()) == full.PART

    here = trained_model(settings("rehearsal"), "pos")
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "elsewhere"))
    assert full.main([*command, "--take", str(folder)]) == 0
    assert identical(here, trained_model(settings("rehearsal"), "pos"))
    assert trained_on(settings("rehearsal")).count("epochs=2, lr=0.003") == 3  # what tables name
    assert recorded_path("rehearsal").is_file()


def test_full_size_is_measured_before_it_starts(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    assert full.size_of(settings("paper"))[1] == pytest.approx(37e9, rel=0.01)
    monkeypatch.setattr(full.shutil, "disk_usage", lambda folder: SimpleNamespace(free=30_000_000_000))
    assert full.main(["--scratch"]) == 1
    assert "not enough, disk at" in capsys.readouterr().err
    assert full.main(["--profile", "rehearsal", "--lr", "-1"]) == 1
    assert "setting lr is" in capsys.readouterr().err


def test_what_is_late_is_stopped():
    begin = time.monotonic()
    for end in (begin - 1, begin + 0.2):
        with pytest.raises(OutOfTime), full.until(end):
            time.sleep(600)
    assert time.monotonic() - begin < 60
    with full.until(math.inf):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


# What a machine needs to render, train and measure: beside these torch's own needs and the standard library.
PLAIN = ["torch", "numpy", "safetensors", "pandas", "scipy", "joblib", "tqdm", "PIL", "filelock"]
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        importer = sys._getframe()
        while "importlib" in importer.f_code.co_filename or importer.f_code is Refuse.find_spec.__code__:
            importer = importer.f_back
        allowed = (*sys.stdlib_module_names, "bnta_lib", *sys.argv[1:])
        ours = importer.f_globals.get("__name__", "").startswith("bnta_lib")
        if ours and name.split(".")[0] not in allowed:
            raise ImportError(f"no {name} here")
sys.meta_path.insert(0, Refuse())
from bnta_lib.suite import full
full.Lab("rehearsal")
assert "papermill" not in sys.modules and "matplotlib" not in sys.modules
"""


def test_machine_with_little_installed_renders_trains_and_measures():
    done = subprocess.run([sys.executable, "-c", ALONE, *PLAIN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
