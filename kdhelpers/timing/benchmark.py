"""How fast the project is on this machine, beside the released code's procedure (`plain`) and the machine's own limits.

A `Case` is one image size on one device. Ours and plain run in a process each, one after the other in turns, so that a
noisy machine disturbs both and neither has the other's memory. Images are random: no time depends on what is in them.
"""

import gc
import io
import os
import platform
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import nn

from kdhelpers import cache, localization, losses, metrics, networks, training
from kdhelpers.cache import SourceActivations
from kdhelpers.data import weights
from kdhelpers.data.images import Images
from kdhelpers.experiments.variants import METHODS
from kdhelpers.protocols import PROTOCOLS, Protocol
from kdhelpers.timing import released_code as plain


@dataclass(frozen=True)
class Case:
    """What is measured at one image size, and on how much of it."""

    source: str  # as `weights.load_source` takes it
    protocol: Protocol  # of ours; plain is always as `plain` is, with this λ
    image_size: int  # pixels
    images: int  # normal ones, of which an epoch consists
    masked: int  # anomalous ones of the category that is localized
    batch_size: int
    batch_sizes: tuple[int, ...]  # of detection
    few: int  # images that what takes them one by one, and SmoothGrad, are measured on
    device: torch.device
    seed: int

    def parameters(self) -> dict:
        """As a record has them."""
        return asdict(self) | {"device": str(self.device)}


# The machine.


