"""Trained weights and batch-norm deltas: safetensors files, written whole and checked when they are read.

A weights file records its training's settings and a fingerprint, features of one synthetic image: a network
that was changed gives others. Committed files have their record in ``data/weights/registry.json``.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bnta_lib.files import atomic, content
from bnta_lib.model import BNTANet, bn_layers, unwrapped
from bnta_lib.settings import METHOD_VERSION, ROOT, Settings

# The paper's names for what a BN layer holds, and torch's.
QUANTITIES = {"mean": "running_mean", "var": "running_var", "gamma": "weight", "beta": "bias"}
REMEDY = "train again with `python -m bnta_lib.suite.train` (make train), or restore the committed file"
REGISTRY = ROOT / "data" / "weights" / "registry.json"
# Settings that no training depends on, beside all that begin with "tta_".
UNTRAINED = ("K", "margin", "lambda3", "matching_reduction", "normalise_features", "splits", "heldout",
             "trainings", "other_height", "viper_probe", "ilids_images")


def training_settings(settings: Settings) -> dict:
    """The settings that a training depends on, JSON-able."""
    return {k: v for k, v in asdict(settings).items() if not k.startswith("tta_") and k not in UNTRAINED}


def differences(record: Mapping, settings: Settings) -> list[str]:
    """What a recorded training had instead of ``settings``, as "lr=0.002"; what it lacks is the default."""
    recorded = {**training_settings(Settings()), **record["settings"]}
    return [f"{k}={recorded[k]}" for k, v in training_settings(settings).items() if recorded[k] != v]


def save_model(model: BNTANet, path: str | Path, settings: Settings, meta: Mapping = {},
               compact: bool = True, classifier: bool = True) -> None:
    """Write the weights of a model that was trained with ``settings``, and ``meta`` (JSON-able).

    ``compact`` keeps convolution and linear weights as int8, with one float32 scale an output channel, and
    leaves out M's classifiers, which serve training alone; without ``classifier`` also FC_G, half of the
    laptop's weights, which Tent alone needs after training.
    """
    tensors: dict[str, Tensor] = {}
    model = unwrapped(model)
    training_alone = ("fc_m.",) if classifier else ("fc_m.", "fc_g.")
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if name.endswith("num_batches_tracked") or (compact and name.startswith(training_alone)):
            continue
        if compact and tensor.ndim >= 2:
            tensors[f"{name}.scale"] = scale = tensor.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
            tensor = (tensor / scale.view(-1, *[1] * (tensor.ndim - 1))).round().to(torch.int8)
        tensors[name] = tensor
    record = {**meta, "version": METHOD_VERSION, "settings": training_settings(settings),
              "fingerprint": fingerprint(_network(tensors, settings))}
    _write(path, "bnta-weights", record, tensors)


def load_model(path: str | Path, settings: Settings) -> BNTANet:
    """The model of a weights file, in eval mode.

    Raises FileNotFoundError if it is absent, ValueError if it is damaged, was trained with other settings, or
    gives other features than when it was trained.
    """
    record, tensors = read_weights(path)
    if odd := differences(record, settings):
        raise ValueError(f"{path} was trained with {', '.join(odd)}: choose these settings, or {REMEDY}")
    model = _network(tensors, settings)
    for kind, values in fingerprint(model).items():
        recorded = record["fingerprint"][kind]
        # A thousandth of the largest: processors differ by far less.
        if not np.allclose(values, recorded, rtol=0, atol=1e-3 * np.abs(recorded).max(), equal_nan=True):
            raise ValueError(f"{path}: these weights give other {kind} than when they were trained: the "
                             f"network's code or arithmetic here is another. Undo that, or {REMEDY}")
    return model


def read_weights(path: str | Path) -> tuple[dict, dict[str, Tensor]]:
    """Record and stored tensors of a weights file. Raises FileNotFoundError or ValueError as load_model."""
    record, tensors = _read(path, "bnta-weights", REMEDY)
    if record is None:
        sha = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        entries = {entry["sha256"]: entry for entry in json.loads(REGISTRY.read_text()).values()}
        if sha not in entries:
            raise ValueError(f"{path} is damaged, or no weights file of this library: it has no record, its "
                             f"SHA-256 is not in {REGISTRY.name}, and its {len(tensors)} tensors are such as "
                             f"{next(iter(tensors), 'none')}; {REMEDY}")
        record = entries[sha]
    return record, tensors


def fingerprint(model: BNTANet) -> dict[str, list[float]]:
    """Eight means each of the features and local features of one synthetic image."""
    height, width = model.size
    image = (torch.arange(3 * height * width) ** 2 // 7 % 256).to(torch.uint8).view(1, 3, height, width)
    with torch.no_grad():
        out = model(image)
    values = {"features": out.features[0], "local": out.local[0].flatten()}
    return {k: [float(f"{eighth.mean():.6g}") for eighth in v.tensor_split(8)] for k, v in values.items()}


def _network(stored: Mapping[str, Tensor], settings: Settings) -> BNTANet:
    tensors = {}
    for name, tensor in stored.items():
        if tensor.dtype == torch.int8:
            tensor = tensor.float() * stored[f"{name}.scale"].view(-1, *[1] * (tensor.ndim - 1))
        if not name.endswith(".scale"):
            tensors[re.sub(r"^fn\.", "bnneck.", name)] = tensor  # what older files call it
    model = BNTANet(len(tensors.get("fc_g.weight", [0])), settings)
    if "fc_g.weight" not in tensors:
        model.fc_g = None
    if not any(name.startswith("fc_m.") for name in tensors):
        model.fc_m = nn.ModuleList()
    model.load_state_dict(tensors)
    return model.eval()


@dataclass(frozen=True)
class Delta:
    """The batch-norm tensors of an adapted model: all that a site needs beside the base model."""

    tensors: dict[str, Tensor]  # e.g. "backbone.bn1.running_mean": (channels,)
    base: str  # digest of the model that they go into
    meta: dict = field(default_factory=dict)  # JSON-able: N, K, seed, settings, ...

    def apply(self, model: nn.Module, digest: str = "") -> None:
        """Put the tensors into ``model``. Raises ValueError unless it is the base as it was.
        ``digest``: the model's, if it is known."""
        if (digest := digest or model_digest(model)) != self.base:
            raise ValueError(f"the delta was made for other weights: its base is {self.base[:12]}, the "
                             f"model {digest[:12]} (an adapted one must be restored before it takes another)")
        load_bn_tensors(model, self.tensors)

    @contextmanager
    def applied(self, model: nn.Module, digest: str = "") -> Iterator[nn.Module]:
        """``with delta.applied(model):`` the model is adapted inside, and as before afterwards."""
        before = bn_tensors(model)
        try:
            self.apply(model, digest)
            yield model
        finally:
            load_bn_tensors(model, before)

    def save(self, path: str | Path) -> None:
        """Write the delta as safetensors, always with the same bytes."""
        _write(path, "bnta-delta", {"base": self.base, "meta": self.meta}, self.tensors)

    @staticmethod
    def load(path: str | Path) -> "Delta":
        """Read a delta. Raises FileNotFoundError, or ValueError for a damaged file or one of another kind."""
        record, tensors = _read(path, "bnta-delta", "make one with adapt(...).delta.save(...)")
        if record is None:
            raise ValueError(f"{path} is no delta: load_model reads weights, load_deltas those of cameras")
        return Delta(tensors, record["base"], record["meta"])


