"""./run_all.sh as it is called: run lists, and what goes wrong in one line each."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import ENVIRONMENT, one_line, run_all

pytestmark = pytest.mark.slow


def ended(said):
    return [line.split()[0] for line in said.splitlines() if " done: " in line]


def test_a_run_list_is_worked_through_in_its_order_and_once(command, sample_data, tmp_path):
    path = tmp_path / "runs.yaml"
    path.write_text(
        "{SOURCE: untrained, EPOCHS: 1, IMAGE_SIZE: 32, runs: [{notebook: 06_head_ct, VARIANTS: [plain], seeds: [3]}, "
        "{notebook: 01_mnist, CLASSES: ['2'], seeds: 1}]}"
    )
    words = [path, "--config", "gpus=0", f"DATA_DIR={sample_data}", f"RESULTS_DIR={tmp_path}"]
    done = command(*words)
    assert ended(done.stdout) == ["01-06_head_ct-seed3", "02-01_mnist-seed0"] and done.returncode == 0, done
    found = {one.name: one for one in tmp_path.glob("records/**/*.json")}
    assert set(found) == {"head_ct-normal-seed3.json", "mnist-2-seed0.json"}
    assert "nothing to do" in command(*words).stdout
    (tmp_path / "executed/full/01-06_head_ct-seed3.failed.ipynb").touch()  # it failed after its record was written
    assert "would run 01-06_head_ct-seed3\n" in command("--dry-run", *words).stdout
    (tmp_path / "executed/full/01-06_head_ct-seed3.failed.ipynb").unlink()
    found["mnist-2-seed0.json"].unlink()
    assert "would run 02-01_mnist-seed0\n" in command("--dry-run", *words).stdout


def test_one_job_fails_and_the_others_go_on(command, tmp_path):
    """A folder where BrainMRI's record should be: its job fails, MNIST's does not, and the ablation is not run."""
    (tmp_path / "records/untrained/smoke/official/07_brain_mri/brain_mri-normal-seed0.json/x").mkdir(parents=True)
    done = command("smoke", "07", "01", "15", "--config", "EPOCHS=2", f"RESULTS_DIR={tmp_path}")
    assert done.returncode == 1 and ended(done.stdout) == ["01_mnist-seed0"]
    assert done.stderr == (
        f"failed: 07_brain_mri-seed0, see {tmp_path}/logs/smoke/07_brain_mri-seed0.log\n"
        "not run: 15_unstated_details-seed0, because a run that it needs failed\n"
    )
    assert "error: " in done.stdout and "Traceback" not in done.stdout
    assert list(tmp_path.glob("records/**/mnist-0-seed0.json"))


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
SEEDS = "; give the number of seeds, at least 1, or a list of seeds"


@pytest.mark.parametrize(
    "words, error",
    [
        ("full 01 --batch all=1/2", "--batch would wait for the other batches: share the seeds, --config "),
        ("smoke 01 --config seeds=[one]", f"seeds is ['one']{SEEDS}"),
        ("smoke 01 --config seeds=[]", f"seeds is []{SEEDS}"),
        ("smoke 01 --config seeds=yes", f"seeds is True{SEEDS}"),
        ("smoke 01 --config seeds=1 jobs_per_gpu=true", "jobs_per_gpu is True"),
        ("smoke 01 --config seed=1", "unknown setting seed (did you mean seeds?)"),
        ("smoke 01 --config gpus=99", "gpus is 99, but torch can use"),
        ("smoke 01 --config EPOCHS", "'EPOCHS' is not NAME=VALUE"),
        ("full 01 --config DATA_DIR=2024-01-31", "2024-01-31 is not a folder"),
        ("full 01 --config SEED=3", "give --config seeds=[3] instead of SEED"),
        ("full 01 --config PROFILE=smoke", "give the profile as the first word"),
        ("full 01 --config DEVICE=cuda:1", "give DEVICE=cuda, and before the command CUDA_VISIBLE_DEVICES=1"),
        ("results/measured.yaml 01", "results/measured.yaml names its notebooks and seeds: give neither beside it"),
        ("results/measured.yaml --config seeds=1", "names its notebooks and seeds: give neither beside it"),
        ("full 30 --dry-run --config seeds=3", "seeds is for notebooks that train, not for 30_beside_anomalib"),
        ("full 21 90 --dry-run --config SIZE=[32]", "unknown parameter SIZE (did you mean SIZES?): 21_running_time"),
        ("full 90 --dry-run --config SOURC=auto", "unknown parameter SOURC (did you mean SOURCE?)"),
        ("full 01 --config jobs_per_gpu=0", "jobs_per_gpu is 0; give auto or a number of at least 1"),
        ("full 01 --config threads=0", "threads is 0; give auto or a number of at least 1"),
        ("full 01 --config seeds=[-1]", "seeds is [-1]"),
        ("verify RESULTS_DIR=2024", "there are no records under "),
        ("report results data", "report takes one folder, and data"),
        ("smoke 01 --config RESULTS_DIR=LICENSE", "LICENSE cannot be written (File exists): give another RESULTS_DIR"),
        ("full 01 EPOCHS=2", "put --config before EPOCHS=2"),
        ("01_mnits", "there is no command or notebook 01_mnits; commands are smoke, full, test, "),
        ("none.yaml", "none.yaml cannot be read (No such file or directory)"),
        ("verify 0", "verify takes how many records"),
        ("verify two", "'two' is not NAME=VALUE"),
        ("verify device=cpu", "unknown name device (did you mean DEVICE?)"),
        ("verify PROFILE=all", "verify takes how many records"),
        ("verify RESULTS_DIR=none PROFILE=smoke", "there are no records of profile smoke under "),
        ("gpu-check SEED=1", "unknown name SEED; gpu-check has DATA_DIR, SOURCE and RESULTS_DIR"),
        ("release v1", "release takes no words, and v1 was given"),
        ("report none", "none/records has no record of a full run: "),
        pytest.param("gpu-check", "gpu-check needs a GPU that torch can use, and this ma", marks=NO_GPU),
    ],
)
def test_a_wrong_word_is_one_line(command, words, error):
    done = command(*words.split())
    assert done.returncode == 1 and not (ROOT / "none").exists()
    one_line(done.stderr.strip(), ("error: ", error))


def test_the_command_itself_ends_in_that_line():
    done = run_all("smoke", "01", "--config", "EPOCHS")
    assert done.returncode == 1
    one_line(done.stderr.strip(), ("error: 'EPOCHS' is not NAME=VALUE",))
    nowhere = {"VIRTUAL_ENV": "", "CONDA_PREFIX": "", "XDG_CACHE_HOME": "/dev/null"}
    done = subprocess.run([ROOT / "run_all.sh"], env=ENVIRONMENT | nowhere, capture_output=True, text=True)
    one_line(done.stderr.strip(), ("error: /dev/null/kdhelpers/", " cannot be written: make its folder writable, or"))


@pytest.mark.skipif(not shutil.which("setpriv"), reason="there is no setpriv")
def test_only_the_results_folder_has_to_be_writable(sample_data, tmp_path):
    for name in ("kdhelpers", "notebooks", "data/paper"):
        shutil.copytree(ROOT / name, tmp_path / "code" / name, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    for name in ("run_all.sh", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / "code")
    (tmp_path / "home").mkdir()
    folders = [path for root in ("code", "home") for path in [tmp_path / root, *(tmp_path / root).rglob("*/")]]
    given = {"DATA_DIR": sample_data, "RESULTS_DIR": tmp_path / "results", "SOURCE": "untrained", "CLASSES": "[3]"}
    given |= {"EPOCHS": 1, "IMAGE_SIZE": 32, "seeds": 1, "gpus": 0}
    words = [tmp_path / "code/run_all.sh", "01", "--config", *(f"{name}={value}" for name, value in given.items())]
    try:
        for folder in folders:
            folder.chmod(0o500)
        if os.getuid() == 0:
            words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *words]  # a root whom rights bind
        own = {name: value for name, value in ENVIRONMENT.items() if name not in ("PYTHONPATH", "XDG_CACHE_HOME")}
        own |= {"HOME": str(tmp_path / "home/none")}
        done = subprocess.run(words, env=own, capture_output=True, text=True)
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert done.returncode == 0 and ended(done.stdout) == ["01_mnist-seed0"], done.stdout + done.stderr


def test_an_environment_that_lacks_something_is_not_used(tmp_path):
    (tmp_path / "notebooks").mkdir()
    script = shutil.copy(ROOT / "notebooks" / "requirements.py", tmp_path / "notebooks")
    here = (ROOT / "pyproject.toml").read_text()
    (tmp_path / "torch-99.9.9.dist-info").mkdir()
    (tmp_path / "torch-99.9.9.dist-info" / "METADATA").write_text("Name: torch\nVersion: 99.9.9\n")
    newer, first = here.replace('"torch>=', '"torch>=99.'), {"PYTHONPATH": str(tmp_path)}  # which Python imports
    for text, own, lacks in (here, {}, ""), (newer, {}, "torch>=99."), (newer, first, ""):
        (tmp_path / "pyproject.toml").write_text(text)
        words = [sys.executable, script, "run", "test"]
        done = subprocess.run(words, env=os.environ | own, capture_output=True, text=True)
        assert done.returncode == bool(lacks) and done.stdout.startswith(lacks or "\n") and not done.stderr, done
    old = f"import runpy, sys; sys.version_info = (3, 10); runpy.run_path({script!r})"
    done = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("Python 3.11 (it has 3.")
