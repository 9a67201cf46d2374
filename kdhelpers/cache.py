"""The source's activations on a set of images, computed once and cached; and processing of a set in chunks."""

import ctypes
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor, nn
from tqdm import tqdm

from kdhelpers.networks import critical_points


class SourceActivations:
    """The activations a_S of every image of a set, cached or computed at each call, with the same values.

    `activations[index]` is the list of `critical_points` of those images, without gradient, on the images' device.
    cache: "device" (the images' device), "host" (main memory), "none" (no cache), or "auto": the first of these that
    needs at most half of the free memory.
    """

    def __init__(self, source: nn.Sequential, images, *, cache: str = "auto"):
        self.source, self.images, self.cached = source, images, None
        one = self[:1]
        device = one[0].device
        self.cache = _room_for(len(images) * sum(a.nbytes for a in one), device) if cache == "auto" else cache
        if self.cache == "none":
            return
        place = "cpu" if self.cache == "host" else device
        # Channels last, as in the networks, so that an image's activations are contiguous.
        cached = [torch.empty(len(images), *a.shape[2:], a.shape[1], dtype=a.dtype, device=place) for a in one]

        def store(index: slice) -> None:
            for whole, part in zip(cached, self[index], strict=True):
                whole[index] = part.permute(0, 2, 3, 1)

        self.by_chunks(store)
        self.cached = cached

    @torch.no_grad()
    def __getitem__(self, index) -> list[Tensor]:
        if self.cached is None:
            return critical_points(self.source, self.images[index])
        device = self.images.pixels.device
        at = index.to(self.cached[0].device) if isinstance(index, Tensor) else index
        return [a[at].to(device).permute(0, 3, 1, 2) for a in self.cached]

    def __len__(self) -> int:
        return len(self.images)

    def by_chunks(self, function: Callable) -> list:
        """Apply `function` to slices that cover the set, each with at most 2¹⁹ pixels per channel or one image."""
        return in_chunks(function, len(self), max(1, 2**19 // self.images.pixels[0, 0].numel()))


def _room_for(size: int, device: torch.device) -> str:
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what earlier classes freed counts as free
        if size <= torch.cuda.mem_get_info(device)[0] / 2:
            return "device"
    if size <= psutil.virtual_memory().available / 2:
        return "host" if device.type == "cuda" else "device"
    return "none"


# Of errors that are not OutOfMemoryError although a GPU's memory is full: of cuDNN, of both libraries, of CUDA itself.
_FULL = "unable to find an engine", "STATUS_ALLOC_FAILED", "CUDA error: out of memory"


@contextmanager
def out_of_memory() -> Iterator[None]:
    """Raise every error that a full GPU causes as torch.OutOfMemoryError."""
    try:
        yield
    except RuntimeError as error:
        if any(words in str(error) for words in _FULL):
            raise torch.OutOfMemoryError(str(error)) from None
        raise


def in_chunks(function: Callable, length: int, step: int, progress: str | None = None) -> list:
    """Apply `function` to slices of `step` that cover `range(length)` in order; return the results as a list.

    When a slice exceeds the GPU's memory, this slice and all later ones are halved, with a warning. progress: title of
    a progress bar, None for no bar. Raises torch.OutOfMemoryError when a single image is too large.
    """
    found, start = [], 0
    with tqdm(total=length, desc=progress, unit="image", disable=progress is None, delay=1, mininterval=1) as bar:
        while start < length:
            end = min(start + step, length)
            try:
                with out_of_memory():
                    found.append(function(slice(start, end)))
                bar.update(end - start)
                start = end
                continue
            except torch.OutOfMemoryError:
                if end - start == 1:
                    raise
            torch.cuda.empty_cache()  # outside the except block: the exception holds the tensors
            step = (end - start) // 2
            warnings.warn(f"out of GPU memory: {step} images at a time from here on", stacklevel=2)
    return found


def keep_freed_memory() -> None:
    """Make glibc retain freed memory instead of returning it to the system; a no-op elsewhere.

    Every training step allocates and frees the same large buffers. By default, the system clears each new buffer page
    by page, which can take as long as the arithmetic on a CPU.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        # M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD of malloc.h, which Python does not define.
        for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**26)):
            libc.mallopt(parameter, value)
