"""Downloads from a server on this machine that can break off, fall silent or send something else."""

import gzip
import hashlib
import io
import os
import pickle
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import refused
from PIL import Image
from torchvision import datasets

from kdhelpers import data, networks
from kdhelpers.data import downloads, fetching, images


def load(dataset, cls, data_dir):
    return data.load(dataset, cls, data_dir, image_size=32, seed=0, progress=False)


@dataclass
class Server:
    """What it has, by the last part of the URL, how it misbehaves, and what it was asked for."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)  # after how many bytes the next answers break off
    stall_at: int | None = None  # after how many bytes it falls silent
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range
    sent: int = 0
    closing: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def server():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name, wanted = self.path.rpartition("/")[2], self.headers["Range"]
            state.asked.append((self.path, wanted))
            if name not in state.files:
                return self.send_error(404)
            content, start = state.files[name], 0
            if wanted and state.ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    return self.send_error(416)
            self.send_response(206 if wanted and state.ranges else 200)
            if wanted and state.ranges:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = min(start + state.cuts.pop(0), len(content)) if state.cuts else len(content)
            end = end if state.stall_at is None else max(start, state.stall_at)
            self.wfile.write(content[start:end])
            self.wfile.flush()
            state.sent += end - start
            if state.stall_at is not None:
                state.closing.wait(60)

        def log_message(self, *arguments):
            """Not into the tests' output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state = Server(f"http://127.0.0.1:{http.server_port}/")
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        yield state
        state.closing.set()
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.5)
    monkeypatch.setattr(fetching, "PAUSES", (0, 0))


