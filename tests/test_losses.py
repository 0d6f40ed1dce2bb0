"""Losses against numbers worked by hand, plain loops, and numerical gradients."""

import math

import numpy as np
import pytest
import torch

from bnta_lib.losses import (
    identity_loss,
    matching_train_loss,
    matching_tta_loss,
    positioning_loss,
    triplet_loss,
)  # fmt: skip


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cross_entropy(scores, label, smoothing=0.0):
    """-sum of q log p for one row of scores, q smoothed over all classes."""
    scores = np.asarray(scores)
    log_p = scores - np.log(np.exp(scores).sum())
    q = np.full(len(scores), smoothing / len(scores))
    q[label] += 1 - smoothing
    return -(q * log_p).sum()


def close(loss, value):
    assert float(loss.detach()) == pytest.approx(float(value), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_identity_and_training_matching_loss_are_means_over_images_and_sums_over_parts(smoothing):
    logits, labels = draw(3, 4, 5), torch.tensor([4, 0, 1])
    rows = [[cross_entropy(logits[b, h], labels[b], smoothing) for h in range(4)] for b in range(3)]
    close(matching_train_loss(logits, labels, smoothing), np.sum(rows) / 3)
    close(identity_loss(logits[:, 0], labels, smoothing), np.mean(rows, axis=0)[0])


def test_positioning_loss_is_summed_over_stripes_and_averaged_over_images():
    close(positioning_loss(torch.zeros(7, 6, 6, dtype=torch.float64)), 6 * math.log(6))
    scores = draw(3, 4, 4)
    expected = sum(cross_entropy(scores[b, h], h) for b in range(3) for h in range(4)) / 3
    close(positioning_loss(scores), expected)


def test_triplet_loss_takes_the_hardest_of_the_batch():
    # On a line: person 0 at 0 and 3, person 1 at 1 and 10, person 2 alone at 30.
    line = torch.tensor([[0.0], [3.0], [1.0], [10.0], [30.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 2])
    # Anchor by anchor: 0: 3-1, 3: 3-2, 1: 9-1, 10: 9-7; the last has no positive.
    close(triplet_loss(line, labels, 0.3), ((2.3) + (1.3) + (8.3) + (2.3)) / 4)


def test_triplet_loss_of_a_batch_without_triplets_is_zero():
    for labels in (torch.arange(4), torch.zeros(4, dtype=torch.int64)):
        features = draw(4, 3).requires_grad_()
        loss = triplet_loss(features, labels, 0.3)
        loss.backward()
        assert loss == 0 and not features.grad.any()
    features = torch.ones(4, 3, requires_grad=True)  # all distances zero
    triplet_loss(features, torch.tensor([0, 0, 1, 1]), 0.3).backward()
    assert torch.isfinite(features.grad).all()


def tta_by_loops(local, parts, margin):
    """The terms of Eq. (8) as it is written."""
    terms = []
    for k, n in enumerate(parts.tolist()):
        distance = [(local[2 * k, n] - other).norm() for other in local[:, n]]
        negative = min(value for i, value in enumerate(distance) if i // 2 != k)
        terms.append((margin + distance[2 * k + 1] - negative).clamp(min=0))
    return torch.stack(terms)


@pytest.mark.parametrize("seed", range(5))
def test_tta_matching_loss_is_equation_8(seed):
    local = draw(12, 4, 3, seed=seed)
    parts = torch.randint(0, 4, (6,), generator=torch.Generator().manual_seed(seed))
    terms = tta_by_loops(local, parts, 0.3)
    assert terms.any()
    close(matching_tta_loss(local, parts, 0.3), sum(terms))
    close(matching_tta_loss(local, parts, 0.3, "mean"), sum(terms) / 6)


def test_single_pair_gives_no_matching_loss_and_equal_features_finite_gradients():
    local = draw(2, 4, 3).requires_grad_()
    loss = matching_tta_loss(local, torch.tensor([1]), 0.3)
    loss.backward()
    assert loss == 0 and not local.grad.any()
    local = torch.ones(8, 3, 4, requires_grad=True)
    loss = matching_tta_loss(local, torch.tensor([0, 1, 2, 0]), 0.3)
    loss.backward()
    close(loss, 4 * torch.tensor(0.3))
    assert torch.isfinite(local.grad).all()


@pytest.mark.parametrize("loss, shape", [
    (positioning_loss, (3, 4, 4)),
    (lambda x: identity_loss(x, torch.tensor([1, 0, 3]), 0.1), (3, 4)),
    (lambda x: matching_train_loss(x, torch.tensor([1, 0, 3]), 0.1), (3, 2, 4)),
    (lambda x: triplet_loss(x, torch.tensor([0, 0, 1, 1, 2]), 2.0), (5, 3)),
    (lambda x: matching_tta_loss(x, torch.tensor([0, 1, 1]), 2.0), (6, 2, 3)),
])  # fmt: skip
def test_gradients_are_those_of_differences(loss, shape):
    assert torch.autograd.gradcheck(loss, draw(*shape).requires_grad_())


def test_gradients_of_parts_chosen_many_times_are_the_same_each_time():
    random = torch.Generator().manual_seed(0)
    local = torch.randn(128, 6, 256, generator=random, requires_grad=True)
    parts = torch.zeros(64, dtype=torch.int64)  # all add up in one stripe
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        gradients = [torch.autograd.grad(matching_tta_loss(local, parts, 0.3), local)[0] for _ in range(30)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradients[0], other) for other in gradients)
