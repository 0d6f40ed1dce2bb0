"""Two processes train what one would: launched for real, on CPUs, and compared with a loop by hand."""

import copy
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bnta_lib.data.sets import ReIDSet
from bnta_lib.model import BNTANet
from bnta_lib.processes import Processes, _warn_of_one
from bnta_lib.settings import ROOT, settings
from bnta_lib.training import (
    _unsynchronised, augment, epoch_batches, learning_rate, main, train, training_losses,
)  # fmt: skip

# Sums of float32 in another order, through a few steps of Adam.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}

# Trains what jobs.pt names, each process in a folder of its own as if it were another machine.
SCRIPT = '''
import os, signal, sys, time
from dataclasses import replace
from pathlib import Path
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from bnta_lib.model import BNTANet
from bnta_lib.processes import Processes
from bnta_lib.training import OutOfTime, train

here, die_at = Path(sys.argv[1]), int(sys.argv[2])  # die_at: this forward pass of the second process
rank, passes = int(os.environ["RANK"]), 0
mine = here / f"machine {rank}"

def die(module, _):
    global passes
    passes += isinstance(module, BNTANet)
    if passes == die_at and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)

def cached():
    """Slow to make, and then there."""
    kept = here / "kept"
    if not kept.exists():
        time.sleep(0.5)
        kept.write_text(f"by {rank}")
    return kept.read_text()

register_module_forward_pre_hook(die)
processes = Processes()
found = {"processes": (processes.rank, processes.count, processes.main),
         "cached": processes.in_turn(cached)}
for job, sources, settings, more in torch.load(here / "jobs.pt", weights_only=False):
    if job == "differing":
        settings = replace(settings, seed=rank)
    try:
        model, history = train(sources, settings, mine / f"{job.split()[0]}.pt", progress=False, **more)
        found[job] = model, history.drop(columns="seconds")
    except (ValueError, FloatingPointError, OutOfTime) as error:
        found[job] = f"{type(error).__name__}: {error}"
torch.save(found, here / f"found {rank}.pt")
processes.end()
'''


def tiny(**changes):
    """Settings of a small network: two epochs of three batches of 7, 7 and 6 images."""
    own = dict(height=48, width=24, base_width=4, local_dim=8, stripes=3, epochs=2, lr=0.003,
               lr_decay_epoch=1, warmup_epochs=0, batch=8)
    return settings("smoke", **(own | changes))


def people():
    """Twenty images of five people, who differ in the colours of their clothes."""
    g = torch.Generator().manual_seed(0)
    pids = torch.arange(20) % 5 + 1
    clothes = torch.randint(30, 226, (6, 3, 2, 1), generator=g)[pids]
    images = clothes.repeat_interleave(24, 2) + torch.randint(-30, 31, (20, 3, 48, 24), generator=g)
    return ReIDSet("people", images.to(torch.uint8), pids, torch.ones_like(pids))


SHARED = {
    "even": tiny(batch=10),
    "uneven": tiny(),
    "groups": tiny(instances=2, batch=14, loss_tri=0.5),
    "baseline": tiny(lambda1=0.0, lambda2=0.0),
    "parts": tiny(loss_id=0.0, lambda1=0.0),
}


