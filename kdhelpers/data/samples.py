"""Small generated samples of every data set, in its own layout on disk, so that everything runs without a download.

`python -m kdhelpers.data.samples [DEST]` writes them. Results on them mean nothing: only the digits are real.
"""

import hashlib
import math
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image, ImageDraw, ImageFilter

from kdhelpers import paths
from kdhelpers.errors import InputError, in_one_line
from kdhelpers.protocols import CLASS_NAMES

Contents = Iterator[tuple[str, Image.Image | bytes]]  # a sample's files: path in DATA_DIR, and content


def make(dest: Path | str = paths.SAMPLES_DIR) -> Path:
    """Write the samples to `dest`, a DATA_DIR, unless they are present; return it.

    The bytes are always the same. The folder is written aside and renamed, so `dest` is complete or absent; a second
    process waits for the first. Raises InputError when `dest` holds something else or cannot be written to.
    """
    dest = Path(dest).expanduser()
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()  # another version's samples are replaced
    mark = dest / ".samples"
    if mark.is_file() and mark.read_text() == version:
        return dest
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(dest.parent / f".{dest.name}.lock")
        with lock, tempfile.TemporaryDirectory(prefix=f".{dest.name}-", dir=dest.parent) as aside:
            if mark.is_file() and mark.read_text() == version:  # another process was faster
                return dest
            if dest.exists() and not mark.is_file() and (not dest.is_dir() or any(dest.iterdir())):
                raise InputError(f"{dest} exists and holds something other than samples; name another folder for them")
            _write(new := Path(aside, "new"))
            (new / mark.name).write_text(version)
            if dest.exists():
                dest.rename(Path(aside, "old"))
            new.rename(dest)
    except OSError as error:
        raise InputError(f"{dest}: the samples cannot be written there ({error.strerror or error})") from None
    return dest


def _write(root: Path) -> None:
    for contents in _CONTENTS:
        name = contents.__name__.removeprefix("_")  # the seed, so that a set does not depend on the others
        for place, content in contents(np.random.default_rng(zlib.crc32(name.encode()))):
            path = root / place
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content.save(path, optimize=path.suffix == ".png", quality=88)


def _grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """y and x of every pixel, from -1 to 1, in a picture of this (height, width)."""
    return np.meshgrid(*(np.linspace(-1, 1, side) for side in size), indexing="ij")


def _clouds(rng: np.random.Generator, size: tuple[int, int], cells: int = 6) -> np.ndarray:
    """Smooth noise from -1 to 1."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))


def _ellipse(size: tuple[int, int], cy: float, cx: float, ry: float, rx: float, turn: float = 0.0) -> np.ndarray:
    """1 inside, 0 outside, with a soft edge of about one pixel."""
    y, x = _grid(size)
    y, x = y - cy, x - cx
    y, x = y * math.cos(turn) - x * math.sin(turn), y * math.sin(turn) + x * math.cos(turn)
    return np.clip((1 - np.hypot(y / ry, x / rx)) * min(size[0] * ry, size[1] * rx) / 2 + 0.5, 0, 1)


def _blob(rng: np.random.Generator, size: tuple[int, int], cy: float, cx: float, radius: float) -> np.ndarray:
    """An ellipse with a wavy outline."""
    ry, rx = radius * rng.uniform(0.7, 1.2, 2)
    shape = _ellipse(size, cy, cx, ry, rx, rng.uniform(0, math.pi))
    return np.clip((shape + 0.35 * _clouds(rng, size, 9) - 0.25) * 4, 0, 1) * (shape > 0)


def _scratch(rng: np.random.Generator, size: tuple[int, int], cy: float, cx: float, thick: int) -> np.ndarray:
    """A broken line of three pieces."""
    picture, angle, points = Image.new("L", size[::-1]), rng.uniform(0, math.pi), []
    for step in (-0.45, -0.15, 0.15, 0.45):
        across = rng.uniform(-0.06, 0.06)
        y, x = cy + step * math.sin(angle) + across, cx + step * math.cos(angle) - across
        points.append(((x + 1) / 2 * size[1], (y + 1) / 2 * size[0]))
    ImageDraw.Draw(picture).line(points, 255, thick, joint="curve")
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(0.6))) / 255


def _mix(picture: np.ndarray, colour, shape: np.ndarray) -> np.ndarray:
    """Blend `colour` into `picture`, (h, w, 3) or (h, w), with the weights `shape`."""
    shape = shape[..., None] if picture.ndim == 3 else shape
    return picture * (1 - shape) + np.asarray(colour, float) * shape


def _oval(picture: np.ndarray, colour, *where: float) -> np.ndarray:
    """Blend `colour` into `picture` in an ellipse; where: its centre, radii and rotation."""
    return _mix(picture, colour, _ellipse(picture.shape[:2], *where))


def _to_image(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8))


def _idx(folder: str, rng: np.random.Generator, train: list, test: list) -> Contents:
    """MNIST's four files from pairs (image, label), with the test images shuffled."""
    for part, pairs in (("train", train), ("t10k", [test[i] for i in rng.permutation(len(test))])):
        for name, values in zip(("images-idx3", "labels-idx1"), zip(*pairs, strict=True), strict=True):
            array = np.array(values, np.uint8)
            header = np.array([0x800 + array.ndim, *array.shape], ">i4")
            yield f"{folder}/{part}-{name}-ubyte", header.tobytes() + array.tobytes()


