"""Small generated samples of every data set, in its own layout on disk, so that everything runs without a download.

`python -m kdhelpers.data.samples [DEST]` writes them. Results on them mean nothing: only the digits are real.
"""

import hashlib
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image, ImageDraw

from kdhelpers import paths
from kdhelpers.data import drawing
from kdhelpers.data.drawing import blob, bottle, carpet, clouds, cookie, grid, head, mix, retina, scratch, to_image
from kdhelpers.errors import InputError, in_one_line
from kdhelpers.protocols import CLASS_NAMES

Contents = Iterator[tuple[str, Image.Image | bytes]]  # a sample's files: path in DATA_DIR, and content


def make(dest: Path | str = paths.SAMPLES_DIR) -> Path:
    """Write the samples to `dest`, a DATA_DIR, unless they are present; return it.

    The bytes are always the same. The folder is written aside and renamed, so `dest` is complete or absent; a second
    process waits for the first. Raises InputError when `dest` holds something else or cannot be written to.
    """
    dest = Path(dest).expanduser()
    code = b"".join(Path(module).read_bytes() for module in (__file__, drawing.__file__))
    mark, version = dest / ".samples", hashlib.sha256(code).hexdigest()  # another version's samples are replaced
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
            _write(Path(aside, "new"))
            Path(aside, "new", mark.name).write_text(version)
            if dest.exists():
                dest.rename(Path(aside, "old"))
            Path(aside, "new").rename(dest)
    except OSError as error:
        raise InputError(f"{dest}: the samples cannot be written there ({error.strerror or error})") from None
    return dest


def _write(root: Path) -> None:
    for name, contents in _CONTENTS.items():
        for path, content in contents(np.random.default_rng(zlib.crc32(name.encode()))):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                (root / path).write_bytes(content)
            else:
                content.save(root / path, **({"optimize": True} if path.endswith(".png") else {"quality": 88}))


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

    digits = load_digits()
    by_label = [
        [(enlarge(digit), label) for digit in digits.images[digits.target == label][:60]] for label in range(10)
    ]
    train, test = ([pair for pairs in by_label for pair in pairs[part]] for part in (slice(40), slice(40, 60)))
    return _idx("MNIST/raw", rng, train, test)


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
        cloth = np.asarray(picture.resize((28, 28), Image.Resampling.BOX)) * (1 + 0.15 * clouds(rng, 28, 28))
        return np.clip(cloth, 0, 255).astype(np.uint8)

    train, test = ([(draw(label), label) for label in range(10) for _ in range(count)] for count in (20, 10))
    return _idx("FashionMNIST/raw", rng, train, test)


def _cifar10(rng: np.random.Generator) -> Contents:
    """An ellipse (label 0), a circle (label 1) or a star with `label` spikes, on a cloudy background."""
    grounds = np.array([[120, 170, 220], [110, 110, 120], [140, 190, 150], [180, 150, 120], [90, 130, 70]])
    for label, name in enumerate(CLASS_NAMES["cifar10"]):
        colour = np.array([label * 83, label * 151 + 60, label * 37 + 120]) % 256
        for part, i in [("train", i) for i in range(10)] + [("test", i) for i in range(5)]:
            picture = grounds[label % 5] + 22 * clouds(rng, 32, 32, 4)[..., None] + rng.uniform(-12, 12, 3)
            y, x = grid(32, 32)
            y, x = y - rng.uniform(-0.2, 0.2), (x - rng.uniform(-0.2, 0.2)) * (0.5 if label == 0 else 1)
            turn = rng.uniform(0, 0.4)
            radius = 0.5 + (0.25 * np.cos(label * (np.arctan2(y, x) + turn)) if label > 1 else 0)
            shape = np.clip((radius - np.hypot(y, x)) * 12 + 0.5, 0, 1)
            image = to_image(mix(picture, colour + rng.uniform(-15, 15, 3), shape))
            yield f"cifar10/{part}/{name}/{i:04d}.png", image