@pytest.fixture
def offline(monkeypatch):
    def urlopen(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


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
        batch = {"label_names": data.CLASS_NAMES["cifar10"]} if name == "batches.meta" else batch
        (folder / name).write_bytes(pickle.dumps(batch))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, md5[name]] for name in names[:-1]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [[names[-1], md5[names[-1]]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": md5["batches.meta"]})
    return root


@pytest.fixture
def archive(cifar10, server, monkeypatch) -> str:
    """Its name; the archive of these files lies on the server."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        tar.add(cifar10 / "cifar10" / downloads.BATCHES, downloads.BATCHES)
    return serve_archive(server, content.getvalue(), monkeypatch)


def serve_archive(server, content: bytes, monkeypatch) -> str:
    name = datasets.CIFAR10.filename
    server.files[name] = content
    monkeypatch.setattr(datasets.CIFAR10, "url", server.url + name)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(content).hexdigest())
    return name


def same(a: downloads.Arrays, b: downloads.Arrays) -> bool:
    names = ("train", "train_classes", "test", "test_classes")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


# --- without a network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dataset,words",
    [
        ("mnist", ("t10k-images-idx3-ubyte.gz", "yann.lecun.com", os.path.join("MNIST", "raw"))),
        ("fashion_mnist", ("train-labels-idx1-ubyte.gz", "zalandoresearch", os.path.join("FashionMNIST", "raw"))),
        ("cifar10", ("cifar-10-python.tar.gz", "kriz/cifar", "cifar10")),
    ],
)
def test_without_network_the_way_out_is_told_and_nothing_left_behind(tmp_path, offline, dataset, words):
    with refused("no network", str(tmp_path), *words):
        load(dataset, "0", tmp_path / "data")
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".lock"}


def test_archives_put_by_hand_are_unpacked_and_stay(sample_data, mnist, tmp_path, offline):
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    for name, content in mnist.items():
        (tmp_path / "MNIST/raw" / name).write_bytes(content)
    assert data.status("mnist", tmp_path)["0"] == "download"
    assert torch.equal(load("mnist", "2", tmp_path).train.pixels, load("mnist", "2", sample_data).train.pixels)
    assert data.status("mnist", tmp_path)["0"] == "" and set(mnist) < set(visible(tmp_path))


def test_a_damaged_archive_put_by_hand_is_named_with_both_checksums(mnist, tmp_path, offline):
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    name, expected = datasets.MNIST.resources[0]
    damaged = tmp_path / "MNIST/raw" / name
    damaged.write_bytes(mnist[name][:-100])
    found = hashlib.md5(mnist[name][:-100]).hexdigest()
    with refused(f"{damaged} is damaged", f"MD5 {found} found, {expected} expected", "remove it"):
        load("mnist", "2", tmp_path)
    assert visible(tmp_path) == [name]


# --- from a server ------------------------------------------------------------------------------------------------


def test_the_first_mirror_is_down_and_the_second_used(sample_data, mnist, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/", server.url + "missing/no/", server.url])
    server.files = {name: content for name, content in mnist.items() if "labels" not in name}
    with refused("127.0.0.1:9: ", "Connection refused", "HTTP 404", "train-labels-idx1-ubyte.gz could not be downl"):
        downloads.fetch("mnist", tmp_path)
    assert visible(tmp_path) == ["train-images-idx3-ubyte"]
    server.files = mnist
    downloads.fetch("mnist", tmp_path)
    assert visible(tmp_path) == sorted(name.removesuffix(".gz") for name in mnist)
    assert same(downloads.read("mnist", tmp_path), downloads.read("mnist", sample_data))
    assert [path for path, _ in server.asked].count("/missing/no/train-images-idx3-ubyte.gz") == 1
    shown = capsys.readouterr().err  # the bars: how much of how much, and how long it will take
    assert "t10k-images-idx3-ubyte.gz: 100%" in shown and "<00:00" in shown


def test_cifar10_from_the_server_equals_what_torchvision_reads(cifar10, archive, server, tmp_path):
    downloads.fetch("cifar10", tmp_path / "data")
    arrays = downloads.read("cifar10", tmp_path / "data")
    for train, pixels, labels in (
        (True, arrays.train, arrays.train_classes),
        (False, arrays.test, arrays.test_classes),
    ):
        expected = datasets.CIFAR10(cifar10 / "cifar10", train=train)
        assert np.array_equal(pixels, expected.data) and labels.tolist() == expected.targets
    assert visible(tmp_path / "data") == visible(cifar10)
    downloads.fetch("cifar10", tmp_path / "data")
    assert len(server.asked) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_gone_on_with_by_the_same_call(cifar10, archive, server, tmp_path, ranges):
    size = len(server.files[archive])
    server.cuts, server.ranges = [size // 2, size // 3], ranges
    downloads.fetch("cifar10", tmp_path / "data")
    assert same(downloads.read("cifar10", tmp_path / "data"), downloads.read("cifar10", cifar10))
    second = f"bytes={size // 2}-"
    third = f"bytes={size // 2 + size // 3}-" if ranges else f"bytes={size // 3}-"
    assert [asked for _, asked in server.asked] == [None, second, third]
    assert server.sent == (size if ranges else size // 2 + size // 3 + size)


def test_a_server_that_always_breaks_off_is_given_up_and_the_next_run_goes_on(archive, server, tmp_path):
    size = len(server.files[archive])
    server.cuts = [1000, 0, 0]
    with refused(f"it broke off after 1000 of {size} bytes", archive, "kriz/cifar"):
        downloads.fetch("cifar10", tmp_path)
    assert visible(tmp_path) == [] and len(server.asked) == 3  # once, and after each pause
    server.cuts = []
    downloads.fetch("cifar10", tmp_path)
    assert server.asked[-1][1] == "bytes=1000-" and server.sent == size


def test_wrong_bytes_are_told_with_both_checksums(archive, server, tmp_path):
    expected = datasets.CIFAR10.tgz_md5
    server.files[archive] = b"<html>sign in first</html>"
    found = hashlib.md5(server.files[archive]).hexdigest()
    with refused(f"{archive} could not be downloaded", f"MD5 {found} found, {expected} expected", "kriz/cifar"):
        downloads.fetch("cifar10", tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".lock"} and len(server.asked) == 1


@pytest.mark.parametrize("left", [b"of another file", b"x" * 10**6])
def test_what_an_earlier_run_left_is_thrown_away_when_it_does_not_fit(archive, server, tmp_path, left):
    (tmp_path / "cifar10").mkdir()
    fetching.part_of(tmp_path / "cifar10" / archive).write_bytes(left)
    downloads.fetch("cifar10", tmp_path)
    assert downloads.present("cifar10", tmp_path)
    assert [asked for _, asked in server.asked] == [f"bytes={len(left)}-", None]


def test_a_whole_part_that_was_not_renamed_is_used(archive, server, tmp_path):
    (tmp_path / "cifar10").mkdir()
    fetching.part_of(tmp_path / "cifar10" / archive).write_bytes(server.files[archive])
    downloads.fetch("cifar10", tmp_path)
    assert downloads.present("cifar10", tmp_path) and server.sent == 0


@pytest.mark.parametrize("stall_at,tries", [(0, 1), (500, 3)])
def test_a_silent_server_is_given_up(archive, server, tmp_path, stall_at, tries):
    server.stall_at = stall_at
    began = time.monotonic()
    with refused("no answer for 0.5 s", archive):
        downloads.fetch("cifar10", tmp_path)
    assert time.monotonic() - began < 10 and len(server.asked) == tries and visible(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "data").write_text("a file")
    with refused("mnist cannot be written to", str(tmp_path / "data")):
        downloads.fetch("mnist", tmp_path / "data")


def test_two_downloads_at_once_are_one(archive, server, tmp_path, capfd):
    errors, said = [], ""

    def fetch():
        try:
            downloads.fetch("cifar10", tmp_path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    with fetching.alone(tmp_path / "cifar10/cifar10"):
        for thread in threads:
            thread.start()
        for _ in range(500):
            said += capfd.readouterr().err
            if said.count("waiting for another process") == 2:
                break
            time.sleep(0.02)
        assert said.count("waiting for another process") == 2 and not server.asked
    for thread in threads:
        thread.join()
    assert not errors and len(server.asked) == 1 and downloads.present("cifar10", tmp_path)


# --- what an archive or a batch could do --------------------------------------------------------------------------


class Bomb:
    """A pickle that would run code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_code_in_a_batch_with_another_checksum_is_not_run(cifar10, tmp_path, name):
    path, ran = cifar10 / "cifar10" / downloads.BATCHES / name, tmp_path / "ran"
    expected = hashlib.md5(path.read_bytes()).hexdigest()
    path.write_bytes(pickle.dumps(Bomb(ran)))
    found = hashlib.md5(path.read_bytes()).hexdigest()
    with refused(f"{path} is damaged", f"MD5 {found} found, {expected} expected", "remove it"):
        load("cifar10", "0", cifar10)
    assert not ran.exists()
    pickle.loads(path.read_bytes())
    assert ran.exists()  # it would have


def test_nothing_in_an_archive_says_where_it_is_written(cifar10, server, tmp_path, monkeypatch):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name in ("../outside", str(tmp_path / "outside"), f"{downloads.BATCHES}/../../outside", "more"):
            tar.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo(f"{downloads.BATCHES}/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for path in sorted((cifar10 / "cifar10" / downloads.BATCHES).iterdir()):
            if path.name != "data_batch_1":
                tar.add(path, f"{downloads.BATCHES}/{path.name}")
    serve_archive(server, content.getvalue(), monkeypatch)
    with refused("cifar-10-python.tar.gz holds no cifar-10-batches-py/data_batch_1"):
        downloads.fetch("cifar10", tmp_path / "data")
    written = set(visible(tmp_path / "data")) - {datasets.CIFAR10.filename}
    assert written == set(visible(cifar10)) - {"data_batch_1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


# --- processes that end in the middle -----------------------------------------------------------------------------


def start(*arguments, server: Server, home: Path) -> subprocess.Popen:
    """A command line whose http goes through the server on this machine."""
    environment = os.environ | {"http_proxy": server.url, "https_proxy": "http://127.0.0.1:9", "TORCH_HOME": str(home)}
    environment |= {"no_proxy": "", "PYTHONPATH": str(Path(downloads.__file__).parents[1])}
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(condition) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within a minute")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_process_stopped_in_the_middle_leaves_nothing_that_passes_for_whole(
    sample_data, server, tmp_path, monkeypatch, how
):
    raw, at = sample_data / "FashionMNIST/raw", "train-images-idx3-ubyte.gz"
    names = [name for name, _ in datasets.FashionMNIST.resources]
    server.files = {name: gzip.compress((raw / name.removesuffix(".gz")).read_bytes()) for name in names}
    server.stall_at = 1000
    process = start("kdhelpers.data.downloads", "fashion_mnist", tmp_path / "data", server=server, home=tmp_path)
    part = fetching.part_of(tmp_path / "data/FashionMNIST/raw" / at)
    wait_for(lambda: server.sent == 1000 and part.exists())
    time.sleep(0.3)  # for the bytes to get from the socket to the process
    process.send_signal(how)
    said = process.communicate(timeout=30)[1]
    if how == signal.SIGINT:
        assert process.returncode == 130 and "Traceback" not in said
        assert said.splitlines()[-1] == "stopped; what has come is kept, and the next run goes on with it"
    assert visible(tmp_path / "data") == [] and not downloads.present("fashion_mnist", tmp_path / "data")

    assert part.stat().st_size == 1000
    server.stall_at = None
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [server.url])
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in server.files.items()]
    monkeypatch.setattr(datasets.FashionMNIST, "resources", sums)
    downloads.fetch("fashion_mnist", tmp_path / "data")
    assert server.asked[1] == (f"/{at}", "bytes=1000-")
    assert same(downloads.read("fashion_mnist", tmp_path / "data"), downloads.read("fashion_mnist", sample_data))
    assert len(visible(tmp_path / "data")) == 4


@pytest.mark.parametrize(
    "arguments,words",
    [
        (("kdhelpers.data.downloads", "cifar10", "{here}"), "error: cifar-10-python.tar.gz could not be downloaded"),
        (("kdhelpers.networks", "imagenet"), "error: vgg16-397923af.pth could not be downloaded"),
    ],
)
def test_a_command_line_without_network_ends_in_one_line(server, tmp_path, arguments, words):
    process = start(*(text.format(here=tmp_path) for text in arguments), server=server, home=tmp_path)
    said = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 1 and len(said) == 1 and said[0].startswith(words), said


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize(
    "module,arguments,words",
    [
        ("downloads", [], "usage: python -m kdhelpers.data.downloads DATASET DATA_DIR"),
        ("downloads", ["minst", "here"], "error: 'minst' is none of the data sets that can be downloaded: mnist, "),
        ("networks", [], "usage: python -m kdhelpers.networks SOURCE"),
        ("networks", ["no.pt"], "error: SOURCE 'no.pt' is neither"),
    ],
)
def test_wrong_command_lines_end_in_one_line(monkeypatch, module, arguments, words):
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit, match="^" + words) as end:
        runpy.run_module(f"kdhelpers.{module}", run_name="__main__")
    assert "\n" not in end.value.code


