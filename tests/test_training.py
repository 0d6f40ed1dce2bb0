"""Training learns, goes on where it stopped, and draws every image as it should."""

import subprocess
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

from bnta_lib.data.sets import ReIDSet
from bnta_lib.losses import triplet_loss
from bnta_lib.model import BNTANet
from bnta_lib.processes import Processes
from bnta_lib.settings import PROFILES, settings
from bnta_lib.training import (
    OutOfTime, augment, checkpoint_path, epoch_batches, learning_rate, main, train, trained_model,
    training_history, training_key, training_losses,
)  # fmt: skip
from bnta_lib.weights import MODELS, model_settings, read_meta, weights_path


@pytest.fixture
def quick(small):
    """Four epochs of three batches."""
    return replace(small, epochs=4, lr=0.003, lr_decay_epoch=3, warmup_epochs=0, batch=8)


@pytest.fixture
def people():
    """Twenty images of five people, who differ in the colours of their clothes."""
    g = torch.Generator().manual_seed(0)
    pids = torch.arange(20) % 5 + 1
    clothes = torch.randint(30, 226, (6, 3, 2, 1), generator=g)[pids]  # upper and lower half
    noise = torch.randint(-30, 31, (20, 3, 48, 24), generator=g)
    images = clothes.repeat_interleave(24, 2) + noise
    return ReIDSet("people", images.to(torch.uint8), pids, torch.ones_like(pids))


def rows(history):
    return history.drop(columns="seconds")