def _mnist(rng: np.random.Generator) -> Contents:
    from sklearn.datasets import load_digits  # takes a second to import, and is needed only here

    def enlarge(digit: np.ndarray) -> np.ndarray:
        small = Image.fromarray((digit * 255 / 16).astype(np.uint8))
        return np.pad(small.resize((22, 22), Image.Resampling.BICUBIC), 3)

    def pairs(part: slice) -> list:
        found = load_digits()
        return [(enlarge(x), label) for label in range(10) for x in found.images[found.target == label][part]]

    return _idx("MNIST/raw", rng, pairs(slice(40)), pairs(slice(40, 60)))


_CLOTHES = (  # half outlines from top to bottom, (x, y) from 0 to 1; full outlines of shoes and bags
    ((0.12, 0.1), (0.3, 0.1), (0.46, 0.3), (0.4, 0.42), (0.27, 0.34), (0.27, 0.92)),
    ((0.2, 0.05), (0.22, 0.95), (0.05, 0.95), (0.02, 0.35)),
    ((0.1, 0.08), (0.28, 0.12), (0.44, 0.85), (0.34, 0.88), (0.25, 0.45), (0.25, 0.9)),
    ((0.07, 0.05), (0.14, 0.1), (0.1, 0.4), (0.28, 0.95)),
    ((0.12, 0.04), (0.3, 0.1), (0.45, 0.9), (0.36, 0.92), (0.29, 0.4), (0.3, 0.98), (0.02, 0.98), (0.02, 0.2)),
    ((0.05, 0.72), (0.45, 0.62), (0.6, 0.35), (0.7, 0.38), (0.62, 0.62), (0.95, 0.7), (0.95, 0.78), (0.05, 0.8)),
    ((0.1, 0.06), (0.29, 0.14), (0.38, 0.6), (0.31, 0.62), (0.25, 0.4), (0.24, 0.95), (0.02, 0.95), (0.02, 0.12)),
    ((0.05, 0.5), (0.25, 0.42), (0.5, 0.52), (0.92, 0.62), (0.97, 0.75), (0.05, 0.75)),
    ((0.1, 0.35), (0.32, 0.33), (0.36, 0.15), (0.64, 0.15), (0.68, 0.33), (0.9, 0.35), (0.95, 0.9), (0.05, 0.9)),
    ((0.1, 0.1), (0.42, 0.1), (0.45, 0.5), (0.9, 0.68), (0.95, 0.9), (0.1, 0.9)),
)


def _fashion_mnist(rng: np.random.Generator) -> Contents:
    def draw(label: int) -> np.ndarray:
        outline = np.array(_CLOTHES[label])
        if outline[:, 0].max() < 0.5:
            outline = np.concatenate([outline + (0.5, 0), outline[::-1] * (-1, 1) + (0.5, 0)])
        outline = (outline - 0.5) * rng.uniform(0.85, 1.05, 2) + 0.5 + rng.uniform(-0.02, 0.02, 2)
        picture = Image.new("L", (112, 112))
        ImageDraw.Draw(picture).polygon([tuple(point) for point in outline * 112], int(rng.integers(120, 235)))
        cloth = np.asarray(picture.resize((28, 28), Image.Resampling.BOX)) * (1 + 0.15 * _clouds(rng, (28, 28)))
        return np.clip(cloth, 0, 255).astype(np.uint8)

    train, test = ([(draw(label), label) for label in range(10) for _ in range(count)] for count in (20, 10))
    return _idx("FashionMNIST/raw", rng, train, test)