def device_name(device: torch.device) -> str:
    """The model of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or device.type


def machine(device: torch.device, *, small: bool = False) -> dict:
    """What the hardware can do: {"matrix_peak": FLOP/s by type, "convolution_peak": FLOP/s, "bandwidth": bytes/s, ...}.

    small: of little matrices and buffers, which prove the way only.
    """
    size, megabytes = (512, 64) if small else (8192, 2048) if device.type == "cuda" else (2048, 512)
    free = psutil.virtual_memory().available
    return {
        "name": device_name(device),
        "threads": torch.get_num_threads(),
        "tf32": torch.backends.cudnn.allow_tf32 if device.type == "cuda" else None,
        "matrix_peak": {
            str(dtype).removeprefix("torch."): matrix_peak(device, dtype, size)
            for dtype in (torch.float32, torch.bfloat16)
        },
        "convolution_peak": convolution_peak(device, 1 if small else 64 if device.type == "cuda" else 8),
        "bandwidth": bandwidth(device, megabytes),
        "free": max(free, torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free,
    }


def matrix_peak(device: torch.device, dtype: torch.dtype = torch.float32, size: int = 2048, rounds: int = 5) -> float:
    """FLOP/s of the product of two square matrices, the best of `rounds`.

    On a GPU with TF32 where convolutions may use it, so that they have the same limit.
    """
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    before, torch.backends.cuda.matmul.allow_tf32 = (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )
    try:
        return 2 * size**3 / _best(lambda: a @ b, device, rounds)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def convolution_peak(device: torch.device, images: int = 8, rounds: int = 5) -> float:
    """FLOP/s of a float32 convolution as wide as S's widest, channels last, the best of `rounds`.

    PyTorch multiplies and convolves with different libraries, and on some CPUs the one for matrices is the slower by
    far: the matrix peak alone is no limit there.
    """
    layer = nn.Conv2d(512, 512, 3, padding=1, bias=False, device=device).to(memory_format=torch.channels_last)
    x = torch.randn(images, 512, 14, 14, device=device).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        return 2 * images * 14 * 14 * layer.weight.numel() / _best(lambda: layer(x), device, rounds)


def bandwidth(device: torch.device, megabytes: int = 512, rounds: int = 5) -> float:
    """Bytes/s, read and written, of copying a buffer much larger than the caches, the best of `rounds`."""
    a = torch.ones(megabytes * 2**20 // 4, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / _best(lambda: b.copy_(a), device, rounds)


def _best(function: Callable, device: torch.device, rounds: int) -> float:
    function()
    return min(_seconds(function, device) for _ in range(rounds))


def _seconds(function: Callable, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# The work.


def operations(network: nn.Sequential, image_size: int) -> dict[str, int]:
    """Multiply-adds of the convolutions for one image: one of them is two FLOP.

    "forward"; "gradient": with the derivative by the image, twice that; "training": with those by the weights and not
    that by the image, thrice that less the first layer's.
    """
    counts = [count for count, _, _ in _convolutions(network, image_size)]
    forward = sum(counts)
    return {"forward": forward, "gradient": 2 * forward, "training": 3 * forward - counts[0]}


def traffic(network: nn.Sequential, image_size: int, batch_size: int) -> dict[str, float]:
    """Bytes for one image of a batch if each convolution's input, output and weights cross the memory once a pass.

    The least that layers computed one by one can do with float32; passes as in `operations`.
    """
    one = 4 * sum(values + weights / batch_size for _, values, weights in _convolutions(network, image_size))
    return {"forward": one, "gradient": 2 * one, "training": 3 * one}


def _convolutions(network: nn.Sequential, image_size: int) -> list[tuple[int, int, int]]:
    """Of each convolution on one image: multiply-adds, values in and out, weights."""
    found = []

    def count(layer: nn.Conv2d, given: tuple, out: torch.Tensor) -> None:
        weights = layer.weight.numel()
        found.append((out[0, 0].numel() * weights, given[0].numel() + out.numel(), weights))

    network = deepcopy(network).to("meta").eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    network(torch.empty(1, 3, image_size, image_size, device="meta"))
    return found


# What a worker keeps between two calls.


@lru_cache(maxsize=1)
def _ours(case: Case) -> tuple[nn.Sequential, nn.Sequential]:
    source, _ = weights.load_source(case.source, case.device)
    return source, networks.make_cloner(case.protocol, case.seed).to(case.device)


@lru_cache(maxsize=1)
def _plain(case: Case) -> tuple[nn.Sequential, nn.Sequential, torch.optim.Optimizer]:
    source, cloner = _ours(replace(case, protocol=_official(case)))
    cloner = plain.cloner_of(cloner)
    return plain.source_of(source), cloner, plain.optimiser_of(cloner)


def _official(case: Case) -> Protocol:
    return replace(PROTOCOLS["official"], lam=case.protocol.lam)


@lru_cache(maxsize=1)
def _activations(case: Case) -> tuple[SourceActivations, float]:
    """S on the training images, and the seconds that took."""
    source, _ = _ours(case)
    images = _images(case, case.images)
    SourceActivations(source, images.subset(slice(0, 1)))
    _wait(case.device)
    start = time.perf_counter()
    activations = SourceActivations(source, images)
    _wait(case.device)
    return activations, time.perf_counter() - start


def _images(case: Case, count: int) -> Images:
    generator = torch.Generator().manual_seed(case.seed)
    pixels = torch.randint(0, 256, (count, 3, case.image_size, case.image_size), dtype=torch.uint8, generator=generator)
    return Images(pixels).to(case.device)


def _floats(case: Case, count: int) -> torch.Tensor:
    """The same as plain has them: float32, channel by channel."""
    return _images(case, count)[slice(None)].contiguous(memory_format=torch.contiguous_format)


def masks_of(case: Case) -> np.ndarray:
    """A rectangle of up to a third of the image in each mask; float32 (case.masked, h, w)."""
    rng = np.random.default_rng(case.seed)
    masks = np.zeros((case.masked, case.image_size, case.image_size), np.float32)
    for mask in masks:
        top, left = rng.integers(0, 2 * case.image_size // 3, 2)
        height, width = rng.integers(case.image_size // 16, case.image_size // 3, 2)
        mask[top : top + height, left : left + width] = 1
    return masks


# Ours and plain. Each function takes the time once; `rounds` calls it again and again.


def source_cache_seconds(case: Case) -> float:
    """Seconds for S's activations on all images of the case, which `training_speed` begins with and does not count."""
    return _activations(case)[1]


def source_cache_bytes(case: Case) -> int:
    """Bytes of S's activations on one image."""
    return sum(a.nbytes for a in _activations(case)[0][slice(0, 1)])


def training_speed(case: Case, epochs: int = 2) -> float:
    """Images/s of `training.train` on S's activations, as they are kept."""
    activations, _ = _activations(case)
    fit = _train(case, activations, _ours(case)[1], epochs)
    return epochs * len(activations) / fit.seconds["train"]


def _train(case: Case, activations: SourceActivations, cloner: nn.Sequential, epochs: int) -> training.Fit:
    with redirect_stderr(io.StringIO()):  # its progress bar
        return training.fit(
            activations, cloner, case.protocol, epochs=epochs, batch_size=case.batch_size, seed=case.seed
        )


def plain_training_speed(case: Case, steps: int = 1) -> float:
    """Images/s of the plain training step."""
    source, cloner, optimiser = _plain(case)
    cloner.train()
    x = _floats(case, case.batch_size)

    def train() -> None:
        for _ in range(steps):
            plain.train_step(source, cloner, optimiser, x, case.protocol.lam)

    return steps * len(x) / _seconds(train, case.device)


