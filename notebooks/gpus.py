"""One queue over all GPUs of a machine: each job takes a place on one of them and sees no other."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EVERY = 0.5  # seconds between two looks for a free place


@contextmanager
def place(folder: Path, gpus: int, jobs_each: int) -> Iterator[int]:
    """The number of a GPU with room for one more job, held until the block ends or the process does; waits for one.

    folder: where the places of one run are, a locked file each. Fills the GPUs evenly.
    """
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        for job in range(jobs_each):
            for gpu in range(gpus):
                with open(folder / f"gpu{gpu}-{job}", "w") as file:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    yield gpu
                    return
        time.sleep(EVERY)
