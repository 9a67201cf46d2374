"""Fetches what many runs need, before they begin: `python notebooks/fetch.py SOURCE` or `... DATASET DATA_DIR`."""

import sys
from pathlib import Path

from kdhelpers.data import downloads, weights
from kdhelpers.errors import InputError, in_one_line
from kdhelpers.reporting.published import NAMES

NO_NETWORK = ("Name or service not known", "name resolution", "nodename nor servname", "Network is unreachable")


def fetch(name: str, folder: str | None = None) -> None:
    """Fetch a source, or with a folder a data set.

    Raises InputError, a short one without a network: several of these fail together, and data/README.md lists them all.
    """
    try:
        if folder is None:
            weights.load_source(name)
        else:
            downloads.fetch(name, Path(folder).expanduser())
    except InputError as error:
        if any(words in str(error) for words in NO_NETWORK):
            what = NAMES.get(name, "VGG-16's ImageNet weights")
            raise InputError(f"no network, {what} cannot be downloaded; by hand: see data/README.md") from None
        raise


if __name__ == "__main__":
    in_one_line(fetch, *sys.argv[1:])
