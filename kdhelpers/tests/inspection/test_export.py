"""The exported graph against the package: in a process that has neither it nor torch, and by the command line."""

import contextlib
import io
import json
import logging
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch.nn.functional import max_pool2d

from kdhelpers import localization, losses, networks
from kdhelpers.cache import SourceActivations
from kdhelpers.data import weights
from kdhelpers.data.images import Images, blanked, fit
from kdhelpers.experiments import config, records, runner
from kdhelpers.inspection import detector, export, resizing, thresholds
from kdhelpers.inspection.detector import Detector
from kdhelpers.protocols import protocol_for
from kdhelpers.tests.conftest import ASKED, refused

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


def untrained(source, protocol, size, dataset="mvtec"):
    cloner = networks.make_cloner(protocol, seed=1)
    cloner(torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)))  # a trained BatchNorm has moved
    return Detector(source, cloner.eval(), protocol, size, {}, {"dataset": dataset})


def of_the_package(trained, pixels):
    """Scores as in a run, and maps in double precision: in single one of a hundred has a ReLU that rounding moves."""
    normalise = trained.record["dataset"] == "cifar10"
    images = Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), normalise)
    scores = losses.scores(SourceActivations(trained.source, images), trained.cloner, trained.protocol).numpy()
    double = deepcopy(trained.source).double(), deepcopy(trained.cloner).double(), images[:].double()
    grey = localization.one_channel(localization.gradients(*double, trained.protocol)).numpy()
    return scores, localization.localization_map(grey)


def written(pixels, folder):
    files = [folder / f"{i}.png" for i in range(len(pixels))]
    for file, picture in zip(files, pixels, strict=True):
        Image.fromarray(picture).save(file)
    return files


def run_alone(path, folder, pixels):
    """Scores and maps of all pictures at once, and those of the first by itself."""
    files = written(pixels, folder)
    subprocess.run([sys.executable, "-c", ALONE, path, *files], cwd=folder, env={}, check=True)
    return np.load(folder / "found.npz")


@pytest.mark.parametrize(
    "name, dataset, size, changed",
    [
        ("official", "mvtec", 32, {"terms": "val"}),
        ("text", "mvtec", 32, {"terms": "dir", "score_points": 2}),
        ("official", "cifar10", 45, {}),  # of this size alone: Lanczos is not in the graph
    ],
)
def test_a_trace_is_the_function_for_every_loss(small, name, dataset, size, changed):
    trained = untrained(small, replace(protocol_for(name, dataset), **changed), size, dataset)
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    found = export.trace(trained)(torch.from_numpy(pixels))
    for ours, theirs in zip(found, of_the_package(trained, pixels), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "map_, score_by, exported, mask",
    [
        ("disagreement", "top", True, (20, 31)),
        ("gradients", "maximum", False, None),
        ("gradients", "loss", False, (90, 45)),
    ],
)
def test_a_detector_s_graph_has_its_own_map_and_score(small, tmp_path, map_, score_by, exported, mask):
    """Unlike a cloner's, whose map is the article's: heat above the pixel threshold is the same in the graph."""
    made = untrained(small, protocol_for("official", "folder"), 45)
    limits = {"threshold": thresholds.at(np.float32([0, 1]), 0.5), "pixel_threshold": 0.2}
    made = replace(made, map=map_, score_by=score_by, **limits)
    if mask:
        whole, ignore = made, np.zeros(mask, np.uint8)
        ignore[: mask[0] // 2, mask[1] // 3 :] = 255
        made = replace(made, ignore=ignore)
    pixels = np.random.default_rng(4).integers(0, 256, (3, 45, 45, 3), dtype=np.uint8)
    files = written(pixels, tmp_path)
    scores, maps = made.scores(files), np.stack(made.maps(files))
    if mask:
        assert (maps[:, :22, 16:] == 0).all() and (scores != whole.scores(files)).all()
    found = [each.numpy() for each in export.trace(made)(torch.from_numpy(pixels))]
    if exported:
        export.to_onnx(made, tmp_path / "it.onnx", ())
        alone = run_alone(tmp_path / "it.onnx", tmp_path, pixels)
        found = [alone["scores"], alone["maps"]]
        metadata = onnxruntime.InferenceSession(tmp_path / "it.onnx").get_modelmeta().custom_metadata_map
        assert (metadata["threshold"], metadata["pixel_threshold"]) == ("0.5", "0.2")
        wide = np.random.default_rng(5).integers(0, 256, (1, 37, 101, 3), dtype=np.uint8)  # masked, then resized
        of_wide = run_alone(tmp_path / "it.onnx", tmp_path, wide)["scores"]
        np.testing.assert_allclose(of_wide, made.scores([tmp_path / "0.png"]), rtol=1e-4)
    np.testing.assert_allclose(found[0], scores, rtol=1e-4)
    np.testing.assert_allclose(found[1], maps, rtol=0, atol=(1e-4 if map_ == "disagreement" else 5e-2) * maps.max())


@pytest.mark.parametrize("picture, mask", [((45, 45), (45, 45)), ((37, 101), (20, 31)), ((50, 64), (333, 777))])
def test_what_is_ignored_is_painted_as_by_pillow(picture, mask):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, *picture, 3), dtype=np.uint8)
    ignored = 255 * rng.integers(0, 2, mask, dtype=np.uint8)
    painted = [blanked(Image.fromarray(one), Image.fromarray(ignored)) for one in pixels]
    np.testing.assert_array_equal(resizing.blanked(torch.from_numpy(pixels), ignored), np.stack(painted))


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_the_backward_pass_of_a_pool_is_autograd_s_where_values_tie(size):
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (2, 4, *size), generator=rng).double().requires_grad_()  # of so few values many are equal
    pooled = max_pool2d(x, 2)
    grad = torch.randn(pooled.shape, generator=rng, dtype=torch.float64)
    (expected,) = torch.autograd.grad(pooled, x, grad)
    assert torch.equal(export._max_pool_backward(grad, x, [2, 2], [2, 2], [0, 0], [1, 1], False, None), expected)


