"""./run_all.sh as it is called: run lists, seeds shared out, and what goes wrong in one line each."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from kdhelpers.experiments import config, runner
from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import ENVIRONMENT, refused

pytestmark = pytest.mark.slow

MAY_DIFFER = ("seconds", "peak_memory_mb", "environment")


def call(*words):
    """The outcome of ./run_all.sh in the environment of this test."""
    environment = ENVIRONMENT | {"VIRTUAL_ENV": sys.prefix, "CI": "true"}
    return subprocess.run(["./run_all.sh", *words], cwd=ROOT, env=environment, capture_output=True, text=True)


def ended(said):
    return [line.split()[0] for line in said.splitlines() if " done: " in line]


def test_seeds_run_apart_and_put_together_are_those_of_one_run(of_a_run, tmp_path):
    def records(folder, *seeds):
        """What is recorded in `folder` once these seeds are, without what differs between two runs."""
        for seed in seeds:
            asked = of_a_run | {"CLASSES": ["3"], "SEED": seed, "RESULTS_DIR": str(tmp_path / folder)}
            runner.run_experiments(config.resolve("01_mnist", **asked))
        found = {path.name: json.loads(path.read_text()) for path in tmp_path.glob(f"{folder}/records/**/*.json")}
        return {name: {k: v for k, v in one.items() if k not in MAY_DIFFER} for name, one in found.items()}

    one = records("one", 0, 1)
    assert len(records("first", 0)) == len(records("second", 1)) == 1
    for folder in ("records", "cloners"):  # cp -rn second/records second/cloners first/
        shutil.copytree(tmp_path / "second" / folder, tmp_path / "first" / folder, dirs_exist_ok=True)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("first/records/**/*.json")}
    assert records("first", 0, 1) == one and len(one) == 2
    assert {path: path.stat().st_mtime_ns for path in written} == written  # nothing is trained again


def test_a_run_list_is_worked_through_in_its_order_and_once(sample_data, tmp_path):
    path = tmp_path / "runs.yaml"
    path.write_text(
        f"""
SOURCE: untrained
EPOCHS: 1
IMAGE_SIZE: 32
DATA_DIR: {sample_data}
RESULTS_DIR: {tmp_path / "results"}
runs:
  - {{notebook: 06_head_ct, VARIANTS: [plain], seeds: [3]}}
  - {{notebook: 01_mnist, CLASSES: ["2"], seeds: 1}}
"""
    )
    done = call(str(path), "--config", "gpus=0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ended(done.stdout) == ["01-06_head_ct-seed3", "02-01_mnist-seed0"]
    first = {path.name: path for path in tmp_path.rglob("results/records/**/*.json")}
    assert set(first) == {"head_ct-normal-seed3.json", "mnist-2-seed0.json"}
    first["mnist-2-seed0.json"].unlink()
    assert "would run 02-01_mnist-seed0\n" in call(str(path), "--dry-run").stdout


def test_one_job_fails_and_the_others_go_on(tmp_path):
    """A folder where HeadCT's record should be: its job fails, MNIST's does not, and the log is named."""
    results = tmp_path / "results"
    (results / "records/untrained/smoke/official/06_head_ct/head_ct-normal-seed0.json/x").mkdir(parents=True)
    done = call("smoke", "06", "01", "--config", "EPOCHS=2", f"RESULTS_DIR={results}")
    assert done.returncode == 1 and ended(done.stdout) == ["01_mnist-seed0"]
    assert done.stderr == f"failed: 06_head_ct-seed0, see {results}/logs/smoke/06_head_ct-seed0.log\n"
    assert "error: " in done.stdout and "Traceback" not in done.stdout
    assert list(results.glob("records/**/mnist-0-seed0.json"))


SEEDS = "; it is how many seeds, a whole number of at least 1, or a list of them"


@pytest.mark.parametrize(
    "words, error",
    [
        (["full", "01", "--batch", "all=1/2"], "--batch would wait for the other batches: share the seeds, --config "),
        (["smoke", "01", "--config", "seeds=[one]"], f"seeds is ['one']{SEEDS}"),
        (["smoke", "01", "--config", "seeds=[]"], f"seeds is []{SEEDS}"),
        (["smoke", "01", "--config", "seed=1"], "unknown setting seed (did you mean seeds?)"),
        (["smoke", "01", "--config", "gpus=99"], "gpus is 99, and this machine has"),
        (["smoke", "01", "--config", "EPOCHS"], "'EPOCHS' is not NAME=VALUE"),
        (["full", "01", "EPOCHS=2"], "put --config before EPOCHS=2"),
        (["01_mnits"], "there is no command or notebook 01_mnits; commands are smoke, full, test, "),
        (["none.yaml"], "none.yaml cannot be read (No such file or directory)"),
        (["verify", "0"], "verify takes how many records"),
        (["verify", "two"], "'two' is not NAME=VALUE"),
        (["verify", "device=cpu"], "unknown name device (did you mean DEVICE?)"),
        (["verify", "PROFILE=all"], "verify takes how many records"),
        (["verify", "RESULTS_DIR=none", "PROFILE=smoke"], "there are no records of profile smoke under "),
        (["gpu-check", "SEED=1"], "unknown name SEED; gpu-check has DATA_DIR, SOURCE and RESULTS_DIR"),
        (["release", "v1"], "release takes no words, and v1 was given"),
        (["report", "none"], "none/records has no record of a full run: "),
    ],
)
def test_a_wrong_word_is_one_line(words, error, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "notebooks")
    import run_all

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["run_all.py", *words])
    with refused(error):
        run_all.main()
    assert not (ROOT / "none").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_check_needs_a_gpu():
    done, error = call("gpu-check"), "error: gpu-check needs a GPU that torch can use, and this machine has none\n"
    assert (done.returncode, done.stderr) == (1, error)


def test_the_command_itself_ends_in_that_line():
    done = call("smoke", "01", "--config", "EPOCHS")
    assert done.returncode == 1 and done.stderr.startswith("error: 'EPOCHS' is not NAME=VALUE"), done.stderr
    assert done.stderr.count("\n") == 1


def test_an_environment_that_lacks_something_is_not_used(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    done = subprocess.run(
        [tmp_path / "bin" / "python", "notebooks/requirements.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    here = subprocess.run(
        [sys.executable, "notebooks/requirements.py", "run", "test"], cwd=ROOT, capture_output=True, text=True
    )
    assert (here.returncode, here.stdout.strip()) == (0, "")
