"""Training learns, continues where it stopped, and draws every image as it should."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

from bnta_lib.data.sets import ReIDSet
from bnta_lib.losses import triplet_loss
from bnta_lib.model import BNTANet
from bnta_lib.settings import settings
from bnta_lib.training import Objective, OutOfTime, augment, draw, learning_rate, train
from conftest import coloured_people, identical


@pytest.fixture
def quick(small):
    """Four epochs of three batches."""
    return replace(small, epochs=4, lr=0.003, lr_decay_epoch=3, warmup_epochs=0, batch=8)


@pytest.fixture
def people():
    return coloured_people()


def rows(history):
    return history.drop(columns="seconds")


def test_losses_fall_and_accuracy_rises(people, quick):
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


def test_weight_decay_shrinks_convolution_and_linear_weights_alone(people, quick):
    """After one step: what it takes away is its share, times the rate, of the weights before (AdamW)."""
    one_step = replace(quick, epochs=1, lr_decay_epoch=1, batch=len(people))
    without, _ = train(people, one_step, progress=False)
    decayed, _ = train(people, replace(one_step, weight_decay=0.5), progress=False)
    torch.manual_seed(one_step.seed)
    before = dict(BNTANet(without.identities, one_step).named_parameters())
    for (name, plain), shrunk in zip(without.named_parameters(), decayed.parameters(), strict=True):
        share = one_step.lr * 0.5 if plain.ndim > 1 else 0
        torch.testing.assert_close(shrunk, plain - share * before[name], rtol=0, atol=1e-6)


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


def test_resumed_training_gives_the_weights_of_an_uninterrupted_one(people, quick, tmp_path):
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


def test_checkpoint_of_something_else_or_damaged_is_refused(people, quick, tmp_path):
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
    for broken in (b"", b"PK\x03\x04 not a checkpoint", whole[:-100]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="is not a readable checkpoint .*: delete it"):
            train(people, quick, path, progress=False)


def test_training_that_is_out_of_time_saves_its_epoch_and_continues(people, quick, tmp_path):
    whole, history = train(people, quick, progress=False)
    path = tmp_path / "checkpoint.pt"
    for epoch in (1, 2, 3):
        with pytest.raises(OutOfTime, match=f"does not fit after epoch {epoch} of 4"):
            train(people, quick, path, progress=False, minutes=1e-9)
        assert len(torch.load(path, weights_only=True)["history"]) == epoch
    model, pieces = train(people, quick, path, progress=False, minutes=1e-9)  # nothing is left to stop
    assert identical(model, whole) and rows(pieces).equals(rows(history))
    model, pieces = train(people, quick, tmp_path / "other.pt", progress=False, minutes=60)
    assert identical(model, whole) and rows(pieces).equals(rows(history))
    with pytest.raises(ValueError, match="minutes needs a checkpoint"):
        train(people, quick, progress=False, minutes=60)


def test_diverging_training_is_refused_and_not_saved(people, quick, tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(FloatingPointError, match="loss is .* in epoch 1; .*--lr 2e.29 --warmup"):
        train(people, replace(quick, lr=1e30), path, progress=False)
    assert not path.exists()


def test_labels_with_gaps_and_empty_sets_are_refused(people, quick):
    gap = replace(people, pids=torch.where(people.pids == 3, 9, people.pids))
    nothing = ReIDSet("nothing", people.images[:0], people.pids[:0], people.camids[:0])
    for data in (gap, replace(people, pids=people.pids - 1), nothing):
        with pytest.raises(ValueError, match=f"{data.name}: training pids must be 1..M without gaps"):
            train(data, quick, progress=False)


def test_learning_rate_follows_the_papers_schedule():
    paper = settings("paper")
    rates = [learning_rate(epoch, paper) for epoch in range(60)]
    assert rates == pytest.approx([0.005] * 40 + [0.0005] * 20)
    warm = replace(paper, lr=0.004, warmup_epochs=3)
    assert [learning_rate(e, warm) for e in range(4)] == pytest.approx([0.001, 0.002, 0.003, 0.004])


def test_augmented_images_are_crops_and_flips_drawn_apart(quick):
    # Every pixel has its own value, so that a crop tells where it was taken.
    image = torch.arange(3 * 8 * 4).view(3, 8, 4).to(torch.uint8) + 1
    padded = F.pad(image, (2, 2, 2, 2))
    crops = {
        (top, left, flip): crop.flip(2) if flip else crop
        for top in range(5) for left in range(5) for flip in (False, True)
        for crop in [padded[:, top:top + 8, left:left + 4]]
    }  # fmt: skip
    batch = image.repeat(1_000, 1, 1, 1)
    chosen = replace(quick, height=8, pad=64)
    out = augment(batch, draw(1_000, chosen, torch.Generator().manual_seed(0)), chosen)
    assert out.dtype == torch.uint8 and out.shape == batch.shape
    assert torch.equal(batch, image.expand_as(batch))
    drawn = [[place for place, crop in crops.items() if torch.equal(crop, one)] for one in out]
    assert all(len(places) == 1 for places in drawn)
    assert {places[0] for places in drawn} == set(crops)
    assert 400 < sum(places[0][2] for places in drawn) < 600


def test_padding_scales_with_the_height(quick):
    # 10 pixels at height 256: 2 at 48 rows, 4 at 96.
    for height, pad in ((256, 10), (96, 4), (48, 2)):
        white = torch.full((400, 3, height, 48), 255, dtype=torch.uint8)
        chosen = replace(quick, height=height)
        out = augment(white, draw(400, chosen, torch.Generator().manual_seed(0)), chosen)
        assert (out[:, 0, :, 24] == 0).sum(1).max() == pad


def test_training_step_is_one_graph_over_an_epoch(people, quick, model):
    """Without a break, and not compiled again for another batch of the same size."""
    counter = CompileCounter()
    step = torch.compile(Objective(model.train(), quick), backend=counter, fullgraph=True)
    for batch in torch.arange(18).split(6):
        step(people.images[batch], people.pids[batch] - 1)["total"].backward()
    assert counter.frame_count == 1


def test_training_losses_are_equation_9(people, quick, model):
    labels = people.pids - 1
    chosen = replace(quick, loss_id=0.8, lambda1=0.3, lambda2=0.2, label_smoothing=0.0)
    with torch.no_grad():
        got = Objective(model, chosen)(people.images, labels)
        out = model(people.images)
    l_id = F.cross_entropy(out.logits, labels)
    l_pos = sum(F.cross_entropy(out.positions[:, h], torch.full((20,), h)) for h in range(3))
    l_mat = sum(F.cross_entropy(out.local_logits[:, h], labels) for h in range(3))
    for name, expected in (("L_id", l_id), ("L_pos", l_pos), ("L_mat", l_mat),
                           ("total", 0.8 * l_id + 0.3 * l_pos + 0.2 * l_mat),
                           ("accuracy", (out.logits.argmax(1) == labels).double().mean())):
        assert float(got[name]) == pytest.approx(float(expected), rel=1e-5), name

    with torch.no_grad():
        more = Objective(model, replace(chosen, loss_tri=2.0))(people.images, labels)
        less = Objective(model, replace(chosen, loss_id=0.0, lambda2=0.0))(people.images, labels)
    triplet = triplet_loss(out.features, labels, chosen.triplet_margin)
    assert float(more["total"] - got["total"]) == pytest.approx(2 * float(triplet), rel=1e-4)
    assert float(less["total"]) == pytest.approx(0.3 * float(l_pos), rel=1e-5)
