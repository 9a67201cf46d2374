"""Splits counted by hand, pixels against torchvision's transforms; broken input is in test_bad_input."""

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision import transforms as T

from kdhelpers import data
from kdhelpers.data import official, samples
from kdhelpers.protocols import SETTINGS
from kdhelpers.tests.conftest import load, refused

ALL = (  # data set, class, and of train, normal test and anomalous test images: how many the samples hold
    ("mnist", "3", 40, 20, 180),
    ("fashion_mnist", "9", 20, 10, 90),
    ("cifar10", "0", 10, 5, 45),
    ("mvtec", "bottle", 12, 4, 8),
    ("mvtec", "carpet", 12, 4, 8),
    ("retinal_oct", "oct2017", 12, 4, 12),
    ("retinal_oct", "resc", 12, 4, 4),
    ("head_ct", "normal", 14, 10, 8),
    ("brain_mri", "normal", 14, 10, 8),
    ("folder", "own_images", 10, 4, 6),
)


@pytest.fixture
def own(sample_data, tmp_path) -> Path:
    """A copy of one's own images to break."""
    return shutil.copytree(sample_data / "own_images", tmp_path / "own images")


@pytest.mark.parametrize("dataset,cls,train,normal,anomalous", ALL)
def test_counts_labels_kinds_names(sample_data, dataset, cls, train, normal, anomalous):
    root = sample_data / "own_images" if dataset == "folder" else sample_data
    split = load(dataset, cls, root)
    assert (split.dataset, split.cls) == (dataset, cls)
    assert (len(split.train), (split.labels == 0).sum(), (split.labels == 1).sum()) == (train, normal, anomalous)
    assert split.labels.dtype == np.uint8 and len(split.names) == len(set(split.names)) == len(split.test)
    assert [kind != "good" for kind in split.kinds] == split.labels.astype(bool).tolist()
    assert all((root / name.partition("[")[0]).is_file() for name in split.names)
    assert split.train.pixels.dtype == torch.uint8 and split.train.pixels.shape[1:] == split.test.pixels.shape[1:]
    assert split.test[:2].shape == (2, 3, 32, 32) and split.test[torch.tensor([1, 0])].dtype == torch.float32
    assert (split.masks is not None) == (dataset in ("mvtec", "folder"))


def test_labels_agree_with_folders_and_idx_files(sample_data):
    for dataset, cls, normal in (
        ("mvtec", "bottle", "good"),
        ("retinal_oct", "oct2017", "NORMAL"),
        ("cifar10", "3", "cat"),
    ):
        split = load(dataset, cls, sample_data)
        assert [Path(name).parent.name != normal for name in split.names] == split.labels.astype(bool).tolist()
    split = load("retinal_oct", "oct2017", sample_data)
    shown = [split.kinds[i] for i in split.sample_indices()]  # one normal image, and the other kinds in turn
    assert shown == ["good"] + ["CNV"] * 3 + ["DME"] * 2 + ["DRUSEN"] * 2
    raw = (sample_data / "MNIST/raw/t10k-labels-idx1-ubyte").read_bytes()[8:]
    split = load("mnist", "7", sample_data)
    assert [digit != 7 for digit in raw] == split.labels.astype(bool).tolist()
    assert all(kind in (str(digit), "good") for kind, digit in zip(split.kinds, raw, strict=True))


@pytest.mark.parametrize("dataset", ["head_ct", "brain_mri"])
def test_medical_splits_depend_on_the_seed_only(sample_data, dataset):
    normal, digests = [], set()
    for seed in (0, 0, 1):
        split = load(dataset, "normal", sample_data, seed=seed)
        normal.append([name for name, label in zip(split.names, split.labels, strict=True) if not label])
        pixels = {p.numpy().tobytes() for p in split.train.pixels}
        assert len(normal[-1]) == 10 and len(split.train) == 14
        assert not pixels & {p.numpy().tobytes() for p in split.test.pixels}  # disjoint: the drawings all differ
        digests.add(split.sha256)
    assert normal[0] == normal[1] != normal[2] and len(digests) == 1
    if dataset == "head_ct":  # its normal images are 008 to 031
        drawn = sorted(np.random.default_rng(1).permutation(24)[:10])
        assert normal[2] == [f"head_ct/head_ct/{i + 8:03d}.png" for i in drawn]


