"""What goes wrong while a notebook runs: a kernel that dies, a disk that is full, a GPU that is not there."""

import errno
import resource
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import ENVIRONMENT, execute

pytestmark = pytest.mark.slow

DIES_ONCE = """
import os, pathlib
if not pathlib.Path({marker!r}).exists():
    pathlib.Path({marker!r}).touch()
    os.kill(os.getpid(), 9)
"""
DIES_ALWAYS = "import os; os.kill(os.getpid(), 9)"


def run(code, tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(notebook, tmp_path / "x.ipynb")
    command = [sys.executable, "notebooks/execute.py", tmp_path / "x.ipynb", tmp_path / "out.ipynb"]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)


def test_a_kernel_that_dies_is_tried_once_more(tmp_path):
    done = run(DIES_ONCE.format(marker=str(tmp_path / "died")), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "x · its kernel died; once more" in done.stdout
    assert (tmp_path / "out.ipynb").is_file()


def test_a_kernel_that_dies_again_is_said_in_a_line(tmp_path):
    done = run(DIES_ALWAYS, tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: the notebook's kernel died 2 times, perhaps for want of memory" in done.stderr
    assert not (tmp_path / "out.ipynb").exists()


def test_one_job_fails_and_the_others_go_on(tmp_path):
    """A folder where HeadCT's record should be: its job fails, MNIST's does not, and the log is named."""
    results = tmp_path / "results"
    (results / "records/untrained/smoke/official/06_head_ct/head_ct-normal-seed0.json/x").mkdir(parents=True)
    command = ["./run_all.sh", "smoke", "06", "01", "--config", f"RESULTS_DIR={results}"]
    environment = ENVIRONMENT | {"VIRTUAL_ENV": sys.prefix, "CI": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "01_mnist-seed0 done: 1 of 2, 1 failed" in done.stdout or "01_mnist-seed0 done: 1 of 2 in" in done.stdout
    assert f"failed: 06_head_ct-seed0, see {results}/logs/smoke/06_head_ct-seed0.log" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert list(results.glob("records/**/mnist-0-seed0.json"))


def test_a_full_disk_is_said_in_a_line_and_leaves_no_record(tmp_path):
    limit = 1_200_000  # bytes that a file may have: a cloner does not fit, what is written before it does
    preexec = f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
    program = (
        preexec
        + "sys.argv = sys.argv[1:]; sys.path.insert(0, 'notebooks'); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", program, "notebooks/execute.py", "notebooks/06_head_ct.ipynb"]
    command += [str(tmp_path / "out.ipynb"), "PROFILE=smoke", f"RESULTS_DIR={tmp_path / 'results'}"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "cannot be written (File too large): make room" in line and "safetensors" in line
    assert [path for path in (tmp_path / "results").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(errno.ENOSPC, "No space left"), "out.ipynb cannot be written (No space left): make room or give ano"),
        (PermissionError(errno.EACCES, "Denied", "r/x"), "r/x cannot be written (Denied): give another RESULTS_DIR"),
        (OSError(errno.EMFILE, "Too many open files"), "[Errno 24] Too many open files"),  # nothing was written
    ],
)
def test_what_cannot_be_written_is_said_with_the_way_out_that_helps(monkeypatch, error, words):
    monkeypatch.syspath_prepend(ROOT / "notebooks")
    import execute as script

    assert words in script._said(error, Path("out.ipynb"))


@pytest.mark.parametrize(
    "given, words", [({"DEVICE": "cuda:7"}, "DEVICE 'cuda:7' cannot be used"), ({"DEVICE": "gpu"}, "DEVICE 'gpu'")]
)
def test_no_gpu_where_one_was_asked_for(tmp_path, given, words):
    done = execute("01_mnist", tmp_path / "out.ipynb", PROFILE="smoke", RESULTS_DIR=str(tmp_path / "r"), **given)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()


def test_more_gpus_than_there_are(tmp_path):
    command = ["./run_all.sh", "smoke", "01", "--config", "gpus=99", f"RESULTS_DIR={tmp_path / 'r'}"]
    environment = ENVIRONMENT | {"VIRTUAL_ENV": sys.prefix, "CI": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and not list((tmp_path / "r").rglob("*.json"))
    assert "error: gpus is 99, and this machine has" in done.stderr and "Traceback" not in done.stderr
