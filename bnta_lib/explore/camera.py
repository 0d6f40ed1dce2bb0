"""The explorer of adaption by camera: a probe's nearest gallery images before and after."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from html import escape

import ipywidgets as W
import torch

from bnta_lib.by_camera import adapt_by_camera, embed_by_camera, sample_by_camera
from bnta_lib.data.sets import Target
from bnta_lib.evaluation import Ranking, top_gallery
from bnta_lib.explore.figures import ORDERS, RELEASED, WIDE, Explorer, Shown, probe_order, probe_shown
from bnta_lib.model import BNTANet
from bnta_lib.settings import Settings
from bnta_lib.suite.runner import FEWEST
from bnta_lib.suite.samples import images_of
from bnta_lib.suite.specs import IMAGES
from bnta_lib.weights import bn_tensors


def adapt_to(model: BNTANet, target: Target, number: int, settings: Settings) -> tuple:
    """Deltas on ``number`` images of each camera (0: all), counts by camera, cameras with few, the kind.

    Raises ValueError if no camera has FEWEST images.
    """
    split, camids = target.split(0), target.data.camids
    for kind in ("others", "test"):
        rows = sample_by_camera(images_of(target, split, kind), camids, number)
        counts = camids[rows].bincount(minlength=int(camids.max()) + 1).tolist()
        few = [camera for camera in camids.unique().tolist() if counts[camera] < FEWEST]
        if max(counts) >= FEWEST:
            break
    else:
        images = ", ".join(f"{counts[camera]} by camera {camera}" for camera in few)
        raise ValueError(f"{target.data.name} has too few images to adapt by camera: {images}; "
                         f"at least one camera needs {FEWEST}")
    deltas = adapt_by_camera(model, target.data.images[rows], camids[rows], settings, least=FEWEST,
                             place=bool(few))
    return deltas, counts, few, IMAGES[kind]


def camera_explorer(model: BNTANet, targets: Mapping[str, Target], settings: Settings) -> Explorer:
    """Any probe of split 0 of a target before and after AdaBN by camera, those that change most first.

    Statistics are ``alpha`` of the way from the source's to those of so many images of each camera, of other
    people if there are some. A setting's first visit embeds probes and gallery, and says so meanwhile.
    """
    model, source = copy.deepcopy(model), bn_tensors(model)  # a copy, since cells may use the model meanwhile
    explorer = None
    adapted = cache(lambda name, number: adapt_to(model, targets[name], number, settings))

    @cache
    def ranking(name: str, number: int, alpha: float) -> Ranking:
        if explorer:
            explorer.shown.value = explorer.shown.value.replace(escape(explorer.numbers), "embedding ...", 1)
        data, sides = targets[name].data, (targets[name].split(0).probe, targets[name].split(0).gallery)
        deltas = {camera: replace(delta, tensors={key: tensor.lerp(source[key], 1 - alpha)
                                                  for key, tensor in delta.tensors.items()})
                  for camera, delta in adapted(name, number)[0].items()}
        rows, sizes = torch.cat(sides), [len(side) for side in sides]
        features = embed_by_camera(model, data.images[rows], data.camids[rows], deltas)[0]
        both = (side for kind in (features, data.pids[rows], data.camids[rows]) for side in kind.split(sizes))
        return top_gallery(*both, min(10, sizes[1]), settings.normalise_features)

    def draw(target: str, camera: int, alpha: float, number: int, probe: int) -> Shown:
        data, split, number = targets[target].data, targets[target].split(0), number if alpha else 0
        with warnings.catch_warnings(action="ignore"):  # of cameras with few images, which are named below
            before, after = ranking(target, 0, 0), ranking(target, number, alpha)
        camids, order = data.camids[split.probe], probe_order(before, after, ORDERS[0])
        order = order[camids[order] == camera] if camera in camids else order
        probe = int(order[min(probe, len(order)) - 1])
        match, shown, still = probe_shown(targets[target], split, before, after, probe)
        by = int(camids[probe])
        line = f"{target}, camera {by}, {match}; rank 1"
        for name, some in ((f"camera {by}", camids == by), ("all cameras", camids > 0)):
            ranks = (side.rank[some] for side in (before, after))
            shares = (100 * (rank == 1).sum() / (rank > 0).sum() for rank in ranks)
            line += ", {}: {:.1f} to {:.1f} %".format(name, *shares)
        if alpha:
            _, counts, few, images = adapted(target, number)
            line += f"; statistics of {sum(counts)} images ({images}), {counts[by]} by camera {by}"
            line += f"; too few by camera {', '.join(map(str, few))}, which takes those of all" if few else ""
        if camera not in (0, *camids):
            line += f"; no probe by camera {camera}, so all are here"
        return line, shown, still

    cameras = max(int(target.data.camids.max()) for target in targets.values())
    probes = max(len(target.split(0).probe) for target in targets.values())
    explorer = Explorer(
        draw, target=W.Dropdown(description="target", options=list(targets), **WIDE),
        camera=W.IntSlider(description="camera (0: all)", min=0, max=cameras, value=0, **RELEASED),
        alpha=W.SelectionSlider(description="alpha", options=[0, 0.25, 0.5, 0.75, 1], value=1, **RELEASED),
        number=W.SelectionSlider(description="images a camera", value=0, **RELEASED,
                                 options=[*((str(2**i), 2**i) for i in range(3, 9)), ("all", 0)]),
        probe=W.IntSlider(description="probe", min=1, max=probes, value=1, **RELEASED))
    return explorer
