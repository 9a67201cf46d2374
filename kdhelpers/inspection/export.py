"""Export source and cloner as one ONNX graph, from image to score and map.

ONNX has no automatic differentiation, but the article's map is a gradient. The package's own functions are therefore
traced with their backward pass. Two of the resulting operators exist only in backward passes and are rewritten here.
"""

import argparse
import json
import logging
import warnings
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import conv_transpose2d, interpolate, max_pool2d, pad, pixel_shuffle, pixel_unshuffle
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdhelpers import localization
from kdhelpers.data import ignore
from kdhelpers.data.images import Images, blanked, fit, sides
from kdhelpers.errors import InputError, in_one_line
from kdhelpers.experiments import records as results
from kdhelpers.files import atomic_write
from kdhelpers.inspection import detector, resizing
from kdhelpers.inspection.detector import Detector
from kdhelpers.metrics import strongest_count

TOLERANCE = 1e-4  # relative for every score; of maps with values up to about 1, as the median over images
# When two activations tie, a max-pool may pass the gradient to either: PyTorch's maps in single and double precision
# differ by up to 1e-2.
_TOLERANCE_OF_ONE = 5e-2
_aten = torch.ops.aten


def to_onnx(trained: Detector, path: Path, shown: np.ndarray) -> None:
    """Write source and cloner as one ONNX file, which replaces `path` only after a check against PyTorch.

    The input `images` is uint8 RGB (n, h, w, 3) of any n, h and w, such as np.asarray of Pillow pictures. The graph
    itself resizes, scales and reorders axes, so that users cannot get these steps wrong. (Pictures of CIFAR-10 must be
    prepared by `images.fit`, with h = w = `trained.image_size`.) The outputs are `score`, float32 (n,), and `map`,
    float32 (n, h, w), resized to the picture: of a detector as `Detector.scores` and `Detector.maps`, of a cloner as
    `losses.score` and the article's map. The metadata hold the record and a detector's two thresholds as JSON.

    shown: uint8 (n, h, w, 3), images to check in addition to random ones. Prints the largest differences. Raises
    InputError when they exceed rounding, when `path` cannot be written, and without onnx, onnxscript and onnxruntime.
    """
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]:
        install = "install it in the repository with: pip install -e '.[export]'"
        raise InputError(f"an export needs the package {missing[0]}: {install}")
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    varying = {i: torch.export.Dim(name) for i, name in enumerate("n" if _is_fixed(trained) else "nhw")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they concern the exporter's internals
        names = {"input_names": ["images"], "output_names": ["score", "map"], "dynamic_shapes": (varying,)}
        program = torch.onnx.export(trace(trained), (_random(trained, 5),), dynamo=True, verbose=False, **names)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # torch's notes on its origin, longer than the graph
    metadata = {"record": trained.record}
    if trained.threshold:
        metadata |= {"threshold": trained.threshold.value, "pixel_threshold": trained.pixel_threshold}
    for name, value in metadata.items():
        program.model.metadata_props[name] = json.dumps(value, sort_keys=True, ensure_ascii=False)
    with atomic_write(path) as temporary:
        program.save(temporary, external_data=False)
        for name, pixels in {"random images": _random(trained, 4).numpy(), "test images": shown}.items():
            if not len(pixels):
                continue
            of_score, of_map, own = compare(temporary, trained, pixels)
            print(
                f"{len(pixels)} {name}: largest difference from PyTorch {of_score.max():.0e} in the score (relative), "
                f"{of_map.max():.0e} in the map; between PyTorch's maps in single and double precision {own.max():.0e}"
            )
            close = of_score.max() < TOLERANCE and np.median(of_map) < TOLERANCE and of_map.max() < _TOLERANCE_OF_ONE
            if not close:
                fix = "try another version of torch, onnx or Pillow"
                raise InputError(f"{path} is not written: it differs from PyTorch; {fix}")


def _is_fixed(trained: Detector) -> bool:
    """True when the graph does not resize: CIFAR-10's Lanczos and crop do not apply to pictures of other sizes."""
    return trained.record["dataset"] == "cifar10"


def _input(trained: Detector, seen: Tensor) -> Tensor:
    """The networks' input, float32 (n, 3, h, w), for pictures of its size, with values up to 255, (n, h, w, 3)."""
    return Images(seen.permute(0, 3, 1, 2), normalise=_is_fixed(trained))[:]


def _random(trained: Detector, count: int) -> Tensor:
    """Random pictures, uint8 (count, h, w, 3). The exporter would take equal sides as equal in all pictures."""
    h, w = sides(trained.image_size)
    if not _is_fixed(trained):
        h, w = h + w + count, h + w + 2 * count
    return torch.randint(0, 256, (count, h, w, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def trace(trained: Detector) -> torch.fx.GraphModule:
    """The function of `to_onnx`, from images to (score, map), as a graph of torch operators without autograd."""
    plain = replace(trained, source=_plain(trained.source), cloner=_plain(trained.cloner))
    down, across = (
        torch.from_numpy(gaussian_filter1d(np.eye(side), localization.SIGMA, axis=0).astype(np.float32))
        for side in sides(trained.image_size)
    )
    counted = torch.from_numpy(_counted(trained))

    def score_and_map(pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen = pixels if trained.ignore is None else resizing.blanked(pixels, trained.ignore)
        x = _input(trained, seen if _is_fixed(trained) else resizing.resized(seen, trained.image_size))
        heat = _opened(down @ _attribution(plain, x) @ across.T) * counted
        score = _score(plain, x, heat)  # repeats the forward pass; the exporter merges the two
        return score, heat if _is_fixed(trained) else _stretched(heat, pixels)

    traced = make_fx(score_and_map, _BACKWARD, tracing_mode="symbolic", _allow_non_fake_inputs=True)
    return traced(_random(trained, 5)).eval()


def _stretched(heat: Tensor, pixels: Tensor | np.ndarray) -> Tensor:
    """Maps (n, h', w') resized to the pictures (n, h, w, 3)."""
    return interpolate(heat.unsqueeze(1), pixels.shape[1:3], mode="bilinear").squeeze(1)


def _attribution(trained: Detector, x: Tensor) -> Tensor:
    """What the filters of Eq. 6 make the map of: a detector's own, or the article's of a cloner; float (n, h, w)."""
    if trained.threshold:
        return trained.attribution(x)
    return localization.one_channel(localization.gradients(trained.source, trained.cloner, x, trained.protocol))


def _counted(trained: Detector) -> np.ndarray:
    """1 at a map's pixels, and 0 where the detector's mask ignores them; float32 (h, w)."""
    mask = ignore.reader(trained.ignore)(Path())  # one for all pictures
    return (~ignore.ignored(sides(trained.image_size), mask)).astype(np.float32)


def _score(trained: Detector, x: Tensor, heat: Tensor) -> Tensor:
    """The scores (n,) of a batch, from the networks or, as `metrics.strongest`, from maps (n, h, w)."""
    if trained.score_by == "loss":
        return trained.loss(x)
    return heat.flatten(1).topk(strongest_count(heat[0].numel(), trained.score_by)).values.mean(1)


def _plain(network: nn.Sequential) -> nn.Sequential:
    """The same function as convolutions, pools and ReLUs only, without in-place operations."""
    layers: list[nn.Module] = []
    for layer in deepcopy(network).eval():
        if isinstance(layer, nn.BatchNorm2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
        else:
            layers.append(nn.ReLU() if isinstance(layer, nn.ReLU) else layer)
    return nn.Sequential(*layers).requires_grad_(False).to(memory_format=torch.contiguous_format)


def _opened(maps: Tensor) -> Tensor:
    """Opening by `localization.ELEMENT`, a cross of five pixels. As in OpenCV, nothing counts beyond the border."""

    def dilated(maps: Tensor) -> Tensor:
        return torch.maximum(max_pool2d(maps, (3, 1), 1, (1, 0)), max_pool2d(maps, (1, 3), 1, (0, 1)))

    return dilated(-dilated(-maps.unsqueeze(1))).squeeze(1)


def _convolution_backward(
    grad, x, weight, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, output_mask
):
    return conv_transpose2d(grad, weight, None, stride, padding, output_padding, groups, dilation), None, None


def _max_pool_backward(grad, x, kernel_size, stride, padding, dilation, ceil_mode, indices):
    """Backward pass of a 2×2 max-pool: the gradient goes to the first maximum of each window."""
    h, w = grad.shape[2:]
    windows = pixel_unshuffle(x[..., : 2 * h, : 2 * w], 2).unflatten(1, (-1, 4))
    first = windows.argmax(2, keepdim=True) == torch.arange(4).view(4, 1, 1)
    spread = pixel_shuffle((grad.unsqueeze(2) * first).flatten(1, 2), 2)
    return pad(spread, (0, x.shape[3] - 2 * w, 0, x.shape[2] - 2 * h))  # an odd row or column is in no window


_BACKWARD = {
    _aten.convolution_backward.default: _convolution_backward,
    _aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
} | get_decompositions(
    [_aten.threshold_backward, _aten.mse_loss_backward, _aten.linalg_vecdot, _aten.linalg_vector_norm, _aten.lerp]
)


def compare(path: Path, trained: Detector, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences between ONNX Runtime's results for the file at `path` and PyTorch's, per image: float (n,) each.

    pixels: uint8 (n, h, w, 3), resized by Pillow for PyTorch. Of scores: relative to the score, but to at least 0.01,
    since one minus a cosine has the rounding error of one. Of maps: the largest difference from PyTorch's map in
    single or double precision, whichever is nearer, absolute for a cloner's map, whose values end at 1, and relative to
    its maximum for a detector's. Third, the same between these two maps.
    """
    import onnxruntime

    found_score, found_map = onnxruntime.InferenceSession(path).run(None, {"images": pixels})
    maps, mask = [], ignore.reader(trained.ignore)(Path())  # one for all pictures
    seen = np.stack([fit(blanked(Image.fromarray(each), mask), trained.image_size) for each in pixels])
    for dtype in (torch.float32, torch.float64):
        x = _input(trained, torch.from_numpy(seen)).to(dtype)
        exact = replace(trained, source=deepcopy(trained.source).to(dtype), cloner=deepcopy(trained.cloner).to(dtype))
        heat = torch.from_numpy(localization.localization_map(_attribution(exact, x).numpy()) * _counted(trained))
        maps.append(_stretched(heat, pixels).numpy())
    score = _score(exact, x, heat).numpy()  # in double precision
    top = maps[1].max((1, 2)) if trained.threshold else 1
    differences = np.abs([found_map - maps[0], found_map - maps[1], maps[0] - maps[1]]).max((2, 3)) / top
    return np.abs(found_score - score) / np.maximum(score, 0.01), differences[:2].min(0), differences[2]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, see --help. Raises InputError for an unsuitable file, and for results unlike PyTorch's."""
    about = "Export a trained cloner and its source as one ONNX file, and check it against PyTorch."
    parser = argparse.ArgumentParser(prog="python -m kdhelpers.inspection.export", description=about)
    parser.add_argument("cloner", type=Path, metavar="CLONER.safetensors", help="from results/cloners, or a detector")
    parser.add_argument("out", type=Path, metavar="OUT.onnx")
    parser.add_argument("--source", metavar="imagenet|PATH", help="where the source's weights are now, if they moved")
    given = parser.parse_args(arguments)
    trained = detector.load(given.cloner, given.source, "cpu")
    method = trained.record["parameters"]["method"]
    if method != "gradients":
        raise InputError(f"{given.cloner} has maps by {method}, a graph has gradients: give the main run's cloner")
    if trained.tile and (trained.score_by != "loss" or trained.ignore is not None):
        fix = "train with SCORE=loss and without IGNORE"
        raise InputError(f"{given.cloner} has a score or mask of whole pictures, a graph has one tile: {fix}")
    if isinstance(trained.ignore, Path):
        raise InputError(f"{given.cloner} has a mask for each picture, a graph has one for all: train with one mask")
    shown = () if trained.threshold else results.load_pictures(given.cloner).pixels  # only cloners' files have images
    to_onnx(trained, given.out, shown)
    print(f"{given.out}: {given.out.stat().st_size / 2**20:.0f} MiB; images are uint8 (n, h, w, 3), RGB")
    if trained.tile:
        print(f"it scores one tile of {trained.tile} px: cut as kdhelpers.data.tiles does, take the highest score")
    if trained.threshold:
        print(f"an image is bad when its score exceeds {trained.threshold.value:.6g}, which its metadata hold too")


if __name__ == "__main__":
    in_one_line(main)
