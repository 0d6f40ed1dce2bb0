"""The method's numbers on small fixed inputs, against those recorded in golden.json.

Numbers that move need a higher METHOD_VERSION and a new record: ``python tests/test_golden.py --record``.
"""

import hashlib
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from bnta_lib import BNTANet, adapt, embed, evaluate, nearest_pairs, settings
from bnta_lib.adapters import adabn, tent
from bnta_lib.data.sets import ReIDSet
from bnta_lib.model import bn_layers
from bnta_lib.settings import METHOD_VERSION
from bnta_lib.training import train

RECORD = Path(__file__).with_name("golden.json")

RENAMED = {"bnneck": "fn"}  # first part of a tensor's name in the network: its name when this was recorded


def options(**more):
    return settings("smoke", **{"height": 96, "width": 48, "stripes": 6, **more})


def network(dtype=torch.float64, **more):
    """A network of 12 people, each tensor drawn by its own name, so that their order decides nothing."""
    model = BNTANet(12, options(**more))
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        first, _, rest = name.partition(".")
        values = uniform(zlib.crc32(f"{RENAMED.get(first, first)}.{rest}".encode()), *tensor.shape)
        if tensor.ndim > 1:
            values = (2 * values - 1) * (6 / tensor[0].numel()) ** 0.5
        elif name.endswith(("weight", "running_var")):
            values = values + 0.5
        else:
            values = 0.3 * (2 * values - 1)
        tensor.copy_(torch.from_numpy(values))
    return model.to(dtype).eval()


# ---- inputs: uniform numbers of PCG64 and whole-number arithmetic, so that they are the same everywhere


def uniform(seed, *shape):
    return np.random.Generator(np.random.PCG64(seed)).random(shape)


def pictures(people, each, height=96, width=48, seed=0):
    """Smooth pictures uint8 (people * each, 3, height, width): a person's are alike, tinted and noisy."""
    def smooth(seed, n, step, top):
        grid = (top * uniform(seed, n, 3, height // step + 1, width // step + 1)).astype(np.int64)
        rest = np.arange(step)
        for axis in (2, 3):
            grid = np.moveaxis(grid, axis, -1)
            grid = grid[..., :-1, None] * (step - rest) + grid[..., 1:, None] * rest
            grid = np.moveaxis(grid.reshape(*grid.shape[:-2], -1), -1, axis)
        return grid // step**2

    n = people * each
    tint = (24 * uniform(seed + 3, n, 3, 1, 1)).astype(np.int64)
    pixels = smooth(seed, people, 8, 180).repeat(each, 0) + smooth(seed + 1, n, 4, 50) + tint
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)), torch.arange(n) // each + 1


def side(seed, n, people, width):
    """Features (n, width) in clusters, others with many ties; pids, 0 is a distractor; camids."""
    draws = uniform(seed, 2, n)
    pids = ((draws[0] * (people + 10)).astype(np.int64) - 9).clip(0)
    camids = (draws[1] * 3).astype(np.int64) + 1
    near = uniform(11, people + 1, width)[pids] + 0.8 * uniform(seed + 1, n, width)
    tied = (3 * uniform(seed + 2, n, 3)).astype(np.int64)
    return list(map(torch.from_numpy, (near.astype(np.float32), tied.astype(np.float32), pids, camids)))


# ---- what is recorded


def summary(values):
    """Mean, norm and a random projection of a tensor."""
    flat = torch.as_tensor(values).detach().double().flatten().numpy()
    norm = float(np.linalg.norm(flat))
    return [float(flat.mean()), norm, float(flat @ (2 * uniform(5, len(flat)) - 1) / len(flat) ** 0.5)]


def bn_change(before, after, kinds=("running_mean", "running_var", "weight", "bias")):
    """By layer, from shallow to deep, and quantity: the summary of after - before."""
    layers = zip(bn_layers(before).values(), bn_layers(after).values(), strict=True)
    return {f"{number:02} {kind}": summary(getattr(new, kind) - getattr(old, kind))
            for number, (old, new) in enumerate(layers, start=1) for kind in kinds}


