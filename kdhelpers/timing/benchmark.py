"""The project's speed on this machine, beside the released code's procedure and the least arithmetic needed.

Ours and the released procedure run in separate processes and take turns, so that a noisy machine slows both and neither
occupies the other's memory. Images are random, since no time depends on their content.
"""

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context, parent_process

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdhelpers import cache, localization, losses, metrics, networks, training
from kdhelpers.cache import SourceActivations
from kdhelpers.data import weights
from kdhelpers.data.images import Images
from kdhelpers.experiments.artifacts import device_name
from kdhelpers.protocols import METHODS, PROTOCOLS, Protocol
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


def machine(device: torch.device, *, small: bool = False) -> dict:
    """{"name", "threads", "free": bytes of free memory, "peak": FLOP/s in float32}.

    The peak is the fastest of a large matrix product and S's wider convolutions (channels last), which PyTorch computes
    with different libraries; each is the best of six runs. small: True for tiny ones, whose speed means nothing.
    """
    training.use_precision("float32", device)
    gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if gpu else psutil.virtual_memory().available
    size, images = (512, 1) if small else (8192, 64) if gpu else (2048, 8)
    a, b = (torch.randn(size, size, device=device) for _ in range(2))

    def convolution(channels: int, pixels: int) -> Callable[[], Tensor]:
        layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False, device=device)
        x = torch.randn(images, channels, pixels, pixels, device=device)
        return partial(layer.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last))

    with torch.no_grad():
        works = [lambda: a @ b, convolution(512, 14), convolution(256, 28), convolution(128, 56)]
        peak = max(flops(work) / min(_seconds(work, device) for _ in range(6)) for work in works)
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
    train = flops(lambda: sum(a.sum() for a in networks.critical_points(cloner, x)).backward())
    cloner.requires_grad_(False)
    detect = flops(lambda: networks.critical_points(source, x) + networks.critical_points(cloner, x))
    x.requires_grad_()

    def localize():
        """`localization.gradients`, whose `autograd.grad` the counter cannot follow."""
        with torch.set_grad_enabled(case.protocol.gradient == "both"):
            a_s = networks.critical_points(source, x)
        losses.score(a_s, networks.critical_points(cloner, x), case.protocol).sum().backward()

    return {name: n / len(x) for name, n in (("training", train), ("detection", detect), ("map", flops(localize)))}


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    wait = torch.get_device_module(device).synchronize  # does nothing on a CPU
    wait(device)
    start = time.perf_counter()
    function()
    wait(device)
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


def ours(case: Case) -> dict[str, Callable]:
    """This project's tasks by name: each function runs one and returns seconds per image, "category" total seconds."""
    cache.keep_freed_memory()  # as the notebooks do
    source = weights.load_source(case.source, case.device)[0]
    cloner = networks.make_cloner(case.protocol, case.seed).to(case.device)
    images, seconds = _images(case, case.images), {}
    with training.timed(seconds, "source"):
        activations = SourceActivations(source, images)
    # Of an image. S's activations are computed before training and not counted in it.
    once = {"seconds": seconds["source"] / case.images, "bytes": sum(a.nbytes for a in activations[:1])}

    def train() -> float:
        """The loop of `training.fit`. On a GPU without its first epochs, in which the CUDA graph is captured."""
        optimiser = training.make_optimiser(cloner, case.protocol)
        step = training.make_step(activations, cloner, case.protocol, optimiser, None, case.batch_size)
        order = torch.randperm(case.images, generator=torch.Generator().manual_seed(case.seed)).to(case.device)
        epoch = partial(training.train_one_epoch, step, cloner, order, case.batch_size)
        first, count = (4, 100) if case.device.type == "cuda" else (0, 2)
        for _ in range(first):
            epoch()
        return _seconds(lambda: [epoch().cpu() for _ in range(count)], case.device) / (count * case.images)

    def detect(batch_size: int) -> float:
        cloner.eval()
        images = _images(case, batch_size)

        @torch.no_grad()
        def work():
            x = images[:]
            a_s, a_c = networks.critical_points(source, x), networks.critical_points(cloner, x)
            losses.score(a_s, a_c, case.protocol).tolist()

        return _seconds(work, case.device) / batch_size

    def maps(method: str, images: Images) -> np.ndarray:
        with redirect_stderr(io.StringIO()):  # hides the progress bar
            found = localization.attribution(method, source, cloner, images, case.protocol)
        return localization.localization_map(found)

    def localize(method: str) -> float:
        count = case.few if method == "smoothgrad" else min(case.masked, 8 * case.few)
        images = _images(case, count)
        return _seconds(lambda: maps(method, images), case.device) / count

    def category() -> float:
        images, masks = _images(case, case.masked), _masks(case, case.masked)
        return _seconds(lambda: metrics.pixel_auroc(maps(METHODS[0], images), masks), case.device)

    work = {"training": train, "detection": detect, "localization": localize, "category": category}
    return work | {"source": lambda: once}


