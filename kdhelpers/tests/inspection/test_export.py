"""The exported graph against the package: in a process that has neither it nor torch, and by the command line."""

import json
import logging
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import conv2d, max_pool2d

from kdhelpers import localization, losses, networks
from kdhelpers.cache import SourceActivations
from kdhelpers.data import weights
from kdhelpers.data.images import Images
from kdhelpers.errors import InputError
from kdhelpers.experiments import config
from kdhelpers.experiments import runner as experiment
from kdhelpers.inspection import export
from kdhelpers.protocols import protocol_for

pytestmark = pytest.mark.slow

# What a user does, where importing anything but these would fail.
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("kdhelpers", "torch", "torchvision", "scipy", "cv2", "onnx", "onnxscript"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1])
pictures = [np.asarray(Image.open(file).convert("RGB")) for file in sys.argv[2:]]
scores, maps = session.run(["score", "map"], {"images": np.stack(pictures)})
one = session.run(["score", "map"], {"images": pictures[0][None]})
assert not {"kdhelpers", "torch"} & set(sys.modules)
np.savez("found.npz", scores=scores, maps=maps, score=one[0], map=one[1])
"""


@pytest.fixture(scope="module")
def small():
    """Both networks with a layer or two before each pool and few channels: the same layers, exported sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.cfgs, "D", [6, "M", 6, 6, "M", 8, "M", 8, "M", 8, "M"])
        patch.setitem(networks.WIDTHS, "compact", [4, 6, "M", 4, 6, "M", 8, "M", 5, 8, "M", 8, "M"])
        # pytest would keep, and format, the hundred thousand lines that torch logs for its own tools.
        patch.setattr(logging.getLogger("torch.__trace"), "propagate", False)
        yield weights.load_source("untrained")[0]


def cloner_of(protocol):
    cloner = networks.make_cloner(protocol, seed=1).eval()
    with torch.no_grad():  # a trained BatchNorm has moved from its start
        for i, layer in enumerate(cloner):
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(generator=torch.Generator().manual_seed(i)).mul_(0.1)
                layer.running_var.add_(0.5)
    return cloner


def of_the_package(source, cloner, protocol, images):
    """Scores as in a run, and maps in double precision: in single one of a hundred has a ReLU that rounding moves."""
    scores = losses.scores(SourceActivations(source, images), cloner, protocol).numpy()
    double = deepcopy(source).double(), deepcopy(cloner).double(), images[:].double()
    grey = localization.one_channel(localization.gradients(*double, protocol)).numpy()
    return scores, localization.localization_map(grey)


def save(folder, pixels):
    files = [folder / f"{i}.png" for i in range(len(pixels))]
    for file, picture in zip(files, pixels, strict=True):
        Image.fromarray(picture).save(file)
    return files


def run_alone(path, folder, files):
    """Scores and maps of all pictures at once, and those of the first by itself."""
    subprocess.run([sys.executable, "-c", ALONE, path, *files], cwd=folder, env={}, check=True)
    return np.load(folder / "found.npz")


def agree(found, scores, maps):
    assert found["scores"].dtype == found["maps"].dtype == np.float32
    np.testing.assert_allclose(found["scores"], scores, rtol=1e-4)
    np.testing.assert_allclose(found["score"], scores[:1], rtol=1e-4)
    np.testing.assert_allclose(found["maps"], maps, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["map"], maps[:1], rtol=0, atol=1e-4)
    assert maps.max((1, 2)).min() > 0.1 and np.ptp(scores) > 1e-3  # there is something to agree on


def test_the_file_gives_the_package_s_scores_and_maps_without_package_and_torch(small, tmp_path):
    protocol, size, rng = protocol_for("official", "cifar10"), 45, np.random.default_rng(0)  # odd before some pools
    cloner = cloner_of(protocol)
    path = export.to_onnx(small, cloner, protocol, size, tmp_path / "new" / "it.onnx", normalise=True)
    assert [file.name for file in path.parent.iterdir()] == ["it.onnx"]  # the weights are in it

    pixels = rng.integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    images = Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), normalise=True)
    scores, maps = of_the_package(small, cloner, protocol, images)
    agree(run_alone(path, tmp_path, save(tmp_path, pixels)), scores, maps)
    other = of_the_package(small, cloner, replace(protocol, gradient="cloner"), images)[1]
    assert np.abs(maps - other).max() > 0.01


@pytest.mark.parametrize(
    "name, changed", [("official", {"terms": "val"}), ("text", {"terms": "dir", "score_points": 2})]
)
def test_a_trace_is_the_function_for_every_loss(small, name, changed):
    protocol = replace(protocol_for(name, "mvtec"), **changed)
    cloner = cloner_of(protocol)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = export.trace(small, cloner, protocol, 32, normalise=False)(pixels)
    expected = of_the_package(small, cloner, protocol, Images(pixels.permute(0, 3, 1, 2).contiguous()))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_backward_passes_written_out_are_autograd_s(size):
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (2, 4, *size), generator=rng).double().requires_grad_()  # of so few values many are equal
    pooled = max_pool2d(x, 2)
    grad = torch.randn(pooled.shape, generator=rng, dtype=torch.float64)
    (expected,) = torch.autograd.grad(pooled, x, grad)
    assert torch.equal(export._max_pool_backward(grad, x, [2, 2], [2, 2], [0, 0], [1, 1], False, None), expected)

    weight = torch.randn(5, 4, 3, 3, generator=rng, dtype=torch.float64)
    convolved = conv2d(x, weight, padding=1)
    grad = torch.randn(convolved.shape, generator=rng, dtype=torch.float64)
    (expected,) = torch.autograd.grad(convolved, x, grad)
    rest = [0], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, False, False]
    torch.testing.assert_close(export._convolution_backward(grad, x, weight, *rest)[0], expected)


