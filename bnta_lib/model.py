"""The network: DualNorm-ResNet-50 E, the identity head G, and the two part heads P and M.

Section 3.2-3.4 of the paper; the places of instance normalisation follow DualNorm (Jia, Ruan
and Hospedales, 2019): one affine ``InstanceNorm2d`` in the last block of layer1, layer2 and
layer3, after the residual sum and before the ReLU. Module names are torchvision's, so that
ImageNet weights fit ``model.backbone`` as they are.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from bnta_lib.settings import Settings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BLOCKS = (3, 4, 6, 3)  # ResNet-50


class Outputs(NamedTuple):
    """What one forward pass gives; B images, C = 32 * base_width, H stripes, M identities."""

    features: Tensor  # (B, C) global feature, after `bnneck`: used for retrieval
    logits: Tensor  # (B, M) of G
    positions: Tensor  # (B, H, H) of P: image, stripe, score of each position
    local: Tensor  # (B, H, C_l) of M, after Conv, BN, ReLU: Eq. (6)
    local_logits: Tensor | None  # (B, H, M) of M's classifiers: Eq. (7); None without them


class InstanceNorm(nn.InstanceNorm2d):
    """torch's, to rounding. On a CPU torch's own goes by way of NCHW and leaves the maps in it, which
    every convolution after it then pays for; this keeps them in the order in which they are."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            return super().forward(x)
        centred = x - x.mean((2, 3), keepdim=True)
        inverse = (centred.square().mean((2, 3), keepdim=True) + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], centred, inverse * self.weight[:, None, None])


class Bottleneck(nn.Module):
    """ResNet bottleneck; with ``instance_norm`` the sum is instance-normalised before the ReLU."""

    def __init__(self, inputs: int, planes: int, stride: int = 1, instance_norm: bool = False):
        super().__init__()
        outputs = 4 * planes
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.instance_norm = InstanceNorm(outputs, affine=True) if instance_norm else None

    def forward(self, x: Tensor) -> Tensor:
        # In place where the gradient needs no former value: the same bits, less memory to move.
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y if self.instance_norm is None else self.instance_norm(y), inplace=True)


