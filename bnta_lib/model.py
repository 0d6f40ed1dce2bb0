"""The network: DualNorm-ResNet-50 E, the identity head G, and the two part heads P and M (Sections 3.2-3.4).

Instance normalisation is placed as in DualNorm (Jia, Ruan and Hospedales, 2019): in the last block of layer1,
layer2 and layer3, after the residual sum. Module names are torchvision's, so that its ImageNet weights fit.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from bnta_lib.settings import Settings

LAYERS: dict[str, tuple[type[nn.Module], ...]] = {  # Table 4
    "bn": (_BatchNorm,), "in": (nn.InstanceNorm2d,), "conv": (nn.Conv2d, nn.Linear)}


class Outputs(NamedTuple):
    """One forward pass; B images, C = 32 * base_width, H stripes, M identities."""

    features: Tensor  # (B, C) global feature, after `bnneck`: used for retrieval
    logits: Tensor | None  # (B, M) of G; None without FC_G
    positions: Tensor  # (B, H, H) of P: image, stripe, score of each position
    local: Tensor  # (B, H, C_l) of M, after Conv, BN, ReLU: Eq. (6)
    local_logits: Tensor | None  # (B, H, M) of M's classifiers: Eq. (7); None without them


class InstanceNorm(nn.InstanceNorm2d):
    """torch's instance norm to rounding, but channels-last maps stay so: NCHW slows the layers after it."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            return super().forward(x).contiguous(memory_format=torch.channels_last)
        centred = x - x.mean((2, 3), keepdim=True)
        inverse = (centred.square().mean((2, 3), keepdim=True) + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], centred, inverse * self.weight[:, None, None])


class Bottleneck(nn.Module):
    """ResNet's bottleneck; with ``instance_norm`` the sum is instance-normalised before the ReLU."""

    def __init__(self, inputs: int, planes: int, stride: int, instance_norm: bool):
        super().__init__()
        outputs = 4 * planes
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
        self.instance_norm = InstanceNorm(outputs, affine=True) if instance_norm else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y if self.instance_norm is None else self.instance_norm(y), inplace=True)


class Backbone(nn.Module):
    """E: (B, 3, h, w) to feature maps (B, C, h/16, w/16) at last stride 1, h/32 at stride 2."""

    def __init__(self, base_width: int = 64, last_stride: int = 1):
        super().__init__()
        self.channels = base_width
        self.conv1, self.bn1 = nn.Conv2d(3, base_width, 7, 2, 3, bias=False), nn.BatchNorm2d(base_width)
        self.layer1 = self._stage(base_width, 3, stride=1)
        self.layer2 = self._stage(2 * base_width, 4, stride=2)
        self.layer3 = self._stage(4 * base_width, 6, stride=2)
        self.layer4 = self._stage(8 * base_width, 3, stride=last_stride, instance_norm=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(self, planes: int, blocks: int, stride: int, instance_norm: bool = True) -> nn.Sequential:
        stage = nn.Sequential()
        for j in range(blocks):
            last = j == blocks - 1
            stage.append(Bottleneck(self.channels, planes, 1 if j else stride, instance_norm and last))
            self.channels = 4 * planes
        return stage

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class BNTANet(nn.Module):
    """E with the heads G, P and M, for uint8 images (B, 3, h, w) of the settings' ``size`` alone.

    At another size the features would be bad, so such images are refused. ``identities`` is the number of
    training people. With six parts there are 60 batch norms: 53 in E, ``bnneck``, and one a part.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, identities: int, settings: Settings):
        super().__init__()
        self.size, self.identities = settings.size, identities
        self.stripes, width = settings.stripes, settings.local_dim
        self.backbone = Backbone(settings.base_width, settings.last_stride)
        channels = self.backbone.channels
        self.bnneck = nn.BatchNorm1d(channels)
        self.bnneck.bias.requires_grad_(False)  # frozen in DualNorm
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            for _ in range(self.stripes))
        self.fc_g: nn.Linear | None = nn.Linear(channels, identities, bias=False)
        self.fc_p = nn.Linear(channels, self.stripes, bias=False)
        self.fc_m = nn.ModuleList(nn.Linear(width, identities, bias=False) for _ in range(self.stripes))
        for layer in (self.fc_g, self.fc_p, *self.fc_m):
            nn.init.normal_(layer.weight, std=0.01 if layer is self.fc_p else 0.001)
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])  # ImageNet's
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from torch's stubs

    def check_images(self, images: Tensor) -> None:
        """Raise ValueError unless these are uint8 images (N, 3, h, w) of the network's size in one tensor."""
        tensor = isinstance(images, Tensor)
        if not (tensor and images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] == 3):
            got = f"{images.dtype} {tuple(images.shape)}" if tensor else type(images).__name__
            raise ValueError(f"images must be uint8 (N, 3, height, width) in one torch tensor, got {got}")
        if tuple(images.shape[2:]) != self.size:
            raise ValueError("the network takes images of {} x {} pixels (height x width), got {} x {}: "
                             "resize them, or load them at its size".format(*self.size, *images.shape[2:]))

    def normalised(self, images: Tensor) -> Tensor:
        """Images normalised by ImageNet's mean and deviation, on E's device. Raises ValueError."""
        self.check_images(images)
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

        If H does not divide h' the stripes overlap, by adaptive pooling's rule [O].
        """
        rows, ends = maps.mean(dim=3), stripe_rows(maps.shape[2], self.stripes)
        # Means of slices: adaptive pooling itself has no deterministic gradient on a GPU.
        return torch.stack([rows[:, :, first:last].mean(dim=2) for first, last in ends], dim=1)

    def local_features(self, stripes: Tensor) -> Tensor:
        """Eq. (6): f^h (B, H, C) to local features (B, H, C_l), one convolution a part."""
        columns = [part(stripes[:, h, :, None, None]) for h, part in enumerate(self.parts)]
        return torch.stack([column.flatten(1) for column in columns], dim=1)

    def local_logits(self, local: Tensor) -> Tensor | None:
        """M's classifiers, Eq. (7): (B, H, C_l) to (B, H, M). Compact weights come without."""
        scores = [fc(local[:, h]) for h, fc in enumerate(self.fc_m)]
        return torch.stack(scores, dim=1) if scores else None

    def forward(self, images: Tensor) -> Outputs:
        maps = self.forward_features(images)
        features, stripes = self.bnneck(self.global_pool(maps)), self.stripe_pool(maps)
        local = self.local_features(stripes)
        logits = self.fc_g(features) if self.fc_g else None  # some compact weights come without
        return Outputs(features, logits, self.fc_p(stripes), local, self.local_logits(local))