@pytest.mark.parametrize("dataset,cls,folder", [("mvtec", "carpet", "mvtec/carpet"), ("head_ct", "normal", "head_ct")])
def test_sha256_is_over_all_files_used(sample_data, dataset, cls, folder):
    used = [path for path in (sample_data / folder).rglob("*") if path.is_file()]  # masks and labels.csv too
    pairs = [[p.relative_to(sample_data).as_posix(), hashlib.sha256(p.read_bytes()).hexdigest()] for p in used]
    expected = hashlib.sha256(json.dumps(sorted(pairs)).encode()).hexdigest()
    assert load(dataset, cls, sample_data).sha256 == expected


@pytest.mark.parametrize("dataset,cls", [("brain_mri", "normal"), ("head_ct", "normal"), ("mvtec", "bottle")])
def test_pixels_and_masks_as_torchvision_resizes_them(sample_data, dataset, cls):
    split = load(dataset, cls, sample_data, image_size=64)
    resize = T.Compose([T.Resize([64, 64]), T.ToTensor()])
    expected = torch.stack([resize(Image.open(sample_data / name).convert("RGB")) for name in split.names])
    assert torch.equal(split.test[:], expected)
    if split.masks is not None:
        for name, label, mask in zip(split.names, split.labels, split.masks, strict=True):
            path = sample_data / name.replace("/test/", "/ground_truth/").replace(".png", "_mask.png")
            assert np.array_equal(mask, resize(Image.open(path))[0].numpy() if label else np.zeros((64, 64)))
        assert split.masks.dtype == np.float32 and 0 < ((split.masks > 0) & (split.masks < 1)).mean() < 0.1


@pytest.mark.parametrize("size,larger", [(224, 256), (64, 73)])
def test_cifar10_as_the_released_code_prepares_it(sample_data, size, larger):
    split = load("cifar10", "1", sample_data, image_size=size)
    normalise = T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    prepare = T.Compose([T.Resize((larger, larger), Image.LANCZOS), T.CenterCrop(size), T.ToTensor(), normalise])
    expected = torch.stack([prepare(Image.open(sample_data / name)) for name in split.names[:4]])
    assert torch.allclose(split.test[:4], expected, atol=1e-6)
    of_class = sorted((sample_data / "cifar10/train/automobile").iterdir())
    expected = torch.stack([prepare(Image.open(path)) for path in of_class])
    assert torch.allclose(split.train[:], expected, atol=1e-6)


def test_mnist_as_torchvision_reads_and_resizes_it(sample_data):
    split = load("mnist", "4", sample_data)
    original = datasets.MNIST(sample_data, train=True, transform=T.Compose([T.Resize([32, 32]), T.ToTensor()]))
    expected = torch.stack([x for x, label in original if label == 4]).repeat(1, 3, 1, 1)
    assert split.train.pixels.shape == (40, 1, 32, 32) and torch.equal(split.train[:], expected)


def test_folders_in_capital_letters_bmads_img_folders_and_kaggles_head_ct(own, sample_data, tmp_path):
    (own / "train").rename(own / "Train")
    (own / "test/good").rename(own / "test/Good")
    assert (load("folder", "own_images", own).labels == 0).sum() == 4
    root = shutil.copytree(sample_data / "resc", tmp_path / "data/RESC", ignore=shutil.ignore_patterns("Ungood"))
    shutil.copytree(sample_data / "resc/test/Ungood", root / "test/Ungood/img")
    (root / "test/Ungood/anomaly_mask").mkdir()  # before img, where it must not be read
    assert load("retinal_oct", "resc", tmp_path / "data").labels.sum() == 4
    shutil.copytree(sample_data / "head_ct/head_ct", tmp_path / "data/head_ct/head_ct/head_ct")
    shutil.copy(sample_data / "head_ct/labels.csv", tmp_path / "data/head_ct")
    assert load("head_ct", "normal", tmp_path / "data").labels.sum() == 8


def test_another_number_of_images_than_the_official_one_is_a_deviation(sample_data):
    assert load("mvtec", "carpet", sample_data).deviations == ("24 images instead of 397",)  # 280 + 28 + 89
    assert load("retinal_oct", "oct2017", sample_data).deviations == ("28 images instead of 27315",)
    assert official.deviations("mvtec", "screw", 480) == official.deviations("brain_mri", "normal", 253) == ()
    assert load("retinal_oct", "resc", sample_data).deviations == load("mnist", "3", sample_data).deviations == ()


