"""Downloads by torchvision and torch.hub, from a server on this machine; and the files that they leave."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from kdhelpers import data, files
from kdhelpers.data import downloads, images, weights
from kdhelpers.protocols import CLASS_NAMES
from kdhelpers.tests.conftest import load, refused


@pytest.fixture
def server(tmp_path_factory):
    """A folder of files to download, its URL, and the names that were asked for."""
    state = SimpleNamespace(folder=tmp_path_factory.mktemp("server"), asked=[], silent=threading.Event())

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            state.asked.append(self.path[1:])
            return state.silent.wait(30) if self.path == "/silent" else super().do_GET()

        def log_message(self, *arguments):
            """Not into the tests' output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=state.folder)) as http:
        state.url = f"http://127.0.0.1:{http.server_port}/"
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        yield state
        state.silent.set()
        http.shutdown()
        thread.join()


@pytest.fixture
def mnist(sample_data, monkeypatch) -> dict[str, bytes]:
    """The sample's idx files as .gz, by name; torchvision is told their MD5."""
    raw = sample_data / "MNIST/raw"
    packed = {n: gzip.compress((raw / n.removesuffix(".gz")).read_bytes()) for n, _ in datasets.MNIST.resources}
    monkeypatch.setattr(datasets.MNIST, "resources", [(n, hashlib.md5(c).hexdigest()) for n, c in packed.items()])
    return packed


@pytest.fixture
def cifar10(tmp_path_factory, monkeypatch) -> Path:
    """A DATA_DIR with twenty random images in each of CIFAR-10's files; torchvision is told their MD5."""
    root, rng, md5 = tmp_path_factory.mktemp("cifar10"), np.random.default_rng(0), {}
    folder = root / "cifar10" / downloads.BATCHES
    folder.mkdir(parents=True)
    names = [name for name, _ in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list]
    for name in (*names, "batches.meta"):
        batch = {"data": rng.integers(0, 256, (20, 3072), np.uint8), "labels": [i % 10 for i in range(20)]}
        batch = {"label_names": CLASS_NAMES["cifar10"]} if name == "batches.meta" else batch
        (folder / name).write_bytes(pickle.dumps(batch))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, md5[name]] for name in names[:-1]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [[names[-1], md5[names[-1]]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": md5["batches.meta"]})
    return root


@pytest.fixture
def archive(cifar10, server, monkeypatch) -> str:
    """Its name; the archive of these files lies on the server."""
    name = datasets.CIFAR10.filename
    with tarfile.open(server.folder / name, "w:gz") as tar:
        tar.add(cifar10 / "cifar10" / downloads.BATCHES, downloads.BATCHES)
    monkeypatch.setattr(datasets.CIFAR10, "url", server.url + name)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5((server.folder / name).read_bytes()).hexdigest())
    return name


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


@pytest.mark.parametrize(
    "dataset,words",
    [
        ("mnist", ("t10k-images-idx3-ubyte.gz", "yann.lecun.com", os.path.join("MNIST", "raw"))),
        ("fashion_mnist", ("train-labels-idx1-ubyte.gz", "zalandoresearch", os.path.join("FashionMNIST", "raw"))),
        ("cifar10", ("cifar-10-python.tar.gz", "kriz/cifar", "cifar10")),
    ],
)
def test_without_network_the_fix_is_named_and_nothing_left_behind(tmp_path, offline, dataset, words):
    with refused("no network", str(tmp_path), *words):
        load(dataset, "0", tmp_path / "data")
    assert visible(tmp_path) == []


def test_archives_put_by_hand_are_unpacked_and_stay(sample_data, mnist, tmp_path, offline):
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    for name, content in mnist.items():
        (tmp_path / "MNIST/raw" / name).write_bytes(content)
    assert data.status("mnist", tmp_path)["0"] == "download"
    assert torch.equal(load("mnist", "2", tmp_path).train.pixels, load("mnist", "2", sample_data).train.pixels)
    assert data.status("mnist", tmp_path)["0"] == "" and set(mnist) < set(visible(tmp_path))
    assert load("mnist", "2", tmp_path).labels.any()
    labels = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:8] + bytes([2]) * 200)
    assert not load("mnist", "2", tmp_path).labels.any()  # read again, because they are others


