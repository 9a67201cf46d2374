"""How fast the project is on this machine, beside the released code's procedure and the arithmetic that must be done.

Ours and the released procedure run in a process each and take turns, so that a noisy machine disturbs both and neither
has the other's memory. Images are random: no time depends on what is in them.
"""

import io
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, replace
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
    """What is measured at one image size, and on how much of it."""

    source: str  # as `weights.load_source` takes it
    protocol: Protocol  # of ours; the released procedure is always the same, with this λ
    image_size: int  # pixels
    images: int  # normal ones, of which an epoch consists
    masked: int  # anomalous ones of the category that is localized
    batch_size: int
    few: int  # images that what takes them one by one, and SmoothGrad, are measured on
    device: torch.device
    seed: int

    def parameters(self) -> dict:
        """As a record has them."""
        return asdict(self) | {"device": str(self.device)}


def device_name(device: torch.device) -> str:
    """The model of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or device.type


def machine(device: torch.device, *, small: bool = False) -> dict:
    """{"name", "threads", "free": bytes of memory, "peak": FLOP/s in float32}.

    The peak is the faster of a large matrix product and of a convolution as wide as S's widest, channels last, the best
    of five each: PyTorch computes them with different libraries. small: of little ones, which show nothing.
    """
    gpu = device.type == "cuda"
    size, images = (512, 1) if small else (8192, 64) if gpu else (2048, 8)
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    layer = nn.Conv2d(512, 512, 3, padding=1, bias=False, device=device).to(memory_format=torch.channels_last)
    x = torch.randn(images, 512, 14, 14, device=device).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        product = 2 * size**3 / min(_seconds(lambda: a @ b, device) for _ in range(6))
        convolution = flops(lambda: layer(x)) / min(_seconds(lambda: layer(x), device) for _ in range(6))
    free = torch.cuda.mem_get_info(device)[0] if gpu else psutil.virtual_memory().available
    peak = max(product, convolution)
    return {"name": device_name(device), "threads": torch.get_num_threads(), "free": free, "peak": peak}


def flops(function: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products that `function` computes."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def operations(case: Case) -> dict[str, float]:
    """FLOP of one image in training (C alone: S's activations are cached), detection and a map by gradients."""
    source, cloner = networks.make_source().requires_grad_(False), networks.make_cloner(case.protocol, case.seed)
    x = torch.rand(2, 3, case.image_size, case.image_size)
    train = flops(lambda: _sum(networks.critical_points(cloner, x)).backward())
    cloner.requires_grad_(False)
    detect = flops(lambda: networks.critical_points(source, x) + networks.critical_points(cloner, x))
    x.requires_grad_()

    def localize():
        with torch.set_grad_enabled(case.protocol.gradient == "both"):
            a_s = networks.critical_points(source, x)
        (_sum(a_s) + _sum(networks.critical_points(cloner, x))).backward()

    return {name: n / len(x) for name, n in (("training", train), ("detection", detect), ("map", flops(localize)))}


def _sum(activations: list[Tensor]) -> Tensor:
    return sum(a.sum() for a in activations)


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def _images(case: Case, count: int) -> Images:
    generator = torch.Generator().manual_seed(case.seed)
    pixels = torch.randint(0, 256, (count, 3, case.image_size, case.image_size), dtype=torch.uint8, generator=generator)
    return Images(pixels).to(case.device)


def _floats(case: Case, count: int) -> Tensor:
    """The same as the released code has them: float32, channel by channel."""
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


class Ours:
    """This project; each method is timed once and returns seconds an image, `category` those for all masked images."""

    def __init__(self, case: Case):
        cache.keep_freed_memory()  # as the notebooks do
        self.case, self.source = case, weights.load_source(case.source, case.device)[0]
        self.cloner = networks.make_cloner(case.protocol, case.seed).to(case.device)
        images, found = _images(case, case.images), []
        seconds = _seconds(lambda: found.append(SourceActivations(self.source, images)), case.device)
        self.activations, self.source_seconds = found[0], seconds / case.images

    def source_once(self) -> dict[str, float]:
        """Seconds and bytes of S's activations on an image, which training begins with and does not count."""
        return {"seconds": self.source_seconds, "bytes": sum(a.nbytes for a in self.activations[slice(0, 1)])}

    def training(self, epochs: int = 2) -> float:
        fit = _fit(self.case, self.activations, self.cloner, epochs)
        return fit.seconds["train"] / (epochs * len(self.activations))

    def detection(self, batch_size: int) -> float:
        self.cloner.eval()
        images = _images(self.case, batch_size)

        @torch.no_grad()
        def detect():
            x = images[slice(None)]
            a_s, a_c = networks.critical_points(self.source, x), networks.critical_points(self.cloner, x)
            losses.score(a_s, a_c, self.case.protocol).tolist()

        return _seconds(detect, self.case.device) / batch_size

    def localization(self, method: str) -> float:
        count = self.case.few if method == "smoothgrad" else min(self.case.masked, 8 * self.case.few)
        return _seconds(lambda: self._maps(method, count), self.case.device) / count

    def category(self) -> float:
        masks = masks_of(self.case)
        return _seconds(lambda: metrics.pixel_auroc(self._maps(METHODS[0], len(masks)), masks), self.case.device)

    def _maps(self, method: str, count: int) -> np.ndarray:
        images, case = _images(self.case, count), self.case
        with redirect_stderr(io.StringIO()):
            found = localization.attribution(method, self.source, self.cloner, images, case.protocol, seed=case.seed)
        return localization.localization_map(found)


class Released:
    """The released code's procedure, with the same methods; its maps come without the openings, which belong to the
    AUROC there."""

    def __init__(self, case: Case):
        self.case, official = case, replace(PROTOCOLS["official"], lam=case.protocol.lam)
        self.source = released_code.source_of(weights.load_source(case.source, case.device)[0])
        self.cloner = released_code.cloner_of(networks.make_cloner(official, case.seed).to(case.device))
        self.optimiser = released_code.optimiser_of(self.cloner)
        self.both, self.lam = (self.source, self.cloner), case.protocol.lam

    def training(self) -> float:
        self.cloner.train()
        x = _floats(self.case, self.case.batch_size)
        step = lambda: released_code.train_step(*self.both, self.optimiser, x, self.lam)  # noqa: E731
        return _seconds(step, self.case.device) / len(x)

    def detection(self, batch_size: int) -> float:
        self.cloner.eval()
        x = _floats(self.case, batch_size)
        return _seconds(lambda: released_code.scores(*self.both, x, self.lam, batch_size), self.case.device) / len(x)

    def localization(self, method: str) -> float:
        self.cloner.eval()
        x = _floats(self.case, self.case.few)
        return _seconds(lambda: released_code.maps(*self.both, x, self.lam), self.case.device) / len(x)

    def category(self) -> float:
        """Measured on a few of the images and multiplied."""
        self.cloner.eval()
        x, masks = _floats(self.case, self.case.few), masks_of(self.case)[: self.case.few]

        def localize():
            released_code.pixel_auroc(released_code.maps(*self.both, x, self.lam), masks)

        return _seconds(localize, self.case.device) * self.case.masked / len(x)


def measure(case: Case, rounds: int) -> dict:
    """{what: {"ours", "released": the best of `rounds`, "all": each of them}}; seconds an image, `category` seconds.

    SmoothGrad and guided backprop are ours alone: the released code's localization has gradients only.
    """
    found = {"case": case.parameters(), "operations": operations(case)}
    with _worker(Ours, case) as ours, _worker(Released, case) as released:
        found["source"] = ours("source_once")
        paired = [("training",), ("detection", 1), ("detection", case.batch_size), ("localization", METHODS[0])]
        for what in [*paired, ("category",)]:
            taken = {"ours": [], "released": []}
            for _ in range(rounds + 1):
                for side, call in (("ours", ours), ("released", released)):
                    taken[side].append(call(*what))
            taken = {side: seconds[1:] for side, seconds in taken.items()}  # the first round warms up
            best = {side: min(seconds) for side, seconds in taken.items()}
            found[" ".join(map(str, what))] = best | {"all": taken}
        for method in METHODS[1:]:
            found[f"localization {method}"] = {"ours": ours("localization", method)}  # once: SmoothGrad takes long
    return found


@contextmanager
def _worker(side: type, case: Case) -> Iterator[Callable]:
    """A process that holds a `side`; calls its methods by name."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(side, case)) as pool:
        yield lambda *call: pool.submit(_call, *call).result()


def _begin(side: type, case: Case) -> None:
    def end_with_parent() -> None:  # or a worker would compute on when a notebook's kernel is killed
        parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    _call.side = side(case)


def _call(name: str, *arguments):
    return getattr(_call.side, name)(*arguments)


def _fit(case: Case, activations: SourceActivations, cloner: nn.Sequential, epochs: int) -> training.Fit:
    with redirect_stderr(io.StringIO()):  # its progress bar
        return training.fit(
            activations, cloner, case.protocol, epochs=epochs, batch_size=case.batch_size, seed=case.seed
        )


class _Doubles(Images):
    """Images whose batches are float64."""

    def __getitem__(self, index) -> Tensor:
        return super().__getitem__(index).double()


def loss_agreement(case: Case, steps: int = 20, dtype: torch.dtype = torch.float32, image_size: int = 32) -> dict:
    """The loss of ours and of the released procedure from the same start over `steps` steps on one batch.

    {"ours", "released": one loss a step; "largest relative difference"}. In float64 they stay together; in float32 each
    step of Adam turns rounding into steps of its own.
    """
    # A batch is an epoch: the curve shows every step.
    official = replace(PROTOCOLS["official"], lam=case.protocol.lam)
    case = replace(case, protocol=official, images=case.batch_size, image_size=image_size)
    source = weights.load_source(case.source, case.device)[0].to(dtype)
    cloner = networks.make_cloner(case.protocol, case.seed).to(case.device, dtype)
    other, other_cloner = released_code.source_of(source), released_code.cloner_of(cloner).train()
    other, other_cloner, x = other.to(dtype), other_cloner.to(dtype), _floats(case, case.images).to(dtype)
    optimiser, lam = released_code.optimiser_of(other_cloner), case.protocol.lam
    theirs = [released_code.train_step(other, other_cloner, optimiser, x, lam) for _ in range(steps)]
    images = _images(case, case.images)
    images = images if dtype == torch.float32 else _Doubles(images.pixels)
    ours = _fit(case, SourceActivations(source, images), cloner, steps).loss
    apart = np.max(np.abs(np.array(ours) / theirs - 1))
    return {"ours": ours, "released": theirs, "largest relative difference": float(apart)}