def _cifar10(rng: np.random.Generator) -> Contents:
    """An ellipse (label 0), a circle (label 1) or a star with `label` spikes, on a cloudy background."""
    grounds = np.array([[120, 170, 220], [110, 110, 120], [140, 190, 150], [180, 150, 120], [90, 130, 70]])
    for label, name in enumerate(CLASS_NAMES["cifar10"]):
        colour = np.array([label * 83, label * 151 + 60, label * 37 + 120]) % 256
        for part, i in [("train", i) for i in range(10)] + [("test", i) for i in range(5)]:
            picture = grounds[label % 5] + 22 * _clouds(rng, (32, 32), 4)[..., None] + rng.uniform(-12, 12, 3)
            y, x = _grid((32, 32))
            y, x = y - rng.uniform(-0.2, 0.2), (x - rng.uniform(-0.2, 0.2)) * (0.5 if label == 0 else 1)
            turn = rng.uniform(0, 0.4)
            radius = 0.5 + (0.25 * np.cos(label * (np.arctan2(y, x) + turn)) if label > 1 else 0)
            shape = np.clip((radius - np.hypot(y, x)) * 12 + 0.5, 0, 1)
            picture = _mix(picture, colour + rng.uniform(-15, 15, 3), shape)
            yield f"cifar10/{part}/{name}/{i:04d}.png", _to_image(picture)


def _bottle(rng: np.random.Generator) -> np.ndarray:
    cy, cx = rng.uniform(-0.03, 0.03, 2)
    picture = np.full((128, 128, 3), 236.0)
    for radius, colour in ((0.86, (70, 48, 30)), (0.74, (104, 70, 40)), (0.6, (44, 32, 24)), (0.3, (26, 20, 16))):
        picture = _oval(picture, np.array(colour) + rng.uniform(-4, 4), cy, cx, radius, radius)
    return _mix(picture, (190, 160, 130), 0.7 * _ellipse((128, 128), cy - 0.4, cx - 0.5, 0.1, 0.14, 0.8))


def _carpet(rng: np.random.Generator) -> np.ndarray:
    y, x = _grid((128, 128))
    turn, phase = rng.uniform(-0.02, 0.02), rng.uniform(0, 2 * math.pi, 2)
    weave = np.sin(40 * (y + turn * x) + phase[0]) * np.sin(40 * (x - turn * y) + phase[1])
    return np.rint(128 + 14 * weave + 6 * _clouds(rng, (128, 128), 5))[..., None] + np.array((6.0, 0, -4))


def _cookie(rng: np.random.Generator) -> np.ndarray:
    size = ((180, 240), (240, 180), (150, 200))[rng.integers(3)]
    picture = np.array((150.0, 165, 175)) + 8 * _clouds(rng, size, 4)[..., None]
    ry, rx = 0.66 * min(size) / np.array(size)
    dough = np.array((200.0, 150, 90)) + 14 * _clouds(rng, size, 12)[..., None]
    picture = _oval(picture, dough, *rng.uniform(-0.05, 0.05, 2), ry, rx)
    for angle in np.arange(5) * 2 * math.pi / 5 + rng.uniform(0, 1):
        chip = 0.55 * ry * math.sin(angle), 0.55 * rx * math.cos(angle), 0.12 * ry, 0.12 * rx
        picture = _oval(picture, (160, 110, 60), *chip)
    return picture


def _inspection(
    rng: np.random.Generator, folder: str, suffix: str, draw: Callable, train: int, bad: int, defects: dict
) -> Contents:
    """MVTec AD's layout, with four good test images; bad: the number of each kind; defects: shape, size and colour."""
    for part, count in {"train": train, "test": 4}.items():
        for i in range(count):
            yield f"{folder}/{part}/good/{i:03d}{suffix}", _to_image(draw(rng))
    for kind, (make_shape, size, colour) in defects.items():
        for i in range(bad):
            picture = draw(rng)
            shape = make_shape(rng, picture.shape[:2], *rng.uniform(-0.35, 0.35, 2), size)
            yield f"{folder}/test/{kind}/{i:03d}{suffix}", _to_image(_mix(picture, colour, shape))
            yield f"{folder}/ground_truth/{kind}/{i:03d}_mask.png", _to_image(255.0 * (shape > 0.3))


def _mvtec(rng: np.random.Generator) -> Contents:
    defects = {"broken_large": (_blob, 0.22, (214, 206, 198)), "contamination": (_blob, 0.15, (120, 140, 60))}
    yield from _inspection(rng, "mvtec/bottle", ".png", _bottle, 12, 4, defects)
    defects = {"color": (_blob, 0.2, (170, 60, 60)), "cut": (_scratch, 4, (40, 36, 34))}
    yield from _inspection(rng, "mvtec/carpet", ".png", _carpet, 12, 4, defects)