def exact(pairs):
    """Index and part of each pair."""
    return [[*pair, h] for pair, h in zip(pairs.index.tolist(), pairs.part.tolist())]


def inputs():
    """Digests of what everything below starts from."""
    images, _ = pictures(12, 3)
    tensors = [images, *network(torch.float32).state_dict().values()]
    each = sorted(hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest() for tensor in tensors)
    return {"SHA-256": hashlib.sha256(" ".join(each).encode()).hexdigest()}


def pairing():
    """Pairs of whole-numbered features, in which most distances tie, and of those of the network."""
    whole = [np.floor(3 * uniform(1, 41, 3, width)).astype(np.float32) for width in (4, 2)]
    ties, part_ties = (nearest_pairs(torch.from_numpy(local), 20) for local in whole)
    _, local = embed(network(torch.float32), pictures(12, 3)[0])
    pairs = nearest_pairs(local, 18)
    for seed in range(5):  # another processor's rounding does not change them
        noise = 1 + 1e-5 * (torch.from_numpy(uniform(seed, *local.shape)).float() - 0.5)
        assert exact(nearest_pairs(local * noise, 18)) == exact(pairs)
    return {"tied": exact(ties), "tied distance": ties.distance.tolist(), "tied parts": exact(part_ties),
            "network": exact(pairs), "network distance": pairs.distance.tolist()}


def features():
    """Features of the float32 network, with stripes that divide the maps and with stripes that overlap."""
    found = {}
    for height in (96, 128):
        both = embed(network(torch.float32, height=height), pictures(4, 2, height)[0])
        found |= {f"{kind} of image {i}, height {height}": summary(row)
                  for kind, rows in zip(("global", "local"), both) for i, row in enumerate(rows)}
    return found


def adaption(dtype, kinds, **more):
    model = network(dtype)
    result = adapt(model, pictures(12, 3)[0], options(K=18, **more), seed=3)
    losses = {name: result.losses[name].tolist() for name in ("pos", "mat", "total")}
    return {"pairs": exact(result.pairs), **losses, **bn_change(model, result.model, kinds)}


def adaption_float32():
    """One step's losses and statistics. Of gamma and beta nothing, nor of later steps: if a gradient is
    zero but for rounding, Adam follows its sign, which another processor may have otherwise."""
    return adaption(torch.float32, ("running_mean", "running_var"))


def adaption_float64():
    """Six steps, the last of each epoch on fewer pairs."""
    kinds = ("running_mean", "running_var", "weight", "bias")
    return adaption(torch.float64, kinds, tta_batch=8, tta_epochs=2)


def baseline_adabn():
    model = network()
    adapted = adabn(model, pictures(12, 3)[0], options(tta_batch=8), seed=3)
    return bn_change(model, adapted, ("running_mean", "running_var"))


def baseline_tent():
    model = network()
    return bn_change(model, tent(model, pictures(12, 3)[0], options(tta_epochs=2, tta_batch=8), seed=3))


def evaluation():
    """150 probes, more than a block; several matches or none, junk, distractors, and ties."""
    p, tied_p, pids, camids = side(20, 150, 60, 8)
    g, tied_g, gallery_pids, gallery_camids = side(30, 200, 60, 8)
    found = {}
    cases = ("normalised", p, g, True), ("raw", p, g, False), ("tied", tied_p, tied_g, False)
    for name, a, b, normalise in cases:
        scores = evaluate(a, b, pids, gallery_pids, camids, gallery_camids, normalise)
        found |= {f"{name} rank": scores.rank.tolist(), f"{name} unmatched": scores.unmatched,
                  f"{name} AP": scores.ap.tolist()}
    return found


