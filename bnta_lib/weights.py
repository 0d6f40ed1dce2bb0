"""Trained weights as safetensors: read and written whole, checked against the model they fill.

Compact files keep convolution and linear weights as int8, one scale for each output channel, so
that the laptop's model stays under 4 MB; norm layers stay float32. What tables report is measured
on the weights as they are read back. M's classifiers serve training alone and are left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from bnta_lib.deltas import _file_digest
from bnta_lib.files import atomic
from bnta_lib.model import BNTANet, rename_old_keys
from bnta_lib.settings import ROOT, Settings, cache_dir, run_name

# The six trainings of Table 3 and the settings that make them: "baseline" is L_id alone, "bnta"
# all three losses; and that of another stripe split (see :func:`model_settings`).
MODELS = {
    "bnta": {},
    "baseline": {"lambda1": 0.0, "lambda2": 0.0},
    "pos": {"loss_id": 0.0, "lambda2": 0.0},
    "mat": {"loss_id": 0.0, "lambda1": 0.0},
    "id_pos": {"lambda2": 0.0},
    "id_mat": {"lambda1": 0.0},
    "other_stripes": {},
}
# Weaker trainings of "bnta": on a share of the people, or for a share of the epochs (:mod:`bnta_lib.suite.strength`).
WEAKER = {
    "people_8th": (1 / 8, 1), "people_4th": (1 / 4, 1), "people_half": (1 / 2, 1),
    "epochs_8th": (1, 1 / 8), "epochs_4th": (1, 1 / 4), "epochs_half": (1, 1 / 2),
}
TABLE_3_MODELS = ("baseline", "pos", "mat", "id_pos", "id_mat", "bnta")

# Settings of a network that leave no trace in the shapes of its weights: kept in the metadata.
SHAPELESS = ("last_stride", "height", "width")


def model_settings(settings: Settings, name: str) -> Settings:
    """``settings`` with what the training ``name`` has of its own.

    "other_stripes" is "bnta" at the input height ``other_height``: six stripes divide the maps
    of the one height and not of the other, where their bins overlap.
    """
    _check(name)
    if name in WEAKER:
        people, epochs = WEAKER[name]
        share = {key: max(1, round(epochs * getattr(settings, key))) for key in ("epochs", "lr_decay_epoch")}
        return replace(settings, people_share=people, **share)
    height = settings.other_height if name == "other_stripes" else settings.height
    return replace(settings, height=height, **MODELS[name])


def weights_path(settings: Settings, name: str, root: str | Path | None = None) -> Path:
    """Where the weights of a training are: committed for laptop, in the cache otherwise.

    ``root``: the folder of published sets that it was trained on, whose weights are in the cache
    under the name of its runs; None: the embedded benchmark.
    """
    _check(name)
    if root is not None:
        return cache_dir() / "weights" / run_name(settings.profile, root) / f"{name}.safetensors"
    base = ROOT / "data" / "weights" if settings.profile == "laptop" else cache_dir() / "weights"
    return base / settings.profile / f"{name}.safetensors"


def _check(name: str) -> None:
    if name not in MODELS and name not in WEAKER:
        raise ValueError(f"unknown model {name!r}: the models are {', '.join([*MODELS, *WEAKER])}")


def save_model(model: BNTANet, path: str | Path, meta: dict, compact: bool = True) -> None:
    """Write the weights with ``meta`` (JSON-able). OSError on a full disk leaves no half file."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if name.endswith("num_batches_tracked") or (compact and name.startswith("fc_m.")):
            continue
        if compact and tensor.ndim >= 2:
            scale = tensor.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
            shaped = scale.view(-1, *[1] * (tensor.ndim - 1))
            tensors[name] = (tensor / shaped).round().to(torch.int8)
            tensors[f"{name}.scale"] = scale
        else:
            tensors[name] = tensor
    text = json.dumps(meta)
    header = {"kind": "bnta-weights", "meta": text, "digest": _file_digest({"meta": text}, tensors)}
    with atomic(path) as temporary:
        save_file(tensors, temporary, header)


def read_meta(path: str | Path) -> dict:
    """The metadata a weights file was saved with. Raises like :func:`load_model`."""
    return _read(path)[1]


