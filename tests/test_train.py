"""Trained models come from their files, are trained again if out of date, and record what they are."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from bnta_lib import settings
from bnta_lib.data.published import protocol_note
from bnta_lib.model import BNTANet
from bnta_lib.settings import PROFILES, model_settings
from bnta_lib.suite import train as suite_train
from bnta_lib.suite.runs import weights_path
from bnta_lib.suite.train import is_trained, main, shortened, trained_model, trained_on
from bnta_lib.weights import save_model
from conftest import ends


@pytest.fixture
def quick(small, monkeypatch, tmp_path):
    """One epoch of one batch, in a cache of its own."""
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    few = {"CUHK02": 20}
    return replace(small, people=few, images=few, epochs=1, lr_decay_epoch=1, batch=64)


def identical(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_smoke_weights_are_trained_again_if_out_of_date_or_damaged(quick, tmp_path, monkeypatch):
    path = weights_path(quick, "bnta")
    first = trained_model(quick, progress=False)
    assert len(pd.read_csv(path.with_suffix(".csv"))) == 1 and not list((tmp_path / "checkpoints").iterdir())
    written = path.stat().st_mtime_ns
    again = trained_model(replace(quick, margin=0.5), progress=False)
    assert path.stat().st_mtime_ns == written and identical(first, again)
    other = trained_model(replace(quick, lr=0.001), progress=False)
    assert path.stat().st_mtime_ns > written and not identical(first, other)
    trained_model(quick, progress=False)
    assert is_trained(quick)
    assert not is_trained(replace(quick, images={"CUHK02": 40}))
    monkeypatch.setattr(suite_train, "METHOD_VERSION", suite_train.METHOD_VERSION + 1)
    assert not is_trained(quick)
    monkeypatch.setattr(suite_train, "METHOD_VERSION", suite_train.METHOD_VERSION - 1)
    path.write_bytes(path.read_bytes()[:-1])  # damaged
    assert identical(trained_model(quick, progress=False), first)


def test_absent_weights_and_unknown_names_are_refused(monkeypatch, tmp_path, small):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="make train"):
        trained_model(settings("paper"))
    with pytest.raises(ValueError, match="unknown model 'tent'"):
        trained_model(small, "tent")


def test_command_out_of_time_stops_and_continues_to_the_same_weights(quick, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(PROFILES, "smoke", replace(quick, epochs=2, batch=10))
    command = ["--profile", "smoke", "--model", "baseline", "pos"]
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "whole"))
    assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 0 and capsys.readouterr().out.count("to train it anew") == 2
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "pieces"))
    printed = []
    for run in range(4):
        assert main([*command, "--minutes", "1e-9"]) == (3 if run < 3 else 0)
        printed.append(capsys.readouterr().out)
    sentence = "out of time: another epoch does not fit after epoch 1 of 2; the same command continues"
    assert sentence in printed[0] and sentence in printed[2]
    assert "out of time: an epoch of pos does not fit" in printed[1]
    assert all("baseline is trained with these data and settings" in text for text in printed[2:])
    assert "wrote" in printed[3] and "out of time" not in printed[3]
    for name in ("baseline", "pos"):
        path = weights_path(settings("smoke"), name)
        first, second = (load_file(tmp_path / kind / path.relative_to(tmp_path / "pieces"))
                         for kind in ("whole", "pieces"))
        assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("wrong, sentence", [
    (["--epochs", "7000"], "train for 1 to"),
    (["--model", "tent"], "unknown model 'tent'"), (["--data", "ftp://x/y"], "a folder; got 'ftp://x/y'"),
])
def test_command_refuses_wrong_arguments(wrong, sentence, capsys):
    assert ends(main, "--profile", "smoke", *wrong) > 0
    assert sentence in capsys.readouterr().err


def test_shorter_schedule_decays_after_the_same_share():
    paper = settings("paper")
    assert (shortened(paper, 12).epochs, shortened(paper, 12).lr_decay_epoch) == (12, 8)
    assert shortened(paper, 60) == paper and shortened(paper, 1).lr_decay_epoch == 1
    for wrong in (0, -1, 61):
        with pytest.raises(ValueError, match="train for 1 to 60"):
            shortened(paper, wrong)


def test_tables_name_a_shorter_training(tmp_path, monkeypatch):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    current = settings("rehearsal")
    assert trained_on(current) == ""
    for name, epochs in (("bnta", current.epochs), ("pos", 2)):
        chosen = shortened(model_settings(current, name), epochs)
        save_model(BNTANet(5, chosen), weights_path(current, name), chosen, {"model": name}, compact=False)
    assert trained_on(current) == (
        "the embedded sources; pos with epochs=2, lr_decay_epoch=1 instead of its profile's")
    assert protocol_note({}, trained_on(current)) == f"Trained on {trained_on(current)}."
    assert not trained_model(current, "pos").training
    assert trained_on(settings("laptop")) == ""


def test_tables_name_a_training_from_nothing(monkeypatch, quick, capsys):
    """A profile that starts from ImageNet weights, which do not fit so narrow a network."""
    narrow = replace(PROFILES["rehearsal"], pretrained=True, height=48, width=24, people=quick.people,
                     images=quick.images)
    monkeypatch.setitem(PROFILES, "rehearsal", narrow)
    command = ["--profile", "rehearsal", "--model", "bnta", "--epochs", "1"]
    assert main(command) == 1
    assert "--scratch" in capsys.readouterr().err
    assert main([*command, "--scratch"]) == 0
    current = settings("rehearsal")
    assert current.pretrained and not trained_model(current).training
    note = trained_on(current).removeprefix("the embedded sources; bnta with ")
    changed = note.removesuffix(" instead of its profile's").split(", ")
    assert set(changed) == {"pretrained=False", "epochs=1", "lr_decay_epoch=1", "lr=0.001", "warmup_epochs=2"}


def test_training_that_diverges_does_not_stop_the_others(monkeypatch, capsys):
    begun = []

    def train(settings, name, *_):
        begun.append((name, settings.lr, settings.warmup_epochs))
        if name == "baseline":
            raise FloatingPointError("the training loss is nan")
        return pd.DataFrame({"seconds": [0.0]})

    monkeypatch.setattr(suite_train, "train_and_save", train)
    monkeypatch.setattr(suite_train, "is_trained", lambda *_: False)
    command = ["--profile", "rehearsal", "--model", "baseline", "pos", "--lr", "0.25", "--warmup-epochs", "3"]
    assert main(command) == 1
    assert begun == [("baseline", 0.25, 3), ("pos", 0.25, 3)]
    assert "baseline: the training loss is nan" in capsys.readouterr().err
