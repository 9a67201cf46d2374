"""Several machines without a scheduler: each runs some of the seeds; their records together give the same tables."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from kdhelpers.paths import ROOT

pytestmark = pytest.mark.slow

MAY_DIFFER = ("seconds", "peak_memory_mb", "environment")


def call(*arguments):
    """The outcome of ./run_all.sh smoke in the environment of this test."""
    command = ["./run_all.sh", "smoke", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | {"VIRTUAL_ENV": sys.prefix}, capture_output=True, text=True
    )


def run_all(*arguments, results):
    """What ./run_all.sh smoke prints, without GPUs; the last of the arguments are --config and what belongs to it."""
    done = call(*arguments, f"RESULTS_DIR={results}", "gpus=0")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def records(results):
    """What the records hold, by their paths under `results`, without what differs from one run to the next."""
    found = {path.relative_to(results): json.loads(path.read_text()) for path in results.rglob("records/**/*.json")}
    return {path: {k: v for k, v in record.items() if k not in MAY_DIFFER} for path, record in found.items()}


def tables(results):
    """The bytes of all tables, but of the one that says how long the runs took."""
    found = (results / "tables").rglob("*.*")
    return {path.relative_to(results): path.read_bytes() for path in found if not path.stem.startswith("running_time")}


def test_seeds_run_apart_and_put_together_give_the_tables_of_one_run(tmp_path):
    one, first, second = (tmp_path / name for name in ("one", "first", "second"))
    run_all("01", "90", "--config", "EPOCHS=2", "seeds=2", results=one)
    run_all("01", "--config", "EPOCHS=2", "seeds=[0]", results=first)
    run_all("01", "--config", "EPOCHS=2", "seeds=[1]", results=second)
    assert len(records(first)) == len(records(second)) == 1 and not (first / "tables").exists()

    for folder in ("records", "cloners"):  # cp -rn second/records second/cloners first/
        shutil.copytree(second / folder, first / folder, dirs_exist_ok=True)
    said = run_all("01", "90", "--config", "EPOCHS=2", "seeds=2", results=first)
    assert "90_tables_and_figures done: 1 of 1" in said  # nothing is trained again
    assert len(records(one)) == 2 and records(first) == records(one)
    assert len(tables(one)) > 20 and tables(first) == tables(one)


@pytest.mark.parametrize(
    "options, error",
    [
        (
            ["--batch", "all=1/2"],
            "error: --batch would wait for the other batches: share the seeds, --config seeds=[0,2,4]",
        ),
        (
            ["--config", "seeds=[one]"],
            "error: seeds is ['one']; it is how many seeds to run, a whole number of at least 1, ",
        ),
        (["--config", "seeds=[]"], "error: seeds is []; it is how many seeds to run, a whole number of at least 1, "),
    ],
)
def test_what_cannot_be_shared_out_is_one_line(options, error):
    done = call("01", "--dry-run", *options)
    assert done.returncode == 1
    assert done.stderr.startswith(error) and done.stderr.count("\n") == 1
