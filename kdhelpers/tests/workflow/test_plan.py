"""What ./run_all.sh plans: for a newcomer, with some of the data, from a run list, and on several GPUs."""

import errno
import fcntl
import json
import os
import re
import socket
import subprocess
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import psutil
import pytest
import torch
import yaml

from kdhelpers.data import weights
from kdhelpers.errors import InputError
from kdhelpers.experiments import config, runner
from kdhelpers.files import write_json
from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import ASKED, OWN, one_line

pytest.importorskip("papermill", reason="papermill is missing: pip install -e '.[run]'")


@pytest.fixture
def planned(command, monkeypatch, tmp_path):
    """What a command prints that only plans, on a machine without the ImageNet weights."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def plan(*words, option="--dry-run", **given):
        given = {"RESULTS_DIR": tmp_path / "results"} | given
        return command(*words, option, "--config", *(f"{name}={value}" for name, value in given.items()))

    return plan


@pytest.fixture
def handed_over(planned, monkeypatch):
    """The plan that a command hands to Snakemake, which is not started."""

    def start(words, **_):
        (path,) = [word.removeprefix("plan=") for word in words if word.startswith("plan=")]
        raise InputError(open(path).read())

    def plan(*words, option="--cores=2", **given):
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", start)
            return json.loads(planned(*words, option=option, **given).stderr.splitlines()[-1].partition(": ")[2])

    return plan


def test_without_data_it_says_what_is_missing_and_what_can_be_run(planned, tmp_path):
    text = planned("full", DATA_DIR=tmp_path).stdout
    said = " ".join(text.split())
    for words in (
        f"There is no data in {tmp_path} yet. Without data, run ./run_all.sh smoke",
        "./run_all.sh full 00 --config DATA_DIR=",
        "VGG-16's weights (528 MB) will be downloaded to",
        "SOURCE=/path/to/vgg16-397923af.pth",
        "01_mnist download 0 of 100 10",
        "07_brain_mri, missing: ",
    ):
        assert words in said, said
    expected = ["01_mnist", "02_fashion_mnist", "03_cifar10", "11_critical_layers", "13_loss_terms"]
    assert sorted(re.findall(r"(\w+)-seed9", said)) == expected
    said = planned("full", DATA_DIR=tmp_path, seeds="[1, 5]").stdout  # a share of the seeds, of which 15 has three
    assert "15_unstated_details-seed1" in said and "15_unstated_details-seed5" not in said and "seed0" not in said


def test_with_some_of_the_data_the_table_says_how_much(planned, sample_data):
    weights.imagenet_path().parent.mkdir(parents=True)
    weights.imagenet_path().touch()
    text = planned("full", DATA_DIR=sample_data).stdout
    for line in (
        r"01_mnist +present +0 of 100 +10 +\d+ %",
        r"04_mvtec +2 of 15 classes +0 of 20 +10 +\d+ %",
        r"13_loss_terms +2 of 15 classes: mvtec +0 of 640 +10 +\d+ %",
        r"04_mvtec, 2 of 15 classes: .*",
    ):
        assert re.search(rf"^{line}$", text, re.MULTILINE), text
    assert sum(map(int, re.findall(r"(\d+) %$", text, re.MULTILINE))) == pytest.approx(100, abs=6)  # rounded
    assert "source imagenet" not in text


def test_a_data_set_that_was_asked_for_and_is_missing_is_an_error(planned, tmp_path):
    assert re.match("error: 04_mvtec has no data: .*www.mvtec.com", planned("04", DATA_DIR=tmp_path).stderr)


def test_without_a_network_a_download_is_one_short_line(offline, planned, handed_over, tmp_path):
    given = {"option": "--cores=1", "DATA_DIR": tmp_path}
    by_hand = "cannot be downloaded; by hand: see data/README.md"
    offline.side_effect = URLError(socket.gaierror(-2, "Name or service not known"))
    for words in ("01", given), ("21", {"option": "--cores=1", "SOURCE": "imagenet"}), ("30", {"option": "--cores=1"}):
        assert planned(words[0], **words[1]).stderr == f"error: no network, VGG-16's ImageNet weights {by_hand}\n"
    lost = planned("01", **given, SOURCE="untrained")
    assert (lost.returncode, lost.stderr) == (1, f"error: no network, MNIST {by_hand}\n")
    # There is a network: which server, and the fix.
    offline.side_effect = URLError(ConnectionRefusedError(111, "Connection refused"))
    said = planned("01", **given).stderr.strip()
    one_line(said, ("could not be downloaded", "Connection refused", ": fetch ", " put "))
    common = f"SOURCE: untrained\nDATA_DIR: {tmp_path / 'its own'}"
    (tmp_path / "runs.yaml").write_text(f"{common}\nruns: [{{notebook: 01_mnist}}]")
    assert str(tmp_path / "its own") in planned(tmp_path / "runs.yaml", option="--cores=1").stderr
    (only,) = handed_over("01", "90", SOURCE="untrained", DATA_DIR=tmp_path)["jobs"]
    assert only == "90_tables_and_figures"  # the others go on
    assert not list(tmp_path.rglob("*.pth")) + [path for path in tmp_path.glob("MNIST/raw/*") if path.suffix != ".lock"]


def test_your_own_images_are_pending_until_their_results_are_written(planned, handed_over, tmp_path, sample_data):
    asked = {"SOURCE": "untrained", "EPOCHS": 1, "IMAGE_SIZE": 32, "DEVICE": "cpu"}
    asked |= {"DATA_DIR": str(sample_data / "own_images")}
    own = OWN | {"PROFILE": "full", "RESULTS_DIR": str(tmp_path / "results")} | asked
    runner.run_experiments(config.resolve("00_quickstart", **own), cloners=True)
    assert "would run 00_quickstart-seed0" in planned("00", **asked).stdout
    found = handed_over("00", "90", **asked, PRECISION="auto")["jobs"]  # own images' choice, not a kind of records
    assert [name for name, job in found.items() if 'PRECISION="auto"' in job["values"]] == ["00_quickstart-seed0"]


def test_jobs_wait_for_what_they_need_and_share_out_the_gpus(handed_over, monkeypatch, sample_data):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Mock(available=50_000 << 20))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    given = {"DATA_DIR": sample_data, "SOURCE": "untrained", "jobs_per_gpu": 3}
    (cached,) = handed_over("03", **given, seeds=1)["jobs"].values()
    assert cached["resources"] == {"gpu0": 1, "mem_mb": 50_000}  # less than it may need, so that it runs
    found = handed_over("01", "04", "11", "21", "90", **given, option="--cores=11")
    assert found["limits"] == {"gpu0": 3, "gpu1": 3, "mem_mb": 50_000}
    tables = found["jobs"].pop("90_tables_and_figures")
    assert len(tables["needs"]) == 31 and tables["resources"] == {"mem_mb": 4_000}
    alone = found["jobs"].pop("21_running_time")
    assert len(alone["needs"]) == 30 and alone["threads"] == 0  # all
    assert sorted(found["jobs"]["11_critical_layers-seed4"]["needs"]) == ["01_mnist-seed4", "04_mvtec-seed4"]
    assert not found["jobs"]["04_mvtec-seed4"]["needs"]
    work = [0.0, 0.0]
    for job in found["jobs"].values():
        gpu, memory = job["resources"]
        assert 4_000 <= job["resources"][memory] < 9_000 and job["threads"] == 2  # six places share eleven
        assert job["environment"] == f"CUDA_VISIBLE_DEVICES={[2, 5][int(gpu[-1])]}"
        work[int(gpu[-1])] += job["work"]
    assert abs(work[0] - work[1]) <= max(job["work"] for job in found["jobs"].values())


def test_a_recorded_run_without_the_cloner_that_variants_need_is_work(
    handed_over, planned, record, sample_data, tmp_path
):
    folders = {"DATA_DIR": str(sample_data), "RESULTS_DIR": str(tmp_path / "results")}
    main = config.resolve("14_interpretability", **ASKED | folders | {"CLASSES": ["bottle"]})[0]
    one = record("04_mvtec", "mvtec", "bottle", parameters=main.parameters("bottle"), source_name="untrained")
    write_json(main.record_path("bottle"), one)
    given = {"DATA_DIR": sample_data, "SOURCE": "untrained", "seeds": 1}
    assert "1 of the recorded runs will be trained again: maps and variants" in planned("14", "15", **given).stdout
    (job,) = handed_over("14", **given, CLASSES='["bottle"]')["jobs"].values()
    assert job["work"] > main.cost


def test_jobs_wait_for_what_they_would_write_too(handed_over, planned, sample_data, tmp_path):
    given = {"DATA_DIR": sample_data, "SOURCE": "untrained"}
    found = handed_over("12", "14", **given, seeds=1)["jobs"]
    assert found["14_interpretability-seed0"]["needs"] == ["12_cloner_size-seed0"]
    assert not found["12_cloner_size-seed0"]["needs"]
    found = handed_over("04", "12", "14", **given, seeds=1)["jobs"]  # which find it trained by its own notebook
    for ablation in "12_cloner_size", "14_interpretability":
        assert found[f"{ablation}-seed0"]["needs"] == ["04_mvtec-seed0"]
    first = sorted(found, key=lambda name: -found[name]["priority"])  # the equal cloner takes longer than three maps
    assert [name[:2] for name in first] == ["04", "12", "14"]
    found = handed_over("14", "04", **given, seeds=2)["jobs"]
    assert [(name, job["needs"]) for name, job in found.items() if job["needs"]] == [
        (f"14_interpretability-seed{seed}", [f"04_mvtec-seed{seed}"]) for seed in range(2)
    ]
    first = sorted(found, key=lambda name: -found[name]["priority"])  # the first seed with its ablation
    assert [name[:2] + name[-1] for name in first] == ["040", "140", "041", "141"]
    assert "would run 15_unstated_details-seed5\n" in planned("15", "15", **given, seeds="[5, 5]").stdout
    runs = (
        "04_mvtec, CLASSES: [bottle]",
        "12_cloner_size, CLASSES: [bottle]",
        "12_cloner_size, CLASSES: [bottle], seeds: 2",
    )
    (tmp_path / "runs.yaml").write_text(
        "".join([f"SOURCE: untrained\nDATA_DIR: {sample_data}\nruns:\n", *(f"- {{notebook: {run}}}\n" for run in runs)])
    )
    main, *ablations = (job["needs"] for job in handed_over(tmp_path / "runs.yaml")["jobs"].values())
    first, same = "01-04_mvtec-seed0", "02-12_cloner_size-seed0"
    assert main == [] and ablations == [[first], [first, same], []]  # the third would write the second's record


def test_smoke_measures_time_beside_the_tables(handed_over):
    found = handed_over("smoke", "14", "21", "30", "90")["jobs"]
    maps, peers = "14_interpretability-seed0", "30_beside_anomalib"  # both would train 04's main run
    assert {name: job["needs"] for name, job in found.items()} == {
        maps: [],
        "21_running_time": [],
        peers: [maps],
        "90_tables_and_figures": [maps, peers],
    }
    assert min(found, key=lambda name: found[name]["priority"]) == "21_running_time"


def test_what_a_cluster_says_of_a_job_is_in_its_line(planned, monkeypatch, sample_data):
    class Refused:
        def __init__(self, words, stderr, **_):
            plan = json.loads(Path(words[-1].removeprefix("plan=")).read_text())
            said = ["SLURM sbatch failed: no such partition", "None"]
            for job, message in zip(plan["jobs"].values(), said, strict=True):
                Path(job["log"]).touch()
                stderr.write(f"Error in rule {job['rule']}:\n    message: {message}\n    jobid: 1\n")
            stderr.flush()

        def poll(self):
            return 1

    monkeypatch.setattr(subprocess, "Popen", Refused)
    done = planned("06", option="--cores=2", DATA_DIR=sample_data, SOURCE="untrained", seeds=2)
    first, second = done.stderr.splitlines()
    assert first.startswith("failed: 06_head_ct-seed0, see ")
    assert first.endswith("06_head_ct-seed0.log; SLURM sbatch failed: no such partition")
    assert second.startswith("failed: 06_head_ct-seed1, see ") and second.endswith("06_head_ct-seed1.log")


def test_the_cores_of_a_job_are_those_it_may_use_and_on_a_cluster_the_profiles(handed_over, sample_data, monkeypatch):
    def threads(*words, **option):
        (job,) = handed_over("06", *words, **option, DATA_DIR=sample_data, SOURCE="untrained", seeds=1)["jobs"].values()
        assert job["resources"] == ({"gpu": 1, "mem_mb": 8_000} if words else {"mem_mb": 4_100})
        return job["threads"]

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Mock(available=4_100 << 20))
    assert threads() == 2 and threads(threads=1) == 1
    for jobs in 1, 20:
        assert threads("--profile=notebooks/profiles/slurm", option=f"--jobs={jobs}") == 0  # as many as there are
    assert threads("--profile=notebooks/profiles/slurm", option="--jobs=1", threads=4) == 4
    if hasattr(os, "sched_setaffinity"):
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        try:
            assert threads(option="--cores=all") == 1
        finally:
            os.sched_setaffinity(0, before)


@pytest.mark.parametrize("error, words", [(errno.ENOLCK, "warning: "), (errno.EIO, "error: ")])
def test_a_folder_without_locks_is_used_with_a_warning(planned, monkeypatch, error, words):
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(error, "no")))
    monkeypatch.setattr(subprocess, "Popen", Mock(side_effect=InputError("it started")))
    first, *others = planned("90", option="--cores=1").stderr.splitlines()
    assert first.startswith(words) and others == ["error: it started"] * (words == "warning: "), first


def test_a_small_number_is_a_number(handed_over, sample_data):
    given = {"DATA_DIR": sample_data / "own_images", "SOURCE": "untrained", "FALSE_ALARMS": "1e-5"}
    assert "FALSE_ALARMS=1e-05" in handed_over("00", **given)["jobs"]["00_quickstart-seed0"]["values"]


@pytest.mark.parametrize("memory, most", [(80_000, [4, 1, 4]), (16_000, [4, 1, 2]), (8_000, [3, 1, 1])])
def test_small_jobs_share_a_gpu_as_far_as_its_memory_goes(handed_over, monkeypatch, sample_data, memory, most):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (memory * 2**20, 0))
    notebooks = "01_mnist", "03_cifar10", "04_mvtec"
    found = handed_over(*notebooks, DATA_DIR=sample_data, SOURCE="untrained")
    taken = [found["jobs"][f"{name}-seed0"]["resources"]["gpu0"] for name in notebooks]
    assert found["limits"]["gpu0"] == memory and [memory // each for each in taken] == most


@pytest.mark.parametrize(
    "runs, words",
    [
        ("runs: [{notebook: 02_mnist}]", "run 1 (02_mnist): unknown notebook; it is one of"),
        ("runs: [{notebook: 01_mnist, EPOCH: 3}]", "run 1 (01_mnist): unknown parameter EPOCH (did you mean EPOCHS"),
        ("runs: [{notebook: 01_mnist, CLASSES: [x]}]", "run 1 (01_mnist): unknown class of mnist 'x'"),
        ("runs: [{notebook: 01_mnist, seeds: many}]", "run 1 (01_mnist): seeds is 'many'"),
        ("runs: [{notebook: 06_head_ct}, {notebook: 06_head_ct, EPOCHS: 2}]", "it would replace records of run 1"),
        ("runs: [{notebook: 01_mnist, SEED: 5}]", "run 1 (01_mnist): give `seeds` instead of SEED"),
        ("runs: [{notebook: 01_mnist, DATA_DIR: x}]", "run 1 (01_mnist): SOURCE, DATA_DIR, RESULTS_DIR, DEVICE"),
        ("rums: []", "is not a run list"),
        ("runs: []", "is not a run list"),
        ("runs: [", "is not a run list"),
    ],
)
def test_a_wrong_entry_of_a_run_list_is_named(planned, sample_data, tmp_path, runs, words):
    path = tmp_path / "runs.yaml"
    path.write_text(f"SOURCE: untrained\nEPOCHS: 1\nIMAGE_SIZE: 32\n{runs}")
    one_line(planned(path, DATA_DIR=sample_data).stderr.strip(), (f"error: {path}", words))


def test_the_list_of_the_committed_results_is_one(planned, sample_data, tmp_path):
    """With the samples' few classes in place of the real ones."""
    path, content = tmp_path / "runs.yaml", yaml.safe_load((ROOT / "results" / "measured.yaml").read_text())
    path.write_text(yaml.safe_dump(content | {"SOURCE": "untrained"}).replace("screw", "bottle"))
    first, *_, last = planned(path, DATA_DIR=sample_data).stdout.partition("would run ")[2].split()
    assert first == "01-06_head_ct-seed0" and last == f"{len(content['runs']):02}-01_mnist-seed2"
