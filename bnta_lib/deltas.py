"""What a site needs beside the base model: the batch-norm tensors of its adaption, and banks of them.

A :class:`Delta` holds mu, sigma^2, gamma and beta of every BN layer after an adaption, and says in
its file what they belong to: digests of the base model and of its BN tensors, the layers in their
order with eps and momentum, N, K, seed and settings, digest of the images adapted to, versions. It
goes into that model alone; what does not fit is refused with a sentence that says in which point.

A :class:`DeltaBank` keeps the deltas of several sites beside one loaded model and switches between
them in the time of a copy.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bnta_lib.files import atomic
from bnta_lib.model import bn_layers, rename_old_keys

# The paper's names for what a BN layer holds, and torch's.
QUANTITIES = {"mean": "running_mean", "var": "running_var", "gamma": "weight", "beta": "bias"}
KIND, FORMAT = "bnta-delta", 2


def bn_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies, on the CPU, of mu, sigma^2, gamma and beta of every BN layer, by name."""
    return {
        f"{name}.{kind}": getattr(layer, kind).detach().clone().cpu()
        for name, layer in bn_layers(model).items()
        for kind in QUANTITIES.values()
    }


def load_bn_tensors(norms: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], kinds: list[str]) -> None:
    """Write the ``kinds`` (torch's names) of the given BN layers; dtype and device stay the model's."""
    with torch.no_grad():
        for name, layer in norms.items():
            for kind in kinds:
                getattr(layer, kind).copy_(tensors[f"{name}.{kind}"])


def bn_digest(model: nn.Module) -> str:
    """SHA-256 of the model's BN tensors and their names: what a delta replaces."""
    return tensors_digest(bn_tensors(model))


