"""Bad and odd input, kind by kind: each is handled right, or refused in one line that names it and the way out."""

import functools
import gzip
import io
import json
import os
import pickle
import shutil
import sys
import tarfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from kdhelpers import data
from kdhelpers.data import weights
from kdhelpers.experiments import config
from kdhelpers.tests.conftest import OWN, execute, load, refused

SIZE = 32


@functools.cache
def vgg() -> dict:
    """A state dict as SOURCE wants it, half as large."""
    return {f"features.{n}": v.half() for n, v in weights.load_source("untrained")[0].state_dict().items()}


START = {  # what is copied of the samples, and what loads it
    "own": ("own_images", lambda at: load("folder", data.classes("folder", at)[0], at)),
    "head_ct": ("head_ct", lambda at: load("head_ct", "normal", at)),
    "brain_mri": ("brain_mri", lambda at: load("brain_mri", "normal", at)),
    "mvtec": ("mvtec", lambda at: load("mvtec", "bottle", at)),
    "mnist": ("MNIST", lambda at: load("mnist", "3", at)),
    "cifar10": (None, lambda at: load("cifar10", "0", at)),
    "imagenet": (None, lambda at: weights.load_source("imagenet")),
    "weights": (None, lambda at: weights.load_source(str(at))),
    "run": ("own_images", lambda at, **more: config.from_notebook("00_quickstart", OWN | {"DATA_DIR": str(at)} | more)),
}


@pytest.fixture
def begin(sample_data, tmp_path):
    """Copies what a row starts from into a folder with a space and an umlaut in its name; its path."""

    def copy(start: str) -> Path:
        name, root = START[start][0], tmp_path / "Prüf teile"
        if name:
            shutil.copytree(sample_data / name, root if name == "own_images" else root / name)
            return root
        root.mkdir()
        if start == "weights":
            root /= "w.pt"
            torch.save(vgg(), root)
        return root

    return copy


ODD = "test/good/zzz.png"  # where an odd picture is put
RAMP = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
GREY = Image.fromarray(RAMP)
COLOUR = Image.merge("RGB", (GREY, GREY.transpose(Image.Transpose.FLIP_LEFT_RIGHT), GREY))
ROTATED = COLOUR.transpose(Image.Transpose.ROTATE_90)
CLEAR = COLOUR.convert("P")
CLEAR.info["transparency"] = bytes(range(256))
TURNED = Image.Exif()
TURNED[0x0112] = 6  # the camera was turned: show it rotated by 270 degrees
JPEG = COLOUR.resize((SIZE, SIZE)).convert("CMYK")
TWO = {"save_all": True, "append_images": [COLOUR.convert("L")]}


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def put(content: bytes | Image.Image, name: str = ODD, kind: str = "PNG", **options) -> Callable:
    def spoil(at: Path, _) -> None:
        path = at / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else encoded(content, kind, **options))

    return spoil


def changed(name: str, change: Callable) -> Callable:
    return lambda at, _: (at / name).write_bytes(change((at / name).read_bytes()))


def remove(*patterns: str) -> Callable:
    def spoil(at: Path, _) -> None:
        for path in (path for pattern in patterns for path in sorted(at.glob(pattern))):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def link(name: str, to: str) -> Callable:
    return lambda at, _: os.symlink(to, at / name)


def linked_to_itself(at: Path, _) -> None:
    shutil.rmtree(at)
    os.symlink(at.name, at)


def not_text(at: Path, _) -> dict:
    return {"DATA_DIR": str(at.rename(at.with_name(os.fsdecode(b"gr\xfcn"))))}


def copies(folder: str, count: int = 1) -> Callable:
    """Copies of a training image in another folder, or under another name."""
    return lambda at, _: [shutil.copy(at / "train/good/000.jpg", at / folder / f"copy{i}.jpg") for i in range(count)]


def both(*spoilers: Callable) -> Callable:
    def spoil(at: Path, patch) -> None:
        for each in spoilers:
            each(at, patch)

    return spoil


def large(side: int) -> Callable:
    """A picture whose header promises so many pixels; decoding it would end in another error, of missing data."""
    png = bytearray(encoded(Image.new("1", (8, 8))))
    png[16:24] = side.to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    return put(bytes(png))