@pytest.fixture(scope="module")
def trained(small, sample_data, tmp_path_factory):
    """The cloner's file of a training on the samples, and its record; 45 is odd before some pools."""
    folders = {"DATA_DIR": str(sample_data), "RESULTS_DIR": str(tmp_path_factory.mktemp("results"))}
    given = ASKED | {"PROTOCOL": "text", "SEED": 1, "CLASSES": ["bottle"], "EPOCHS": 2, "IMAGE_SIZE": 45} | folders
    (run,) = config.resolve("04_mvtec", **given)
    (record,) = runner.run_experiments([run])
    return run.cloner_path("bottle"), record


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The ONNX file that the command line makes of that cloner, its lines, and the detector behind it."""
    out, said = tmp_path_factory.mktemp("onnx") / "it.onnx", io.StringIO()
    with contextlib.redirect_stdout(said):
        export.main([str(trained[0]), str(out)])
    shown = records.load_pictures(trained[0]).pixels
    return out, said.getvalue().splitlines(), detector.load(trained[0], None, "cpu"), shown


def test_the_command_line_exports_a_trained_cloner_with_its_record_and_checks_it(
    small, trained, exported, tmp_path, monkeypatch
):
    path, record = trained
    out, lines, loaded, shown = exported
    assert [file.name for file in out.parent.iterdir()] == ["it.onnx"]  # the weights are in it
    assert [line.split(":")[0] for line in lines] == ["4 random images", "8 test images", str(out)]
    session = onnxruntime.InferenceSession(out)
    assert json.loads(session.get_modelmeta().custom_metadata_map["record"]) == record
    assert session.get_inputs()[0].shape == ["n", "h", "w", 3]
    assert loaded.protocol.lam == record["training"]["lambda"]
    noise = np.random.default_rng(1).integers(0, 256, (3, 45, 45, 3), dtype=np.uint8)
    found, (scores, maps) = run_alone(out, tmp_path, noise), of_the_package(loaded, noise)
    assert found["scores"].dtype == found["maps"].dtype == np.float32
    assert maps.max((1, 2)).min() > 0.1 and np.ptp(scores) > 1e-3  # there is something to agree on
    for count, name_of_scores, name_of_maps in ((3, "scores", "maps"), (1, "score", "map")):
        np.testing.assert_allclose(found[name_of_scores], scores[:count], rtol=1e-4)
        np.testing.assert_allclose(found[name_of_maps], maps[:count], rtol=0, atol=1e-4)

    right = export.compare(out, loaded, shown)
    wrong = export.compare(out, replace(loaded, cloner=untrained(small, loaded.protocol, 45).cloner), shown)
    made_before = Mock(**{"model.graph.all_nodes.return_value": []})
    made_before.model.metadata_props = {}
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: made_before)
    monkeypatch.setattr(export, "trace", Mock())
    place = tmp_path / "new" / "it.onnx"
    place.parent.mkdir()
    place.write_bytes(b"before")  # somebody's, which a failure must not cost
    for found in (wrong, (wrong[0], *right[1:]), (right[0], *wrong[1:]), (right[0] + np.nan, *right[1:])):
        monkeypatch.setattr(export, "compare", lambda *_, found=found: found)
        with refused(f"{place} is not written: it differs from PyTorch"):
            export.main([str(path), str(place)])
    assert place.read_bytes() == b"before" and list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize("sides", [(50, 131), (301, 64)])
def test_pictures_of_any_size_come_out_as_if_pillow_had_resized_them(exported, tmp_path, sides):
    """Score and resized pixels are Pillow's, even of noise; the map has the picture's size."""
    out, _, loaded, _ = exported
    pictures = np.random.default_rng(2).integers(0, 256, (4, *sides, 3), dtype=np.uint8)
    small = np.stack([fit(Image.fromarray(one), 45) for one in pictures])
    scores, _ = of_the_package(loaded, small)
    found = run_alone(out, tmp_path, pictures)
    np.testing.assert_allclose(found["scores"], scores, rtol=1e-4)
    assert found["maps"].shape == (4, *sides)


@pytest.mark.parametrize("size", [(64, 64), (40, 100)])
@pytest.mark.parametrize("sides", [(50, 60), (200, 90), (90, 200), (300, 41), (64, 300), (65, 64), (129, 96)])
def test_resizing_is_pillow_s_to_the_bit(size, sides):
    picture = np.random.default_rng(3).integers(0, 256, (*sides, 3), dtype=np.uint8)
    found = resizing.resized(torch.from_numpy(picture[None]), size)[0].numpy()
    assert np.array_equal(found, fit(Image.fromarray(picture), size))


def test_what_cannot_be_exported_is_reported_in_one_line(trained, tmp_path, monkeypatch):
    path, record = trained

    def fails(words, *more):
        with refused(words):
            export.main([str(path), str(tmp_path / "it.onnx"), *more])

    fails("none.pt' is neither", "--source", str(tmp_path / "none.pt"))
    for changed, words in (
        ({"method": "smoothgrad"}, "has maps by smoothgrad"),
        ({"protocol": {"name": "official"}}, "of another version of kdhelpers"),
    ):
        content = record | {"parameters": record["parameters"] | changed}
        with monkeypatch.context() as patch:
            patch.setattr(export.json, "loads", lambda _, content=content: content)
            fails(words)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    fails("needs the package onnxscript: install it in the repository with: pip install -e '.[export]'")
    assert not (tmp_path / "it.onnx").exists()
