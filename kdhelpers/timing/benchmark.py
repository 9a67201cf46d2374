"""The project's speed on this machine, beside the released code's procedure and the least arithmetic needed.

Ours and the released procedure run in separate processes and take turns, so that a noisy machine slows both and neither
occupies the other's memory. Images are random, since no time depends on their content.
"""

import io
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdhelpers import cache, localization, losses, metrics, networks, training
from kdhelpers.cache import SourceActivations
from kdhelpers.data import weights
from kdhelpers.data.images import Images
from kdhelpers.experiments.variants import METHODS
from kdhelpers.protocols import PROTOCOLS, Protocol
from kdhelpers.timing import released_code


@dataclass(frozen=True)
class Case:
    """The settings and numbers of images of the measurements at one image size."""

    source: str  # as `weights.load_source` takes it
    protocol: Protocol  # of ours; the released procedure only takes its λ
    image_size: int  # pixels
    images: int  # normal images of an epoch
    masked: int  # anomalous images of the localized category
    batch_size: int
    few: int  # images for slow measurements, such as the released code's maps and SmoothGrad
    device: torch.device
    seed: int

    def parameters(self) -> dict:
        """The fields as JSON stores them."""
        return asdict(self) | {"device": str(self.device)}


def device_name(device: torch.device) -> str:
    """The model of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    about = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)", about.read_text() if about.is_file() else "", re.MULTILINE)
    return model[1] if model else platform.processor() or device.type


def machine(device: torch.device, *, small: bool = False) -> dict:
    """{"name", "threads", "free": bytes of free memory, "peak": FLOP/s in float32}.

    The peak is the fastest of a large matrix product and S's wider convolutions (channels last), which PyTorch computes
    with different libraries; each is the best of six runs. small: True for tiny ones, whose speed means nothing.
    """
    training.use_precision("float32", device)
    gpu = device.type == "cuda"
    size, images = (512, 1) if small else (8192, 64) if gpu else (2048, 8)
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    works = [lambda: a @ b]
    for channels, pixels in ((512, 14), (256, 28), (128, 56)):
        layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False, device=device)
        x = torch.randn(images, channels, pixels, pixels, device=device)
        works.append(partial(layer.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)))
    with torch.no_grad():
        peak = max(flops(work) / min(_seconds(work, device) for _ in range(6)) for work in works)
    free = torch.cuda.mem_get_info(device)[0] if gpu else psutil.virtual_memory().available
    return {"name": device_name(device), "threads": torch.get_num_threads(), "free": free, "peak": peak}


def flops(function: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products that `function` computes."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def operations(case: Case) -> dict[str, float]:
    """FLOP per image for training (C alone, since S's activations are cached), detection, and a map by gradients."""
    source, cloner = networks.make_source().requires_grad_(False), networks.make_cloner(case.protocol, case.seed)
    x = torch.rand(2, 3, case.image_size, case.image_size)

    def backward(a_s: list[Tensor], a_c: list[Tensor]) -> None:
        sum(a.sum() for a in a_s + a_c).backward()

    train = flops(lambda: backward([], networks.critical_points(cloner, x)))
    cloner.requires_grad_(False)
    detect = flops(lambda: networks.critical_points(source, x) + networks.critical_points(cloner, x))
    x.requires_grad_()
    of_s = x if case.protocol.gradient == "both" else x.detach()
    localize = flops(lambda: backward(networks.critical_points(source, of_s), networks.critical_points(cloner, x)))
    return {"training": train / len(x), "detection": detect / len(x), "map": localize / len(x)}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - start


def _images(case: Case, count: int) -> Images:
    generator = torch.Generator().manual_seed(case.seed)
    pixels = torch.randint(0, 256, (count, 3, case.image_size, case.image_size), dtype=torch.uint8, generator=generator)
    return Images(pixels).to(case.device)


def _masks(case: Case, count: int) -> np.ndarray:
    """Masks with a square in each: float32 (count, h, w)."""
    masks = np.zeros((count, case.image_size, case.image_size), np.float32)
    masks[:, : case.image_size // 4, : case.image_size // 4] = 1
    return masks


class Ours:
    """This project's tasks by name: each method runs one and returns seconds per image, `category` total seconds."""

    def __init__(self, case: Case):
        cache.keep_freed_memory()  # as the notebooks do
        self.case, self.s = case, weights.load_source(case.source, case.device)[0]
        self.c = networks.make_cloner(case.protocol, case.seed).to(case.device).eval()
        images, self.seconds = _images(case, case.images), {}
        with training.timed(self.seconds, "source"):
            self.activations = SourceActivations(self.s, images)
            _wait(case.device)

    def source(self) -> dict[str, float]:
        """Seconds and bytes per image of S's activations, which are computed before training and not counted in it."""
        per_image = self.seconds["source"] / self.case.images
        return {"seconds": per_image, "bytes": sum(a.nbytes for a in self.activations[:1])}

    def training(self) -> float:
        """On a GPU, leave out the first epochs: recording their CUDA graph takes as long as hundreds of steps."""
        first, last = (4, 24) if self.case.device.type == "cuda" else (0, 2)
        fits = (_fit(self.case, self.activations, self.c, epochs) for epochs in (first, last) if epochs)
        *before, after = (fit.seconds["train"] for fit in fits)
        return (after - sum(before)) / ((last - first) * self.case.images)

    def detection(self, batch_size: int) -> float:
        images = _images(self.case, batch_size)

        def work():
            x = images[:]
            a_s, a_c = networks.critical_points(self.s, x), networks.critical_points(self.c, x)
            losses.score(a_s, a_c, self.case.protocol).tolist()

        with torch.no_grad():
            return _seconds(work, self.case.device) / batch_size

    def localization(self, method: str) -> float:
        count = self.case.few if method == "smoothgrad" else min(self.case.masked, 8 * self.case.few)
        return _seconds(lambda: self._maps(method, count), self.case.device) / count

    def category(self) -> float:
        masks = _masks(self.case, self.case.masked)
        return _seconds(lambda: metrics.pixel_auroc(self._maps(METHODS[0], len(masks)), masks), self.case.device)

    def _maps(self, method: str, count: int) -> np.ndarray:
        with redirect_stderr(io.StringIO()):  # hides the progress bar
            found = localization.attribution(method, self.s, self.c, _images(self.case, count), self.case.protocol)
        return localization.localization_map(found)


class Released:
    """The same tasks by the released code's procedure; its maps exclude the openings, which are part of its AUROC."""

    def __init__(self, case: Case):
        official = networks.make_cloner(PROTOCOLS["official"], case.seed)
        both = map(released_code.as_there, (weights.load_source(case.source)[0], official))
        self.case, (self.s, self.c) = case, (network.to(case.device) for network in both)
        self.optimiser = torch.optim.Adam(self.c.parameters(), lr=1e-3)

    def training(self) -> float:
        return self._per_image(partial(released_code.train_step, optimiser=self.optimiser), self.case.batch_size, True)

    def detection(self, batch_size: int) -> float:
        return self._per_image(partial(released_code.scores, batch_size=batch_size), batch_size)

    def localization(self, method: str) -> float:
        return self._per_image(released_code.maps, self.case.few)

    def category(self) -> float:
        """Seconds measured on a few images and scaled to all."""
        masks, count = _masks(self.case, self.case.few), self.case.few
        seconds = self._per_image(lambda *given: released_code.pixel_auroc(released_code.maps(*given), masks), count)
        return self.case.masked * seconds

    def _per_image(self, function: Callable, count: int, training: bool = False) -> float:
        self.c.train(training)
        x = _images(self.case, count)[:].contiguous()  # channels first in memory, as there
        given = self.s, self.c, x, self.case.protocol.lam
        return _seconds(lambda: function(*given), self.case.device) / count


def measure(case: Case, rounds: int) -> dict:
    """{task: {"ours", "released": the best of `rounds`, "all": all rounds}}; seconds per image, "category" in all.

    SmoothGrad and guided backprop are measured for ours alone, and once: `released_code.maps` has gradients only.
    """
    found = {"case": case.parameters(), "operations": operations(case)}
    with _worker(Ours, case) as call_ours, _worker(Released, case) as call_released:
        found["source"] = call_ours("source")
        paired = [("training",), ("detection", 1), ("detection", case.batch_size), ("localization", METHODS[0])]
        for what in [*paired, ("category",)]:
            pairs = [(call_ours(*what), call_released(*what)) for _ in range(rounds + 1)][1:]  # the first warms up
            taken = dict(zip(("ours", "released"), map(list, zip(*pairs, strict=True)), strict=True))
            found[" ".join(map(str, what))] = {side: min(seconds) for side, seconds in taken.items()} | {"all": taken}
        for method in METHODS[1:]:
            found[f"localization {method}"] = {"ours": call_ours("localization", method)}  # once: SmoothGrad is slow
    return found


@contextmanager
def _worker(side: type, case: Case) -> Iterator[Callable]:
    """A process for the tasks of `Ours` or `Released`; yields a function that runs one by its name."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(side, case)) as pool:
        yield lambda *call: pool.submit(_call, *call).result()


def _begin(side: type, case: Case) -> None:
    training.use_precision("float32", case.device)  # for both sides: cuDNN would use TF32

    def end_with_parent() -> None:  # or a worker would outlive a notebook's killed kernel
        parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    _call.side = side(case)


def _call(name: str, *arguments):
    return getattr(_call.side, name)(*arguments)


def _fit(case: Case, activations: SourceActivations, cloner: nn.Sequential, epochs: int) -> training.Fit:
    same = {"epochs": epochs, "batch_size": case.batch_size, "seed": case.seed}
    with redirect_stderr(io.StringIO()):  # hides the progress bar
        return training.fit(activations, cloner, case.protocol, **same)


class _Doubles(Images):
    """Images whose batches are float64."""

    def __getitem__(self, index) -> Tensor:
        return super().__getitem__(index).double()


def loss_agreement(case: Case, steps: int, dtype: torch.dtype = torch.float32) -> dict:
    """The loss of ours and of the released procedure over `steps` steps from the same start, on one batch of 32 px.

    Returns {"ours", "released": one loss per step; "largest relative difference"}. In float64 both stay together; in
    float32, each step of Adam amplifies rounding differences.
    """
    training.use_precision("float32", case.device)
    # An epoch is one batch, so the loss curve has every step.
    lam = case.protocol.lam
    official = replace(PROTOCOLS["official"], lam=lam)
    case = replace(case, protocol=official, images=case.batch_size, image_size=32)
    source = weights.load_source(case.source, case.device)[0].to(dtype)
    cloner = networks.make_cloner(case.protocol, case.seed).to(case.device, dtype)
    theirs, their_cloner = released_code.as_there(source), released_code.as_there(cloner)
    optimiser = torch.optim.Adam(their_cloner.train().parameters(), lr=1e-3)
    x = _images(case, case.images)[:].contiguous().to(dtype)  # channels first in memory
    expected = [released_code.train_step(theirs, their_cloner, x, lam, optimiser) for _ in range(steps)]
    images = _images(case, case.images)
    images = images if dtype == torch.float32 else _Doubles(images.pixels)
    found = _fit(case, SourceActivations(source, images), cloner, steps).loss
    apart = float(np.max(np.abs(np.array(found) / expected - 1)))
    return {"ours": found, "released": expected, "largest relative difference": apart}
