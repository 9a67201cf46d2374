"""A small generated sample of every data set, in its own layout on disk: everything runs without a download.

`python -m kdhelpers.data.samples [DEST]` writes them. Their numbers mean nothing: only the digits are real.
"""

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from kdhelpers import paths
from kdhelpers.data import drawing
from kdhelpers.data.drawing import blob, bottle, carpet, clouds, cookie, grid, head, mix, retina, scratch, to_image
from kdhelpers.errors import InputError
from kdhelpers.protocols import CLASS_NAMES

_MARK = ".samples"  # holds the SHA-256 of the code that made them: samples of another version are made anew


def make(dest: Path | str = paths.SAMPLES_DIR) -> Path:
    """Writes the samples to `dest`, a DATA_DIR, unless they are there; returns it.

    The same bytes every time. They are written aside and renamed, so `dest` is complete or absent, also when two
    processes make it at once. Raises InputError when `dest` holds something else.
    """
    dest = Path(dest).expanduser()
    code = Path(__file__).read_bytes() + Path(drawing.__file__).read_bytes()
    version = hashlib.sha256(code).hexdigest()
    if _version_of(dest) == version:
        return dest
    if dest.exists() and _version_of(dest) is None and (not dest.is_dir() or any(dest.iterdir())):
        raise InputError(f"{dest} is there and holds something else than samples; name another folder for them")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{dest.name}-", dir=dest.parent))
    except OSError as error:
        raise InputError(f"{dest.parent}: the samples cannot be written there ({error.strerror})") from None
    try:
        for name, write in _WRITERS.items():
            write(aside / "new", np.random.default_rng(zlib.crc32(name.encode())))
        (aside / "new" / _MARK).write_text(version)
        if _version_of(dest) != version:  # another process may have been faster
            with contextlib.suppress(FileNotFoundError):
                os.rename(dest, aside / "old")
            try:
                os.rename(aside / "new", dest)
            except OSError:
                if _version_of(dest) != version:
                    raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return dest


def _version_of(dest: Path) -> str | None:
    mark = dest / _MARK
    return mark.read_text() if mark.is_file() else None


def _save(image: Image.Image, *path) -> None:
    target = Path(*path)
    target.parent.mkdir(parents=True, exist_ok=True)
    image.save(target, **({"optimize": True} if target.suffix == ".png" else {"quality": 88}))


# --- MNIST, Fashion-MNIST, CIFAR-10 -------------------------------------------------------------------------------


def _write_idx(folder: Path, train: list[tuple[np.ndarray, int]], test: list[tuple[np.ndarray, int]]) -> None:
    folder.mkdir(parents=True)
    for part, pairs in (("train", train), ("t10k", test)):
        images, labels = np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs], np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = np.array([0x800 + array.ndim, *array.shape], ">i4")
            (folder / f"{part}-{name}-ubyte").write_bytes(header.tobytes() + array.tobytes())


def _mnist(root: Path, rng: np.random.Generator) -> None:
    from sklearn.datasets import load_digits  # a second to import, and needed here only

    digits = load_digits()
    pairs = []
    for digit, label in zip(digits.images, digits.target, strict=True):
        canvas = Image.new("L", (28, 28))
        small = Image.fromarray((digit * 255 / 16).astype(np.uint8))
        canvas.paste(small.resize((22, 22), Image.Resampling.BICUBIC), (3, 3))
        pairs.append((np.asarray(canvas), int(label)))
    order = [[pair for pair in pairs if pair[1] == label] for label in range(10)]
    train, test = ([pair for of_one in order for pair in of_one[part]] for part in (slice(40), slice(40, 60)))
    _write_idx(root / "MNIST" / "raw", train, [test[i] for i in rng.permutation(len(test))])