PLACE = 0  # the key of all images' delta, for cameras without one; those of cameras are from 1


def save_deltas(deltas: Mapping[int, Delta], path: str | Path) -> None:
    """Write the deltas of a place's cameras into one file, always with the same bytes."""
    if odd := [camera for camera in deltas if type(camera) is not int]:
        raise ValueError(f"a camera is a whole number, not {odd[0]!r}")
    record = {str(camera): {"base": delta.base, "meta": delta.meta} for camera, delta in deltas.items()}
    _write(path, "bnta-deltas", record, {f"{camera}.{name}": tensor.clone()  # cameras may share a delta
                                         for camera, delta in deltas.items()
                                         for name, tensor in delta.tensors.items()})


def load_deltas(path: str | Path) -> dict[int, Delta]:
    """Read what :func:`save_deltas` wrote, or one delta as that of PLACE. Raises as Delta.load."""
    record, tensors = _read(path, "bnta-deltas", "make them with save_deltas(adapt_by_camera(...), ...)")
    if record is None:
        return {PLACE: Delta.load(path)}
    return {int(camera): Delta({name.removeprefix(f"{camera}."): tensor for name, tensor in tensors.items()
                                if name.startswith(f"{camera}.")}, **fields)
            for camera, fields in record.items()}


def bn_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies, on the CPU, of mu, sigma^2, gamma and beta of every BN layer, by name."""
    held = {f"{name}.{kind}": getattr(layer, kind).detach()
            for name, layer in bn_layers(model).items() for kind in QUANTITIES.values()}
    moved = torch.cat([*held.values()]).cpu().split([len(tensor) for tensor in held.values()])
    return {name: tensor.clone() for name, tensor in zip(held, moved)}


def load_bn_tensors(model: nn.Module, tensors: Mapping[str, Tensor],
                    kinds: Iterable[str] = tuple(QUANTITIES.values())) -> None:
    """Write the ``kinds`` (torch's names) of every BN layer; dtype and device stay the model's."""
    for name, layer in bn_layers(model).items():
        for kind in kinds:
            tensor = getattr(layer, kind)
            with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                tensor.copy_(tensors[f"{name}.{kind}"])


def model_digest(model: nn.Module) -> str:
    """SHA-256 of the values of all tensors of a model but the numbers of batches seen; names do not count."""
    sha = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            sha.update(_bytes(tensor))
    return sha.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:  # since NumPy has no bfloat16
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        sha.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        sha.update(_bytes(tensors[name]))
    return sha.hexdigest()


def _write(path: str | Path, kind: str, record: dict, tensors: Mapping[str, Tensor]) -> None:
    text = json.dumps(record)
    with atomic(path) as temporary:  # one entry of metadata: safetensors writes several in a random order
        # As bytes: safetensors' own writer makes a file that nobody else may read.
        temporary.write_bytes(save({k: v.contiguous() for k, v in tensors.items()},
                                   {kind: json.dumps([_digest(text, tensors), text])}))


def _read(path: str | Path, kind: str, remedy: str) -> tuple[dict | None, dict[str, Tensor]]:
    """Record (None for a file without one of this kind) and tensors, as they were written."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no {kind} at {path}: {remedy}")
    try:
        with safe_open(path, "pt") as file:
            names, entries = file.keys(), file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in names}
        digest, text = json.loads(entries[kind]) if kind in entries else ("", "null")
        if kind in entries and digest != _digest(text, tensors):
            raise ValueError("its content is not what was saved")
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged, or no safetensors file ({error}): {content(path)}; "
                         f"{remedy}") from error
    return json.loads(text), tensors