def identical(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_training_does_not_learn(people, quick):
    people = ReIDSet("four times", people.images.repeat(4, 1, 1, 1), people.pids.repeat(4),
                     people.camids.repeat(4))
    chosen = replace(quick, epochs=10, lr=0.01, lr_decay_epoch=8, batch=10)
    model, history = train(people, chosen, progress=False)
    assert not model.training and model.identities == 5
    assert history["epoch"].tolist() == list(range(1, 11))
    assert history["lr"].tolist() == pytest.approx([0.01] * 8 + [0.001] * 2)
    for loss in ("total", "L_id", "L_pos", "L_mat"):
        assert history[loss].iloc[-1] < history[loss].iloc[0], loss
    assert history["accuracy"].iloc[-1] > 0.6  # one in five is chance


def test_one_seed_gives_two_models_or_two_seeds_one(people, quick):
    model, history = train(people, quick, progress=False)
    torch.manual_seed(99)
    again, same_history = train(people, quick, progress=False)
    assert identical(model, again) and rows(history).equals(rows(same_history))
    other, _ = train(people, replace(quick, seed=1), progress=False)
    assert not identical(model, other)


def interrupted(after: int, *arguments):
    """Train until somebody presses Ctrl-C during the given forward pass."""
    passes = 0

    def press(module, _):
        nonlocal passes
        passes += isinstance(module, BNTANet)
        if passes == after:
            raise KeyboardInterrupt

    hook = register_module_forward_pre_hook(press)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(*arguments, progress=False)
    finally:
        hook.remove()


@pytest.mark.parametrize("instances", [0, 2])
def test_a_resumed_training_ends_elsewhere_than_an_uninterrupted_one(
    people, quick, tmp_path, instances
):
    quick = replace(quick, instances=instances)
    whole, history = train(people, quick, progress=False)
    path = tmp_path / "checkpoint.pt"
    interrupted(2, people, quick, path)
    assert not path.exists()
    interrupted(5, people, quick, path)  # in the second epoch of three batches
    interrupted(5, people, quick, path)  # in the third
    assert path.is_file()
    torch.manual_seed(99)
    resumed, pieces = train(people, quick, path, progress=False)
    assert identical(whole, resumed) and rows(history).equals(rows(pieces))
    finished, all_rows = train(people, quick, path, progress=False)  # nothing is left to do
    assert identical(whole, finished) and all_rows.equals(pieces)


def test_checkpoints_are_written_in_other_epochs_than_asked(people, quick, tmp_path):
    path = tmp_path / "checkpoint.pt"
    quick = replace(quick, save_every=2)
    interrupted(5, people, quick, path)  # second epoch
    assert not path.exists()
    interrupted(8, people, quick, path)  # third epoch
    assert len(torch.load(path, weights_only=True)["history"]) == 2


def test_a_checkpoint_of_something_else_is_continued(people, quick, tmp_path):
    path = tmp_path / "checkpoint.pt"
    train(people, replace(quick, epochs=1), path, progress=False)
    brighter = replace(people, images=people.images + 1)
    for data, chosen in ((people, quick), (people, replace(quick, epochs=1, lr=0.02)),
                         (brighter, replace(quick, epochs=1))):
        with pytest.raises(ValueError, match="checkpoint of other data or settings: delete it"):
            train(data, chosen, path, progress=False)
    torch.save(torch.zeros(3), path)
    with pytest.raises(ValueError, match="checkpoint of other data or settings"):
        train(people, quick, path, progress=False)
    path.unlink()
    interrupted(4, people, quick, path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # in a tensor, and still a number
    for broken in (b"", b"PK\x03\x04 not a checkpoint", bytes(flipped)):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="is not a readable checkpoint .*: delete it"):
            train(people, quick, path, progress=False)


def test_settings_of_adaption_make_another_training(people, quick):
    key = training_key(people, quick)
    for free in (dict(K=3), dict(tta_lr=1.0), dict(margin=0.5), dict(lambda3=2.0), dict(splits=3),
                 dict(matching_reduction="mean"), dict(normalise_features=False)):
        assert training_key(people, replace(quick, **free)) == key
    for part in (dict(seed=1), dict(lambda2=0.0), dict(base_width=8), dict(pad=0), dict(batch=4)):
        assert training_key(people, replace(quick, **part)) != key
    assert training_key(replace(people, known_digest="other"), quick) != key
    assert checkpoint_path(people, quick, "bnta") != checkpoint_path(people, quick, "baseline")


@pytest.mark.parametrize("name", MODELS)
def test_weights_that_are_committed_would_be_out_of_date(people, name):
    chosen = settings("laptop")
    meta = read_meta(weights_path(chosen, name))
    sources = replace(people, known_digest=meta["data"])
    assert training_key(sources, model_settings(chosen, name)) == meta["key"]
    assert training_key(sources, model_settings(replace(chosen, sync_bn=True), name)) != meta["key"]


def test_time_that_is_over_loses_an_epoch_or_time_that_is_left_stops_one(people, quick, tmp_path):
    whole, history = train(people, quick, progress=False)
    path, chosen = tmp_path / "checkpoint.pt", replace(quick, save_every=4)
    for epoch in (1, 2, 3):
        with pytest.raises(OutOfTime, match=f"does not fit after epoch {epoch} of 4, which is saved"):
            train(people, chosen, path, progress=False, minutes=1e-9)
        assert len(torch.load(path, weights_only=True)["history"]) == epoch
    model, pieces = train(people, chosen, path, progress=False, minutes=1e-9)  # nothing is left to stop
    assert identical(model, whole) and rows(pieces).equals(rows(history))
    model, pieces = train(people, chosen, tmp_path / "other.pt", progress=False, minutes=60)
    assert identical(model, whole) and rows(pieces).equals(rows(history))
    with pytest.raises(ValueError, match="minutes needs a checkpoint"):
        train(people, quick, progress=False, minutes=60)


def test_the_command_that_ran_out_of_time_starts_again_or_never_ends(monkeypatch, tmp_path, small, capsys):
    few = {name: 4 for name in small.people}
    monkeypatch.setitem(PROFILES, "smoke", replace(small, people=few, images=few, epochs=2, batch=10))
    command = ["--profile", "smoke", "--model", "baseline", "pos"]
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "whole"))
    main(command)
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path / "pieces"))
    said = []
    for run in range(4):
        with pytest.raises(SystemExit) if run < 3 else nullcontext() as stop:
            main([*command, "--minutes", "1e-9"])
        assert run == 3 or stop.value.code == 3
        said.append(capsys.readouterr().out)
    wanted = ("out of time: another epoch does not fit after epoch 1 of 2, which is saved; "
              "the same command goes on")
    assert wanted in said[0] and wanted in said[2]
    assert "out of time: an epoch of pos does not fit" in said[1]
    assert all("baseline is trained with these data and settings: delete" in text for text in said[2:])
    assert "wrote" in said[3] and "out of time" not in said[3]
    for name in ("baseline", "pos"):
        path = weights_path(settings("smoke"), name)
        first, second = (load_file(tmp_path / kind / path.relative_to(tmp_path / "pieces"))
                         for kind in ("whole", "pieces"))
        assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    with pytest.raises(SystemExit):
        main([*command, "--minutes", "0"])
    assert "--minutes is more than 0; got 0" in capsys.readouterr().err