def forbidden(method: str, name: str) -> Callable:
    """`Path.method` of the file or folder `name` fails for want of rights; root, who may all, would not notice."""

    def spoil(at: Path, patch) -> None:
        ordinary = getattr(Path, method)

        def denied(self, *arguments, **options):
            if self == at / name:
                raise PermissionError(13, "Permission denied", str(self))
            return ordinary(self, *arguments, **options)

        patch.setattr(Path, method, denied)

    return spoil


def seen(image: Image.Image, name: str = ODD) -> Callable:
    """Checks that of the file `name` this picture is loaded."""

    def check(split: data.Split) -> None:
        found = split.test.pixels[split.names.index(os.fsdecode(name))].permute(1, 2, 0).numpy()
        expected = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        assert np.array_equal(found, expected)

    return check


def counts(train: int = 10, normal: int = 4, anomalous: int = 6, masks: bool = True) -> Callable:
    """Checks how many images of each kind are loaded; own_images has these."""

    def check(split: data.Split) -> None:
        found = len(split.train), (split.labels == 0).sum(), (split.labels == 1).sum(), split.masks is not None
        assert found == (train, normal, anomalous, masks)

    return check


EMPTIED, LOTS = remove("test/good/*"), (put(COLOUR, "test/good/img/a.png"), put(COLOUR, "test/good/lot_2/b.png"))
CRACK, MASK = "test/crack/000.jpg", "ground_truth/crack/000_mask.png"
MARKED = np.zeros((SIZE, SIZE), np.uint8)
MARKED[8:16, 4:16] = 1
PALETTE = Image.fromarray(MARKED).convert("P")
PALETTE.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
NUMBERED = Image.fromarray((1 + RAMP[:32, :32] % 2) * MARKED)
NOISY = Image.fromarray((255 - 19 * (RAMP[:32, :32] % 2)) * MARKED)


def mask(image: Image.Image) -> Callable:
    """This mask, and a picture of its size that it belongs to."""
    return both(put(Image.new("RGB", image.size), CRACK, "JPEG"), put(image, MASK))


LEFT = Image.fromarray(np.uint8([[255] * 128 + [0] * 128] * 64))
TURNED_MASK = both(put(ROTATED, CRACK, "JPEG", exif=TURNED), put(LEFT, MASK))  # of the left half of what is to be seen
TURNED_TIFF = both(remove(CRACK), put(ROTATED, CRACK.replace("jpg", "tif"), "TIFF", exif=TURNED), put(LEFT, MASK))


def marked(split: data.Split) -> None:
    crack = split.names.index(CRACK)
    assert np.array_equal(split.masks[crack], MARKED) and split.mask_paths[crack].match(MASK)


def turned_mask(split: data.Split) -> None:
    found = next(mask for name, mask in zip(split.names, split.masks, strict=True) if name.startswith(CRACK[:-4]))
    assert found[:, :14].min() == 1 and found[:, 18:].max() == 0


def all_marked(at: Path, _) -> None:
    for path in at.glob("ground_truth/*/*.png"):
        Image.new("L", Image.open(path).size, 255).save(path)


def of_one_colour(at: Path, _) -> None:
    for number, path in enumerate(sorted(at.glob("t*/*/*.jpg"))):
        Image.new("RGB", Image.open(path).size, (90, 120, 100 + number)).save(path, quality=100)


def lines(change: Callable) -> Callable:
    """HeadCT's label file with its lines changed."""
    return changed("head_ct/labels.csv", lambda content: "\n".join(change(content.decode().splitlines())).encode())


WAY_OUT, SHAPE = "give a VGG-16 state dict", "0.weight is (64, 1, 3, 3), not (64, 3, 3, 3)"
RESNET = torchvision.models.resnet18().state_dict()
WEIGHTS = "checkpoints/vgg16-397923af.pth"


class Code:
    """A pickle that would run code: it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (f"{self.path}-was-run", "w")


def state(change: Callable) -> Callable:
    return lambda at, _: torch.save(change(vgg()), at)


def layer(name: str, value: torch.Tensor) -> Callable:
    return state(lambda weights: weights | {f"features.{name}": value})


@pytest.fixture(autouse=True)
def no_weights(offline, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "Prüf teile"))


def tampered_tar(at: Path, _) -> None:
    """CIFAR-10's archive, with members that lead out of the folder it is unpacked to."""
    (at / "cifar10").mkdir()
    with tarfile.open(at / "cifar10" / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name in ("../outside", "../../outside", "../../../outside", f"{at.parent}/absolute"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))