def model_digest(model: nn.Module, bn: Mapping[str, Tensor] | None = None) -> str:
    """SHA-256 of all tensors of the model and their names; ``bn`` counts in place of its BN tensors.

    Numbers of batches seen are left out: they change with use and decide nothing.
    """
    tensors = {**model.state_dict(), **(bn or {})}
    return tensors_digest({k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")})


def images_digest(images: Tensor) -> str:
    """SHA-256 of uint8 images (N, 3, h, w) and their shape: what was adapted to."""
    sha = hashlib.sha256(str(tuple(images.shape)).encode())
    for chunk in images.split(256):  # the images may lie in a file larger than the memory
        sha.update(_bytes(chunk))
    return sha.hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and values. The layer `bnneck` counts under its former name, so that files keep theirs."""
    tensors = {name.replace("bnneck.", "fn."): tensor for name, tensor in tensors.items()}
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(_bytes(tensors[name]))
    return sha.hexdigest()


def _bytes(tensor: Tensor):
    # As bytes, since NumPy has no bfloat16.
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _described(model: nn.Module) -> dict[str, tuple[float, float | None]]:
    """eps and momentum of every BN layer, from shallow to deep."""
    return {name: (layer.eps, layer.momentum) for name, layer in bn_layers(model).items()}


@dataclass(frozen=True)
class Delta:
    """The batch-norm tensors of an adapted model: all that a site needs beside the base model."""

    tensors: dict[str, Tensor]  # e.g. "backbone.bn1.running_mean": (channels,)
    base: str  # digest of the BN tensors that they replace
    meta: dict = field(default_factory=dict)  # JSON-able: N, K, seed, settings, digest of the images, ...
    complete: bool = True  # False where other layers were adapted too
    model: str = ""  # digest of the whole base model
    layers: dict[str, tuple[float, float | None]] = field(default_factory=dict)  # eps, momentum, in order

    @staticmethod
    def between(base: nn.Module, adapted: nn.Module, meta: dict, complete: bool = True) -> Delta:
        """The delta that makes ``base`` the model ``adapted``; versions are added to ``meta``."""
        from bnta_lib import __version__

        versions = {"bnta_lib": __version__, "torch": torch.__version__}
        before = bn_tensors(base)
        return Delta(bn_tensors(adapted), tensors_digest(before), {**meta, "versions": versions}, complete,
                     model_digest(base, before), _described(base))

    def apply(self, model: nn.Module) -> Delta:
        """Put the tensors into ``model``; returns the delta that takes them out again.

        Raises ValueError, and leaves the model as it was, when it is not the one that the delta
        was made for: other BN layers, widths, eps or momentum, other BN tensors (another model,
        or one that is adapted already), other weights elsewhere; or when the delta is damaged.
        """
        previous = bn_tensors(model)
        self.check(model, previous)
        load_bn_tensors(bn_layers(model), self.tensors, list(QUANTITIES.values()))
        return Delta(previous, tensors_digest(self.tensors), {"undoes": self.base}, True,
                     model_digest(model, self.tensors), self.layers)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """``with delta.applied(model):`` the model is adapted inside and as before after."""
        previous = self.apply(model).tensors
        try:
            yield model
        finally:  # whatever the block did to the batch-norm tensors
            load_bn_tensors(bn_layers(model), previous, list(QUANTITIES.values()))

    def check(self, model: nn.Module, bn: Mapping[str, Tensor] | None = None) -> None:
        """Raise ValueError, saying in which point, where the delta does not belong to ``model``.

        ``bn``: what counts as the model's BN tensors, by name, in place of those in it.
        """
        self._check_complete()
        _check_values(self.tensors)
        bn = bn_tensors(model) if bn is None else bn
        if bn.keys() != self.tensors.keys():
            odd = sorted(bn.keys() ^ self.tensors.keys())
            raise ValueError(f"the delta is for a model with other BN layers (for one, {odd[0]})")
        own = _described(model)
        if list(own) != list(self.layers):
            place, (there, here) = next(
                (i, both) for i, both in enumerate(zip_longest(self.layers, own, fillvalue="none"), 1)
                if both[0] != both[1])
            raise ValueError(f"the delta is for a model whose BN layers come in another order: number "
                             f"{place} is {there} there, {here} here")
        for name, tensor in self.tensors.items():
            if bn[name].shape != tensor.shape:
                raise ValueError(f"the delta is for a model of another width: {name} has "
                                 f"{tensor.numel()} channels, the model {bn[name].numel()}")
            if bn[name].dtype != tensor.dtype:
                raise ValueError(f"the delta is for a model of another precision: {name} is "
                                 f"{tensor.dtype}, in the model {bn[name].dtype}")
        for name, (eps, momentum) in self.layers.items():
            for what, wanted, found in (("eps", eps, own[name][0]), ("momentum", momentum, own[name][1])):
                if wanted != found:
                    raise ValueError(f"the delta is for a model with another {what}: {wanted} in {name}, "
                                     f"the model's is {found}")
        if (found := tensors_digest(bn)) != self.base:
            raise ValueError(f"the delta was made for other weights: its base is {self.base[:12]}, the "
                             f"model's BN tensors are {found[:12]} (a model that is adapted already "
                             "takes its source's deltas only after it was put back)")
        if (found := model_digest(model, bn)) != self.model:
            raise ValueError("the delta was made for other weights outside the BN layers, which are "
                             f"equal: its whole model is {self.model[:12]}, this one {found[:12]}")

    def _check_complete(self) -> None:
        if not self.complete:
            raise ValueError("this adaption changed more than batch-norm layers: a delta of BN tensors "
                             "would not give the adapted model; use the model itself")

    def save(self, path: str | Path, note: str = "") -> None:
        """Write the tensors and the metadata as safetensors, whole or not at all.

        The same delta gives the same bytes. ``note``: a word of one's own, kept as meta["note"].
        """
        self._check_complete()
        _check_values(self.tensors)
        about = {"kind": KIND, "format": FORMAT, "base": self.base, "model": self.model,
                 "layers": [[name, *both] for name, both in self.layers.items()],
                 "meta": {**self.meta, "note": note} if note else self.meta}
        about["digest"] = _file_digest(about, self.tensors)
        # One entry: safetensors writes several in a random order.
        with atomic(path) as temporary:
            save_file({k: v.contiguous() for k, v in self.tensors.items()}, temporary,
                      {KIND: json.dumps(about)})

    @staticmethod
    def load(path: str | Path) -> Delta:
        """Read a delta; FileNotFoundError or ValueError says what is wrong with the file.

        Nothing in the file is executed. Any byte that changed since it was saved is found.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no delta at {path}: make one with adapt(...).delta.save(...)")
        try:
            with safetensors.safe_open(path, "pt") as file:
                entries = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
        if entries.get("kind") == "bnta-weights":
            raise ValueError(f"{path} holds the weights of a model and is no delta of batch-norm "
                             "tensors: read it with bnta_lib.weights.load_model")
        if entries.get("kind") == KIND:
            raise ValueError(f"{path} is a delta of format 1, which does not say what model it is for "
                             "as a whole: adapt again and save that")
        if KIND not in entries:
            raise ValueError(f"{path} is no delta of batch-norm tensors")
        try:
            about = json.loads(entries[KIND])
            written = about["format"]
            if type(written) is not int or not isinstance(about.get("meta"), dict):
                raise TypeError("format")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{path} is damaged: its metadata cannot be read; copy or make it again"
                             ) from error
        if written > FORMAT:
            raise ValueError(f"{path} is of format {written}, this version of bnta_lib reads format "
                             f"{FORMAT}: use the version that wrote it, or a later one")
        if about.pop("digest", None) != _file_digest(about, tensors):
            raise ValueError(f"{path} is damaged: its content is not what was saved; copy or make it again")
        try:
            layers = {name: (eps, momentum) for name, eps, momentum in about["layers"]}
            if len(layers) < len(about["layers"]) or not all(isinstance(about[k], str) for k in ("base", "model")):
                raise ValueError("a layer twice, or no digests of the base")
            tensors, layers = rename_old_keys(tensors), rename_old_keys(layers)
            delta = Delta(tensors, about["base"], about["meta"], True, about["model"], layers)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} lacks what a delta says about itself ({error!r}): make it again"
                             ) from error
        _check_values(tensors, f"{path}: ")
        return delta


