"""A set of person crops, and a target with its splits."""

import hashlib
from dataclasses import InitVar, dataclass, field

import torch


@dataclass(frozen=True)
class ReIDSet:
    """N labelled person crops. Raises ValueError if the tensors do not fit each other, or a label is bad."""

    name: str
    images: torch.Tensor  # uint8 (N, 3, H, W), RGB
    pids: torch.Tensor  # int64 (N,), person; 0 is a distractor that matches nobody
    camids: torch.Tensor  # int64 (N,), camera, from 1
    known_digest: InitVar[str] = ""  # of a caller who has one that identifies the set as well
    origin: str = "embedded"  # or "published", "own folder": sets of one name are told apart by it
    digest: str = field(init=False)  # SHA-256 of shape, pixels and labels

    def __post_init__(self, known_digest: str) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(f"{self.name}: images must be uint8 of shape (N, 3, H, W)")
        for name, labels, lowest in (("pids", self.pids, 0), ("camids", self.camids, 1)):
            if labels.dtype != torch.int64 or labels.shape != (len(self),) or (labels < lowest).any():
                raise ValueError(f"{self.name}: {name} must be {lowest} or more, int64 of shape {len(self),}")
        if not known_digest:
            sha = hashlib.sha256(repr(tuple(self.images.shape)).encode())
            for tensor in (self.images, self.pids, self.camids):
                sha.update(tensor.cpu().contiguous().numpy())
        object.__setattr__(self, "digest", known_digest or sha.hexdigest())

    def __len__(self) -> int:
        return len(self.images)

    @property
    def people(self) -> int:
        """How many people the set shows, distractors not counted."""
        return len(torch.unique(self.pids[self.pids > 0]))


@dataclass(frozen=True)
class Split:
    """Indices of probe and gallery of one trial. Raises ValueError if one is empty or they overlap."""

    probe: torch.Tensor  # int64 (P,)
    gallery: torch.Tensor  # int64 (G,)

    def __post_init__(self) -> None:
        if not len(self.probe) or not len(self.gallery):
            raise ValueError("a split needs at least one probe and one gallery image")
        if torch.isin(self.probe, self.gallery).any():
            raise ValueError("probe and gallery of a split must not share an image")


@dataclass(frozen=True)
class Target:
    """An unseen set with the splits that it is evaluated on. Raises ValueError for a bad index."""

    data: ReIDSet
    splits: tuple[Split, ...]
    protocol: str = ""  # how the splits of a published set were made, a sentence for under a table

    def __post_init__(self) -> None:
        if not self.splits:
            raise ValueError(f"{self.data.name}: a target needs at least one split")
        for split in self.splits:
            both = torch.cat((split.probe, split.gallery))
            if int(both.min()) < 0 or int(both.max()) >= len(self.data):
                raise ValueError(f"{self.data.name}: a split points outside the set")

    def stored_as(self, name: str) -> str:
        """The data set's name in measured rows: published and embedded sets share their names."""
        return name if self.data.origin == "embedded" else f"{name}, {self.data.origin}"

    def split(self, number: int) -> Split:
        """One of the splits. Raises ValueError for a number that does not exist."""
        if not 0 <= number < len(self.splits):
            raise ValueError(f"{self.data.name} has {len(self.splits)} splits, from 0: there is no {number}")
        return self.splits[number]

    def problems(self) -> list[str]:
        """What falsifies a score, a sentence each with the count of the worst split."""
        pids, camids, keys = self.data.pids, self.data.camids, picture_keys(self.data.images)
        unmatched = same = 0
        for split in self.splits:
            probe, gallery = split.probe[:, None], split.gallery[pids[split.gallery] > 0]
            matches = (pids[probe] == pids[gallery]) & (camids[probe] != camids[gallery])
            unmatched = max(unmatched, int((~matches.any(1)).sum()))
            pictures = {keys[row] for row in split.gallery}
            same = max(same, sum(keys[row] in pictures for row in split.probe))
        counts = {"probes without a match by another camera, left out of every score": unmatched,
                  "probes that lie in the gallery as the very same picture": same}
        return [f"{self.data.name}: {sentence}: {count}" for sentence, count in counts.items() if count]


def picture_keys(images: torch.Tensor) -> list[bytes]:
    """A key of each of N images, the same for the same pixels."""
    return [hashlib.sha1(image.contiguous().numpy()).digest() for image in images]
