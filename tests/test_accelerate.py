"""Two processes train what one would: launched for real, on CPUs, and compared with a loop by hand."""

import copy
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from bnta_lib.model import BNTANet, batches
from bnta_lib.settings import ROOT, settings
from bnta_lib.suite.train import main
from bnta_lib.training import Objective, augment, draw, learning_rate, train
from conftest import coloured_people, identical

# Sums of float32 in another order, through a few steps of Adam.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}

# Trains what jobs.pt names, each process in a folder of its own as if it were another machine.
SCRIPT = '''
import os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from bnta_lib.model import BNTANet
from bnta_lib.training import OutOfTime, from_main, launched, train

here, die_at = Path(sys.argv[1]), int(sys.argv[2])  # die_at: this forward pass of the second process
rank, passes = int(os.environ["RANK"]), 0
mine = here / f"machine {rank}"

def die(module, _):
    global passes
    passes += isinstance(module, BNTANet)
    if passes == die_at and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)

register_module_forward_pre_hook(die)
processes = launched(torch.device("cpu"))
found = {"main": processes.is_main_process, "from main": from_main(processes, rank)}
for job, sources, settings, more in torch.load(here / "jobs.pt", weights_only=False):
    if job == "differing":
        settings = replace(settings, seed=rank)
    try:
        model, history = train(sources, settings, mine / f"{job.split()[0]}.pt", progress=False, **more)
        found[job] = model, history.drop(columns="seconds")
    except (ValueError, FloatingPointError, OutOfTime) as error:
        found[job] = f"{type(error).__name__}: {error}"
torch.save(found, here / f"found {rank}.pt")
processes.end_training()
'''


def tiny(**changes):
    """Settings of a small network: two epochs of three batches of 7, 7 and 6 images."""
    own = dict(base_width=4, local_dim=8, epochs=2, lr=0.003, lr_decay_epoch=1, warmup_epochs=0, batch=8)
    return settings("smoke", **(own | changes))


SHARED = {
    "even": tiny(batch=10),
    "uneven": tiny(),
    "triplets": tiny(batch=14, loss_tri=0.5),
    "baseline": tiny(lambda1=0.0, lambda2=0.0),
    "parts": tiny(loss_id=0.0, lambda1=0.0),
}


def launch(*command, folder):
    """``accelerate launch`` of a command in two processes, on CPUs."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
               "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
               "--main_process_port", "0", *map(str, command)]
    # No GPU, nor the configuration of whoever runs the tests.
    own = {"CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(folder), "OMP_NUM_THREADS": "1",
           "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, env=os.environ | own, cwd=folder, capture_output=True, text=True,
                          timeout=900)


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """What two processes made of the jobs, one of which had been killed in its third epoch before."""
    here = tmp_path_factory.mktemp("launched")
    (here / "script.py").write_text(SCRIPT)
    for rank in range(2):
        (here / f"machine {rank}").mkdir()
    sources, long = coloured_people(), tiny(epochs=4, lr_decay_epoch=3)

    torch.save([("stopped", sources, long, {})], here / "jobs.pt")
    stopped = launch("script.py", here, 8, folder=here)
    assert stopped.returncode != 0 and not list(here.glob("found*")), stopped.stderr
    left = {path.relative_to(here).as_posix() for path in here.glob("machine*/*")}
    shutil.copy(here / "machine 0" / "stopped.pt", here / "stopped.pt")

    jobs = [(job, sources, chosen, {}) for job, chosen in SHARED.items()]
    jobs += [("stopped", sources, long, {}), ("whole", sources, long, {}),
             ("small", sources, tiny(batch=3), {}), ("differing", sources, tiny(), {}),
             ("diverging", sources, tiny(lr=1e30), {}),
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
    rows = []
    for epoch in range(chosen.epochs):
        optimiser.param_groups[0]["lr"] = learning_rate(epoch, chosen)
        sums, size = {}, 0
        for index in batches(len(sources.pids), chosen.batch, random):
            batch = augment(sources.images[index], draw(len(index), chosen, random), chosen)
            bounds = [len(index) * part // parts for part in range(parts + 1)]
            copies = [model.train()] + [copy.deepcopy(model).train() for _ in range(parts - 1)]
            for own, start, stop in zip(copies, bounds, bounds[1:]):
                values = Objective(own, chosen)(batch[start:stop], sources.pids[index[start:stop]] - 1)
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


def test_one_process_gives_the_bits_of_a_plain_loop_without_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)  # it cannot be imported
    for chosen in (tiny(), tiny(loss_tri=0.5)):
        model, history = train(coloured_people(), chosen, progress=False)
        expected, rows = by_hand(coloured_people(), chosen, 1)
        assert identical(model, expected)
        for name in ("L_id", "L_pos", "L_mat", "total", "accuracy"):
            assert history[name].tolist() == pytest.approx([row[name] for row in rows], rel=1e-6), name


@pytest.mark.parametrize("job", SHARED)
def test_two_processes_follow_the_mean_gradient_of_two_halves_to_one_model(launched, job):
    expected, rows = by_hand(launched.sources, SHARED[job], 2)
    model, history = launched.found[0][job]
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, **CLOSE, msg=name)
    other, record = launched.found[1][job]
    assert identical(model, other) and history.equals(record) and type(other) is BNTANet
    for name in ("L_id", "L_pos", "L_mat", "total", "accuracy"):
        assert history[name].tolist() == pytest.approx([row[name] for row in rows], rel=1e-4), name


def test_only_the_main_process_writes(launched):
    assert [(found["main"], found["from main"]) for found in launched.found] == [(True, 0), (False, 0)]
    files = {path.relative_to(launched.here).as_posix() for path in launched.here.glob("machine*/*")}
    wanted = {*SHARED, "stopped", "whole", "late"}
    assert files == {f"machine 0/{job}.pt" for job in wanted}
    assert launched.left == {"machine 0/stopped.pt"}
    assert launched.output == ""


def test_processes_that_were_killed_or_out_of_time_continue_to_the_same_weights(launched):
    assert len(torch.load(launched.here / "stopped.pt", weights_only=True)["history"]) == 2
    (resumed, pieces), (whole, history) = (launched.found[0][job] for job in ("stopped", "whole"))
    assert identical(resumed, whole) and pieces.equals(history)
    model, history = launched.found[0]["late again"]
    assert identical(model, launched.found[0]["uneven"][0]) and len(history) == 2


def test_one_process_continues_where_two_were_stopped(launched):
    model, history = train(launched.sources, launched.long, launched.here / "stopped.pt", progress=False)
    both = launched.found[0]["whole"][1]
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history[both.columns][:2].equals(both[:2]) and not history[both.columns].equals(both)
    assert history["total"].iloc[-1] < history["total"].iloc[0]


@pytest.mark.parametrize("job, sentence", [
    ("small", "ValueError: batches of 3 images are too small for 2 processes: one has 1"),
    ("differing", "ValueError: the processes have different data or settings"),
    ("diverging", "FloatingPointError: the training loss is nan in epoch 1; the last checkpoint stays"),
    ("late", "OutOfTime: another epoch does not fit after epoch 1 of 2"),
])  # fmt: skip
def test_all_processes_stop_with_the_same_error(launched, job, sentence):
    said, other = (found[job] for found in launched.found)
    assert said.startswith(sentence) and said == other


def test_several_processes_need_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ImportError, match="accelerate"):
        train(coloured_people(), tiny(), progress=False)
    with pytest.raises(ImportError, match="accelerate"):
        main(["--profile", "smoke"])