def _file_digest(about: Mapping, tensors: Mapping[str, Tensor]) -> str:
    """Of all that a file says, so that no bit of it can change unseen."""
    kinds = {name: [str(t.dtype), list(t.shape)] for name, t in tensors.items()}
    text = json.dumps([about, kinds, tensors_digest(tensors)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_values(tensors: Mapping[str, Tensor], where: str = "") -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"{where}the delta holds {tensor.dtype} in {name}, which no BN layer has: make it again")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{where}the delta holds NaN or infinite values (for one, in {name}): "
                             "it was damaged, or made by an adaption that failed; adapt again")
        if name.endswith(".running_var") and (tensor < 0).any():
            raise ValueError(f"{where}the delta holds a variance below zero in {name}: it was damaged; "
                             "adapt again")


class DeltaBank:
    """Named deltas beside one loaded model, which is switched between them in the time of a copy.

    ::

        bank = DeltaBank(model)  # the model as it is now is the source
        bank.add("entrance", site.delta)  # or a path; verified here, once
        bank.add("car park", "car park.safetensors")
        bank.use("entrance")  # the model is the entrance's until further notice
        with bank.using("car park"):
            ...  # and the car park's in here, however the block ends
        bank.source()  # back to the source, bit by bit
        bank.save("deltas")  # a file a name
        bank = DeltaBank.load("deltas", model)

    The tensors lie beside the model on its device: about 0.5 MB a site at full width. A switch first
    compares the model's BN tensors with those that the bank last put there, and raises ValueError
    where something else has changed them (a forward pass in train mode, an adaption in place,
    another bank): ``check=False`` overwrites such changes. Weights outside the BN layers are
    compared when a delta is added and not at every switch. The model may be moved to another device
    between switches: the deltas follow it there.

    Not safe for threads by itself: the model is one, so whoever switches it while another thread is
    in a forward pass mixes two sites. Hold one lock around ``with bank.using(...)`` and the passes
    in it, or give each thread a model and a bank of its own.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._source = bn_tensors(model)
        if not self._source:
            raise ValueError("the model has no batch-norm layers: there is nothing to switch")
        self._names = list(self._source)
        self._sizes = [tensor.numel() for tensor in self._source.values()]
        self._deltas: dict[str, Delta] = {}
        self._flat: dict[str | None, Tensor] = {None: self._row(self._source)}
        self._now: tuple[str | None, Tensor] = (None, self._flat[None])

    @property
    def current(self) -> str | None:
        """The name of the delta in use; None for the source."""
        return self._now[0]

    @property
    def names(self) -> list[str]:
        """The deltas in the order in which they were added."""
        return list(self._deltas)

    def __len__(self) -> int:
        return len(self._deltas)

    def __contains__(self, name: str) -> bool:
        return name in self._deltas

    def __getitem__(self, name: str) -> Delta:
        return self._deltas[self._known(name)]

    def add(self, name: str, delta: Delta | str | Path) -> None:
        """Take a delta, or the file of one, in; it is not switched to.

        Raises ValueError for a name that is taken or no file could have, and for a delta that is
        not of this bank's source: like :meth:`Delta.apply`, whatever delta is in use.
        """
        _check_name(name, self._deltas)
        if not isinstance(delta, Delta):
            delta = Delta.load(delta)
        try:
            delta.check(self.model, self._source)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        self._flat[name] = self._row(delta.tensors)
        self._deltas[name] = delta

    def remove(self, name: str) -> None:
        """Forget a delta. Raises ValueError for the one in use."""
        if self._known(name) == self.current:
            raise ValueError(f"{name} is in use: switch to another or to source() first")
        del self._deltas[name], self._flat[name]

    def use(self, name: str, check: bool = True) -> nn.Module:
        """Switch the model to a delta; returns the model. See the class about ``check``."""
        return self._switch(self._known(name), check)

    def source(self, check: bool = True) -> nn.Module:
        """Switch the model back to what it was when the bank was made; returns the model."""
        return self._switch(None, check)

    @contextmanager
    def using(self, name: str) -> Iterator[nn.Module]:
        """Inside the block the model is switched to a delta, and after it to what was before.

        Blocks may be nested. What the block did to the BN tensors is overwritten.
        """
        before = self._now
        self.use(name)
        try:
            yield self.model
        finally:
            self._write(*before)

    def save(self, folder: str | Path) -> None:
        """Write every delta as ``folder/<name>.safetensors``, each whole or not at all.

        Raises ValueError where the folder holds deltas that are not in the bank, since a bank
        read from there would have them.
        """
        folder = Path(folder)
        others = sorted({p.stem for p in folder.glob("*.safetensors")} - set(self._deltas))
        if others:
            raise ValueError(f"{folder} holds what is not in this bank (for one, {others[0]}.safetensors): "
                             "remove it, or choose another folder")
        for name, delta in self._deltas.items():
            delta.save(folder / f"{name}.safetensors")

    @classmethod
    def load(cls, folder: str | Path, model: nn.Module) -> DeltaBank:
        """A bank of all deltas in a folder, in the order of their names.

        Raises FileNotFoundError for a folder that is absent or without deltas, ValueError, naming
        the file, for one that does not belong to ``model``.
        """
        paths = sorted(Path(folder).glob("*.safetensors"))
        if not paths:
            raise FileNotFoundError(f"no deltas in {folder}: DeltaBank.save writes them there, a file a name")
        bank = cls(model)
        for path in paths:
            bank.add(path.stem, path)
        return bank

    def _known(self, name: str) -> str:
        if name not in self._deltas:
            known = f"it holds {', '.join(self._deltas)}" if self._deltas else "it is empty: add one first"
            raise ValueError(f"no delta {name!r} in this bank; {known}")
        return name

    def _switch(self, name: str | None, check: bool) -> nn.Module:
        if check:
            self._check_unchanged()
        if (device := self._places()[0].device) != self._flat[name].device:
            self._flat = {key: row.to(device) for key, row in self._flat.items()}
        return self._write(name, self._flat[name])

    def _places(self) -> list[Tensor]:
        # Looked up every time: moving a model to another device gives it other buffers.
        return [getattr(layer, kind) for layer in bn_layers(self.model).values()
                for kind in QUANTITIES.values()]

    def _row(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """All tensors in one row, in the model's order and on its device."""
        device = self._places()[0].device
        return torch.cat([tensors[name].flatten() for name in self._names]).to(device)

    def _check_unchanged(self) -> None:
        name, expected = self._now
        found = torch.cat([place.detach().flatten() for place in self._places()])
        if not torch.equal(found.to(expected.device, expected.dtype), expected):
            now = "the source" if name is None else name
            raise ValueError(f"the model's BN tensors are not those of {now} any more: something beside the "
                             "bank has changed them; use(..., check=False) or source(check=False) "
                             "overwrites that")

    def _write(self, name: str | None, row: Tensor) -> nn.Module:
        with torch.no_grad():
            for place, values in zip(self._places(), row.split(self._sizes), strict=True):
                place.copy_(values.view_as(place))
        self._now = name, row
        return self.model


def _check_name(name: str, taken: Mapping[str, object]) -> None:
    """Raise ValueError for a name that some file system could not tell from others, or hold."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"a delta's name is a word or a few; got {name!r}")
    if re.search(r'[<>:"/\\|?*\x00-\x1f\x7f]|^[. ]|[. ]$', name) or name != name.strip():
        raise ValueError(f"{name!r} cannot be a delta's name, since it names its file: leave out slashes, "
                         'the characters <>:"|?*, and spaces or dots at the ends')
    if re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name, re.IGNORECASE) or len(name.encode()) > 200:
        raise ValueError(f"{name!r} cannot be a delta's name: some file systems take no such file")

    def folded(word: str) -> str:
        return unicodedata.normalize("NFC", word).casefold()

    for other in taken:
        if folded(other) == folded(name):
            raise ValueError(f"the bank holds {other!r} already: remove it first, or choose another name")
