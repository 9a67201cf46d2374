"""Atomic writing of files, checksums, and one-line errors that name the file."""

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from kdhelpers.errors import InputError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ABANDONED = 3600  # seconds; older temporary files are leftovers of killed processes


def refusal(path: Path | str, error: OSError) -> InputError:
    """The InputError for a path that cannot be written."""
    fix = "make room, or " * (error.errno in NO_ROOM) + "give another RESULTS_DIR or another path"
    return InputError(f"{path} cannot be written ({error.strerror or error}): {fix}")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path` that atomically replaces it when the block succeeds.

    Raises InputError when the folder cannot be written to or the disk is full; `path` is then unchanged.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f".{path.name}.*"):
            with suppress(FileNotFoundError):  # another process was faster
                if time.time() - old.stat().st_mtime > _ABANDONED:
                    old.unlink()
        temporary.touch()
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise refusal(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def to_json(content: dict) -> str:
    """`content` as JSON with sorted keys; raises ValueError when a number in it is not finite."""
    return json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, content: dict) -> None:
    """Write `content` atomically as JSON (`to_json`)."""
    text = to_json(content)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def reading(path: Path | str | None = None) -> Iterator[None]:
    """Turn an OSError of a block or a decorated function into an InputError that names the file, or else `path`."""
    try:
        yield
    except OSError as error:
        name = error.filename or path
        if name is None:
            raise
        raise InputError(f"{name}: cannot be read ({error.strerror or error}); check the path and the rights") from None


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
