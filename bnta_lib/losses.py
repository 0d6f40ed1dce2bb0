"""The losses of the paper, scalars of B images, M identities, H stripes and C_l local dimensions."""

import torch
from torch import Tensor
from torch.nn import functional as F


def identity_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """L_id, Eq. (2): cross-entropy of G's scores (B, M) with identities (B,); batch mean."""
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def triplet_loss(features: Tensor, labels: Tensor, margin: float) -> Tensor:
    """L_tri, Eq. (3): batch-hard triplets on features (B, C), mean over anchors.

    Anchors without a positive or without a negative in the batch are left out; with none left it is 0.
    """
    distance = safe_norm(features[:, None] - features)
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    usable = (same & ~itself).any(1) & (~same).any(1)
    positive = distance.masked_fill(~same | itself, -torch.inf).amax(1)
    negative = distance.masked_fill(same, torch.inf).amin(1)
    if not usable.any():
        return features.sum() * 0.0
    return F.relu(margin + positive[usable] - negative[usable]).mean()


def positioning_loss(positions: Tensor) -> Tensor:
    """L_pos, Eq. (5): which stripe is this? Scores (B, H, H), summed over stripes, batch mean."""
    images, stripes, _ = positions.shape
    target = torch.arange(stripes, device=positions.device).repeat(images)
    return F.cross_entropy(positions.flatten(0, 1), target, reduction="sum") / images


def matching_train_loss(local_logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """L_mat at training, Eq. (7): identity from each part (B, H, M), summed over parts, batch mean."""
    stripes = local_logits.shape[1]
    target = labels.repeat_interleave(stripes)
    return stripes * F.cross_entropy(local_logits.flatten(0, 1), target, label_smoothing=label_smoothing)


def matching_tta_loss(local: Tensor, parts: Tensor, margin: float, reduction: str = "sum") -> Tensor:
    """L_mat^tta, Eq. (8), of a batch of B/2 pairs.

    ``local`` (B, H, C_l) holds the pairs side by side: images 2k and 2k+1 are pair k, matched on
    stripe ``parts[k]`` = n. Positive: the distance of the pair on stripe n. Negative: the
    distance from the pair's first image to the closest n-th stripe of any image outside the pair
    (the hardest negative of the mini-batch). A batch of one pair has no negative and gives 0.
    The paper writes a sum over pairs; ``reduction="mean"`` divides by their number [O].
    """
    pairs = len(parts)
    if pairs < 2:
        return local.sum() * 0.0
    rows = torch.arange(pairs, device=local.device)
    anchor, other = local[0::2][rows, parts], local[1::2][rows, parts]  # f_k^n, f_k^n+
    # The n-th stripe of everyone (pairs, B, C_l). Not local[:, parts]: the gradient of that adds up
    # in the order in which threads arrive, so that no two runs are alike.
    candidates = local.index_select(1, parts.to(local.device)).transpose(0, 1)
    distance = safe_norm(anchor[:, None] - candidates)
    of_pair = torch.arange(2 * pairs, device=local.device) // 2 == rows[:, None]
    negative = distance.masked_fill(of_pair, torch.inf).amin(1)
    loss = F.relu(margin + safe_norm(anchor - other) - negative)
    return loss.sum() if reduction == "sum" else loss.mean()


def safe_norm(difference: Tensor) -> Tensor:
    """Euclidean norm over the last dimension; the gradient of a zero difference is zero."""
    squared = difference.square().sum(-1)
    zero = squared == 0
    return torch.where(zero, 0.0, squared.masked_fill(zero, 1.0).sqrt())
