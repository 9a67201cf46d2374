"""The two protocols, field by field, and the article's settings for each data set.

Each difference between the article and its released code is one field of `Protocol`. An ablation is therefore just
`dataclasses.replace(protocol, field=value)`.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Protocol:
    """The settings of training, score and map; the comments cite the article's section if it has one."""

    name: str
    order: Literal["val + lambda * dir", "dir + lambda * val"]  # Eq. 4: the term that λ weights
    lam: float | None  # λ; None: set by `losses.calibrate` on the untrained cloner (Sec. 3.1)
    score_points: int  # number of critical points, counted from the last, in the score and the map (Sec. 3.1)
    batch_norm: bool  # in the cloner, after every convolution except those before a pool
    gradient: Literal["cloner", "both"]  # the map's backward pass: through C only, or through both S and C
    renormalise: bool  # maps of SmoothGrad and guided backprop: min–max scaling again, before the Gaussian
    soft_masks: bool  # pixel AUROC: use resized masks, in [0, 1], instead of thresholding them at 0.5
    stop: Literal["epochs", "converged"]  # a fixed number of epochs, or "until fully converged" (Sec. 3.1)
    terms: Literal["total", "val", "dir"] = "total"  # Sec. 3.3.3: the loss, or one of its two terms alone
    points: int = 4  # Sec. 3.3.1: number of critical points, counted from the last, in the objective
    width: Literal["compact", "equal"] = "compact"  # Sec. 3.3.2: the cloner of Fig. 2, or one as wide as the source
    bias: bool = False  # Sec. 3.2: in the cloner's convolutions
    learning_rate: float = 1e-3  # Sec. 3.2, Adam


@dataclass(frozen=True)
class Setting:
    """The settings of one data set, the article's or else the released code's, and the sizes of one of its classes."""

    image_size: int  # pixels, after resizing (Sec. 4.1)
    epochs: int  # the released loop runs one more than its argument; the maximum for `stop="converged"`
    classes: int  # this and the numbers of images are approximate, for estimates of time and memory only
    images: int  # normal training images of a class
    tests: int  # test images of a class
    masked: int = 0  # anomalous test images with a mask
    official_lam: float = 0.01


SETTINGS = {
    "mnist": Setting(image_size=32, epochs=51, classes=10, images=6000, tests=10000),
    "fashion_mnist": Setting(image_size=32, epochs=51, classes=10, images=6000, tests=10000),
    "cifar10": Setting(image_size=224, epochs=201, classes=10, images=5000, tests=10000),
    "mvtec": Setting(image_size=128, epochs=601, classes=15, images=250, tests=115, masked=84, official_lam=0.5),
    # Neither the article nor the code's comments give epochs for these. Small sets of large images use MVTec's; OCT,
    # with many thousands of images, uses MNIST's (the code's configuration file happens to be set to it, with 201).
    "retinal_oct": Setting(image_size=128, epochs=51, classes=2, images=26000, tests=1000),
    "head_ct": Setting(image_size=128, epochs=601, classes=1, images=90, tests=110),
    "brain_mri": Setting(image_size=256, epochs=601, classes=1, images=88, tests=165),
    # Your own photographs resemble MVTecAD's most. After 200 epochs, held-out good images of screw and BrainMRI rank
    # nearly as after 601 (Spearman's correlation 0.95 to 0.99 in four runs), but not yet after 100 (0.89 to 0.96).
    "folder": Setting(image_size=128, epochs=200, classes=1, images=100, tests=100, masked=100, official_lam=0.5),
}
SMOKE_SIZE = 64  # pixels in `smoke`, where a larger size would be too slow

GOOD = "good"  # the kind of a normal test image
NUMBERS = tuple("0123456789")
CLASS_NAMES = {  # names of the classes "0" to "9" of Table 2
    "mnist": NUMBERS,
    "fashion_mnist": tuple("T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")),
    "cifar10": tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
}
MVTEC = tuple(  # in the order of Table 3
    "bottle hazelnut capsule metal_nut leather pill wood carpet tile grid "
    "cable transistor toothbrush screw zipper".split()
)

METHOD_VERSION = 1
"""Increase it in every commit that changes a recorded number; records of another version are stale.

1: both protocols as first recorded with schema 2 (same numbers as before it).
"""

BATCH_SIZE = 64  # Sec. 3.2
PRECISIONS = ("float32", "tf32", "bfloat16")  # in which S and C compute; the article uses the first
METHODS = ("gradients", "smoothgrad", "guided_backprop")  # of localization (Sec. 3.3.4); the runs take the first
NOT_SCALED = ("disagreement", "edges")  # maps that are not in the article, with values that compare between images
LAST_EPOCHS = 10  # Sec. 4: results are the mean over the last ten epochs
SCORED_EVERY = 10  # epochs between scorings of the test images before the last ten; for curves, never for selection
SEEDS = 10  # number of seeds (Sec. 4)
NORMAL_TEST = 10  # number of random normal test images of HeadCT and BrainMRI (Sec. 4.1)
# Smoke's samples have at most 40 training images a class: the article's batch would give too few steps to learn them.
SMOKE_EPOCHS, SMOKE_BATCH_SIZE = 12, 4
FALSE_ALARMS = 0.05  # share of your own good images that may be called bad

_TEXT = Protocol(
    name="text",
    order="val + lambda * dir",
    lam=None,
    score_points=4,
    batch_norm=False,
    gradient="cloner",
    renormalise=False,
    soft_masks=False,
    stop="converged",
)
_OFFICIAL = Protocol(
    name="official",
    order="dir + lambda * val",
    lam=0.01,
    score_points=3,
    batch_norm=True,
    gradient="both",
    renormalise=True,
    soft_masks=True,
    stop="epochs",
)
PROTOCOLS = {"official": _OFFICIAL, "text": _TEXT}


def protocol_for(name: str, dataset: str) -> Protocol:
    """The protocol `name` ("official" or "text"), with its λ for `dataset`."""
    protocol = PROTOCOLS[name]
    return protocol if protocol.lam is None else replace(protocol, lam=SETTINGS[dataset].official_lam)
