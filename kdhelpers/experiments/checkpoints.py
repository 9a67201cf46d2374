"""Checkpoints of an unfinished training, to resume it after an interruption."""

import hashlib
import io
import json
import time
import warnings
from pathlib import Path

import torch

from kdhelpers.errors import InputError
from kdhelpers.files import atomic_write

EVERY = 60  # seconds between two checkpoints: about the most that an interruption can lose


class Checkpoint:
    """The file of one training's state; a state with other parameters, data or method version is never restored.

    path: the file. made_of: everything that the training's results depend on, serialisable as JSON; torch's version
    and the number of threads are added, since they change the last digits. every: seconds between two writes.
    """

    def __init__(self, path: Path, made_of: dict, every: float = EVERY):
        decisive = ["format 2", made_of, torch.__version__, torch.get_num_threads()]  # the format of `fit`'s state
        self.key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
        self.path, self.every, self.last = path, every, time.monotonic()

    def restore(self) -> dict | None:
        """The last saved state; None when there is none for this training, or, with a warning, an unreadable one."""
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            return saved["state"] if saved["key"] == self.key else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # torch.load raises many types of errors for a damaged file
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"{self.path} cannot be read ({reason}): training starts from the beginning", stacklevel=2)
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