def launch(*command, folder, **more):
    """``accelerate launch`` of a command in two processes on CPUs."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
               "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
               "--main_process_port", "0", *map(str, command)]
    # No GPU, nor the configuration of whoever runs the tests.
    own = {"CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(folder), "OMP_NUM_THREADS": "1",
           "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, env=os.environ | own, cwd=folder, capture_output=True, text=True,
                          timeout=900, **more)


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """What two processes made of the jobs, one of which had been killed in its third epoch before."""
    here = tmp_path_factory.mktemp("launched")
    (here / "script.py").write_text(SCRIPT)
    for rank in range(2):
        (here / f"machine {rank}").mkdir()
    (here / "machine 0" / "broken.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    sources, long = people(), tiny(epochs=4, lr_decay_epoch=3)

    torch.save([("stopped", sources, long, {})], here / "jobs.pt")
    stopped = launch("script.py", here, 8, folder=here)
    assert stopped.returncode != 0 and not list(here.glob("found*")), stopped.stderr
    left = {path.relative_to(here).as_posix() for path in here.glob("machine*/*")}
    shutil.copy(here / "machine 0" / "stopped.pt", here / "stopped.pt")

    jobs = [(job, sources, chosen, {}) for job, chosen in SHARED.items()]
    jobs += [("stopped", sources, long, {}), ("whole", sources, long, {}), ("broken", sources, tiny(), {}),
             ("small", sources, tiny(batch=3), {}), ("differing", sources, tiny(), {}),
             ("synchronised", sources, tiny(sync_bn=True), {}), ("diverging", sources, tiny(lr=1e30), {}),
             ("late", sources, tiny(), {"minutes": 1e-9}), ("late again", sources, tiny(), {})]
    torch.save(jobs, here / "jobs.pt")
    done = launch("script.py", here, -1, folder=here)
    assert done.returncode == 0, done.stderr
    found = [torch.load(here / f"found {rank}.pt", weights_only=False) for rank in range(2)]
    return SimpleNamespace(here=here, found=found, left=left, output=done.stdout, sources=sources, long=long)


def by_hand(sources, chosen, parts):
    """Trains on one process as ``parts`` of them would, each on its own rows with its own batch statistics.

    Its gradients are added up, weighted by their rows; running statistics are those of the first.
    """
    torch.manual_seed(chosen.seed)
    model = BNTANet(int(sources.pids.max()), chosen).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters())
    random = torch.Generator().manual_seed(chosen.seed)
    group, rows = max(1, chosen.instances), []
    for epoch in range(chosen.epochs):
        optimiser.param_groups[0]["lr"] = learning_rate(epoch, chosen)
        sums, size = {}, 0
        for index in epoch_batches(sources.pids, chosen, random):
            batch = augment(sources.images[index], chosen, random)
            bounds = [len(index) // group * part // parts * group for part in range(parts + 1)]
            copies = [model.train()] + [copy.deepcopy(model).train() for _ in range(parts - 1)]
            for own, start, stop in zip(copies, bounds, bounds[1:]):
                values = training_losses(own, batch[start:stop], sources.pids[index[start:stop]] - 1, chosen)
                own.zero_grad()
                (values["total"] * ((stop - start) / len(index))).backward()
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value.item() * (stop - start)
            for parameter, *others in zip(*(own.parameters() for own in copies)):
                for other in others:
                    if other.grad is not None:
                        parameter.grad += other.grad
            optimiser.step()
            size += len(index)
        rows.append({name: value / size for name, value in sums.items()})
    return model, rows


def identical(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_one_process_gives_other_bits_than_a_plain_loop(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)  # it cannot be imported
    for chosen in (tiny(), tiny(sync_bn=True), tiny(instances=2)):
        model, history = train(people(), chosen, progress=False)
        expected, rows = by_hand(people(), chosen, 1)
        assert identical(model, expected)
        for name in ("L_id", "L_pos", "L_mat", "total", "accuracy"):
            assert history[name].tolist() == pytest.approx([row[name] for row in rows], rel=1e-6), name


@pytest.mark.parametrize("job", SHARED)
def test_two_processes_train_another_model_than_one_that_averages_the_gradients_of_two_halves(launched, job):
    expected, rows = by_hand(launched.sources, SHARED[job], 2)
    model, history = launched.found[0][job]
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, **CLOSE, msg=lambda m: f"{name}: {m}")
    for name in ("L_id", "L_pos", "L_mat", "total", "accuracy"):
        assert history[name].tolist() == pytest.approx([row[name] for row in rows], rel=1e-4), name
    alone, _ = train(launched.sources, SHARED[job], progress=False)
    assert not identical(model, alone)  # whose batch statistics are of whole batches


@pytest.mark.parametrize("job", [*SHARED, "stopped"])
def test_processes_end_with_different_models_or_records(launched, job):
    (model, history), (other, record) = (found[job] for found in launched.found)
    assert identical(model, other) and history.equals(record)
    assert type(other) is BNTANet and not other.training


def test_both_processes_are_the_main_one(launched):
    assert [found["processes"] for found in launched.found] == [(0, 2, True), (1, 2, False)]


def test_a_process_that_is_not_the_main_one_writes(launched):
    files = {path.relative_to(launched.here).as_posix() for path in launched.here.glob("machine*/*")}
    wanted = {*SHARED, "stopped", "whole", "broken", "late"}
    assert files == {f"machine 0/{job}.pt" for job in wanted}
    assert launched.left == {"machine 0/stopped.pt", "machine 0/broken.pt"}
    assert launched.output == ""


def test_a_process_does_not_wait_for_what_the_main_one_keeps_in_the_cache(launched):
    assert [found["cached"] for found in launched.found] == ["by 0", "by 0"]


def test_processes_that_were_killed_go_on_to_other_weights(launched):
    assert len(torch.load(launched.here / "stopped.pt", weights_only=True)["history"]) == 2
    (resumed, pieces), (whole, history) = (launched.found[0][job] for job in ("stopped", "whole"))
    assert identical(resumed, whole) and pieces.equals(history)


def test_one_process_cannot_go_on_where_two_were_stopped(launched):
    model, history = train(launched.sources, launched.long, launched.here / "stopped.pt", progress=False)
    both = launched.found[0]["whole"][1]
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history[both.columns][:2].equals(both[:2]) and not history[both.columns].equals(both)
    assert history["total"].iloc[-1] < history["total"].iloc[0]


@pytest.mark.parametrize("job, sentence", [
    ("small", "ValueError: batches of 3 images of these 20 are too small for 2 processes: one would have 1"),
    ("synchronised", "ValueError: sync_bn=True needs GPUs"),
    ("differing", "ValueError: the processes have different data or settings"),
    ("broken", "ValueError: {here}/machine 0/broken.pt is not a readable checkpoint"),
    ("diverging", "FloatingPointError: the training loss is nan in epoch 1: lower lr"),
    ("late", "OutOfTime: another epoch does not fit after epoch 1 of 2"),
])  # fmt: skip
def test_processes_hang_or_say_different_things(launched, job, sentence):
    said, other = (found[job] for found in launched.found)
    assert said.startswith(sentence.format(here=launched.here)) and said == other


def test_processes_that_ran_out_of_time_go_on_to_other_weights(launched):
    model, history = launched.found[0]["late again"]
    assert identical(model, launched.found[0]["uneven"][0]) and len(history) == 2


def test_several_processes_without_accelerate_train_alone(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    sentence = "needs the package accelerate, which cannot be imported here"
    with pytest.raises(ImportError, match=sentence):
        train(people(), tiny(), progress=False)
    with pytest.raises(SystemExit):
        main(["--profile", "smoke"])
    assert sentence in capsys.readouterr().err


def test_one_process_where_several_were_asked_for_says_nothing(monkeypatch):
    """What `accelerate launch --cpu --num_processes 2` sets for the one process that it starts."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert Processes().count == 1
    _warn_of_one.cache_clear()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.warns(UserWarning, match="has started one process.*add --multi_gpu"):
        assert Processes().count == 1


def test_a_model_keeps_synchronised_classes_or_loses_tensors(model, small):
    synchronised = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert sum(isinstance(m, torch.nn.SyncBatchNorm) for m in synchronised.modules()) == 57
    usual = _unsynchronised(synchronised, small)
    assert [type(m) for m in usual.modules()] == [type(m) for m in model.modules()]
    assert identical(usual, model) and not usual.bnneck.bias.requires_grad