def training():
    """Ten steps from the library's own initial weights, in float64, two an epoch. Rounding grows from step to
    step: by the tenth, losses of two processors were up to 1.1e-3 apart."""
    images, pids = pictures(8, 3, seed=40)
    sources = ReIDSet("golden", images, pids, torch.ones_like(pids))
    torch.set_default_dtype(torch.float64)
    try:
        _, history = train(sources, options(epochs=5, lr_decay_epoch=4, batch=12, seed=1), progress=False,
                           device="cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    return {name: history[name].tolist() for name in ("L_id", "L_pos", "L_mat", "total", "lr")}


TOLERANCE = {  # of a list's largest number; whole numbers are exact
    inputs: 0, pairing: 1e-4, features: 1e-4, adaption_float32: 1e-4, adaption_float64: 1e-6,
    baseline_adabn: 1e-6, baseline_tent: 1e-6, evaluation: 1e-9, training: 5e-3,
}


def moved(recorded, measured, tolerance):
    """Names of the recorded values that are others now."""
    def floats(values):
        return isinstance(values, list) and all(isinstance(value, float) for value in values)

    names = []
    for name, old in recorded.items():
        new = measured.get(name)
        if floats(old) and floats(new) and len(old) == len(new):
            room = max(tolerance * max(map(abs, old)), 1e-8)
            same = np.allclose(new, old, rtol=0, atol=room)
        else:
            same = new == old
        names += [] if same else [name]
    return names


def read():
    return json.loads(RECORD.read_text(encoding="utf-8"))


def test_record_is_of_this_method_version():
    assert read()["method_version"] == METHOD_VERSION, (
        f"METHOD_VERSION is {METHOD_VERSION}, and golden.json was recorded with {read()['method_version']}: "
        "record it anew by `python tests/test_golden.py --record`")


@pytest.mark.parametrize("part", TOLERANCE, ids=lambda part: part.__name__)
def test_numbers_move_only_with_method_version(part):
    record = read()
    names = moved(record["values"][part.__name__], part(), TOLERANCE[part])
    if record["method_version"] != METHOD_VERSION:
        return  # the test above fails, and asks for a new record
    assert not names, (
        f"{part.__name__}: {len(names)} numbers moved and METHOD_VERSION is still {METHOD_VERSION}, for one "
        f"{names[0]}. If they may move, raise METHOD_VERSION in bnta_lib/settings.py and record them by "
        "`python tests/test_golden.py --record`; rows that were measured before are then out of date")


def record():
    """Write golden.json. Refuse if values moved and METHOD_VERSION was not raised."""
    torch.set_num_threads(1)
    values = {part.__name__: part() for part in TOLERANCE}
    old = read() if RECORD.is_file() else {"method_version": 0, "values": {}}
    changed = [f"{part.__name__}: {name}" for part in TOLERANCE if part.__name__ in old["values"]
               for name in moved(old["values"][part.__name__], values[part.__name__], TOLERANCE[part])]
    if changed and old["method_version"] >= METHOD_VERSION:
        raise SystemExit(f"{len(changed)} numbers moved, for one {changed[0]}: raise METHOD_VERSION in "
                         f"bnta_lib/settings.py above {old['method_version']} first")
    digits = json.loads(json.dumps(values), parse_float=lambda text: float(f"{float(text):.9g}"))
    parts = [f"  {json.dumps(part)}: {{\n" + ",\n".join(f"   {json.dumps(name)}: {json.dumps(value)}"
             for name, value in found.items()) + "\n  }" for part, found in digits.items()]
    head = f'{{\n "method_version": {METHOD_VERSION},\n "values": {{\n'
    RECORD.write_text(head + ",\n".join(parts) + "\n }\n}\n", encoding="utf-8")
    print(f"{RECORD.name}: version {METHOD_VERSION}, {len(changed)} numbers moved")


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        raise SystemExit("usage: python tests/test_golden.py --record")
    record()
