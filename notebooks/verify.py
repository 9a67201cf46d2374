"""Runs recorded cells again and compares: `python notebooks/verify.py [K] [NAME=VALUE ...]`."""

import argparse
import contextlib
import difflib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import execute

from kdhelpers import cache, paths
from kdhelpers.errors import InputError
from kdhelpers.experiments import records as results
from kdhelpers.experiments import verification
from kdhelpers.experiments.parameters import PROFILES

NAMES = ("seed", "PROFILE", "RESULTS_DIR", "DATA_DIR", "SOURCE", "DEVICE")
SUMMARY = {"same": "the same", "differs": "different", "cannot be run here": "could not be run here"}


def asked(words: list[str]) -> tuple[int | None, dict]:
    """K, None when it is not given, and the values by name. Raises InputError for a word that is neither."""
    count, given = None, {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            if count is not None or not word.isdecimal() or not int(word):
                raise InputError(f"{word!r} is neither K, how many records to run again, nor NAME=VALUE")
            count = int(word)
        elif name not in NAMES:
            close = difflib.get_close_matches(name.lower(), [known.lower() for known in NAMES], n=1)
            hint = "".join(f" (did you mean {known}?)" for known in NAMES if known.lower() in close)
            raise InputError(f"unknown name {name}{hint}; verify has {', '.join(NAMES)}")
        else:
            given[name] = value
    if not (seed := given.get("seed", "0")).isdecimal():
        raise InputError(f"seed is {seed!r}; it is the whole number that the records are drawn with")
    if given.get("PROFILE") not in (None, *PROFILES):
        raise InputError(f"PROFILE is {given['PROFILE']!r}; it is one of {', '.join(PROFILES)}")
    return count, given


@contextlib.contextmanager
def progress(title: str) -> Iterator[None]:
    """Shows the newest line of what is said every 15 seconds, as running a notebook does.

    What a stopped training says of its checkpoint is not for here: it lies in a folder that is deleted.
    """
    newest, over = execute.Newest(), threading.Event()

    def show() -> None:
        while not over.wait(execute.EVERY):
            newest.show(title)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        with contextlib.redirect_stdout(newest), contextlib.redirect_stderr(newest):
            yield
    finally:
        over.set()
        thread.join()


def run(count: int | None, given: dict) -> int:
    results_dir = Path(given.get("RESULTS_DIR") or paths.RESULTS_DIR).expanduser().absolute()
    chosen = verification.choose(results_dir, count, int(given.get("seed", 0)), given.get("PROFILE"))
    where = {"data_dir": given.get("DATA_DIR"), "source": given.get("SOURCE"), "device": given.get("DEVICE") or "auto"}
    took = sum(sum(record["seconds"].values()) for record in chosen)
    print(
        f"{len(chosen)} of profile {chosen[0]['profile']}; they took {_duration(took)} when they were made", flush=True
    )
    start, outcomes, done = time.monotonic(), [], 0.0
    left = sum(map(verification.cost, chosen))
    for number, record in enumerate(chosen, start=1):
        with progress(f"{number} of {len(chosen)} · {verification.name_of(record)}"):
            outcome = verification.verify(record, **where)
        outcomes.append(outcome)
        left -= verification.cost(record)
        done += 0 if outcome.failure else verification.cost(record)
        print(f"{number} of {len(chosen)} · {outcome}", flush=True)
        if left and done:
            print(f"about {_duration((time.monotonic() - start) * left / done)} left", flush=True)
    counts = {word: sum(one.verdict == verdict for one in outcomes) for verdict, word in SUMMARY.items()}
    said = ", ".join(f"{number} {word}" for word, number in counts.items() if number)
    stale = sum(map(results.is_stale, chosen))
    print(f"{len(chosen)} records: {said}" + (f"; {stale} made by another version of the method" if stale else ""))
    return int(any(one.verdict != "same" for one in outcomes))


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", metavar="K | NAME=VALUE", help=f"NAME: {', '.join(NAMES)}")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.disable(logging.ERROR)
    cache.keep_freed_memory()
    try:
        return run(*asked(arguments.words))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the records are as they were", file=sys.stderr, flush=True)
        os._exit(130)  # without waiting for what still computes


if __name__ == "__main__":
    sys.exit(main())