def test_compiling_renames_weights_or_changes_what_is_trained(people, quick, tmp_path):
    quick, path = replace(quick, epochs=2), tmp_path / "checkpoint.pt"
    plain, history = train(people, quick, progress=False)
    counters.clear()
    # The backend that runs what was traced as it is: it needs no compiler.
    model, record = train(people, quick, path, progress=False, compile="eager")
    assert counters["stats"]["unique_graphs"] > 0
    assert [*model.state_dict()] == [*plain.state_dict()] == [*torch.load(path, weights_only=True)["model"]]
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert record["total"].tolist() == pytest.approx(history["total"].tolist(), rel=1e-4)
    train(people, quick, path, progress=False)  # and not compiled it goes on from there


@pytest.mark.parametrize("size, group", [(7, 1), (64, 1), (12, 4), (20, 4)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_overlap_or_cut_a_group_or_differ_by_more_than_one(size, group, count):
    each, all_rows = [], torch.arange(size)
    for rank in range(count):
        processes = Processes()
        processes.rank, processes.count = rank, count
        each.append(all_rows[processes.share(size, group)])
        assert len(each[-1]) >= processes.smallest_share(size, group)
    lengths = [len(rows) for rows in each]
    assert torch.equal(torch.cat(each), all_rows) and min(lengths) == processes.smallest_share(size, group)
    assert max(lengths) - min(lengths) <= group and not any(length % group for length in lengths)


def test_rows_of_a_batch_are_augmented_as_in_no_batch(people, quick):
    whole = augment(people.images, quick, torch.Generator().manual_seed(0))
    for rows_ in (slice(0, 7), slice(7, 20)):
        random = torch.Generator().manual_seed(0)
        assert torch.equal(augment(people.images[rows_], quick, random, rows_, 20), whole[rows_])
        after = torch.Generator().manual_seed(0)
        augment(people.images, quick, after)
        assert torch.equal(random.get_state(), after.get_state())


def test_a_diverging_training_is_saved(people, quick, tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(FloatingPointError, match="training loss is .* in epoch 1: lower lr"):
        train(people, replace(quick, lr=1e30), path, progress=False)
    assert not path.exists()


def test_a_full_disk_destroys_the_checkpoint(people, quick, small_disk):
    (small_disk / "a.pt").write_bytes(bytes(50_000))
    with pytest.raises(OSError, match="the disk is full: could not write .*a2.pt"):
        train(people, quick, small_disk / "a2.pt", progress=False)
    assert [p.name for p in small_disk.iterdir()] == ["a.pt"]


def test_a_disk_that_may_only_be_read_costs_the_checkpoint(people, quick, small_disk):
    (small_disk / "a.pt").write_bytes(b"kept")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match="no permission to write .*b.pt"):
        train(people, quick, small_disk / "b.pt", progress=False)
    assert {p.name: p.read_bytes() for p in small_disk.iterdir()} == {"a.pt": b"kept"}


def test_labels_with_gaps_or_no_images_are_trained_on(people, quick):
    gap = torch.where(people.pids == 3, 9, people.pids)
    for pids in (people.pids - 1, gap):
        with pytest.raises(ValueError, match=r"pids must be 1..M without gaps"):
            train(replace(people, pids=pids), quick, progress=False)
    nothing = ReIDSet("nothing", people.images[:0], people.pids[:0], people.camids[:0])
    with pytest.raises(ValueError, match="nothing to train on: nothing is empty"):
        train(nothing, quick, progress=False)


def test_the_paper_schedule_is_another():
    paper = settings("paper")
    rates = [learning_rate(epoch, paper) for epoch in range(60)]
    assert rates == pytest.approx([0.005] * 40 + [0.0005] * 20)
    warm = replace(paper, lr=0.004, warmup_epochs=3)
    assert [learning_rate(e, warm) for e in range(4)] == pytest.approx([0.001, 0.002, 0.003, 0.004])


@pytest.mark.parametrize("n", [2, 7, 20, 65, 129, 200])
@pytest.mark.parametrize("batch", [2, 8, 64])
def test_a_plain_epoch_leaves_an_image_out_or_a_batch_with_one(quick, n, batch):
    random = torch.Generator().manual_seed(0)
    pids = torch.arange(n) % 4 + 1
    first, second = (epoch_batches(pids, replace(quick, batch=batch), random) for _ in range(2))
    for drawn in (first, second):
        assert sorted(torch.cat(drawn).tolist()) == list(range(n))
        assert min(map(len, drawn)) >= 2 and max(map(len, drawn)) <= max(batch, 3)
    assert n < 7 or not torch.equal(torch.cat(first), torch.cat(second))


@pytest.mark.parametrize("instances", [2, 3, 4])
@pytest.mark.parametrize("batch", [8, 16, 30])
def test_a_pk_batch_cuts_a_group_or_leaves_an_image_out(quick, instances, batch):
    pids = torch.tensor([1] + [2] * 3 + [3] * 4 + [4] * 9 + [5] * 2 + [6] * 17)
    pids = pids[torch.randperm(len(pids), generator=torch.Generator().manual_seed(0))]
    chosen = replace(quick, instances=instances, batch=batch)
    drawn = epoch_batches(pids, chosen, torch.Generator().manual_seed(0))
    assert set(torch.cat(drawn).tolist()) == set(range(len(pids)))
    for indices in drawn:
        assert len(indices) <= batch
        assert (torch.bincount(pids[indices]) % instances == 0).all()
    # No more repeats than fill a person's last group.
    expected = sum(-(-c // instances) * instances for c in torch.bincount(pids).tolist())
    assert sum(map(len, drawn)) == expected


@pytest.mark.parametrize("instances", [0, 3])
def test_mean_losses_are_divided_by_another_number_of_images(people, quick, instances):
    # A rate of zero and no augmentation: five people of four images, in groups of three.
    chosen = replace(quick, instances=instances, lr=0.0, epochs=1, batch=64, pad=0)
    _, history = train(people, chosen, progress=False)
    assert history["L_pos"].iloc[0] == pytest.approx(3 * torch.tensor(3.0).log().item(), rel=0.1)


def test_an_augmented_image_is_not_one_of_its_crops_or_all_images_move_alike(quick):
    # Every pixel has its own value, so that a crop tells where it was taken.
    image = torch.arange(3 * 8 * 4).view(3, 8, 4).to(torch.uint8) + 1
    padded = F.pad(image, (2, 2, 2, 2))
    crops = {
        (top, left, flip): crop.flip(2) if flip else crop
        for top in range(5) for left in range(5) for flip in (False, True)
        for crop in [padded[:, top:top + 8, left:left + 4]]
    }  # fmt: skip
    batch = image.repeat(1_000, 1, 1, 1)
    out = augment(batch, replace(quick, pad=64), torch.Generator().manual_seed(0))
    assert out.dtype == torch.uint8 and out.shape == batch.shape
    assert torch.equal(batch, image.expand_as(batch))
    drawn = [[place for place, crop in crops.items() if torch.equal(crop, one)] for one in out]
    assert all(len(places) == 1 for places in drawn)
    assert {places[0] for places in drawn} == set(crops)
    assert 400 < sum(places[0][2] for places in drawn) < 600


def test_padding_does_not_scale_with_the_height(quick):
    # 10 pixels at height 256: 2 at 48 rows, 4 at 96.
    for height, pad in ((256, 10), (96, 4), (48, 2)):
        white = torch.full((400, 3, height, 48), 255, dtype=torch.uint8)
        out = augment(white, quick, torch.Generator().manual_seed(0))
        assert (out[:, 0, :, 24] == 0).sum(1).max() == pad


def test_the_objective_is_not_equation_9(people, quick, model):
    labels = people.pids - 1
    chosen = replace(quick, loss_id=0.8, lambda1=0.3, lambda2=0.2, label_smoothing=0.0)
    with torch.no_grad():
        got = training_losses(model, people.images, labels, chosen)
        out = model(people.images)
    l_id = F.cross_entropy(out.logits, labels)
    l_pos = sum(F.cross_entropy(out.positions[:, h], torch.full((20,), h)) for h in range(3))
    l_mat = sum(F.cross_entropy(out.local_logits[:, h], labels) for h in range(3))
    for name, expected in (("L_id", l_id), ("L_pos", l_pos), ("L_mat", l_mat),
                           ("total", 0.8 * l_id + 0.3 * l_pos + 0.2 * l_mat),
                           ("accuracy", (out.logits.argmax(1) == labels).double().mean())):
        assert float(got[name]) == pytest.approx(float(expected), rel=1e-5), name

    with torch.no_grad():
        more = training_losses(model, people.images, labels, replace(chosen, loss_tri=2.0))
        less = training_losses(
            model, people.images, labels, replace(chosen, loss_id=0.0, lambda2=0.0)
        )
    triplet = triplet_loss(out.features, labels, chosen.triplet_margin)
    assert float(more["total"] - got["total"]) == pytest.approx(2 * float(triplet), rel=1e-4)
    assert float(less["total"]) == pytest.approx(0.3 * float(l_pos), rel=1e-5)


def test_absent_weights_are_not_asked_for(monkeypatch, tmp_path, small):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    for use in (trained_model, training_history):
        with pytest.raises(FileNotFoundError, match="make train"):
            use(settings("paper"))
    with pytest.raises(ValueError, match="unknown model 'tent'"):
        trained_model(small, "tent")


def test_a_device_that_is_not_there_is_found_after_training(monkeypatch, tmp_path, quick):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    monkeypatch.setenv("BNTA_DEVICE", "cuda:99")
    with pytest.raises(ValueError, match="BNTA_DEVICE asks for cuda:99"):
        trained_model(quick, progress=False)
    assert not list(tmp_path.iterdir())


def test_smoke_weights_in_the_cache_are_out_of_date(monkeypatch, tmp_path, quick):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    quick = replace(quick, epochs=1, batch=64)
    path = weights_path(quick, "bnta")
    first = trained_model(quick, progress=False)
    assert len(training_history(quick)) == 1 and not list((tmp_path / "checkpoints").iterdir())
    written = path.stat().st_mtime_ns
    again = trained_model(replace(quick, margin=0.5), progress=False)
    assert path.stat().st_mtime_ns == written and identical(first, again)
    other = trained_model(replace(quick, lr=0.001), progress=False)
    assert path.stat().st_mtime_ns > written and not identical(first, other)


def test_the_record_beside_the_weights_is_that_of_another_training(monkeypatch, tmp_path, quick):
    monkeypatch.setenv("BNTA_CACHE", str(tmp_path))
    quick = replace(quick, epochs=2, batch=64)
    trained_model(quick, progress=False)
    own = training_history(quick)
    weights_path(quick, "bnta").with_suffix(".csv").write_text("epoch,seconds\n1,9\n")
    assert training_history(quick).equals(own) and len(own) == 2


def test_a_start_from_other_weights_is_the_same_training(monkeypatch, tmp_path):
    chosen, sources = settings("paper"), ReIDSet("none", torch.zeros(2, 3, 4, 4).byte(), torch.ones(2).long(), torch.ones(2).long())
    monkeypatch.delenv("BNTA_IMAGENET", raising=False)
    usual = training_key(sources, chosen)
    (tmp_path / "own.pth").write_bytes(b"other weights")
    monkeypatch.setenv("BNTA_IMAGENET", str(tmp_path / "own.pth"))
    assert training_key(sources, chosen) != usual
    unpretrained = replace(chosen, pretrained=False)
    own = training_key(sources, unpretrained)
    monkeypatch.delenv("BNTA_IMAGENET")
    assert training_key(sources, unpretrained) == own
