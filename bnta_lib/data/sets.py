"""What a person re-identification set is here: crops with labels, and the splits of a target."""

from __future__ import annotations

import hashlib
from dataclasses import InitVar, dataclass, field

import torch


@dataclass(frozen=True)
class ReIDSet:
    """A set of N person crops.

    ``digest`` is the SHA-256 of pixels and labels, or the ``known_digest`` of who has one that says as much;
    a copy by :func:`dataclasses.replace` gets its own. Do not write into the tensors: it would not follow.
    Raises ValueError where the tensors do not fit each other or a label is out of range.
    """

    name: str
    images: torch.Tensor  # uint8 (N, 3, H, W), RGB
    pids: torch.Tensor  # int64 (N,), person; 0 is a distractor that matches nobody
    camids: torch.Tensor  # int64 (N,), camera, from 1
    known_digest: InitVar[str] = ""  # where it need not be computed
    origin: str = "embedded"  # or "published", "own folder": sets of one name are told apart by it
    digest: str = field(init=False)

    def __post_init__(self, known_digest: str) -> None:
        images, n = self.images, len(self.images)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"{self.name}: images must be uint8 of shape (N, 3, H, W), "
                f"not {images.dtype} of shape {tuple(images.shape)}"
            )
        for what, labels, least in (("pids", self.pids, 0), ("camids", self.camids, 1)):
            if labels.dtype != torch.int64 or labels.shape != (n,):
                raise ValueError(
                    f"{self.name}: {what} must be int64 of shape ({n},), "
                    f"not {labels.dtype} of shape {tuple(labels.shape)}"
                )
            if n and int(labels.min()) < least:
                raise ValueError(f"{self.name}: {what} must be {least} or more")
        own = known_digest or digest(self.images, self.pids, self.camids)
        object.__setattr__(self, "digest", own)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def people(self) -> int:
        """How many people the set shows, distractors not counted."""
        return len(torch.unique(self.pids[self.pids > 0]))


@dataclass(frozen=True)
class Split:
    """Probe and gallery of one trial, as indices into a set.

    Raises ValueError where an image is both probe and gallery.
    """

    probe: torch.Tensor  # int64 (P,)
    gallery: torch.Tensor  # int64 (G,)

    def __post_init__(self) -> None:
        if not len(self.probe) or not len(self.gallery):
            raise ValueError("a split needs at least one probe and one gallery image")
        if torch.isin(self.probe, self.gallery).any():
            raise ValueError("probe and gallery of a split must not share an image")


@dataclass(frozen=True)
class Target:
    """An unseen set with the splits it is evaluated on. Raises ValueError for a bad index."""

    data: ReIDSet
    splits: tuple[Split, ...]
    protocol: str = ""  # how the splits of a published set were made, a sentence for under a table

    def stored_as(self, name: str) -> str:
        """The data set of measured rows: published sets and embedded ones share their names."""
        return name if self.data.origin == "embedded" else f"{name}, {self.data.origin}"

    def split(self, number: int) -> Split:
        """One of the splits. Raises ValueError where it has no such."""
        if not 0 <= number < len(self.splits):
            raise ValueError(f"{self.data.name} has {len(self.splits)} splits, numbered from 0: there is no {number}")
        return self.splits[number]

    def __post_init__(self) -> None:
        if not self.splits:
            raise ValueError(f"{self.data.name}: a target needs at least one split")
        for split in self.splits:
            both = torch.cat((split.probe, split.gallery))
            if int(both.min()) < 0 or int(both.max()) >= len(self.data):
                raise ValueError(f"{self.data.name}: a split points outside the set")


def digest(images: torch.Tensor, pids: torch.Tensor, camids: torch.Tensor) -> str:
    """sha256 of shape, pixels and labels, as hexadecimal digits."""
    sha = hashlib.sha256(repr(tuple(images.shape)).encode())
    for tensor in (images, pids, camids):
        sha.update(tensor.cpu().contiguous().numpy())
    return sha.hexdigest()