def _inspection(
    folder: str, suffix: str, rng: np.random.Generator, draw: Callable, counts: tuple[int, int, int], defects: dict
) -> Contents:
    """MVTec AD's layout. counts: of train/good, test/good and each kind; defects: shape, size, colour by kind."""
    for part, count in zip(("train", "test"), counts[:2], strict=True):
        for i in range(count):
            yield f"{folder}/{part}/good/{i:03d}{suffix}", to_image(draw(rng))
    for kind, (make_shape, size, colour) in defects.items():
        for i in range(counts[2]):
            picture = draw(rng)
            shape = make_shape(rng, *picture.shape[:2], *rng.uniform(-0.35, 0.35, 2), size)
            yield f"{folder}/test/{kind}/{i:03d}{suffix}", to_image(mix(picture, colour, shape))
            yield f"{folder}/ground_truth/{kind}/{i:03d}_mask.png", to_image(255.0 * (shape > 0.3))


def _mvtec(rng: np.random.Generator) -> Contents:
    defects = {"broken_large": (blob, 0.22, (214, 206, 198)), "contamination": (blob, 0.15, (120, 140, 60))}
    yield from _inspection("mvtec/bottle", ".png", rng, bottle, (12, 4, 4), defects)
    defects = {"color": (blob, 0.2, (170, 60, 60)), "cut": (scratch, 4, (40, 36, 34))}
    yield from _inspection("mvtec/carpet", ".png", rng, carpet, (12, 4, 4), defects)


def _own_images(rng: np.random.Generator) -> Contents:
    defects = {"crack": (scratch, 5, (60, 30, 15)), "mould": (blob, 0.2, (90, 130, 90))}
    return _inspection("own_images", ".jpg", rng, cookie, (10, 4, 3), defects)


def _retinal_oct(rng: np.random.Generator) -> Contents:
    oct2017 = [("train", "NORMAL", 12), ("test", "NORMAL", 4)]
    for kind in ("CNV", "DME", "DRUSEN"):  # like the original, with training images of diseases, which are not used
        oct2017 += [("test", kind, 4), ("train", kind, 1)]
    resc = [("train", "good", 12), ("test", "good", 4), ("test", "Ungood", 4)]
    for name, plan in (("oct2017/{0}/{1}/{1}-{2}-1.jpeg", oct2017), ("resc/{0}/{1}/{2}.png", resc)):
        for part, kind, count in plan:
            for i in range(1, count + 1):
                height, width = ((124, 128), (124, 192))[rng.integers(2)]
                yield name.format(part, kind, i), to_image(retina(rng, height, width, kind))


def _head_ct(rng: np.random.Generator) -> Contents:
    for i in range(32):
        image = to_image(head(rng, i < 8, mri=False))
        yield f"head_ct/head_ct/{i:03d}.png", image.convert("RGBA" if i % 6 == 5 else "RGB")
    table = ["id, hemorrhage", *(f"{i},{int(i < 8)}" for i in range(32))]  # with the space that the original has
    yield "head_ct/labels.csv", "".join(f"{line}\n" for line in table).encode()


def _brain_mri(rng: np.random.Generator) -> Contents:
    formats = (("RGB", "jpg"), ("L", "jpg"), ("RGB", "JPG"), ("RGBA", "png"), ("P", "png"), ("L", "jpeg"))
    for i in range(32):
        mode, suffix = formats[i % len(formats)]
        name = f"yes/Y{i + 1}" if i < 8 else f"no/{i - 7} no"
        yield f"brain_mri/{name}.{suffix}", to_image(head(rng, i < 8, mri=True)).convert(mode)


_CONTENTS = {
    "mnist": _mnist,
    "fashion_mnist": _fashion_mnist,
    "cifar10": _cifar10,
    "mvtec": _mvtec,
    "retinal_oct": _retinal_oct,
    "head_ct": _head_ct,
    "brain_mri": _brain_mri,
    "own_images": _own_images,
}


if __name__ == "__main__":
    in_one_line(lambda: print(make(*sys.argv[1:2])))
