"""Adapters: ways to fit a trained model to unlabelled images of a new place, by name."""

import copy
import inspect
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bnta_lib.adaption import READS, adapt, require_finite
from bnta_lib.model import BNTANet, batches, bn_layers, plain_mode, plain_model, preserve_modes
from bnta_lib.settings import Settings
from bnta_lib.weights import load_bn_tensors

_NO_OPTIONS = ("seed", "local", "pairs", "on_step")  # no part of what identifies a row


class Adapter:
    """A registered adapter: measured rows are told apart by its ``options`` and the settings it ``reads``."""

    def __init__(self, name: str, function: Callable[..., BNTANet], reads: tuple[str, ...]):
        self.name, self.function, self.reads, self.__doc__ = name, function, reads, function.__doc__
        takes = inspect.signature(adapt if name == "bnta" else function).parameters.values()
        self.options = {p.name: p.default for p in takes
                        if p.kind is p.KEYWORD_ONLY and p.name not in _NO_OPTIONS}
        ADAPTERS[name] = self  # in a notebook, a cell that is run again replaces its adapter

    @plain_mode()
    def __call__(self, model: BNTANet, images: Tensor, settings: Settings, **options) -> BNTANet:
        """An adapted copy of ``model``. Raises ValueError and FloatingPointError as :func:`adapt`."""
        model = plain_model(model, images, adapts=self.name != "none")
        if len(images) < 4:
            raise ValueError(f"adaption needs at least 4 images, got N = {len(images)}")
        adapted = self.function(model, images, settings, **options)
        load_bn_tensors(adapted, model.state_dict(), ["num_batches_tracked"])
        require_finite(adapted.state_dict().values(), f"a tensor of {self.name}")
        return adapted


ADAPTERS: dict[str, Adapter] = {}


def adapter(name: str, *reads: str) -> Callable[[Callable[..., BNTANet]], Adapter]:
    """Register an adapter whose result depends on the settings ``reads``, and on tta_batch."""
    return lambda function: Adapter(name, function, reads)


@adapter("none")
def none(model: BNTANet, images: Tensor, settings: Settings, *, seed: int = 0) -> BNTANet:
    """No adaption: the model itself."""
    return model


@adapter("bnta", *READS)
def bnta(model: BNTANet, images: Tensor, settings: Settings, *, seed: int = 0, **options) -> BNTANet:
    """BNTA (Han et al., 2022); ``options`` of :func:`bnta_lib.adaption.adapt`."""
    return adapt(model, images, settings, seed=seed, **options).model


@adapter("adabn")
@torch.no_grad()
def adabn(model: BNTANet, images: Tensor, settings: Settings, *, seed: int = 0) -> BNTANet:
    """AdaBN (Li et al., 2018): the statistics of every BN layer become those of the images.

    Mean and variance are the averages over shuffled batches of 2 * tta_batch.
    """
    adapted = copy.deepcopy(model)
    with preserve_modes(adapted):
        adapted.eval()
        for layer in bn_layers(adapted).values():
            layer.train()
            layer.reset_running_stats()
            layer.momentum = None  # the cumulative average
        random = torch.Generator().manual_seed(seed)
        for index in batches(len(images), 2 * settings.tta_batch, random):
            maps = adapted.forward_features(images[index])
            adapted.bnneck(adapted.global_pool(maps))
            adapted.local_features(adapted.stripe_pool(maps))
    return adapted


@adapter("alpha_bn")
@torch.no_grad()
def alpha_bn(model: BNTANet, images: Tensor, settings: Settings, *, seed: int = 0,
             alpha: float = 0.5) -> BNTANet:
    """alpha-BN (You et al., 2021): statistics ``alpha`` of the way from the source's to :func:`adabn`'s.

    0 is the source, 1 AdaBN. Raises ValueError for an alpha outside 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is a share between 0 and 1, got {alpha!r}")
    adapted = adabn(model, images, settings, seed=seed)
    for layer, source in zip(bn_layers(adapted).values(), bn_layers(model).values(), strict=True):
        for kind in ("running_mean", "running_var"):
            getattr(layer, kind).lerp_(getattr(source, kind), 1 - alpha)
    return adapted


@adapter("tent", "tta_epochs", "tta_lr")
def tent(model: BNTANet, images: Tensor, settings: Settings, *, seed: int = 0) -> BNTANet:
    """Tent (Wang et al., 2021): gamma and beta follow the entropy of G's output.

    As published, every batch is normalised by its own statistics while Adam lowers the mean entropy of the
    predictions, one step a batch, at the rate tta_lr. Retrieval compares features across batches, so it runs
    for tta_epochs before inference instead of during it, and inference uses the statistics of :func:`adabn`.
    """
    adapted, size = copy.deepcopy(model), 2 * settings.tta_batch
    if adapted.fc_g is None:
        raise ValueError("Tent needs FC_G, which these weights come without: train the model again")
    with preserve_modes(adapted):
        adapted.eval().requires_grad_(False)
        layers = bn_layers(adapted).values()
        parameters = [p for layer in layers for p in layer.train().requires_grad_(True).parameters()]
        optimiser = torch.optim.Adam(parameters, lr=settings.tta_lr)
        for epoch in range(settings.tta_epochs):
            for index in batches(len(images), size, torch.Generator().manual_seed(seed + epoch)):
                maps = adapted.forward_features(images[index])
                log = F.log_softmax(adapted.fc_g(adapted.bnneck(adapted.global_pool(maps))), dim=1)
                loss = -(log.exp() * log).sum(1).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        optimiser.zero_grad()
    return adabn(adapted, images, settings, seed=seed)