def detection_speed(case: Case, batch_size: int, batches: int = 1) -> float:
    """Milliseconds for the score of an image, from its bytes, in batches of `batch_size`."""
    source, cloner = _ours(case)
    cloner.eval()
    images = _images(case, batch_size)

    @torch.no_grad()
    def detect() -> None:
        for _ in range(batches):
            x = images[slice(None)]
            a_s, a_c = networks.critical_points(source, x), networks.critical_points(cloner, x)
            losses.score(a_s, a_c, case.protocol).tolist()

    return 1000 * _seconds(detect, case.device) / (batches * batch_size)


def plain_detection_speed(case: Case, batch_size: int, batches: int = 1) -> float:
    """The same of the plain procedure."""
    source, cloner, _ = _plain(case)
    cloner.eval()
    images = _floats(case, batch_size).repeat(batches, 1, 1, 1)
    seconds = _seconds(lambda: plain.scores(source, cloner, images, case.protocol.lam, batch_size), case.device)
    return 1000 * seconds / len(images)


def localization_speed(case: Case, method: str = "gradients") -> float:
    """Images/s of the map of Eq. 6, by one of METHODS; SmoothGrad on a few images only."""
    images = _images(case, case.few if method == "smoothgrad" else min(case.masked, 8 * case.few))
    return len(images) / _seconds(lambda: _maps(case, images, method), case.device)


def plain_localization_speed(case: Case) -> float:
    """Images/s of the plain maps, without their openings, which belong to the AUROC there."""
    source, cloner, _ = _plain(case)
    cloner.eval()
    images = _floats(case, case.few)
    return len(images) / _seconds(lambda: plain.maps(source, cloner, images, case.protocol.lam), case.device)


def localization_and_auroc(case: Case) -> float:
    """Seconds for the maps and the pixel AUROC of all masked images of the case."""
    images, masks = _images(case, case.masked), masks_of(case)
    return _seconds(lambda: metrics.pixel_auroc(_maps(case, images, "gradients"), masks), case.device)


def plain_localization_and_auroc(case: Case) -> float:
    """The same of the plain procedure, measured on a few of the images and multiplied."""
    source, cloner, _ = _plain(case)
    cloner.eval()
    images, masks = _floats(case, case.few), masks_of(case)[: case.few]

    def localize() -> None:
        plain.pixel_auroc(plain.maps(source, cloner, images, case.protocol.lam), masks)

    return _seconds(localize, case.device) * case.masked / case.few


def _maps(case: Case, images: Images, method: str) -> np.ndarray:
    source, cloner = _ours(case)
    with redirect_stderr(io.StringIO()):
        found = localization.attribution(method, source, cloner, images, case.protocol, seed=case.seed)
    return localization.localization_map(found)


def aupro_seconds(maps: np.ndarray, masks: np.ndarray) -> float:
    """Seconds for the AUPRO of maps, masks (n, h, w)."""
    return _seconds(lambda: metrics.aupro(maps, masks >= 0.5), torch.device("cpu"))


