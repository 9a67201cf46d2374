"""Fetches what many runs need, before they begin: `python notebooks/fetch.py SOURCE` or `... DATASET DATA_DIR`."""

import errno
import socket
import sys
from pathlib import Path

from kdhelpers.data import downloads, weights
from kdhelpers.data.fetching import in_one_line
from kdhelpers.errors import InputError
from kdhelpers.reporting.published import NAMES


def fetch(name: str, folder: str | None = None) -> None:
    """A source, or with a folder a data set; raises InputError, a short one where there is no network.

    Several of these fail together then, and what to do about each of them is in data/README.md.
    """
    try:
        if folder is None:
            weights.load_source(name)
        else:
            downloads.fetch(name, Path(folder).expanduser())
    except InputError as error:
        reason = getattr(error.__cause__, "reason", None)
        if isinstance(reason, socket.gaierror) or getattr(reason, "errno", None) == errno.ENETUNREACH:
            what = NAMES.get(name, "VGG-16's ImageNet weights")
            raise InputError(f"no network, {what} cannot be downloaded; by hand: see data/README.md") from None
        raise


if __name__ == "__main__":
    in_one_line(fetch, *sys.argv[1:])