def tampered_gz(at: Path, _) -> None:
    """The same with MNIST's."""
    for path in sorted((at / "MNIST" / "raw").iterdir()):
        with gzip.GzipFile("../../../outside", "wb", fileobj=path.with_name(f"{path.name}.gz").open("wb")) as file:
            file.write(path.read_bytes())
        path.unlink()


def tampered_batches(at: Path, _) -> None:
    """CIFAR-10's batches, which are pickles."""
    for name, _ in torchvision.datasets.CIFAR10.train_list + torchvision.datasets.CIFAR10.test_list:
        put(pickle.dumps(Code(at)), f"cifar10/cifar-10-batches-py/{name}")(at, _)
    put(pickle.dumps(Code(at)), "cifar10/cifar-10-batches-py/batches.meta")(at, _)


IDX = "MNIST/raw/t10k-images-idx3-ubyte"
IDX_LABELS = "MNIST/raw/t10k-labels-idx1-ubyte"
NEWLINE, LATIN = "test/good/a\nb.png", os.fsdecode(b"test/good/\xfc.png")


def one_less(labels: bytes) -> bytes:
    return labels[:4] + (199).to_bytes(4, "big") + labels[8:-1]


# By what is spoilt, one of `START`, a row for each kind of input: its name; what spoils it, called with the path and a
# monkeypatch, which may return parameters; the words that the one line of refusal must have or, where the input is
# handled, a check of what is loaded; and the words of the warning, if any.
TABLE = {
    "own": [
        # pictures that cannot be read
        ("truncated picture", put(encoded(COLOUR)[:150]), ("zzz.png", "damaged or truncated", "fetch it again")),
        ("truncated JPEG", changed(CRACK, lambda b: b[:700]), (CRACK, "damaged or truncated", "fetch it again")),
        ("picture of no bytes", put(b""), ("zzz.png", "0 bytes", "fetch it again")),
        ("text named .png", put(b"this is text"), ("zzz.png", "is not a picture", "replace it")),
        ("picture of 100 million pixels", large(10_000), ("zzz.png", "89 million pixels", "scale it down")),
        ("picture of 400 million pixels", large(20_000), ("zzz.png", "89 million pixels", "scale it down")),
        ("animated GIF", put(GREY, kind="GIF", **TWO), ("zzz.png", "2 pictures", "one file each")),
        ("animated PNG", put(GREY, **TWO), ("zzz.png", "2 pictures", "one file each")),
        ("floating-point picture", put(GREY.convert("F"), kind="TIFF"), ("zzz.png", "8 or 16 bit")),
        # pictures that are odd, and read
        ("grey picture", put(GREY), seen(GREY)),
        ("picture of one bit", put(GREY.convert("1")), seen(GREY.convert("1"))),
        ("16-bit PNG", put(Image.fromarray(RAMP.astype(np.uint16) * 257)), seen(GREY)),
        ("16-bit TIFF", put(Image.fromarray(RAMP.astype(np.uint16) * 257), kind="TIFF"), seen(GREY)),
        ("12-bit PNG", put(Image.fromarray(RAMP.astype(np.uint16) * 16)), counts(normal=5), ("black 16-bit", "by 16")),
        ("32-bit TIFF", put(Image.fromarray(RAMP.astype(np.int32) * 257), kind="TIFF"), seen(GREY)),
        ("CMYK TIFF", put(COLOUR.convert("CMYK"), kind="TIFF"), seen(COLOUR.convert("CMYK"))),
        ("CMYK JPEG", put(JPEG, kind="JPEG"), seen(Image.open(io.BytesIO(encoded(JPEG, "JPEG"))))),
        ("palette", put(COLOUR.convert("P")), seen(COLOUR.convert("P"))),
        ("palette with transparency", put(CLEAR), seen(COLOUR.convert("P"))),
        ("alpha", put(COLOUR.convert("RGBA")), seen(COLOUR)),
        ("grey with alpha", put(GREY.convert("LA")), seen(GREY)),
        ("turned by EXIF", put(ROTATED, exif=TURNED), seen(COLOUR)),
        ("1x1 picture", put(Image.new("RGB", (1, 1), "teal")), seen(Image.new("RGB", (1, 1), "teal"))),
        # names
        ("non-ASCII name with spaces", put(COLOUR, "test/good/Ä 圖 .png"), seen(COLOUR, "test/good/Ä 圖 .png")),
        ("name with a line break", put(COLOUR, NEWLINE), seen(COLOUR, NEWLINE)),
        ("bad file with a line break in its name", put(b"", NEWLINE), (r"test/good/a\nb.png", "0 bytes")),
        ("name that is not UTF-8", put(COLOUR, LATIN), seen(COLOUR, LATIN)),
        ("bad file with a name that is not UTF-8", put(b"", LATIN), (r"test/good/\udcfc.png", "0 bytes")),
        # links, rights, other files
        ("link to itself among pictures", link(ODD, "zzz.png"), ("zzz.png", "leads nowhere, or to itself")),
        ("link to nothing", link("test/good/zzz.png", "gone"), ("zzz.png", "leads nowhere", "remove it")),
        ("link to itself for a folder", link("test/more", "more"), ("test/more", "leads nowhere, or to itself")),
        ("folder linked into itself", link("train/good/up", "."), ("train/good/up", "a folder where image")),
        ("img linked into itself", link("train/good/img", "."), ("good/img", "a folder where image")),
        ("picture without rights", forbidden("read_bytes", CRACK), (CRACK, "Permission denied", "the rights")),
        ("folder without rights", forbidden("iterdir", "test/good"), ("test/good", "Permission denied", "right")),
        ("hidden files and litter", both(put(b"", "train/good/._a.jpg"), put(b"", "test/good/Thumbs.db")), counts()),
        ("file that is no picture", put(b"", "train/good/a.txt"), ("a.txt", "not an image file", "convert it")),
        ("named pipe", lambda at, _: os.mkfifo(at / ODD), ("zzz.png", "not an image file", "move it away")),
        ("folder among pictures", put(COLOUR, "train/good/x/a.png"), ("train/good/x", "move its images up")),
        ("picture beside the folders", put(COLOUR, "test/a.png"), ("test/a.png", "move it to", "test/good")),
        ("picture beside train/good", put(COLOUR, "train/a.png"), ("train/a.png", "move it to", "train/good")),
        ("picture beside train and test", put(COLOUR, "a.png"), ("a.png: is not read", "move it to train/good")),
        ("folder beside train and test", put(COLOUR, "lot_2/x/a.png"), ("lot_2: is not read", "or out of")),
        ("bad pictures in train", put(COLOUR, "train/scratch/a.png"), ("train/scratch: is not read", "test/<kind>")),
        ("readme and licence", both(put(b"", "readme.txt"), put(b"", "about/license.txt")), counts()),
        ("folder of its parent's name, alone", both(EMPTIED, put(COLOUR, "test/good/good/a.png")), counts(normal=1)),
        ("img beside another folder", both(EMPTIED, *LOTS), ("test/good/img", "move its images up")),
        # sets that are lopsided
        ("copies in train and test", copies("test/good"), counts(normal=5), ("test/good/copy0.jpg", "000.jpg")),
        ("five copies in train and test", copies("test/good", 5), counts(normal=9), ("copy2.jpg = ", "jpg and 2 more")),
        ("copies in train", copies("train/good"), counts(train=11)),
        ("one training image", remove("train/good/00[1-9]*"), ("Prüf teile", "1 training image", "at least 2")),
        ("no training image", remove("train/good/*"), ("train/good", "no image files", "put some there")),
        ("no folder for training", remove("train"), ("train is missing", "put normal images")),
        ("empty folder of a kind", lambda at, _: (at / "test/x").mkdir(), ("test/x", "no image files", "remove")),
        ("no folder of test images", remove("test/*"), ("test: there are no folders", "add")),
        ("no anomalous test image", remove("test/[cm]*", "ground_truth"), counts(anomalous=0, masks=False)),
        ("two good images", remove("test/good", "train/good/00[2-9]*"), ("2 distinct good images", "3 are needed")),
        ("no normal test image", remove("test/good"), counts(train=5, normal=5)),  # held out of those for training
        ("images of one colour each", of_one_colour, counts()),
        # masks
        ("mask of 0 and 1", mask(Image.fromarray(MARKED)), marked),
        ("mask of one bit", mask(Image.fromarray(MARKED.astype(bool))), marked),
        ("mask with palette colours", mask(PALETTE), marked),
        ("16-bit mask of 0 and 1", mask(Image.fromarray(MARKED.astype(np.uint16))), marked),
        ("mask of a picture turned by EXIF", TURNED_MASK, turned_mask),
        ("mask of a TIFF turned by EXIF", TURNED_TIFF, turned_mask),
        ("mask of another size", put(COLOUR, MASK), (MASK, "256x64", "000.jpg", "resize it")),
        ("mask that marks nothing", mask(Image.new("L", (40, 40))), (MASK, "marks nothing", "draw it")),
        ("mask that numbers defects", mask(NUMBERED), marked),
        ("mask of 236 and 255", mask(NOISY), marked),
        ("soft mask that ends at 99", mask(Image.fromarray(RAMP[:32, :100])), (MASK, "end at 99", "0 and 255")),
        ("folder called no", lambda at, _: (at / "test/crack").rename(at / "test/No"), ("/No:", "TEST_LABEL", "'bad'")),
        ("masks that mark everything", all_marked, counts()),
        ("mask without image", remove(CRACK), (MASK, "no test image", "remove it")),
        ("image without mask", remove(MASK), (CRACK, MASK, "is missing", "remove the folder ground_truth")),
        ("no masks at all", remove("ground_truth"), counts(masks=False)),
    ],
    "brain_mri": [("too few normal images", remove("brain_mri/no/[12]*"), ("brain_mri", "go to test", "add more"))],
    "mvtec": [("MVTecAD without masks", remove("mvtec/bottle/ground_truth"), ("000.png", "000_mask.png is missing"))],
    "head_ct": [
        ("label file without an id", lines(lambda t: t[:-1]), ("031.png", "no label for id 31", "add it")),
        ("label file with an id too many", lines(lambda t: [*t, "32,1"]), ("labels.csv", "032.png", "remove")),
        ("label file with an id twice", lines(lambda t: [*t, "3,0"]), ("labels.csv", "id 3 is there twice")),
        ("label that is 2", lines(lambda t: [*t[:-1], "23,2"]), ("labels.csv", "neither 0 nor 1")),
        ("id that is no number", lines(lambda t: [*t[:-1], "x,1"]), ("labels.csv", "'x'", "kaggle")),
        ("label file of other columns", lines(lambda t: ["a,b", *t[1:]]), ("labels.csv", "a, b", "id, hem")),
        ("label file with a break in its header", lines(lambda t: ['"a\nb"']), ("labels.csv", r"a\nb")),
        ("empty label file", lines(lambda t: []), ("labels.csv", "empty", "kaggle")),
        ("label file that is a picture", put(encoded(GREY), "head_ct/labels.csv"), ("labels.csv", "kaggle")),
        ("no label file", remove("head_ct/labels.csv"), ("labels.csv is missing", "kaggle")),
        ("image whose name is no id", put(GREY, "head_ct/head_ct/a.png"), ("a.png", "not a unique id", "remove it")),
    ],
    "run": [
        ("data folder that is a file", lambda at, _: {"DATA_DIR": str(at / CRACK)}, ("000.jpg", "is not a folder")),
        ("data folder that is not there", lambda at, _: {"DATA_DIR": str(at / "x")}, ("x is not a folder", "name")),
        ("data folder that is not UTF-8", not_text, ("DATA_DIR", r"gr\udcfcn", "is not valid UTF-8", "rename it")),
        ("label of no folder", lambda *_: {"TEST_LABEL": {"crak": "bad"}}, ("'crak'", "did you mean crack")),
        ("data folder linked to itself", linked_to_itself, ("Prüf teile is not a folder", "name the folder")),
        ("weights file that is not there", lambda *_: {"SOURCE": "a.pt"}, ("'a.pt'", "neither imagenet, nor")),
    ],
    "weights": [
        ("weights without rights", forbidden("is_file", ""), ("w.pt", "Permission denied", "the rights")),
        ("weights that are code", lambda at, _: at.write_bytes(pickle.dumps(Code(at))), ("w.pt", WAY_OUT)),
        ("weights with code among them", lambda at, _: torch.save(vgg() | {"x": Code(at)}, at), ("w.pt", WAY_OUT)),
        ("weights of another network", state(lambda _: RESNET), ("w.pt", "is not VGG-16", WAY_OUT)),
        ("weights without a layer", state(lambda s: dict(list(s.items())[:-1])), ("w.pt", "'28.bias' is miss")),
        ("weights of another shape", layer("0.weight", torch.zeros(64, 1, 3, 3)), ("w.pt", SHAPE, WAY_OUT)),
        ("weights that are not finite", layer("0.bias", torch.full((64,), np.nan)), ("w.pt", "0.bias is not finite")),
        ("weights of whole numbers", layer("0.bias", torch.zeros(64).int()), ("w.pt", "0.bias is of torch.int32")),
        ("weights by number", state(lambda s: s | {1: torch.zeros(2)}), ("w.pt", "'1' is too much", WAY_OUT)),
        ("list for weights", state(lambda s: [1, 2]), ("w.pt", "holds a list", WAY_OUT)),
        ("weights that are an HTML page", put(b"<!DOCTYPE html><html>404", ""), ("w.pt", WAY_OUT)),
        ("weights of no bytes", put(b"", ""), ("w.pt", WAY_OUT)),
        ("truncated weights", changed("", lambda b: b[: 10**6]), ("w.pt", "not a file of weights", WAY_OUT)),
        ("pickle that ends at once", put(b".", ""), ("w.pt", WAY_OUT)),
    ],
    "imagenet": [
        ("ImageNet's weights of another checksum", put(b"half", WEIGHTS), ("damaged", "instead of 397923af…", "remov")),
        ("no ImageNet weights", lambda *_: None, ("vgg16-397923af.pth", "no network", "put it at", "checkp")),
    ],
    "cifar10": [
        ("archive that leads out of its folder", tampered_tar, ("cifar-10-python.tar.gz", "kriz")),
        ("CIFAR-10 batches that are code", tampered_batches, ("batches.meta", "MD5", "remove")),
    ],
    "mnist": [
        ("gz that leads out of its folder", tampered_gz, ("idx3-ubyte.gz", "put it in")),
        ("truncated idx file", changed(IDX, lambda b: b[:-5]), (IDX, "damaged or", "remove it")),
        ("idx file of no bytes", put(b"", IDX), (IDX, "damaged or truncated", "remove it")),
        ("idx file that is an HTML page", put(b"<html>not found</html>", IDX), (IDX, "damaged", "remove it")),
        ("idx file with half a header", changed(IDX, lambda b: b[:3]), (IDX, "damaged or truncated", "remove it")),
        ("idx labels too few", changed(IDX_LABELS, one_less), ("t10k-labels", "200 images", "199 labels")),
        ("idx label of 10", changed(IDX_LABELS, lambda b: b[:-1] + b"\x0a"), (IDX_LABELS, "not what it should hold")),
    ],
}
ROWS = {kind: (start, *row) for start, rows in TABLE.items() for kind, *row in rows}
assert len(ROWS) == sum(map(len, TABLE.values())), "two kinds of one name"