def load_model(
    path: str | Path, settings: Settings, wanted: Callable[[dict], bool] | None = None
) -> BNTANet:
    """The model of a weights file, in eval mode.

    Raises FileNotFoundError when the file is absent, :class:`OtherTraining` where its metadata are not as
    ``wanted``, ValueError when it is truncated, not a weights file, holds what no network computes
    with, or is of an architecture that ``settings`` does not describe.
    """
    stored, meta = _read(path)
    if wanted is not None and not wanted(meta):
        raise OtherTraining(f"{path} was trained otherwise than is asked for: its metadata say "
                            f"{', '.join(f'{k}={v}' for k, v in meta.items() if k in _TELLING)}; choose its "
                            "settings, or train again with `python -m bnta_lib.training` (make train)")
    for name in SHAPELESS:  # these fit any tensors, and would be wrong without a word
        if name in meta and meta[name] != getattr(settings, name):
            raise ValueError(f"{path} was trained with {name}={meta[name]}, profile "
                             f"{settings.profile!r} has {getattr(settings, name)}: choose the "
                             "settings of the weights, or train again")
    tensors = {}
    for name, tensor in stored.items():
        if name.endswith(".scale"):
            continue
        if tensor.dtype == torch.int8:
            scale = stored.get(f"{name}.scale")
            fits = scale is not None and tensor.ndim and scale.shape == tensor.shape[:1]
            if not fits or scale.dtype != torch.float32 or bool((scale <= 0).any()):
                raise ValueError(f"{path} is damaged: {name} has no scale that fits it; restore it from version "
                                 "control, or train again")
            tensor = tensor.float() * scale.view(-1, *[1] * (tensor.ndim - 1))
        usable = tensor.dtype == torch.float32 and bool(torch.isfinite(tensor).all())
        if not usable or name.endswith("running_var") and bool((tensor < 0).any()):
            raise ValueError(f"{path} is damaged: its {name} holds what no network computes with; restore it from "
                             "version control, or train again")
        tensors[name] = tensor
    tensors = rename_old_keys(tensors)
    if "fc_g.weight" not in tensors:
        raise ValueError(f"{path} holds no classifier G: these are not weights of this network")
    people = tensors["fc_g.weight"]
    # A small file may claim millions of people: no network of so many is made for one that does not fit.
    fits = people.ndim == 2 and people.shape[1] == 32 * settings.base_width and len(people) > 1
    model = BNTANet(len(people) if fits else 2, settings)
    if not any(name.startswith("fc_m.") for name in tensors):
        model.fc_m = torch.nn.ModuleList()
    expected = {k: v for k, v in model.state_dict().items() if "num_batches_tracked" not in k}
    odd = sorted(expected.keys() ^ tensors.keys())
    odd += [k for k in expected if k in tensors and expected[k].shape != tensors[k].shape]
    if odd:
        raise ValueError(
            f"{path} holds another architecture than profile {settings.profile!r} "
            f"(base_width={settings.base_width}, stripes={settings.stripes}, "
            f"local_dim={settings.local_dim}): {len(odd)} tensors differ, for one {odd[0]}"
        )
    model.load_state_dict(tensors, strict=False)
    return model.eval()


class OtherTraining(ValueError):
    """A weights file of another training than the one asked for."""


_TELLING = ("model", "profile", "sources", "epochs")


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}: train them with "
                                "`python -m bnta_lib.training` (make train), or restore the "
                                "committed file")
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    # A shape that no tensor can have is a TypeError or a RuntimeError of torch's.
    except (safetensors.SafetensorError, OSError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error}): restore it "
                         "from version control, or train again") from error
    if header.get("kind") != "bnta-weights":
        raise ValueError(f"{path} is no weights file of this suite")
    broken = [name for name, tensor in tensors.items()
              if tensor.ndim > 4 or tensor.is_floating_point()
              and (tensor.dtype.itemsize < 2 or not torch.isfinite(tensor).all())]  # torch asks none of 8 bits
    try:
        meta = json.loads(header["meta"])
        if not isinstance(meta, dict):
            raise ValueError(meta)
    except (KeyError, ValueError, RecursionError):
        broken.append("metadata")
    if not broken and not _as_saved(Path(path), header, tensors):
        broken.append("digest")
    if broken:
        raise ValueError(f"{path} is damaged (for one, its {broken[0]}): restore it from version "
                         "control, or train again")
    return tensors, meta


def _as_saved(path: Path, header: dict, tensors: dict[str, Tensor]) -> bool:
    """By the digest in the file; those committed before files had one are in SHA256SUMS beside them."""
    if "digest" in header:
        return header["digest"] == _file_digest({"meta": header["meta"]}, tensors)
    return _listed(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def _listed(path: Path) -> str | None:
    """The SHA-256 of a file by the list beside it, in any form that sha256sum writes; None where it is not there."""
    sums = path.with_name("SHA256SUMS")
    text = sums.read_bytes().decode("utf-8", "replace") if sums.is_file() else ""
    found = re.findall(r"^([0-9a-fA-F]{64}) [ *](?:\./)?(.+?)\r?$", text, re.MULTILINE)
    return {name: digest.lower() for digest, name in found}.get(path.name)