def released(case: Case) -> dict[str, Callable]:
    """The same tasks by the released code's procedure; its maps exclude the openings, which are part of its AUROC."""
    lam, official = case.protocol.lam, networks.make_cloner(PROTOCOLS["official"], case.seed).to(case.device)
    source, cloner = map(released_code.as_there, (weights.load_source(case.source, case.device)[0], official))
    optimiser = torch.optim.Adam(cloner.parameters(), lr=1e-3)
    train_step = partial(released_code.train_step, source, cloner, optimiser, lam=lam)
    scores, maps = (partial(each, source, cloner, lam=lam) for each in (released_code.scores, released_code.maps))

    def per_image(function: Callable, count: int, training: bool = False) -> float:
        cloner.train(training)
        x = _images(case, count)[:].contiguous()  # channels first in memory, as there
        return _seconds(lambda: function(x), case.device) / count

    def category() -> float:
        """Seconds measured on a few images and scaled to all."""
        masks = _masks(case, case.few)
        return case.masked * per_image(lambda x: released_code.pixel_auroc(maps(x), masks), case.few)

    return {
        "training": lambda: per_image(train_step, case.batch_size, training=True),
        "detection": lambda n: per_image(partial(scores, batch_size=n), n),
        "localization": lambda method: per_image(maps, case.few),
        "category": category,
    }


def measure(case: Case, rounds: int) -> dict:
    """{task: {"ours", "released": the best of `rounds`, "all": all rounds}}; seconds per image, "category" in all.

    SmoothGrad and guided backprop are measured for ours alone, and once: `released_code.maps` has gradients only.
    """
    found = {"case": case.parameters(), "operations": operations(case)}
    with _worker(ours, case) as call_ours, _worker(released, case) as call_released:
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
def _worker(side: Callable[[Case], dict[str, Callable]], case: Case) -> Iterator[Callable]:
    """A process for the tasks of a `side`; yields a function that runs one by its name."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(side, case)) as pool:
        yield lambda *call: pool.submit(_call, *call).result()


def _begin(side: Callable[[Case], dict[str, Callable]], case: Case) -> None:
    if case.device.index is not None:
        torch.cuda.set_device(case.device)  # another process's choice counts for itself alone
    training.use_precision("float32", case.device)  # for both sides: cuDNN would use TF32

    def end_with_parent() -> None:  # or a worker would outlive a notebook's killed kernel
        parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    _call.work = side(case)


def _call(name: str, *arguments):
    return _call.work[name](*arguments)


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
    case = replace(case, protocol=replace(PROTOCOLS["official"], lam=case.protocol.lam), image_size=32)
    source = weights.load_source(case.source, case.device)[0].to(dtype)
    cloner = networks.make_cloner(case.protocol, case.seed).to(case.device, dtype)
    theirs, their_cloner = released_code.as_there(source), released_code.as_there(cloner)
    optimiser = torch.optim.Adam(their_cloner.train().parameters(), lr=1e-3)
    images = _images(case, case.batch_size)
    x, lam = images[:].contiguous().to(dtype), case.protocol.lam
    expected = [released_code.train_step(theirs, their_cloner, optimiser, x, lam) for _ in range(steps)]
    images = images if dtype == torch.float32 else _Doubles(images.pixels)
    # An epoch is one batch, so the loss curve has every step.
    given = {"epochs": steps, "batch_size": case.batch_size, "seed": case.seed}
    with redirect_stderr(io.StringIO()):  # hides the progress bar
        found = training.fit(SourceActivations(source, images), cloner, case.protocol, **given).loss
    apart = float(np.max(np.abs(np.array(found) / expected - 1)))
    return {"ours": found, "released": expected, "largest relative difference": apart}
