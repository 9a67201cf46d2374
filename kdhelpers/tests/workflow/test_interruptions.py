"""./run_all.sh smoke, killed again and again, ends in what an undisturbed run ends in.

Three kills of two notebooks; with KILLS=20 in the environment, twenty of all of them, their tables and figures too.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from kdhelpers.paths import ROOT

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", 3))
NOTEBOOKS, SHORT = ([], []) if KILLS >= 20 else (["01", "06"], ["EPOCHS=10"])
ENVIRONMENT = os.environ | {"VIRTUAL_ENV": sys.prefix, "CI": "true"}


def start(results, log):
    command = ["./run_all.sh", "smoke", *NOTEBOOKS, "--config", *SHORT, f"RESULTS_DIR={results}"]
    with open(log, "a") as out:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which pytest's workers ignore
        )


def family(run):
    """All processes of a run, youngest last: run_all.sh, Snakemake, execute.py, kernels."""
    try:
        return [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def called(processes, word):
    found = []
    for process in processes:
        try:
            if word in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


def strike(run, how, rng):
    """Kills what `how` says; False when there is nothing of that kind at the moment."""
    processes = family(run)
    if how == "Ctrl-C":
        os.killpg(run.pid, signal.SIGINT)
        return bool(processes)
    victims = {
        "kernel": lambda: rng.sample(called(processes, "ipykernel"), 1),
        "snakemake": lambda: called(processes, "-m snakemake")[:1],
        "everything": lambda: processes,
    }
    try:
        chosen = victims[how]()
    except ValueError:  # no kernel is there
        return False
    for process in chosen:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    return bool(chosen)


def written(results):
    return {path: path.stat().st_mtime_ns for path in results.glob("records/**/*.json")}


def contents(results):
    """Tables and figures as bytes, and what of each record must be the same."""
    found = {}
    for path in sorted(p for name in ("tables", "figures") for p in (results / name).rglob("*") if p.is_file()):
        if path.stem != "running_time":  # which is of seconds
            found[path.relative_to(results)] = path.read_bytes()
    for path in sorted(results.glob("records/**/*.json")):
        record = json.loads(path.read_text())
        for may_differ in ("seconds", "peak_memory_mb", "environment"):
            del record[may_differ]
        found[path.relative_to(results)] = record
    return found


def test_killed_again_and_again_it_ends_in_the_same_records(tmp_path):
    undisturbed = start(tmp_path / "undisturbed", tmp_path / "undisturbed.log")
    began = time.monotonic()
    assert undisturbed.wait(timeout=1200) == 0, (tmp_path / "undisturbed.log").read_text()
    seconds = time.monotonic() - began

    rng, results, log = random.Random(0), tmp_path / "killed", tmp_path / "killed.log"
    run, struck, before, deadline = start(results, log), [], {}, time.monotonic() + 20 * seconds + 60 * KILLS
    while len(struck) < KILLS:
        assert time.monotonic() < deadline, f"only {struck}\n{log.read_text()}"
        time.sleep(rng.uniform(0.1, 0.6) * min(seconds, 50))
        how = rng.choice(["kernel", "snakemake", "everything", "Ctrl-C"])
        if run.poll() is None and strike(run, how, rng):
            struck.append(how)
        if how != "kernel" and run.poll() is None:
            run.wait(timeout=60)
        now = written(results)
        assert {path: now[path] for path in before} == before, "a finished class was done again"
        before = now
        if run.poll() is not None:
            if run.returncode == 0 and len(struck) < KILLS:  # it was faster than the kills: once more, from nothing
                results = results.with_name(f"{results.name}-again")
                before = {}
            run = start(results, log)
    assert run.wait(timeout=1200) == 0, log.read_text()
    now = written(results)
    assert {path: now[path] for path in before} == before
    print(f"struck: {struck}")

    assert contents(results) == contents(tmp_path / "undisturbed")
    assert "Traceback" not in log.read_text()
    assert not list(results.glob("checkpoints/**/*.pt"))
    assert [p for p in results.rglob(".*") if p.is_file() and p.name != ".lock"] == []


def test_two_at_once_in_one_folder(tmp_path):
    first = start(tmp_path / "results", tmp_path / "first.log")
    try:
        for _ in range(600):
            if (tmp_path / "results" / ".lock").is_file() and called(family(first), "execute.py"):
                break
            time.sleep(0.1)
        second = start(tmp_path / "results", tmp_path / "second.log")
        assert second.wait(timeout=120) == 1
        (error,) = re.findall("error: .*", (tmp_path / "second.log").read_text())
        assert re.search(r"results is in use by another ./run_all.sh \(process \d+\): wait for it", error)
        assert first.poll() is None
    finally:
        for process in family(first):
            process.kill()


@pytest.mark.parametrize("spoil", ["a file in its place", "read-only"])
def test_a_results_folder_that_cannot_be_written_to_is_said_before_anything_runs(tmp_path, spoil):
    results = tmp_path / "results"
    if spoil == "read-only":
        results.mkdir(mode=0o555)
        if os.access(results, os.W_OK):
            pytest.skip("this user may write anywhere")
    else:
        results.write_text("")
    run = start(results, tmp_path / "log")
    assert run.wait(timeout=120) == 1
    (error,) = re.findall("error: .*", (tmp_path / "log").read_text())
    assert re.search(r"results cannot be written \(.*\): give another RESULTS_DIR", error)
