"""./run_all.sh verify: rerun recorded trainings and compare every number."""

import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from execute import Newest, duration, values_of

from kdhelpers import cache, paths
from kdhelpers.errors import InputError, did_you_mean
from kdhelpers.experiments import verification
from kdhelpers.experiments.records import is_stale

KNOWN = {"seed": 0} | dict.fromkeys(("PROFILE", "RESULTS_DIR", "DATA_DIR", "SOURCE")) | {"DEVICE": "auto"}
WORDS = {"same": "the same", "differs": "different", "cannot be run here": "could not be run here"}


def main(words: list[str]) -> int:
    """Rerun recorded trainings and compare; words: how many, and NAME=VALUE. Returns 0 if all are the same, else 1."""
    count = int(words[0]) if words and words[0].isdecimal() else None
    given = values_of(words[count is not None :])
    for name in given.keys() - KNOWN.keys():
        raise InputError(f"unknown name {name}{did_you_mean(name, KNOWN)}; verify has {', '.join(KNOWN)}")
    given = KNOWN | given
    if count == 0 or type(given["seed"]) is not int or given["PROFILE"] not in (None, "smoke", "full"):
        raise InputError("verify takes how many records (1 or more), seed=NUMBER and PROFILE=smoke or full")
    cache.keep_freed_memory()
    results = Path(given["RESULTS_DIR"] or paths.RESULTS_DIR).expanduser().absolute()
    where = {name.lower(): given[name] for name in ("DATA_DIR", "SOURCE", "DEVICE")}
    chosen = verification.choose(results, count, given["seed"], given["PROFILE"])
    costs = [verification.seconds_of(record, results) for record in chosen]
    took = f"{duration(sum(costs))} when they were made, with the main runs that they need"
    print(f"{len(chosen)} of profile {chosen[0]['profile']}; they took {took}", flush=True)
    start, verdicts = time.monotonic(), []
    for number, record in enumerate(chosen, start=1):
        title = f"{number} of {len(chosen)} · {verification.name_of(record)}"
        with Newest(title) as newest, redirect_stdout(newest), redirect_stderr(newest):
            verdict, line = verification.verify(record, **where)
        verdicts.append(verdict)
        print(f"{number} of {len(chosen)} · {line}", flush=True)
        if number < len(chosen):
            left = (time.monotonic() - start) * sum(costs[number:]) / sum(costs[:number])
            print(f"about {duration(left)} left", flush=True)
    said = ", ".join(f"{verdicts.count(verdict)} {word}" for verdict, word in WORDS.items() if verdict in verdicts)
    stale = sum(map(is_stale, chosen))
    count = f"{len(chosen)} record{'s' * (len(chosen) > 1)}"
    print(f"{count}: {said}" + (f"; {stale} made by another version of the method" if stale else ""))
    return int(set(verdicts) != {"same"})
