"""How this process asks the system for memory."""

import ctypes
import sys

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