def stripe_rows(map_height: int, stripes: int) -> list[tuple[int, int]]:
    """Rows [start, end) of a feature map that each stripe averages; neighbours may share a row."""
    return [(h * map_height // stripes, -(-(h + 1) * map_height // stripes)) for h in range(stripes)]


@contextmanager
def plain_mode() -> Iterator[None]:
    """Leave inference mode, which allows no gradient, and autocast, which changes numbers, of a caller."""
    with (torch.inference_mode(False), torch.autocast("cpu", enabled=False),
          torch.autocast("cuda", enabled=False)):
        yield


def unwrapped(model: nn.Module) -> BNTANet:
    """The network inside wrappers for several devices. Raises ValueError if there is none."""
    while not isinstance(model, BNTANet):
        inner = getattr(model, "module", getattr(model, "_orig_mod", None))  # the latter: torch.compile's
        if not isinstance(inner, nn.Module):
            raise ValueError(f"model must be a BNTANet, got {type(model).__name__}")
        model = inner
    return model


def plain_model(model: nn.Module, images: Tensor, adapts: bool = False) -> BNTANet:
    """As :func:`unwrapped`, checked with its ``images``. Raises ValueError."""
    model = unwrapped(model)
    kinds = {parameter.dtype for parameter in model.parameters()}
    if adapts and (odd := kinds - {torch.float32, torch.float64}):
        raise ValueError(f"weights of {min(odd, key=str)} are too coarse to adapt: give model.float()")
    for name, layer in bn_layers(model).items():
        if layer.running_mean is None or layer.weight is None:
            raise ValueError(f"{name} has no running statistics or no gamma and beta: give the model as it "
                             "was trained (Tent's configure_model takes the statistics away)")
    built = 1 + sum(isinstance(module, nn.Conv2d) for module in model.modules())  # each has one, and bnneck
    if adapts and (left := len(bn_layers(model))) != built:
        raise ValueError(f"{left} batch norms are left of {built}, and no other layer adapts: give the model "
                         "as it was trained, with none frozen or folded into convolutions")
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                raise ValueError(f"{name}.{key} is the result of a computation, which cannot be copied: "
                                 "delete it, or make it permanent (torch.nn.utils.prune.remove)")
    model.check_images(images)
    return model


@plain_mode()
@torch.no_grad()
def embed(model: BNTANet, images: Tensor, batch: int | None = None) -> tuple[Tensor, Tensor]:
    """Global features (N, C) and local features (N, H, C_l) of uint8 images: float32 on the CPU.

    In eval mode; the model's modes are as before. Raises ValueError for no images or another size.
    """
    model = plain_model(model, images)
    if len(images) == 0:
        raise ValueError("no images to embed: the set is empty")
    batch = batch or max(64, (1 << 18) // images[0, 0].numel())  # of small images more: a call costs as much
    features, local = [], []
    with preserve_modes(model):
        model.eval()
        backbone = fused(model.backbone)
        for chunk in images.split(batch):
            maps = backbone(model.normalised(chunk))
            features.append(model.bnneck(model.global_pool(maps)))
            local.append(model.local_features(model.stripe_pool(maps)))
    return torch.cat(features).float().cpu(), torch.cat(local).float().cpu()  # a GPU is waited for here alone


def batches(n: int, size: int, random: torch.Generator) -> Sequence[Tensor]:
    """Shuffled indices in batches as even as can be, none of one image (BN cannot train on it)."""
    return torch.randperm(n, generator=random).tensor_split(max(1, min(-(-n // size), n // 2)))


def fused(backbone: nn.Module) -> nn.Module:
    """A copy of E in eval mode, the same to rounding: batch norms are folded into their convolutions."""
    twin = copy.deepcopy(backbone, {id(t): t for t in backbone.state_dict(keep_vars=True).values()})  # shared
    for block in list(twin.modules()):
        for names in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1")):
            conv, norm = (getattr(block, name, None) for name in names)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight, conv.bias, norm.running_mean, norm.running_var,  # type: ignore[arg-type]
                    norm.eps, norm.weight, norm.bias)
                setattr(block, names[1], nn.Identity())
    return twin


@contextmanager
def preserve_modes(model: nn.Module) -> Iterator[None]:
    """Restore train/eval modes, requires_grad and BN momenta on leaving, also after an error."""
    attributes = ((model.modules(), "training"), (bn_layers(model).values(), "momentum"),
                  (model.parameters(), "requires_grad"))
    before = [(item, name, getattr(item, name)) for items, name in attributes for item in items]
    try:
        yield
    finally:
        for item, name, value in before:
            if getattr(item, name) != value:  # a tensor of inference mode would refuse even the same
                setattr(item, name, value)


def layers_of(model: nn.Module, kind: str) -> dict[str, nn.Module]:
    """The layers of a kind of :data:`LAYERS` by name, wrappers' left out, from shallow to deep."""
    return {re.sub(r"^((module|_orig_mod)\.)+", "", name): layer for name, layer in model.named_modules()
            if isinstance(layer, LAYERS[kind])}


def bn_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch-norm layers by name. Fig. 3's index 1 is the first; a shortcut's comes after bn1-bn3."""
    return layers_of(model, "bn")  # type: ignore[return-value]


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Layers and parameters; in the paper they are 60, 60K, 3K and 93M (Table 4)."""
    names = {"bn": "BN gamma+beta", "in": "IN gamma+beta", "conv": "Conv and linear"}
    return {"BN layers": len(bn_layers(model))} | {
        name: sum(p.numel() for layer in layers_of(model, kind).values() for p in layer.parameters())
        for kind, name in names.items()}


def load_imagenet(model: BNTANet) -> None:
    """Fill E with torchvision's ImageNet weights.

    Raises ValueError for another width or weights that are not theirs, FileNotFoundError without weights.
    """
    if model.backbone.conv1.out_channels != 64:
        raise ValueError("ImageNet weights fit base_width=64 only: set that, or pretrained=False (--scratch)")
    from torchvision.models import ResNet50_Weights  # 160 MB, which no other function needs

    weights = ResNet50_Weights.IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except Exception as error:
        raise FileNotFoundError(f"no ImageNet weights ({error}): put {weights.url} into {torch.hub.get_dir()}"
                                "/checkpoints, or train without (--scratch, SCRATCH=1)") from error
    state = {k: v for k, v in state.items() if not k.startswith("fc.")}
    lacking = [name for name in model.backbone.load_state_dict(state, strict=False).missing_keys
               if "instance_norm" not in name and "num_batches" not in name]
    if lacking:
        raise ValueError(f"the file of {weights} in {torch.hub.get_dir()}/checkpoints lacks {lacking[0]}; "
                         f"its first tensor is {next(iter(state), None)}: delete it")
