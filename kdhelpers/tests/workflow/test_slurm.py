"""The Slurm profile on a real Slurm: two nodes on this machine, and the tables of the same run without it."""

import os
import shutil
import subprocess
from importlib.util import find_spec

import pytest

from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import ENVIRONMENT, comparable, run_all

CLUSTER = str(ROOT / "kdhelpers" / "tests" / "workflow" / "slurm_cluster.sh")
PATH = "/usr/sbin:" + os.environ["PATH"]
LACKS = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name, path=PATH)]
LACKS += [name for name in ("snakemake_executor_plugin_slurm",) if not find_spec(name)]
# Options for a cluster without accounts, and for jobs of seconds.
SLURM = "--profile notebooks/profiles/slurm --slurm-status-command=squeue --slurm-no-account".split()
SLURM += ["--slurm-init-seconds-before-status-checks=3"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(LACKS), reason=f"there is no {', '.join(LACKS)}")]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Two idle nodes; yields a function that returns (state, node) of all jobs there have been."""
    folder = tmp_path / "slurm"
    subprocess.run([CLUSTER, "start", str(folder)], check=True)
    for name, value in {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": f"{folder}/bin:{os.environ['PATH']}"}.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setitem(ENVIRONMENT, name, value)

    def jobs():
        listed = ["squeue", "--states=all", "--noheader", "--sort=i", "--format=%T %N"]
        done = subprocess.run(listed, check=True, capture_output=True, text=True)
        return [tuple(line.split()) for line in done.stdout.splitlines()]

    try:
        yield jobs
    finally:
        subprocess.run([CLUSTER, "stop", str(folder)], check=True)


def smoke(*words, results):
    """Run ./run_all.sh smoke without GPUs; its records, tables and figures."""
    done = run_all("smoke", "01", "06", "90", *words, "--config", f"RESULTS_DIR={results}", "gpus=0")
    assert done.returncode == 0, done.stdout + done.stderr
    return comparable(results)


def test_jobs_on_two_nodes_give_the_records_and_tables_of_one_machine(cluster, tmp_path):
    nodes, ran = smoke(*SLURM, results=tmp_path / "nodes"), cluster()
    assert [state for state, _ in ran] == ["COMPLETED"] * 3  # two trainings, the tables; the source needs no job
    assert {node for _, node in ran[:2]} == {"node1", "node2"}
    assert len(nodes) > 23 and smoke("--cores", "1", results=tmp_path / "here") == nodes


def test_what_the_scheduler_refuses_is_one_line(cluster, tmp_path):
    done = run_all("smoke", "01", *SLURM, "--config", f"RESULTS_DIR={tmp_path / 'results'}")
    assert done.returncode == 1 and cluster() == []
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("Using profile")]
    assert line.startswith("failed: 01_mnist-seed0, see ") and "Invalid generic resource (gres)" in line  # no GPU here