# --- VGG-16's ImageNet weights ------------------------------------------------------------------------------------


@pytest.fixture
def weights(server, tmp_path, monkeypatch) -> Path:
    """Where the weights are to lie that the server has: the untrained ones, under torchvision's kind of name."""
    state = weights.load_source("untrained")[0].state_dict()
    content = io.BytesIO()
    torch.save({f"features.{name}": value.half() for name, value in state.items()}, content)
    digits = hashlib.sha256(content.getvalue()).hexdigest()[:8]
    name = f"vgg16-{digits}.pth"
    server.files[name] = content.getvalue()
    monkeypatch.setattr(networks, "IMAGENET", SimpleNamespace(url=server.url + name))
    monkeypatch.setattr(networks, "_IMAGENET_SHA256", digits)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub/checkpoints" / name


def test_the_checksum_of_the_weights_is_the_one_in_torchvision_s_url():
    assert weights._IMAGENET_SHA256 == "397923af"


def test_weights_are_downloaded_once_and_gone_on_with(weights, server):
    size = len(server.files[weights.name])
    server.cuts = [size // 2]
    for _ in range(2):
        source, identity = weights.load_source("imagenet")
    assert identity == {"name": "imagenet", "sha256": hashlib.sha256(server.files[weights.name]).hexdigest()}
    assert [asked for _, asked in server.asked] == [None, f"bytes={size // 2}-"] and server.sent == size
    assert visible(weights.parent) == [weights.name]
    assert torch.equal(source[0].weight, weights.load_source("untrained")[0][0].weight.half().float())


def test_weights_with_another_checksum_are_refused_with_both(weights, server):
    server.files[weights.name] = random.Random(0).randbytes(1000)
    found = hashlib.sha256(server.files[weights.name]).hexdigest()
    both = f"SHA-256 {found} found, {weights.stem[-8:]}… expected"
    with refused(f"{weights.name} could not be downloaded", both, f"put it at {weights}", "SOURCE"):
        weights.load_source("imagenet")
    assert visible(weights.parent) == []
    weights.write_bytes(server.files[weights.name])
    with refused(f"{weights} is damaged", both, "remove it"):
        weights.load_source("imagenet")


def test_missing_weights_say_what_to_fetch_and_where_to_put_it(tmp_path, offline, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = tmp_path / "checkpoints" / "vgg16-397923af.pth"
    with refused("no network", "fetch https://download.pytorch.org/models/vgg16-397923af.pth", f"put it at {path}"):
        weights.load_source("imagenet")


# --- damaged files ------------------------------------------------------------------------------------------------


def test_damaged_idx_files(sample_data, tmp_path):
    raw = shutil.copytree(sample_data / "MNIST", tmp_path / "MNIST") / "raw"
    images_file, labels_file = raw / "t10k-images-idx3-ubyte", raw / "t10k-labels-idx1-ubyte"
    whole = images_file.read_bytes()
    for content in (whole[:-5], b"", b"<html>not found</html>", whole[:3]):
        images_file.write_bytes(content)
        with refused(str(images_file), "damaged or truncated", "remove it"):
            load("mnist", "3", tmp_path)
    images_file.write_bytes(whole)
    labels = labels_file.read_bytes()
    labels_file.write_bytes(labels[:4] + (199).to_bytes(4, "big") + labels[8:-1])
    with refused("200 images", "199 labels"):
        load("mnist", "3", tmp_path)
    labels_file.write_bytes(labels[:-1] + b"\x0a")
    with refused(str(labels_file), "not what it should hold"):
        load("mnist", "3", tmp_path)


def test_cifar10_images(cifar10):
    split, test_batch = load("cifar10", "dog", cifar10), cifar10 / "cifar10" / downloads.BATCHES / "test_batch"
    assert (len(split.train), len(split.test), split.labels.sum(), split.cls) == (10, 20, 18, "5")
    pixels = pickle.loads(test_batch.read_bytes())["data"][7].reshape(3, 32, 32).transpose(1, 2, 0)
    expected = images.fit(Image.fromarray(pixels), 32, lanczos=True)
    assert np.array_equal(split.test.pixels[7].permute(1, 2, 0).numpy(), expected)
    assert split.names[7] == "cifar10/cifar-10-batches-py/test_batch[7]" and split.test.normalise