def aupro_of(case: Case) -> float:
    """Seconds for the AUPRO of the masked images and half as many normal ones, random maps: no two pixels tie."""
    rng = np.random.default_rng(case.seed)
    masks = np.concatenate([masks_of(case), np.zeros((case.masked // 2, case.image_size, case.image_size))])
    return aupro_seconds(rng.random(masks.shape, dtype=np.float32), masks)


def peak_memory_mb(case: Case) -> dict[str, int | None]:
    """{"host", "device"}: the most memory this process has had so far, in MB; on the host with all its libraries."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count the parent's memory, since the child begins as it
        host = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    else:
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**10 if sys.platform == "darwin" else 1)
    on_device = torch.cuda.max_memory_allocated(case.device) // 2**20 if case.device.type == "cuda" else None
    return {"host": host // 2**10, "device": on_device}


class _Doubles(Images):
    """Images whose batches are float64."""

    def __getitem__(self, index) -> torch.Tensor:
        return super().__getitem__(index).double()


def loss_agreement(case: Case, steps: int = 20, dtype: torch.dtype = torch.float32, image_size: int = 32) -> dict:
    """The loss of ours and of plain from the same start over `steps` steps on one batch, and how far they come apart.

    {"ours", "plain": one loss a step; "largest relative difference"}. In float64 they stay together; in float32 each
    step of Adam turns rounding into steps of its own, and plain with another order of summation leaves itself as far.
    """
    # A batch is an epoch: the curve shows every step.
    case = replace(case, protocol=_official(case), images=case.batch_size, image_size=image_size)
    source = weights.load_source(case.source, case.device)[0].to(dtype)
    cloner = networks.make_cloner(case.protocol, case.seed).to(case.device, dtype)
    other, other_cloner = plain.source_of(source).to(dtype), plain.cloner_of(cloner).to(dtype).train()
    optimiser, x = plain.optimiser_of(other_cloner), _floats(case, case.images).to(dtype)
    theirs = [plain.train_step(other, other_cloner, optimiser, x, case.protocol.lam) for _ in range(steps)]
    images = _images(case, case.images)
    images = images if dtype == torch.float32 else _Doubles(images.pixels)
    ours = _train(case, SourceActivations(source, images), cloner, steps).loss
    apart = np.max(np.abs(np.array(ours) / theirs - 1))
    return {"ours": ours, "plain": theirs, "largest relative difference": float(apart)}


# All of it.


def measure(case: Case, rounds: int) -> dict:
    """Every number of a case: {name: {"ours", "plain": the best of `rounds`, "all": each of them}} and single ones.

    Speeds in images/s, detection in ms an image, the rest in seconds; what plain does not have is not there.
    """
    found = {"case": case.parameters(), "rounds": rounds, **_work(case)}
    with _workers() as workers:

        def call(name: str, function: Callable, *arguments):
            return workers[name].submit(function, *arguments).result()

        def both(best: Callable, ours: Callable, other: Callable, *arguments) -> dict:
            functions = {"ours": ours, "plain": other}
            taken = {name: [] for name in functions}
            for _ in range(rounds + 1):
                for name, function in functions.items():
                    taken[name].append(call(name, function, case, *arguments))
            taken = {name: values[1:] for name, values in taken.items()}  # the first warms up
            return {name: best(values) for name, values in taken.items()} | {"all": taken}

        found["source_cache_seconds"] = call("ours", source_cache_seconds, case)
        found["source_cache_bytes"] = call("ours", source_cache_bytes, case)
        found["training"] = both(max, training_speed, plain_training_speed)
        found["training"]["peak_memory_mb"] = {name: call(name, peak_memory_mb, case) for name in workers}
        call("ours", _forget)
        found["detection"] = {
            str(size): both(min, detection_speed, plain_detection_speed, size) for size in case.batch_sizes
        }
        found["localization"] = {"gradients": both(max, localization_speed, plain_localization_speed)}
        for method in METHODS[1:]:
            speed = call("ours", localization_speed, case, method)  # once: it takes long, and gradients warmed it up
            found["localization"][method] = {"ours": speed, "all": {"ours": [speed]}}
        found["category"] = both(min, localization_and_auroc, plain_localization_and_auroc)
        taken = [call("ours", aupro_of, case) for _ in range(rounds)]
        found["aupro"] = {"ours": min(taken), "all": {"ours": taken}}
    return found


def _work(case: Case) -> dict:
    """{"operations": of "source" and "cloner", as `operations`; "traffic": the same by batch size, as `traffic`}."""
    parts = dict(zip(("source", "cloner"), _ours(replace(case, device=torch.device("cpu"))), strict=True))
    sizes = sorted({1, case.batch_size, *case.batch_sizes})
    return {
        "operations": {name: operations(network, case.image_size) for name, network in parts.items()},
        "traffic": {
            name: {str(size): traffic(network, case.image_size, size) for size in sizes}
            for name, network in parts.items()
        },
    }


@contextmanager
def _workers() -> Iterator[dict[str, ProcessPoolExecutor]]:
    """A process for ours, which keeps freed memory as the notebooks do, and one for plain, which does not."""
    context = get_context("spawn")
    with (
        ProcessPoolExecutor(1, context, initializer=_begin, initargs=(True,)) as ours,
        ProcessPoolExecutor(1, context, initializer=_begin, initargs=(False,)) as other,
    ):
        yield {"ours": ours, "plain": other}


def _begin(keep_freed_memory: bool) -> None:
    def end_with_parent() -> None:  # or a worker would compute on when a notebook's kernel is killed
        parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    if keep_freed_memory:
        cache.keep_freed_memory()


def _forget() -> None:
    """Frees what only the training needs."""
    _activations.cache_clear()
    gc.collect()
