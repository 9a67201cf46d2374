"""Files that are written whole or not at all, so that no reader ever sees a half of one."""

import errno
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdhelpers.errors import InputError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LEFT_BEHIND = 3600  # seconds after which a temporary file belongs to a process that was killed


def refusal(path: Path | str, error: OSError) -> InputError:
    """The line for what cannot be written because of `error`; to make room helps only where there is none."""
    way_out = "make room or give another RESULTS_DIR" if error.errno in NO_ROOM else "give another RESULTS_DIR"
    return InputError(f"{path} cannot be written ({error.strerror or error}): {way_out}")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place, whole and on disk, when the block ends well.

    Raises InputError when the folder cannot be written to or the disk is full; `path` is then as it was before.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f".{path.name}.*"):
            if time.time() - old.stat().st_mtime > _LEFT_BEHIND:
                old.unlink(missing_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise refusal(path, error) from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def check(folder: Path) -> None:
    """Raises InputError when nothing can be written to `folder`, which is made where it is not there."""
    with atomic_write(folder / ".writable") as temporary:
        temporary.write_text("")
    (folder / ".writable").unlink(missing_ok=True)