_CLOTHES = (  # half outlines from top to bottom, (x, y) from 0 to 1; shoes and bags in whole
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


def _fashion_mnist(root: Path, rng: np.random.Generator) -> None:
    def draw(label: int) -> tuple[np.ndarray, int]:
        outline = np.array(_CLOTHES[label])
        if outline[:, 0].max() < 0.5:
            outline = np.concatenate([outline + (0.5, 0), outline[::-1] * (-1, 1) + (0.5, 0)])
        outline = (outline - 0.5) * rng.uniform(0.85, 1.05, 2) + 0.5 + rng.uniform(-0.02, 0.02, 2)
        picture = Image.new("L", (112, 112))
        ImageDraw.Draw(picture).polygon([tuple(point) for point in outline * 112], int(rng.integers(120, 235)))
        cloth = np.asarray(picture.resize((28, 28), Image.Resampling.BOX)) * (1 + 0.15 * clouds(rng, 28, 28))
        return np.clip(cloth, 0, 255).astype(np.uint8), label

    train, test = ([draw(label) for label in range(10) for _ in range(n)] for n in (20, 10))
    _write_idx(root / "FashionMNIST" / "raw", train, [test[i] for i in rng.permutation(len(test))])


def _cifar10(root: Path, rng: np.random.Generator) -> None:
    for label, name in enumerate(CLASS_NAMES["cifar10"]):
        ground = np.array(
            [[120, 170, 220], [110, 110, 120], [140, 190, 150], [180, 150, 120], [90, 130, 70]][label % 5]
        )
        for part, count in (("train", 10), ("test", 5)):
            for i in range(count):
                picture = ground + 22 * clouds(rng, 32, 32, 4)[..., None] + rng.uniform(-12, 12, 3)
                spikes = 1 if label < 2 else label  # an ellipse, long or round, or a star of so many spikes
                y, x = grid(32, 32)
                y, x = y - rng.uniform(-0.2, 0.2), (x - rng.uniform(-0.2, 0.2)) * (0.5 if label == 0 else 1)
                turn = rng.uniform(0, 0.4)
                radius = 0.5 + (0.25 * np.cos(spikes * (np.arctan2(y, x) + turn)) if label > 1 else 0)
                shape = np.clip((radius - np.hypot(y, x)) * 12 + 0.5, 0, 1)
                colour = np.array([(label * 83) % 256, (label * 151 + 60) % 256, (label * 37 + 120) % 256])
                _save(
                    to_image(mix(picture, colour + rng.uniform(-15, 15, 3), shape)),
                    root,
                    "cifar10",
                    part,
                    name,
                    f"{i:04d}.png",
                )


# --- MVTec AD and your own images --------------------------------------------------------------------------------


def _inspection(root: Path, rng: np.random.Generator, draw, counts: tuple[int, int, int], defects: dict, suffix: str):
    """MVTec AD's layout. counts: of train/good, test/good and each defect; defects: its kind, colour and shape."""
    for folder, count in (("train/good", counts[0]), ("test/good", counts[1])):
        for i in range(count):
            _save(to_image(draw(rng)), root, folder, f"{i:03d}{suffix}")
    for kind, (colour, scratched, radius) in defects.items():
        for i in range(counts[2]):
            picture = draw(rng)
            height, width = picture.shape[:2]
            where = rng.uniform(-0.35, 0.35, 2)
            shape = (scratch if scratched else blob)(rng, height, width, *where, radius)
            _save(to_image(mix(picture, colour, shape)), root, "test", kind, f"{i:03d}{suffix}")
            _save(to_image(255.0 * (shape > 0.3)), root, "ground_truth", kind, f"{i:03d}_mask.png")


def _mvtec(root: Path, rng: np.random.Generator) -> None:
    defects = {"broken_large": ((214, 206, 198), False, 0.22), "contamination": ((120, 140, 60), False, 0.15)}
    _inspection(root / "mvtec" / "bottle", rng, bottle, (12, 4, 4), defects, ".png")
    defects = {"color": ((170, 60, 60), False, 0.2), "cut": ((40, 36, 34), True, 4)}
    _inspection(root / "mvtec" / "carpet", rng, carpet, (12, 4, 4), defects, ".png")


def _own_images(root: Path, rng: np.random.Generator) -> None:
    defects = {"crack": ((60, 30, 15), True, 5), "mould": ((90, 130, 90), False, 0.2)}
    _inspection(root / "own_images", rng, cookie, (10, 4, 3), defects, ".jpg")


# --- the medical sets ---------------------------------------------------------------------------------------------


def _retinal_oct(root: Path, rng: np.random.Generator) -> None:
    def write(kind: str, count: int, *folder: str, suffix: str) -> None:
        for i in range(1, count + 1):
            height, width = ((124, 128), (124, 192))[rng.integers(2)]
            name = f"{kind}-{i}-1.jpeg" if suffix == ".jpeg" else f"{i}.png"
            _save(to_image(retina(rng, height, width, kind)), root, *folder, name)

    write("NORMAL", 12, "oct2017", "train", "NORMAL", suffix=".jpeg")
    for kind in ("NORMAL", "CNV", "DME", "DRUSEN"):
        write(kind, 4, "oct2017", "test", kind, suffix=".jpeg")
        if kind != "NORMAL":  # the original has training images of the diseases too; nobody uses them here
            write(kind, 1, "oct2017", "train", kind, suffix=".jpeg")
    write("good", 12, "resc", "train", "good", suffix=".png")
    for kind in ("good", "Ungood"):
        write(kind, 4, "resc", "test", kind, suffix=".png")


def _head_ct(root: Path, rng: np.random.Generator) -> None:
    lines = ["id, hemorrhage"]  # with the space of the original
    for i in range(32):
        label = int(i < 8)
        image = to_image(head(rng, bool(label), mri=False)).convert("RGBA" if i % 6 == 5 else "RGB")
        _save(image, root, "head_ct", "head_ct", f"{i:03d}.png")
        lines.append(f"{i},{label}")
    (root / "head_ct" / "labels.csv").write_text("\n".join(lines) + "\n")


def _brain_mri(root: Path, rng: np.random.Generator) -> None:
    formats = (("RGB", "jpg"), ("L", "jpg"), ("RGB", "JPG"), ("RGBA", "png"), ("P", "png"), ("L", "jpeg"))
    for i in range(32):
        mode, suffix = formats[i % len(formats)]
        name = f"Y{i + 1}" if i < 8 else f"{i - 7} no"
        image = to_image(head(rng, i < 8, mri=True)).convert(mode)
        _save(image, root, "brain_mri", "yes" if i < 8 else "no", f"{name}.{suffix}")


_WRITERS = {
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
    try:
        print(make(*sys.argv[1:2]))
    except InputError as error:
        sys.exit(str(error))
