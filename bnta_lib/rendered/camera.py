"""What a camera makes of a scene: tones, blur, noise, resolution, JPEG.

Its rules of arithmetic are those of `render`: elementwise operations that round exactly, one at a time.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from bnta_lib.rendered import scene
from bnta_lib.rendered.dress import Rows, cell
from bnta_lib.rendered.people import VERSION


@functools.cache
def noise_table(device: str) -> Tensor:
    """Fixed Gaussian noise, rounded so that it is the same everywhere."""
    rng = np.random.Generator(np.random.Philox(key=VERSION))
    values = rng.standard_normal(scene.NOISE_LENGTH)
    return torch.from_numpy((np.rint(values * 256) / 256).astype(np.float32)).to(device)


def through_camera(picture: Tensor, s: Rows, curves: Tensor) -> Tensor:
    """What the camera makes of a scene (3, B, h, w); ``curves`` (B, 3, levels) are its tones."""
    grey = 0.299 * picture[0] + 0.587 * picture[1] + 0.114 * picture[2]
    picture = (grey + cell(s["saturation"]) * (picture - grey)).clamp(0, 1)
    levels = curves.shape[-1]
    step = (picture * (levels - 1) + 0.5).floor().long().flatten(2)
    picture = torch.stack([curves[:, k].gather(1, step[k]) for k in range(3)]).view_as(picture)
    picture = blur(blur(picture, s["blur"]), s["blur"])
    count = picture[:, 0].numel()
    slices = noise_table(str(picture.device)).unfold(0, count, 1)[s["noise_at"].long()]
    noise = slices.view(-1, *picture.shape[:1], *picture.shape[2:]).transpose(0, 1)
    picture = picture + cell(s["noise"]) * (0.35 * noise + 0.65 * noise[:1])
    picture = coarser(picture, s["resolution"])
    return jpeg(picture.clamp(0, 1), s["quality"])


def blur(picture: Tensor, weight: Tensor) -> Tensor:
    """Each pixel takes ``weight`` (B,) of the difference to each of its four neighbours in turn."""
    weight = cell(weight)
    for axis in (2, 3):
        n = picture.shape[axis]
        before = torch.cat((picture.narrow(axis, 0, 1), picture.narrow(axis, 0, n - 1)), axis)
        after = torch.cat((picture.narrow(axis, 1, n - 1), picture.narrow(axis, n - 1, 1)), axis)
        picture = picture + weight * (before + after - picture - picture)
    return picture


def coarser(picture: Tensor, share: Tensor) -> Tensor:
    """Keep ``share`` (B,) of rows and columns and interpolate linearly between them."""
    share = share[:, None]
    for axis, n in ((2, picture.shape[2]), (3, picture.shape[3])):
        kept = (share * n).floor()
        at = (torch.arange(n, device=picture.device) + 0.5) * (kept * (1 / n)) - 0.5
        at = torch.minimum(at.clamp_min(0), kept - 1)
        low = at.floor()
        high = torch.minimum(low + 1, kept - 1)
        t = at - low
        index = [((k + 0.5) * n / kept).floor().long().unsqueeze(4 - axis) for k in (low, high)]
        a, b = (picture.gather(axis, k.expand_as(picture)) for k in index)
        picture = a + t.unsqueeze(4 - axis) * (b - a)
    return picture


# Rows of the orthonormal 8-point cosine transform, first half; the second follows by symmetry.
_COSINES = np.rint(2**30 * np.array(
    [[np.cos((2 * n + 1) * k * np.pi / 16) * (0.5 if k else 0.125**0.5) for n in range(4)]
     for k in range(8)])) / 2**30


def jpeg(picture: Tensor, quality: Tensor) -> Tensor:
    """Quantise 8x8 blocks of luma and colour differences as a JPEG coder of ``quality`` (B,) does.

    Rows and columns beyond a multiple of 8 are left as they are.
    """
    height, width = picture.shape[2] // 8 * 8, picture.shape[3] // 8 * 8
    red, green, blue = picture[:, :, :height, :width] * 255
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = torch.stack((luma - 128, (blue - luma) * 0.564, (red - luma) * 0.713))
    blocks = planes.reshape(3, -1, height // 8, 8, width // 8, 8).permute(3, 5, 0, 1, 2, 4)
    blocks = _cosine(_cosine(blocks.contiguous(), 0), 1)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality * (1 / 50))
    order = torch.arange(8, device=picture.device).float()
    order = order[:, None] + order
    step = torch.stack((10 + 8 * order, 14 + 12 * order, 14 + 12 * order), -1)
    step = (step[..., None] * scale).clamp_min(1.0)[..., None, None]
    blocks = _cosine_back(_cosine_back((blocks / step).round() * step, 0), 1)
    luma, b, r = blocks.permute(2, 3, 4, 0, 5, 1).reshape(3, -1, height, width)
    luma = luma + 128
    red, blue = luma + r * (1 / 0.713), luma + b * (1 / 0.564)
    green = (luma - 0.299 * red - 0.114 * blue) * (1 / 0.587)
    coded = picture.clone()
    coded[:, :, :height, :width] = torch.stack((red, green, blue)) * (1 / 255)
    return coded


def _cosine(x: Tensor, axis: int) -> Tensor:
    """8-point cosine transform along a leading axis of length 8, by fixed sums."""
    x = x.transpose(0, axis)
    shape = (4,) + (1,) * (x.ndim - 1)
    table = torch.tensor(_COSINES, dtype=torch.float32, device=x.device)
    reverse = x[[7, 6, 5, 4]]
    out = torch.empty_like(x)
    for parity, half in ((0, x[:4] + reverse), (1, x[:4] - reverse)):
        terms = [table[parity::2, n].view(shape) * half[n] for n in range(4)]
        out[parity::2] = terms[0] + terms[1] + (terms[2] + terms[3])
    return out.transpose(0, axis)


def _cosine_back(x: Tensor, axis: int) -> Tensor:
    """The inverse of `_cosine`."""
    x = x.transpose(0, axis)
    shape = (4,) + (1,) * (x.ndim - 1)
    table = torch.tensor(_COSINES, dtype=torch.float32, device=x.device)
    even, odd = ([table[k].view(shape) * x[k] for k in range(start, 8, 2)] for start in (0, 1))
    even = even[0] + even[1] + (even[2] + even[3])
    odd = odd[0] + odd[1] + (odd[2] + odd[3])
    return torch.cat((even + odd, (even - odd)[[3, 2, 1, 0]])).transpose(0, axis)


def enlarge(picture: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize of (3, B, h, w) to more rows and columns."""
    for axis, n in ((2, height), (3, width)):
        old = picture.shape[axis]
        at = ((torch.arange(n, device=picture.device) + 0.5) * (old / n) - 0.5).clamp(0, old - 1)
        low = at.floor()
        t = (at - low).view(-1, *(1,) * (3 - axis))
        low = low.long()
        a = picture.index_select(axis, low)
        picture = a + t * (picture.index_select(axis, (low + 1).clamp_max(old - 1)) - a)
    return picture