class Backbone(nn.Module):
    """E: (B, 3, h, w) to feature maps (B, C, h/16, w/16) at last stride 1, h/32 at stride 2."""

    def __init__(self, base_width: int = 64, last_stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(3, base_width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(base_width)
        inputs = base_width
        for i, (blocks, stride) in enumerate(zip(BLOCKS, (1, 2, 2, last_stride))):
            planes = base_width * 2**i
            stage = []
            for j in range(blocks):
                dual = i < 3 and j == blocks - 1
                stage.append(Bottleneck(inputs, planes, stride if j == 0 else 1, dual))
                inputs = 4 * planes
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
        self.channels = inputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class BNTANet(nn.Module):
    """E with the heads G, P and M. Images go in as uint8 (B, 3, h, w) of ``size``; see :class:`Outputs`.

    ``size`` is the settings' input height and width in pixels. A network gives features of other sizes too,
    and they are bad ones: so images of another size are refused. To try one, set ``size`` or build the model
    with settings of that size, as "other_stripes" is (:func:`bnta_lib.weights.model_settings`).
    ``identities`` is M, the number of training people. The 60 batch-norm layers are, from
    shallow to deep, 53 in E, ``bnneck``, and one for each of the six parts.
    """

    def __init__(self, identities: int, settings: Settings):
        super().__init__()
        if identities < 2:
            raise ValueError(f"a model needs at least 2 training identities, got {identities}")
        self.size, self.stripes = settings.size, settings.stripes
        self.backbone = Backbone(settings.base_width, settings.last_stride)
        channels = self.backbone.channels
        self.bnneck = nn.BatchNorm1d(channels)
        self.bnneck.bias.requires_grad_(False)  # frozen in DualNorm
        self.parts = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, settings.local_dim, 1, bias=False),
                nn.BatchNorm2d(settings.local_dim),
                nn.ReLU(),
            )
            for _ in range(self.stripes)
        )
        self.fc_g = nn.Linear(channels, identities, bias=False)
        self.fc_p = nn.Linear(channels, self.stripes, bias=False)
        self.fc_m = nn.ModuleList(
            nn.Linear(settings.local_dim, identities, bias=False) for _ in range(self.stripes)
        )
        for layer in (self.fc_g, self.fc_p, *self.fc_m):
            nn.init.normal_(layer.weight, std=0.001 if layer is not self.fc_p else 0.01)
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)

    @property
    def identities(self) -> int:
        """M, the number of training people that G tells apart."""
        return self.fc_g.out_features

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, h, w) as E takes them: ImageNet's mean and deviation, on E's device.

        Raises ValueError for images of another type or size.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                "images must be uint8 of shape (B, 3, height, width), "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        if (got := tuple(images.shape[2:])) != self.size:
            raise ValueError(f"the network takes images of {self.size[0]} x {self.size[1]} pixels (height x "
                             f"width), got {got[0]} x {got[1]}: resize them, or load them at its size")
        # As bytes to the model's device: a quarter of what floats would move.
        x = images.to(self.scale.device).to(self.scale.dtype) * self.scale + self.shift
        return x.contiguous(memory_format=torch.channels_last)

    def forward_features(self, images: Tensor) -> Tensor:
        """E(x): uint8 images (B, 3, h, w) to feature maps (B, C, h', w')."""
        return self.backbone(self.normalised(images))

    def global_pool(self, maps: Tensor) -> Tensor:
        """Eq. (1): (B, C, h', w') averaged to f, (B, C)."""
        return maps.mean(dim=(2, 3))

    def stripe_pool(self, maps: Tensor) -> Tensor:
        """Eq. (4): (B, C, h', w') averaged in H horizontal stripes to f^h, (B, H, C).

        Where H does not divide h' the bins overlap (adaptive pooling's rule).
        """
        rows, n, H = maps.mean(dim=3), maps.shape[2], self.stripes
        # Means of slices: adaptive pooling itself has no deterministic gradient on a GPU.
        ends = [(h * n // H, -(-(h + 1) * n // H)) for h in range(H)]
        return torch.stack([rows[:, :, first:last].mean(dim=2) for first, last in ends], dim=1)

    def local_features(self, stripes: Tensor) -> Tensor:
        """Eq. (6): f^h (B, H, C) to local features (B, H, C_l), one convolution a part."""
        columns = [part(stripes[:, h, :, None, None]) for h, part in enumerate(self.parts)]
        return torch.stack([c.flatten(1) for c in columns], dim=1)

    def local_logits(self, local: Tensor) -> Tensor | None:
        """M's classifiers, Eq. (7): (B, H, C_l) to (B, H, M). Compact weights come without."""
        if len(self.fc_m) == 0:
            return None
        return torch.stack([fc(local[:, h]) for h, fc in enumerate(self.fc_m)], dim=1)

    def load_state_dict(self, state_dict, *args, **kwargs):
        """torch's; the state may have the layer `bnneck` under its former name."""
        return super().load_state_dict(rename_old_keys(state_dict), *args, **kwargs)

    def forward(self, images: Tensor) -> Outputs:
        maps = self.forward_features(images)
        features = self.bnneck(self.global_pool(maps))
        stripes = self.stripe_pool(maps)
        local = self.local_features(stripes)
        return Outputs(
            features,
            self.fc_g(features),
            self.fc_p(stripes),
            local,
            self.local_logits(local),
        )


@torch.no_grad()
def embed(model: BNTANet, images: Tensor, batch: int = 64) -> tuple[Tensor, Tensor]:
    """Global features (N, C) and local features (N, H, C_l) of uint8 images, in eval mode.

    float32 on the CPU, wherever the model is. Raises ValueError for no image, or
    images of another size than the model's.
    The model's modes are as before when it returns.
    """
    features, local = [], []
    with preserve_modes(model):
        for maps in _maps_of(model, images, batch):
            features.append(model.bnneck(model.global_pool(maps)).float().cpu())
            local.append(model.local_features(model.stripe_pool(maps)).float().cpu())
    return torch.cat(features), torch.cat(local)


@torch.no_grad()
def embed_global(model: BNTANet, images: Tensor, batch: int = 64) -> Tensor:
    """The global features (N, C) of :func:`embed` alone: the same bits in less time."""
    with preserve_modes(model):
        maps = _maps_of(model, images, batch)
        return torch.cat([model.bnneck(model.global_pool(own)).float().cpu() for own in maps])


def _maps_of(model: BNTANet, images: Tensor, batch: int) -> Iterator[Tensor]:
    """E(x) of a batch after the other, with the model in eval mode."""
    if len(images) == 0:
        raise ValueError("no images to embed: the set is empty")
    model.eval()
    # A sixth of the time on a CPU; not tried on a GPU.
    backbone = model.backbone if model.scale.is_cuda else folded(model.backbone)
    for chunk in images.split(batch):
        yield backbone(model.normalised(chunk))


def folded(module: Backbone) -> nn.Module:
    """E for inference, under torch.no_grad: each batch norm folded into the convolution before it, and sums
    made by that convolution.

    The same function as E's in eval mode, to rounding, with fewer passes over the maps. What is not folded
    is shared with E. Blocks whose layers are others than E's are left as they are, and so is all of E where
    hooks watch its inside: what they see is then what E computes.
    """
    inside = [m for m in module.modules() if m is not module]
    if any(m._forward_hooks or m._forward_pre_hooks for m in inside):
        return module
    return _folded(module)


def _folded(module: nn.Module) -> nn.Module:
    pairs = {Backbone: (("conv1", "bn1"),), nn.Sequential: (("0", "1"),),
             Bottleneck: (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))}.get(type(module), ())
    own = module._modules
    twin = copy.copy(module)
    twin._modules = {name: child and _folded(child) for name, child in own.items()}
    if not pairs or any(type(own.get(conv)) is not nn.Conv2d or type(own.get(norm)) is not nn.BatchNorm2d
                        for conv, norm in pairs):
        return twin
    for conv, norm in pairs:
        twin._modules[conv], twin._modules[norm] = _Folded(own[conv], own[norm]), nn.Identity()
    if type(module) is Bottleneck:
        twin.__class__ = _FoldedBottleneck
    return twin


class _Folded(nn.Module):
    """Convolution and batch norm in one convolution, and with ``other`` the sum with it, into it.

    On a CPU oneDNN adds in the same pass. PyTorch has no public name for that call, which its own compiler
    makes. oneDNN's ReLU would come with it, but makes zeros of NaN, which must be seen.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d):
        super().__init__()
        self.weight, self.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        self.places = conv.stride, conv.padding, conv.dilation, conv.groups

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if other is None:
            return F.conv2d(x, self.weight, self.bias, *self.places)
        plain = x.device.type != "cpu" or not x.dtype == other.dtype == self.weight.dtype == torch.float32
        if plain or not torch.backends.mkldnn.enabled or torch.is_autocast_enabled("cpu"):
            return other.add_(F.conv2d(x, self.weight, self.bias, *self.places))
        stride, padding, dilation, groups = self.places
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            other, x, self.weight, self.bias, padding, stride, dilation, groups, "add", 1.0, None, [], "")


class _FoldedBottleneck(Bottleneck):
    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x), inplace=True)
        y = F.relu(self.conv2(y), inplace=True)
        y = self.conv3(y, x if self.downsample is None else self.downsample(x))
        if self.instance_norm is None:
            return F.relu(y, inplace=True)
        # Of a few images at a time, whose maps stay in a core's cache: a third of the time.
        for few in y.split(8):
            few.copy_(F.relu(self.instance_norm(few), inplace=True))
        return y


def rename_old_keys(state: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` by the layers' names of today: what files of older versions call ``fn`` is ``bnneck``."""
    return {re.sub(r"^fn(?=\.|$)", "bnneck", name): value for name, value in state.items()}


class preserve_modes:
    """Context manager: train/eval mode, requires_grad and BN momentum are restored on leaving."""

    def __init__(self, model: nn.Module):
        self.modes = [(m, m.training) for m in model.modules()]
        self.grads = [(p, p.requires_grad) for p in model.parameters()]
        self.momenta = [(m, m.momentum) for m in model.modules() if isinstance(m, _BatchNorm)]

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc) -> None:
        for module, training in self.modes:
            module.training = training
        for parameter, requires in self.grads:
            parameter.requires_grad_(requires)
        for layer, momentum in self.momenta:
            layer.momentum = momentum