def test_opening_is_opencv_s_up_to_the_border():
    maps = np.random.default_rng(0).random((3, 17, 20), dtype=np.float32)
    maps[0, :5], maps[1, :, -1] = 1, 0
    expected = [cv2.morphologyEx(one, cv2.MORPH_OPEN, localization.ELEMENT) for one in maps]
    np.testing.assert_array_equal(export._opened(torch.from_numpy(maps)), expected)


@pytest.fixture(scope="module")
def trained(small, sample_data, tmp_path_factory):
    """The cloner's file of a training on the samples, and its record."""
    results_dir = tmp_path_factory.mktemp("results")
    given = {"PROFILE": "full", "PROTOCOL": "text", "SEED": 1, "SOURCE": "untrained", "CLASSES": ["bottle"]}
    given |= {"EPOCHS": 2, "IMAGE_SIZE": 64, "BATCH_SIZE": None, "DEVICE": "cpu", "CACHE": "auto"}
    given |= {"DATA_DIR": str(sample_data), "RESULTS_DIR": str(results_dir)}
    (run,) = config.resolve("04_mvtec", **given)
    (record,) = experiment.run_experiments([run])
    return run.cloner_path("bottle"), record


def test_the_command_line_exports_a_trained_cloner_with_its_record_and_checks_it(
    small, trained, tmp_path, capsys, monkeypatch
):
    path, record = trained
    out = tmp_path / "it.onnx"
    export.main([str(path), str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["4 random images", "8 test images", str(out)]
    session = onnxruntime.InferenceSession(out)
    assert json.loads(session.get_modelmeta().custom_metadata_map["record"]) == record
    assert session.get_inputs()[0].shape == ["n", 64, 64, 3]

    cloner, protocol, _, shown, threshold = export.load_cloner(path)
    assert protocol.lam == record["training"]["lambda"]
    noise = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    images = Images(torch.from_numpy(noise).permute(0, 3, 1, 2).contiguous())
    agree(run_alone(out, tmp_path, save(tmp_path, noise)), *of_the_package(small, cloner, protocol, images))

    wrong = export.compare(out, small, cloner_of(protocol), protocol, shown, normalise=False)
    right = export.compare(out, small, cloner, protocol, shown, normalise=False)
    assert export.agrees(right) and not export.agrees(wrong)
    assert not export.agrees(right | {"map": wrong["map"]}) and not export.agrees(right | {"score": wrong["score"]})

    monkeypatch.setattr(export, "compare", lambda *_: wrong)
    out.write_bytes(b"before")  # somebody's, which a failure must not cost
    with pytest.raises(InputError, match=f"{out} is not written: it differs from PyTorch"):
        export.main([str(path), str(out)])
    assert out.read_bytes() == b"before"
    with pytest.raises(InputError, match="differs from PyTorch"):
        export.main([str(path), str(tmp_path / "new" / "it.onnx")])
    assert list((tmp_path / "new").iterdir()) == []


def test_what_cannot_be_exported_is_said_in_one_line(small, trained, tmp_path, monkeypatch):
    path, record = trained
    out = str(tmp_path / "it.onnx")
    weights = {name: value + 1 for name, value in small.state_dict().items()}
    torch.save(weights, tmp_path / "other.pt")
    (tmp_path / "empty.safetensors").touch()
    for given, said in (
        (
            [str(path), out, "--source", str(tmp_path / "other.pt")],
            "other.pt is not the source of this cloner, untrained",
        ),
        ([str(path), out, "--source", str(tmp_path / "none.pt")], "none.pt' is neither .* with --source"),
        ([str(tmp_path / "none.safetensors"), out], "none.safetensors cannot be read"),
        ([str(tmp_path / "empty.safetensors"), out], "empty.safetensors is not a cloner"),
        ([str(tmp_path / "other.pt"), out], "other.pt is not a cloner"),
    ):
        with pytest.raises(InputError, match=said) as error:
            export.main(given)
        assert "\n" not in str(error.value)
    for names, value, said in (
        (("parameters", "method"), "smoothgrad", "has maps by smoothgrad"),
        (("parameters", "protocol"), {"name": "official"}, "is not a cloner of this version"),
    ):
        changed = json.loads(json.dumps(record))
        changed[names[0]][names[1]] = value
        monkeypatch.setattr(export.json, "loads", lambda _, changed=changed: changed)
        with pytest.raises(InputError, match=said):
            export.main([str(path), out])
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"needs the package onnxscript: .*\[export\]"):
        export._program(None, 32)
    assert not (tmp_path / "it.onnx").exists()


def test_the_command_ends_in_one_line_and_exit_code_1(tmp_path):
    command = [sys.executable, "-m", "kdhelpers.inspection.export", str(tmp_path / "none"), str(tmp_path / "it.onnx")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stdout == ""
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1


def test_a_file_is_whole_or_what_it_was(protocol, tmp_path, monkeypatch):
    class Broken:
        def save(self, path, **_):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    path = tmp_path / "it.onnx"
    path.write_bytes(b"before")
    monkeypatch.setattr(export, "trace", lambda *_: None)
    monkeypatch.setattr(export, "_program", lambda *_: Broken())
    with pytest.raises(InputError, match="cannot be written"):
        export.to_onnx(None, None, protocol, 32, path)
    assert path.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(InputError, match="has no λ"):
        export.to_onnx(None, None, replace(protocol, lam=None, terms="total"), 32, path)
