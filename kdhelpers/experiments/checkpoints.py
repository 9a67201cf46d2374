"""Checkpoints of an unfinished training, to resume it after an interruption."""

import io
import time
import warnings
from pathlib import Path

import torch

from kdhelpers.errors import InputError
from kdhelpers.files import atomic_write


class Checkpoint:
    """The file of one training's state; a state with other parameters, data or method version is never restored.

    path: the file. made_of: everything that the training's results depend on, as plain values by name; torch's version
    and, on a CPU, the number of threads are added: they change the last digits.
    """

    every = 60  # seconds between two checkpoints: about the most that an interruption can lose

    def __init__(self, path: Path, made_of: dict):
        threads = {"threads": torch.get_num_threads()} if made_of.get("device", "cpu") == "cpu" else {}
        self.key = {"format": 2, **made_of, "torch": str(torch.__version__), **threads}  # the format of `fit`'s state
        self.path, self.last = path, time.monotonic()

    def restore(self) -> dict | None:
        """The last saved state; None when there is none or, with a warning, one of another training or unreadable."""
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            if not isinstance(saved["key"], dict):
                raise ValueError("it is of another version of kdhelpers")
            names = [name for name in saved["key"] | self.key if saved["key"].get(name) != self.key.get(name)]
            if not names:
                return saved["state"]
            reason = f"is of a training with other {', '.join(names)}"
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # torch.load raises many types of errors for a damaged file
            reason = f"cannot be read ({str(error).strip().partition(chr(10))[0]})"
        warnings.warn(f"{self.path} {reason}: training starts from the beginning", stacklevel=2)
        return None

    def is_due(self) -> bool:
        """True when the last checkpoint is older than `every` seconds."""
        return time.monotonic() - self.last >= self.every

    def save(self, state: dict) -> None:
        """Write the state (tensors and plain numbers) atomically; if that fails, warn and continue."""
        buffer = io.BytesIO()
        torch.save({"key": self.key, "state": state}, buffer)
        try:
            with atomic_write(self.path) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        except InputError as error:
            warnings.warn(f"no checkpoint: {error}", stacklevel=2)
        self.last = time.monotonic()