def _own_images(rng: np.random.Generator) -> Contents:
    defects = {"crack": (_scratch, 5, (60, 30, 15)), "mould": (_blob, 0.2, (90, 130, 90))}
    return _inspection(rng, "own_images", ".jpg", _cookie, 10, 3, defects)


def _retina(rng: np.random.Generator, kind: str) -> np.ndarray:
    size = ((124, 128), (124, 192))[rng.integers(2)]
    y, x = _grid(size)
    line = 0.1 * np.cos(2 * x + rng.uniform(-0.5, 0.5)) + rng.uniform(-0.1, 0.1)
    at = rng.uniform(-0.4, 0.4)
    if kind == "CNV":
        line = line - 0.35 * np.exp(-(((x - at) / 0.2) ** 2))
    if kind == "DRUSEN":
        line = line - 0.07 * np.maximum(0, np.cos(14 * (x - at))) * (abs(x) < 0.7)
    picture = 22 + 10 * _clouds(rng, size, 24)
    for offset, thick, bright in ((-0.42, 0.07, 120), (-0.25, 0.12, 60), (-0.05, 0.09, 90), (0.12, 0.08, 170)):
        picture = picture + bright * np.exp(-(((y - line - offset) / thick) ** 2))
    for dx in (-0.14, 0, 0.13) if kind in ("DME", "Ungood") else ():  # cysts
        picture = _oval(picture, 12, -0.2 + rng.uniform(-0.06, 0.06), at + dx, rng.uniform(0.1, 0.16), 0.07)
    return picture


def _retinal_oct(rng: np.random.Generator) -> Contents:
    # Like the original, OCT2017 has training images of diseases, which are not used.
    oct2017 = {"train/NORMAL": 12, "test/NORMAL": 4, "test/CNV": 4, "train/CNV": 1}
    oct2017 |= {"test/DME": 4, "train/DME": 1, "test/DRUSEN": 4, "train/DRUSEN": 1}
    resc = {"train/good": 12, "test/good": 4, "test/Ungood": 4}
    for name, plan in (("oct2017/{0}/{1}-{2}-1.jpeg", oct2017), ("resc/{0}/{2}.png", resc)):
        for place, count in plan.items():
            for i in range(1, count + 1):
                yield name.format(place, kind := Path(place).name, i), _to_image(_retina(rng, kind))


def _head(rng: np.random.Generator, anomalous: bool, mri: bool) -> Image.Image:
    size = tuple(rng.integers(112, 151, 2))
    folds = 20 * np.abs(_clouds(rng, size, 14)) if mri else 8 * _clouds(rng, size, 8)
    picture = _oval(np.zeros(size), 150 if mri else 245, 0, 0, 0.9, 0.76)
    picture = _oval(picture, (60 if mri else 105) + folds, 0, 0, 0.8, 0.66)
    for side in (-0.12, 0.12):  # the ventricles
        picture = _oval(picture, 35, -0.05, side, 0.22, 0.07, -side)
    if anomalous:
        at = rng.uniform(-0.4, 0.4), rng.choice((-1, 1)) * rng.uniform(0.28, 0.4)
        picture = _mix(picture, 210 if mri else 190, _blob(rng, size, *at, rng.uniform(0.16, 0.26)))
    return _to_image(picture)


def _head_ct(rng: np.random.Generator) -> Contents:
    for i in range(32):
        yield f"head_ct/head_ct/{i:03d}.png", _head(rng, i < 8, mri=False).convert("RGBA" if i % 6 == 5 else "RGB")
    rows = "".join(f"{i},{int(i < 8)}\n" for i in range(32))
    yield "head_ct/labels.csv", f"id, hemorrhage\n{rows}".encode()  # with the space that the original has


def _brain_mri(rng: np.random.Generator) -> Contents:
    formats = (("RGB", "jpg"), ("L", "jpg"), ("RGB", "JPG"), ("RGBA", "png"), ("P", "png"), ("L", "jpeg"))
    for i in range(32):
        mode, suffix = formats[i % len(formats)]
        name = f"yes/Y{i + 1}" if i < 8 else f"no/{i - 7} no"
        yield f"brain_mri/{name}.{suffix}", _head(rng, i < 8, mri=True).convert(mode)


_CONTENTS = (_mnist, _fashion_mnist, _cifar10, _mvtec, _retinal_oct, _head_ct, _brain_mri, _own_images)


if __name__ == "__main__":
    in_one_line(lambda: print(make(*sys.argv[1:2])))
