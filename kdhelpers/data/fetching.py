"""How a file is downloaded: whole or not at all, and gone on with after an interruption."""

import contextlib
import hashlib
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from tqdm import tqdm

from kdhelpers.errors import InputError

TIMEOUT = 30  # seconds without a byte after which a server is given up
PAUSES = (15, 4, 1)  # seconds, from the last, before going on with a server that has sent something and then failed


def download(urls: Sequence[str], to: Path, algorithm: str, expected: str, way_out: str) -> None:
    """Downloads the file `to` from the first of `urls` that has it, with a progress bar on stderr.

    What has come lies in `.<name>.part` beside it, is gone on with after an interruption, by this call or the next, and
    renamed only when its checksum of this hashlib `algorithm` begins with `expected`, hex digits. The caller sees to
    it that it is `alone`. Raises InputError saying what went wrong at each server, and `way_out`; its cause is the last
    URLError.
    """
    part, reasons, cause = part_of(to), [], None
    for url in urls:
        pauses, whole = [], not part.exists()  # whole: all of it comes from this server and this call
        while True:
            before = _size(part)
            try:
                _receive(url, part)
            except URLError as error:
                reason, cause = _reason(error), error
                if _size(part) > before:
                    pauses = list(PAUSES)
                if not pauses:
                    break
                time.sleep(pauses.pop())
                continue
            found = checksum(part, algorithm)
            if found.startswith(expected):
                os.replace(part, to)
                return
            part.unlink()
            reason = differs(algorithm, found, expected)
            if whole:
                break
            whole = True
        reasons.append(f"{urlsplit(url).netloc}: {reason}")
    raise InputError(f"{to.name} could not be downloaded ({'; '.join(reasons)}): {way_out}") from cause


@contextlib.contextmanager
def alone(to: Path) -> Iterator[None]:
    """Holds back every other process that wants to download `to`; the lock ends with the process, however that ends."""
    to.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(to.with_name(f".{to.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{to.name}: waiting for another process that downloads it", file=sys.stderr, flush=True)
        lock.acquire(poll_interval=0.5)
    try:
        yield
    finally:
        lock.release()


def checksum(path: Path, algorithm: str) -> str:
    """The hex digits of a file's checksum; algorithm: as hashlib names it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def differs(algorithm: str, found: str, expected: str) -> str:
    """How a checksum that is not the expected one, or does not begin so, is told."""
    name = algorithm.upper().replace("SHA", "SHA-")
    return f"{name} {found} found, {expected}{'…' if len(expected) < len(found) else ''} expected"


def _receive(url: str, part: Path) -> None:
    """Appends to `part` what it lacks, or writes it anew where the server cannot do that; raises URLError."""
    start = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "kdhelpers"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        with _network():
            response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if start and error.code == 416:  # there is nothing after these bytes
            return
        raise
    with response:
        if response.status != 206:
            start = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise URLError("it sent another part of the file than it was asked for")
        total = None if response.length is None else start + response.length
        bar = tqdm(
            desc=part.name.removeprefix(".").removesuffix(".part"),
            total=total,
            initial=start,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            mininterval=1,
        )
        with part.open("ab" if start else "wb") as file, bar:
            while chunk := _read(response):
                file.write(chunk)
                file.flush()  # there also when the process is killed
                bar.update(len(chunk))
            os.fsync(file.fileno())  # before it is renamed: whole also after a power cut
    if total is not None and _size(part) < total:
        raise URLError(f"it broke off after {_size(part)} of {total} bytes")


def _read(response) -> bytes:
    with _network():
        return response.read1(2**18)


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """Makes every error of the network a URLError, so that it is told from one of the disk."""
    try:
        yield
    except URLError:
        raise
    except (OSError, HTTPException) as error:
        raise URLError(error) from error


def _reason(error: URLError) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error.reason, TimeoutError):
        return f"no answer for {TIMEOUT} s"
    return " ".join(str(error.reason).split()) or type(error.reason).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def part_of(path: Path) -> Path:
    """Where a file lies until it is whole."""
    return path.with_name(f".{path.name}.part")


def in_one_line(function: Callable, *arguments) -> None:
    """Calls a function for a command line: an InputError ends it with exit code 1, Ctrl-C with 130, in a line each."""
    try:
        function(*arguments)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped; what has come is kept, and the next run goes on with it", file=sys.stderr)
        sys.exit(130)
