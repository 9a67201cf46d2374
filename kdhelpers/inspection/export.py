"""Export source and cloner as one ONNX graph, from image to score and map.

ONNX has no automatic differentiation, but the map is a gradient: the package's own functions are traced with their
backward pass. Two of the resulting operators are not ordinary ones, and are written out here.
"""

import argparse
import json
import logging
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import conv_transpose2d, max_pool2d, pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdhelpers import localization, losses, networks
from kdhelpers.data import weights
from kdhelpers.data.images import Images
from kdhelpers.errors import InputError, in_one_line
from kdhelpers.experiments import artifacts
from kdhelpers.experiments import records as results
from kdhelpers.files import atomic_write
from kdhelpers.inspection import detector
from kdhelpers.protocols import Protocol

TOLERANCE = 1e-4  # of every score, relative; of maps, absolute, in the median over images
# Where two activations tie, a max-pool may pass the gradient to either: PyTorch's maps in single and double precision
# differ by up to 1e-2.
_TOLERANCE_OF_ONE = 5e-2
_INSTALL = "install it in the repository with: pip install -e '.[export]'"
_aten = torch.ops.aten


def to_onnx(
    source: nn.Sequential,
    cloner: nn.Sequential,
    protocol: Protocol,
    image_size: int,
    path: Path | str,
    *,
    normalise: bool = False,
    record: dict | None = None,
    threshold: float | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Writes source and cloner as one ONNX file, whole or not at all, and returns its path.

    Its input `images` is uint8 (n, h, w, 3), RGB, h = w = `image_size`, any n: what np.asarray makes of a picture in
    Pillow. Scaling and the order of axes are in the graph, so that nobody can get them wrong; resizing is not, since
    only Pillow resizes as Pillow: as `images.fit` does, bilinear, and for CIFAR-10 Lanczos with a crop. Its outputs are
    `score`, float32 (n,), as `losses.score`, and `map`, float32 (n, h, w), as `localization.maps` has them of gradients
    with the Gaussian.

    protocol: with its λ. normalise: as in `images.Images`, True for CIFAR-10. record, threshold: go with the file, as
    JSON under these names in its metadata. check: is called with the finished file before it takes its place; when it
    raises, `path` is as it was before. Raises InputError without onnx and onnxscript, without λ, and when `path` cannot
    be written.
    """
    path = Path(path)
    if protocol.lam is None and protocol.terms == "total":
        raise InputError(f"the protocol {protocol.name} has no λ yet: give the one of the training (Fit.protocol)")
    program = _program(trace(source, cloner, protocol, image_size, normalise), image_size)
    for name, value in {"record": record, "threshold": threshold}.items():
        if value is not None:
            program.model.metadata_props[name] = json.dumps(value, sort_keys=True, ensure_ascii=False)
    with atomic_write(path) as temporary:
        program.save(temporary, external_data=False)
        if check:
            check(temporary)
    return path


def trace(
    source: nn.Sequential, cloner: nn.Sequential, protocol: Protocol, image_size: int, normalise: bool
) -> torch.fx.GraphModule:
    """The function from images to (score, map) as a graph of torch's operators without autograd; as in `to_onnx`."""
    source, cloner = _plain(source), _plain(cloner)
    blur = torch.from_numpy(gaussian_filter1d(np.eye(image_size), localization.SIGMA, axis=0).astype(np.float32))

    def score_and_map(pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = Images(pixels.permute(0, 3, 1, 2), normalise)[:]
        grey = localization.one_channel(localization.gradients(source, cloner, x, protocol))
        # The same forward pass as in `gradients`; the exporter finds that out and keeps one.
        a_s, a_c = networks.critical_points(source, x), networks.critical_points(cloner, x)
        return losses.score(a_s, a_c, protocol), _opened(blur @ grey @ blur.T)

    # The size of the batch must be no other size in the graph, or it would be taken for the same.
    return make_fx(score_and_map, decomposition_table=_BACKWARD, tracing_mode="symbolic", _allow_non_fake_inputs=True)(
        _example(image_size)
    ).eval()


def _example(image_size: int) -> Tensor:
    return torch.zeros(5, image_size, image_size, 3, dtype=torch.uint8)


def _program(graph: torch.fx.GraphModule, image_size: int):
    """The `torch.onnx.ONNXProgram` of a traced graph."""
    try:
        import onnx  # noqa: F401 - both are needed by torch's exporter, which names them less clearly
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"an export needs the package {error.name}: {_INSTALL}") from None
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all about the exporter's own insides
        program = torch.onnx.export(
            graph,
            (_example(image_size),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("n")},),
            input_names=["images"],
            output_names=["score", "map"],
            verbose=False,
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # the way torch came to it, which is longer than the graph
    return program


def _plain(network: nn.Sequential) -> nn.Sequential:
    """The same function in convolutions, pools and ReLUs only, nothing in place, on the CPU."""
    layers: list[nn.Module] = []
    for layer in deepcopy(network).eval().cpu():
        if isinstance(layer, nn.BatchNorm2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
        else:
            layers.append(nn.ReLU() if isinstance(layer, nn.ReLU) else layer)
    return nn.Sequential(*layers).requires_grad_(False).to(memory_format=torch.contiguous_format)


def _opened(maps: Tensor) -> Tensor:
    """Opening by `localization.ELEMENT`, a cross of five pixels; beyond the border, as in OpenCV, is nothing."""

    def dilated(maps: Tensor) -> Tensor:
        return torch.maximum(max_pool2d(maps, (3, 1), 1, (1, 0)), max_pool2d(maps, (1, 3), 1, (0, 1)))

    return dilated(-dilated(-maps.unsqueeze(1))).squeeze(1)


def _convolution_backward(
    grad, x, weight, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, output_mask
):
    return conv_transpose2d(grad, weight, None, stride, padding, output_padding, groups, dilation), None, None


def _max_pool_backward(grad, x, kernel_size, stride, padding, dilation, ceil_mode, indices):
    """Of a 2×2 pool: the gradient goes to the maximum of each window, of several equal ones to the first."""
    h, w = grad.shape[2:]
    windows = x[..., : 2 * h, : 2 * w].unflatten(3, (w, 2)).unflatten(2, (h, 2)).transpose(3, 4).flatten(4)
    first = windows.argmax(4, keepdim=True) == torch.arange(4)
    spread = (grad.unsqueeze(4) * first).unflatten(4, (2, 2)).transpose(3, 4).flatten(4).flatten(2, 3)
    if spread.shape == x.shape:
        return spread
    return pad(spread, (0, x.shape[3] - 2 * w, 0, x.shape[2] - 2 * h))  # an odd row or column is in no window


_BACKWARD = {
    _aten.convolution_backward.default: _convolution_backward,
    _aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
} | get_decompositions(
    [_aten.threshold_backward, _aten.mse_loss_backward, _aten.linalg_vecdot, _aten.linalg_vector_norm, _aten.lerp]
)


def compare(
    path: Path | str,
    source: nn.Sequential,
    cloner: nn.Sequential,
    protocol: Protocol,
    pixels: np.ndarray,
    normalise: bool,
) -> dict[str, np.ndarray]:
    """How far ONNX Runtime's results with the file at `path` are from PyTorch's, image by image, in float (n,).

    pixels: uint8 (n, h, w, 3). Returns "score", relative to the score, or to 0.01 for less, since one minus a cosine is
    rounded as one is; "map", the largest absolute difference from the nearer of PyTorch's maps in single and in double
    precision; and "PyTorch", that between these two, for measure. Raises InputError without onnxruntime.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"the check of an export needs the package {error.name}: {_INSTALL}") from None
    images = Images(torch.from_numpy(pixels).permute(0, 3, 1, 2), normalise)
    found_score, found_map = onnxruntime.InferenceSession(path).run(None, {"images": pixels})
    _, single = _in_torch(source, cloner, protocol, images[:])
    score, double = _in_torch(source, cloner, protocol, images[:].double())
    return {
        "score": np.abs(found_score - score) / np.maximum(score, 0.01),
        "map": np.minimum(*(np.abs(found_map - theirs).max((1, 2)) for theirs in (single, double))),
        "PyTorch": np.abs(single - double).max((1, 2)),
    }


def _in_torch(source, cloner, protocol: Protocol, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    source, cloner = (deepcopy(network).to(x.dtype) for network in (source, cloner))
    with torch.no_grad():
        score = losses.score(networks.critical_points(source, x), networks.critical_points(cloner, x), protocol)
    grey = localization.one_channel(localization.gradients(source, cloner, x, protocol)).numpy()
    return score.numpy(), localization.localization_map(grey)


def load_cloner(path: Path | str) -> tuple[nn.Sequential, Protocol, dict, np.ndarray, float | None]:
    """What `artifacts.save` or `detector.save` left at `path`: cloner, protocol with λ, record, test images, threshold.

    The images are uint8 (n, h, w, 3), a few, none with a detector; only a detector has a threshold. Raises InputError
    when the file is none of these or has been written by another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if "detector" in metadata:
            found = detector.read(path)
            if (found.score_by, found.map) != ("loss", "gradients"):
                raise InputError(f"{path} has another SCORE or MAP than the loss and its gradients, which a graph has")
            nothing = np.empty((0, found.image_size, found.image_size, 3), np.uint8)
            return found.cloner, found.protocol, found.record, nothing, found.threshold.value
        record = json.loads(metadata["record"])
        protocol = Protocol(**record["parameters"]["protocol"])
        like = SimpleNamespace(protocol=protocol, seed=record["seed"], device="cpu")
        cloner = artifacts.load_cloner(path, like)
        protocol = replace(protocol, lam=record["training"]["lambda"])
        return cloner, protocol, record, results.load_pictures(path).pixels, None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): give a file of results/cloners") from None
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} is not a cloner of this version ({reason}): give one of results/cloners, or run its notebook again"
        ) from None