def test_image_folders_in_place_of_cifar10(tmp_path):
    for part, cls, i in ((p, c, i) for p in ("train", "test") for c in ("zebra", "ant-eater") for i in range(3)):
        path = tmp_path / "cifar10" / part / cls / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (i * 20, 0, 99 if part == "test" else 7)).save(path)
    assert data.classes("cifar10", tmp_path) == ("ant_eater", "zebra")
    (tmp_path / "cifar10/train/zeb_ra").mkdir()  # resembles the other, and both can be asked for by name
    assert [data.resolve_class("cifar10", name, tmp_path) for name in ("zebra", "zeb_ra")] == ["zebra", "zeb_ra"]
    (tmp_path / "cifar10/train/zeb_ra").rmdir()
    split = load("cifar10", "Ant-Eater", tmp_path)
    assert (split.cls, split.kinds) == ("ant_eater", ["good"] * 3 + ["zebra"] * 3)
    shutil.rmtree(tmp_path / "cifar10/test/zebra")
    with refused("cifar10/test/zebra is missing", "of the same names"):
        load("cifar10", "zebra", tmp_path)
    (tmp_path / "cifar10/train/zebra").rename(tmp_path / "cifar10/train/good")
    with refused("good", "rename"):
        data.classes("cifar10", tmp_path)


def test_classes_and_their_aliases(sample_data):
    assert data.classes("mvtec", sample_data)[::14] == ("bottle", "zipper") and len(data.classes("mvtec", "")) == 15
    for dataset, alias, cls in (
        ("mnist", 3, "3"),
        ("fashion_mnist", "t-shirt/top", "0"),
        ("fashion_mnist", "ankle boot", "9"),
        ("cifar10", "Airplane", "0"),
        ("mvtec", "Metal Nut", "metal_nut"),
        ("retinal_oct", "OCT2017", "oct2017"),
    ):
        assert data.resolve_class(dataset, alias, sample_data) == cls
    with refused("unknown class of mvtec 'botle'", "bottle, hazelnut", "did you mean bottle?"):
        data.resolve_class("mvtec", "botle", sample_data)
    with refused("'10'", "0, 1, 2", "airplane"):
        data.resolve_class("cifar10", "10", sample_data)
    with refused("unknown data set 'minst'", "did you mean mnist?"):
        data.classes("minst", sample_data)
    with refused("31", "at least 32"):
        load("mnist", "3", sample_data, image_size=31)


ADVICE = {  # the source that status and errors name for absent data
    "mvtec": ("www.mvtec.com",),
    "retinal_oct": ("10.17632/rscbjbr9sj", "BMAD"),
    "head_ct": ("felipekitamura/head-ct-hemorrhage",),
    "brain_mri": ("navoneel/brain-mri-images-for-brain-tumor-detection",),
}


@pytest.mark.parametrize("dataset", list(SETTINGS)[:-1])
def test_status_of_data_that_are_present_and_absent(sample_data, tmp_path, dataset):
    here, away = data.status(dataset, sample_data), data.status(dataset, tmp_path)
    assert list(here) == list(away) == list(data.classes(dataset, tmp_path))
    present = ["bottle", "carpet"] if dataset == "mvtec" else list(here)
    assert [cls for cls, line in here.items() if not line] == present
    if dataset not in ADVICE:
        assert set(away.values()) == {"download"}
        return
    for (cls, line), source in zip(away.items(), ADVICE[dataset], strict=False):
        with refused(line, str(tmp_path), "is missing", source):
            load(dataset, cls, tmp_path)


def test_samples_are_the_same_bytes_and_made_once_by_threads_at_once(sample_data, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "_CONTENTS", (samples._mnist, samples._head_ct))
    again = tmp_path / "again"
    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(samples.make, [again] * 2)] == [again] * 2
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((again / f).read_bytes() == (sample_data / f).read_bytes() for f in files)
    assert sum(path.stat().st_size for path in sample_data.rglob("*")) < 3e6
    before = (again / files[0]).stat().st_mtime_ns
    assert samples.make(again) == again and (again / files[0]).stat().st_mtime_ns == before
    (again / ".samples").write_text("another version")
    (again / "MNIST/raw/train-images-idx3-ubyte").unlink()
    assert (samples.make(again) / "MNIST/raw/train-images-idx3-ubyte").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == ["again"]


def test_samples_overwrite_nothing_else(own):
    with refused(str(own), "another folder"):
        samples.make(own)