def test_cifar10_from_the_server(cifar10, archive, server, tmp_path):
    split = load("cifar10", "dog", tmp_path)
    assert (len(split.train), len(split.test), split.labels.sum(), split.cls) == (10, 20, 18, "5")
    for name, index, found in (("data_batch_1", 5, split.train.pixels[0]), ("test_batch", 7, split.test.pixels[7])):
        batch = pickle.loads((cifar10 / "cifar10" / downloads.BATCHES / name).read_bytes())
        pixels = batch["data"][index].reshape(3, 32, 32).transpose(1, 2, 0)
        expected = images.fit(Image.fromarray(pixels), 32, lanczos=True)
        assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)
    assert split.names[7] == "cifar10/cifar-10-batches-py/test_batch[7]"
    assert split.train.normalise and split.test.normalise
    assert archive not in visible(tmp_path) and set(server.asked) == {archive}


def wrong_bytes(server, archive, *_):
    (server.folder / archive).write_bytes((server.folder / archive).read_bytes()[:-100])


def silent(server, _, place, patch):
    patch.setattr(datasets.CIFAR10, "url", server.url + "silent")
    patch.setattr(downloads, "_TIMEOUT", 0.3)


def not_writable(server, _, place, patch):
    place.write_text("a file where a folder should be")


@pytest.mark.parametrize("spoil,reason", [(wrong_bytes, "corrupted"), (silent, "timed out"), (not_writable, "exists")])
def test_a_download_that_fails_says_why_and_leaves_nothing(archive, server, tmp_path, monkeypatch, spoil, reason):
    spoil(server, archive, tmp_path / "cifar10", monkeypatch)
    before = visible(tmp_path)
    with refused("cifar10 could not be downloaded", reason, f"fetch {archive}", str(tmp_path / "cifar10"), "written"):
        downloads.fetch("cifar10", tmp_path)
    assert visible(tmp_path) == before


def test_an_interruption_leaves_nothing_that_passes_for_complete(cifar10, archive, tmp_path, monkeypatch):
    replaced, replace = [], os.replace

    def stop(source, target):
        if len(replaced) == 2:
            raise KeyboardInterrupt
        replaced.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        downloads.fetch("cifar10", tmp_path)
    assert len(visible(tmp_path)) == 2 and not downloads.present("cifar10", tmp_path)


def test_two_downloads_at_once_are_one(archive, server, tmp_path):
    downloads.fetch("cifar10", tmp_path / "alone")
    once = len(server.asked)  # torchvision looks for redirections first
    server.asked.clear()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(downloads.fetch, ["cifar10"] * 2, [tmp_path] * 2))
    assert len(server.asked) == once and downloads.present("cifar10", tmp_path)


def test_a_batch_with_another_checksum_is_not_read(cifar10):
    path = cifar10 / "cifar10" / downloads.BATCHES / "test_batch"
    path.write_bytes(path.read_bytes() + b" ")
    with refused(f"{path} is damaged", "MD5", "remove it"):
        load("cifar10", "0", cifar10)


@pytest.fixture
def imagenet(server, tmp_path, monkeypatch) -> Path:
    """Where the weights are to lie that the server has: the untrained ones, under torchvision's kind of name."""
    state = weights.load_source("untrained")[0].state_dict()
    content = io.BytesIO()
    torch.save({f"features.{name}": value.half() for name, value in state.items()}, content)
    digits = hashlib.sha256(content.getvalue()).hexdigest()[:8]
    name = f"vgg16-{digits}.pth"
    (server.folder / name).write_bytes(content.getvalue())
    monkeypatch.setattr(weights, "IMAGENET", SimpleNamespace(url=server.url + name))
    monkeypatch.setattr(weights, "_IMAGENET_SHA256", digits)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub/checkpoints" / name


def test_weights_are_downloaded_once(imagenet, server):
    for _ in range(2):
        source, identity = weights.load_source("imagenet")
    assert identity == {"name": "imagenet", "sha256": files.file_sha256(server.folder / imagenet.name)}
    assert server.asked == [imagenet.name] and visible(imagenet.parent) == [imagenet.name]
    assert torch.equal(source[0].weight, weights.load_source("untrained")[0][0].weight.half().float())


def test_weights_with_another_checksum_are_refused(imagenet, server):
    (server.folder / imagenet.name).write_bytes(b"other bytes" * 100)
    with refused("could not be downloaded", "invalid hash value", f"put it at {imagenet}", "SOURCE"):
        weights.load_source("imagenet")
    assert visible(imagenet.parent) == []