def main(arguments: list[str] | None = None) -> None:
    """The command line, see --help. Raises InputError for what is not there, does not fit, or comes out different."""
    parser = argparse.ArgumentParser(
        prog="python -m kdhelpers.inspection.export",
        description="Makes one ONNX file of a trained cloner and its source, and checks it against PyTorch.",
    )
    parser.add_argument("cloner", type=Path, metavar="CLONER.safetensors", help="of results/cloners, or a detector")
    parser.add_argument("out", type=Path, metavar="OUT.onnx")
    parser.add_argument("--source", metavar="imagenet|PATH", help="where the source's weights are now, if not as then")
    given = parser.parse_args(arguments)
    cloner, protocol, record, shown, threshold = load_cloner(given.cloner)
    method = record["parameters"]["method"]
    if method != "gradients":
        raise InputError(f"{given.cloner} has maps by {method}, a graph those by gradients: give the main run's cloner")
    where = given.source or record["environment"]["source"]
    try:
        source, identity = weights.load_source(where)
    except InputError as error:
        raise InputError(f"{error}; with --source") from None
    if identity["sha256"] != record["source"]["sha256"]:
        raise InputError(
            f"{where} is not the source of this cloner, {record['source']['name']} (SHA-256 {identity['sha256'][:8]}… "
            f"instead of {record['source']['sha256'][:8]}…): give it with --source"
        )
    size, normalise = record["parameters"]["image_size"], record["dataset"] == "cifar10"
    noise = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)

    def check(written: Path) -> None:
        for name, pixels in (("random images", noise), *([("test images", shown)] if len(shown) else [])):
            found = compare(written, source, cloner, protocol, pixels, normalise)
            score, map_, own = (found[what].max() for what in ("score", "map", "PyTorch"))
            print(
                f"{len(pixels)} {name}: largest difference from PyTorch {score:.0e} in the score (relative), "
                f"{map_:.0e} in the map; between PyTorch's maps in single and double precision {own:.0e}"
            )
            if not agrees(found):
                raise InputError(f"{given.out} is not written: it differs from PyTorch; try another torch or onnx")

    to_onnx(
        source, cloner, protocol, size, given.out, normalise=normalise, record=record, threshold=threshold, check=check
    )
    print(f"{given.out}: {given.out.stat().st_size / 2**20:.0f} MiB; images are uint8 (n, {size}, {size}, 3), RGB")
    if threshold is not None:
        print(f"bad is a score above {threshold:.6g}, which is in its metadata too")


def agrees(differences: dict[str, np.ndarray]) -> bool:
    """True when what `compare` found is rounding."""
    return bool(
        differences["score"].max() < TOLERANCE
        and np.median(differences["map"]) < TOLERANCE
        and differences["map"].max() < _TOLERANCE_OF_ONE
    )


if __name__ == "__main__":
    in_one_line(main)