def bn_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch-norm layers by name, from shallow to deep (Fig. 3's index 1 is the first).

    In a bottleneck the shortcut's BN comes after bn1-bn3, as in torchvision.
    """
    return {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm)}


def in_layers(model: nn.Module) -> dict[str, nn.InstanceNorm2d]:
    """The instance-norm layers by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.InstanceNorm2d)}


def conv_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Everything that is not a norm layer: convolutions and linear layers ("Conv" in Table 4)."""
    kinds = (nn.Conv2d, nn.Linear)
    return {n: m for n, m in model.named_modules() if isinstance(m, kinds)}


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Layer and parameter counts that method.md derives from the paper's Table 4 and text."""
    def size(layers: dict[str, nn.Module]) -> int:
        return sum(p.numel() for layer in layers.values() for p in layer.parameters())

    bn = bn_layers(model)
    return {
        "BN layers": len(bn),
        "BN gamma+beta": size(bn),
        "IN gamma+beta": size(in_layers(model)),
        "Conv and linear": size(conv_layers(model)),
    }


def load_imagenet(model: BNTANet, path: str | Path | None = None) -> None:
    """Fill E with torchvision's ImageNet ResNet-50 weights, from a local file or by download.

    The file is ``path``, or else ``$BNTA_IMAGENET``. Raises ValueError when the model is not of
    full width or the file holds other weights, FileNotFoundError when the file is absent,
    RuntimeError when nothing is at hand and the download fails. The model is then unchanged.
    """
    if model.backbone.conv1.out_channels != 64:
        raise ValueError("ImageNet weights fit the full width only: set base_width=64, "
                         "or pretrained=False to start from random weights")
    path = path or os.environ.get("BNTA_IMAGENET")
    if path:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no ImageNet weights at {path}: give the path of "
                                    "torchvision's resnet50 .pth file")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{path} is not a readable weights file: {error}") from error
    else:
        from torchvision.models import ResNet50_Weights

        try:
            state = ResNet50_Weights.IMAGENET1K_V1.get_state_dict(progress=True)
        except Exception as error:
            raise RuntimeError(
                "ImageNet weights are neither on this machine nor downloadable: fetch "
                "torchvision's resnet50 IMAGENET1K_V1 file elsewhere and set $BNTA_IMAGENET to its path, or set "
                f"pretrained=False ({error})"
            ) from error
    def shapes(tensors: object) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what the two networks share."""
        return {k: tuple(getattr(v, "shape", ()))
                for k, v in (tensors.items() if isinstance(tensors, dict) else ())
                if not any(part in k for part in ("fc.", "instance_norm", "num_batches_tracked"))}

    odd = shapes(dict(model.backbone.state_dict())).items() ^ shapes(state).items()
    if odd:
        raise ValueError(f"these are not torchvision's ResNet-50 weights: {len(odd)} tensors "
                         f"differ, for one {min(odd)[0]}")
    model.backbone.load_state_dict(
        {k: v for k, v in state.items() if not k.startswith("fc.")}, strict=False
    )
