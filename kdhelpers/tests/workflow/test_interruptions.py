"""./run_all.sh smoke, killed again and again, ends in what an undisturbed run ends in.

Three kills of two notebooks; with KILLS=20 in the environment, twenty of all of them, their tables and figures too.
"""

import contextlib
import os
import random
import signal
import subprocess
import time

import psutil
import pytest

from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import ENVIRONMENT, comparable, one_line, times

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", 3))
WORDS = ["--config"] if KILLS >= 20 else ["01", "06", "--config", "EPOCHS=10"]


def start(results, log):
    """./run_all.sh smoke in the background; pytest's workers ignore Ctrl-C, it must not."""
    command = ["./run_all.sh", "smoke", *WORDS, f"RESULTS_DIR={results}"]
    with open(log, "a") as out:
        options = {"stdout": out, "stderr": subprocess.STDOUT, "start_new_session": True}
        options |= {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        return psutil.Popen(command, cwd=ROOT, env=ENVIRONMENT, **options)


def strike(run, how, rng):
    """Kills what `how` says; False when there is nothing of that kind at the moment."""
    if how == "Ctrl-C":
        os.killpg(run.pid, signal.SIGINT)
        return True
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [run, *run.children(recursive=True)]  # run_all.sh, Snakemake, execute.py, kernels
        called = [process for process in family if how == "everything" or how in " ".join(process.cmdline())]
        chosen = called if how == "everything" else rng.sample(called, min(1, len(called)))
        for process in chosen:
            process.kill()
        return bool(chosen)
    return False


def test_killed_again_and_again_it_ends_in_the_same_records(command, tmp_path):
    began = time.monotonic()
    undisturbed = start(tmp_path / "undisturbed", tmp_path / "undisturbed.log")
    while not (tmp_path / "undisturbed" / "logs").exists():  # a moment after it has locked the folder
        assert undisturbed.poll() is None, (tmp_path / "undisturbed.log").read_text()
        time.sleep(0.1)
    second = command("smoke", "01", "--config", f"RESULTS_DIR={tmp_path / 'undisturbed'}")  # at once in one folder
    one_line(second.stderr.strip(), ("error: ", "is in use by another ./run_all.sh (process ", "): wait for it"))
    assert undisturbed.wait(timeout=1200) == 0, (tmp_path / "undisturbed.log").read_text()
    seconds = time.monotonic() - began

    rng, results, log = random.Random(0), tmp_path / "killed", tmp_path / "killed.log"
    run, struck, before, deadline = start(results, log), [], {}, time.monotonic() + 20 * seconds + 60 * KILLS
    while len(struck) < KILLS or run.poll() != 0:
        assert time.monotonic() < deadline, f"only {struck}\n{log.read_text()}"
        time.sleep(rng.uniform(0.1, 0.6) * min(seconds, 50))
        how = rng.choice(["ipykernel", "-m snakemake", "everything", "Ctrl-C"])
        if len(struck) < KILLS and run.poll() is None and strike(run, how, rng):
            struck.append(how)
            if how != "ipykernel":
                code = run.wait(timeout=60)
                assert how != "Ctrl-C" or code in (0, 130), code  # 0 where it had just finished
        now = times(results)
        assert {path: now[path] for path in before} == before, "a finished class was done again"
        before = now
        if run.poll() == 0 and len(struck) < KILLS:  # it was faster than the kills: once more, from nothing
            results, before = results.with_name(f"{results.name}-again"), {}
        if run.poll() is not None and (run.returncode or len(struck) < KILLS):
            run = start(results, log)
    print(f"struck: {struck}")

    assert comparable(results) == comparable(tmp_path / "undisturbed")
    assert "Traceback" not in log.read_text()
    assert not list(results.glob("checkpoints/**/*.pt"))
    assert [path for path in results.rglob(".*") if path.is_file() and path.name != ".lock"] == []