def everything(folder: Path) -> list[str]:
    """Every file, but for the empty one that holds the lock of a download."""
    return sorted(str(path) for path in folder.rglob("*") if not path.is_dir() and path.suffix != ".lock")


@pytest.mark.parametrize("kind", ROWS)
def test_bad_input(kind, begin, tmp_path, monkeypatch):
    if sys.platform == "darwin" and "not UTF-8" in kind:
        pytest.skip("macOS has no such names")
    start, spoil, outcome, *warns = ROWS[kind]
    at = begin(start)
    given = spoil(at, monkeypatch)
    before = everything(tmp_path)
    read = functools.partial(START[start][1], at, **(given if isinstance(given, dict) else {}))
    if isinstance(outcome, tuple):
        with refused(*outcome):
            read()
        assert everything(tmp_path) == before  # nothing unpacked, run or left behind
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning)
        loaded = read()
    said = [str(warning.message) for warning in caught]
    assert len(said) == len(warns) and all(word in said[0] for words in warns for word in words), said
    outcome(loaded)


@pytest.mark.slow
def test_bad_input_the_whole_way(begin, tmp_path):
    """From the command line to the record, two odd things in one run."""
    at, out, results = begin("own"), tmp_path / "out.ipynb", tmp_path / "results"
    run = OWN | {"DATA_DIR": str(at), "RESULTS_DIR": str(results)}
    both(put(COLOUR), put(COLOUR, NEWLINE), remove("test/[cm]*", "ground_truth"))(at, None)
    done = execute("00_quickstart", out, **run)
    assert done.returncode == 0, done.stderr
    (record,) = results.glob("records/**/*.json")
    found, reason = json.loads(record.read_text())["detection"], "there are no anomalous test images"
    assert (found["auroc"], found["reason"]) == (None, reason)
    assert out.is_file() and f"no AUROC: {reason}" in done.stdout
