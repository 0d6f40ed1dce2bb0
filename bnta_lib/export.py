"""``python -m bnta_lib.export model delta.safetensors out.onnx``: an adapted model as ONNX, with its checks.

The file takes uint8 images (N, 3, h, w), RGB, at the network's size, and gives the features (N, C) that
retrieval compares. The normalisation of pixels is inside, so no other program can get it wrong.
"""

import argparse
import copy
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from bnta_lib.evaluation import distances
from bnta_lib.files import atomic
from bnta_lib.model import BNTANet, embed, plain_model, unwrapped
from bnta_lib.settings import MODELS, settings
from bnta_lib.weights import Delta


class Features(nn.Module):
    """What is exported: images to features."""

    def __init__(self, model: BNTANet):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.bnneck(self.model.global_pool(self.model.forward_features(images)))


def export_onnx(model: BNTANet, path: str | Path) -> None:
    """Write a model as ONNX, whole or not at all. Raises ImportError without the extra ``export``."""
    model = unwrapped(model)
    images = torch.zeros(2, 3, *model.size, dtype=torch.uint8)
    features = Features(copy.deepcopy(plain_model(model, images)).cpu()).eval()
    with atomic(path) as new:
        torch.onnx.export(features, (images,), new, input_names=["images"], output_names=["features"],
                          dynamic_shapes=({0: torch.export.Dim("N")},), opset_version=18, dynamo=True,
                          external_data=False, verbose=False)


def compare(model: BNTANet, path: str | Path, images: Tensor) -> tuple[float, bool]:
    """Largest difference of features by onnxruntime and PyTorch, in units of their largest, and same ranking.

    The ranking is that of all images for each as a probe. Raises ImportError without the extra ``export``.
    """
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    there = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    here = embed(model, images)[0]
    orders = [distances(features, features).argsort(dim=1, stable=True) for features in (here, there)]
    return float((there - here).abs().max() / here.abs().max()), torch.equal(*orders)


def main(arguments: list[str] | None = None) -> int:
    """Export, compare on 64 images, and print how close they are. Exit code 2, with a line, if it cannot."""
    from bnta_lib.suite.train import trained_model  # the method itself needs no suite

    parser = argparse.ArgumentParser(prog="python -m bnta_lib.export", description=__doc__.partition("\n")[0])
    parser.add_argument("model", help=f"a training of the suite: {', '.join(MODELS)}")
    parser.add_argument("delta", help="what adapt(...).delta.save(...) wrote; 'none' for the model itself")
    parser.add_argument("out", help="the file to write, .onnx")
    parser.add_argument("--profile", help="of the model; $BNTA_PROFILE else")
    args = parser.parse_args(arguments)
    try:
        model = trained_model(settings(args.profile), args.model, progress=False)
        if args.delta != "none":
            Delta.load(args.delta).apply(model)
        export_onnx(model, args.out)
        images = torch.randint(0, 256, (64, 3, *model.size), generator=torch.Generator().manual_seed(0))
        largest, same = compare(model, args.out, images.to(torch.uint8))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"{error}: pip install bnta_lib[export]", file=sys.stderr)
        return 2
    print(f"{args.out}: 64 images by onnxruntime and PyTorch differ by {largest:.1e} of the largest feature; "
          f"the ranking is {'the same' if same else 'ANOTHER'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
