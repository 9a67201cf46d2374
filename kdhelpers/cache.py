"""How this process asks for memory, and what it does when there is none left."""

import ctypes
import sys
import warnings
from collections.abc import Callable

import torch
from tqdm import tqdm

# The names of malloc.h, which Python does not have.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Makes glibc keep what is freed for the next request instead of handing it back to the system; a no-op elsewhere.

    A training step frees and takes the same large buffers again and again. By default each goes back to the system and
    is cleared page by page when it comes again, which on a CPU can take as long as the step's arithmetic.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_M_TOP_PAD, 2**26)


def in_chunks(function: Callable, length: int, step: int, progress: str | None = None) -> list:
    """`function` of slices of `step` that cover `range(length)` in order, as a list.

    Where a slice is too large for the GPU's memory, it and the following ones are halved, which is said; the function
    must give the same for an image whatever slice it is in. progress: the title of a progress bar, None for no bar.
    Raises torch.OutOfMemoryError when a single image is too large.
    """
    found, start = [], 0
    with tqdm(total=length, desc=progress, unit="image", disable=progress is None, delay=1, mininterval=1) as bar:
        while start < length:
            end = min(start + step, length)
            try:
                found.append(function(slice(start, end)))
            except torch.OutOfMemoryError:
                if step == 1:
                    raise
                step = max(1, step // 2)
                warnings.warn(f"out of GPU memory: {step} images at once from here on", stacklevel=2)
            else:
                bar.update(end - start)
                start = end
                continue
            torch.cuda.empty_cache()  # once the error, which holds the tensors, is gone
    return found
