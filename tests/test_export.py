"""An exported model gives the features of PyTorch, by onnxruntime."""

import pytest
import torch

from bnta_lib import adapt, embed, settings
from bnta_lib.export import compare, export_onnx, main
from bnta_lib.suite.train import trained_model
from conftest import noise


@pytest.mark.slow
def test_adapted_model_is_the_same_in_onnxruntime(model, small, images, tmp_path):
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason=f"no {module}, of an extra: pip install bnta_lib[export]")
    import onnxruntime

    adapted, path = adapt(model, images, small).model.train(), tmp_path / "adapted.onnx"
    export_onnx(torch.nn.DataParallel(adapted), path)
    assert [file.name for file in tmp_path.iterdir()] == ["adapted.onnx"] and adapted.training
    gallery = noise(64, 3, 48, 24, seed=3)
    largest, same = compare(adapted, path, gallery)
    assert largest < 1e-5 and same
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for number in (1, 7):  # any number of images
        (features,) = session.run(None, {"images": gallery[:number].numpy()})
        torch.testing.assert_close(torch.from_numpy(features), embed(adapted, gallery[:number])[0],
                                   rtol=1e-4, atol=1e-5)
    assert compare(model, path, gallery)[0] > 1e-3, "the adaption is in it"


def test_delta_of_another_model_is_refused_before_the_export(tmp_path, capsys):
    laptop, path = settings("laptop"), tmp_path / "delta.safetensors"
    other = trained_model(laptop, "baseline")
    adapt(other, noise(8, 3, *laptop.size), laptop, steps=1).delta.save(path)
    for delta, sentence in ((path, "the delta was made for other weights"),
                            (tmp_path / "no", "no bnta-delta at")):
        assert main(["bnta", str(delta), str(tmp_path / "out.onnx"), "--profile", "laptop"]) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()
