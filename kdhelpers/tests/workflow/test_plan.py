"""What ./run_all.sh plans: for a newcomer, with some of the data, from a run list, and on several GPUs."""

import re
import socket
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import yaml

from kdhelpers.errors import InputError
from kdhelpers.experiments import config, runner
from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import refused

pytest.importorskip("papermill", reason="papermill is missing: pip install -e '.[run]'")
COMMON = "SOURCE: untrained\nEPOCHS: 1\nIMAGE_SIZE: 32\n"


@pytest.fixture
def plan(monkeypatch, tmp_path):
    """The module beside the notebooks, on a machine without the ImageNet weights."""
    monkeypatch.syspath_prepend(ROOT / "notebooks")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    import plan

    return plan


@pytest.fixture
def planned(plan, tmp_path):
    """The jobs and the text of a full run with the DATA_DIR given."""
    folder = str(tmp_path / "results")
    return lambda data, *only, **given: plan.of_notebooks(
        "full", list(only), plan.settings_of({}), {"DATA_DIR": str(data), "RESULTS_DIR": folder} | given
    )


def test_without_data_it_says_what_is_missing_and_what_can_be_run(planned, tmp_path):
    jobs, text = planned(tmp_path)
    assert max(map(len, text.splitlines())) <= 110 + len(str(tmp_path)), text  # a path is not broken
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
    assert {job.notebook for job in jobs if job.seed == 9} == {
        *("01_mnist", "02_fashion_mnist", "03_cifar10", "11_critical_layers", "13_loss_terms")
    }


def test_with_weights_nothing_is_said_of_them(planned, plan, tmp_path):
    plan.weights.imagenet_path().parent.mkdir(parents=True)
    plan.weights.imagenet_path().touch()
    assert "source imagenet" not in planned(tmp_path)[1]


def test_with_some_of_the_data_the_table_says_how_much(planned, sample_data):
    text = planned(sample_data)[1]
    for line in (
        r"01_mnist +present +0 of 100 +10 +\d+ %",
        r"04_mvtec +2 of 15 classes +0 of 20 +10 +\d+ %",
        r"13_loss_terms +2 of 15 classes: mvtec +0 of 640 +10 +\d+ %",
        r"04_mvtec, 2 of 15 classes: .*",
    ):
        assert re.search(rf"^{line}$", text, re.MULTILINE), text


def test_a_data_set_that_was_asked_for_and_is_missing_is_an_error(planned, tmp_path):
    with pytest.raises(InputError, match="04_mvtec has no data: .*www.mvtec.com"):
        planned(tmp_path, "04_mvtec")
    assert " download " in planned(tmp_path, "01_mnist")[1]


def test_without_a_network_a_download_is_one_short_line(monkeypatch, planned, tmp_path, capsys):
    import jobs

    def urlopen(*_, **__):
        raise URLError(reason)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    reason = socket.gaierror(-2, "Name or service not known")
    with refused("no network, VGG-16's ImageNet weights cannot be downloaded; by hand: see data/README.md"):
        jobs.fetch(planned(tmp_path, "01_mnist")[0], str(tmp_path))
    trainings = planned(tmp_path, "01_mnist", "90_tables_and_figures", SOURCE="untrained")[0]
    assert [job.name for job in jobs.fetch(trainings, str(tmp_path))[0]] == ["90_tables_and_figures"]
    assert capsys.readouterr().err == "error: no network, MNIST cannot be downloaded; by hand: see data/README.md\n"
    reason = ConnectionRefusedError(111, "Connection refused")  # there is a network: which server, and the fix
    with refused("could not be downloaded", "Connection refused", ": fetch ", " put "):
        jobs.fetch(planned(tmp_path, "01_mnist")[0], str(tmp_path))
    assert not [path for path in Path(tmp_path).rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_your_own_images_are_pending_until_their_results_are_written(planned, plan, tmp_path, sample_data):
    asked = {"SOURCE": "untrained", "EPOCHS": 1, "IMAGE_SIZE": [32, 64], "DEVICE": "cpu"}
    (job,), _ = planned(sample_data / "own_images", "00_quickstart", **asked)
    defaults = plan.parameters_of(ROOT / "notebooks" / "00_quickstart.ipynb")
    runner.run_experiments(config.resolve("00_quickstart", **defaults | job.parameters), cloners=True)
    (job,), _ = planned(sample_data / "own_images", "00_quickstart", **asked)
    assert job.recorded == 1 and job.pending


def test_jobs_wait_for_what_they_need_and_share_out_the_gpus(planned, plan, monkeypatch, sample_data, tmp_path):
    import jobs

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    settings = plan.settings_of({"jobs_per_gpu": 3})
    trainings, _ = planned(sample_data, "01_mnist", "04_mvtec", "11_critical_layers", "90_tables_and_figures")
    found = jobs.for_snakemake(trainings, tmp_path, "full", settings, cluster=False)
    assert found["limits"] == {"gpu0": 3, "gpu1": 3}
    found = found["jobs"]
    assert sorted(found["11_critical_layers-seed4"]["needs"]) == ["01_mnist-seed4", "04_mvtec-seed4"]
    assert len(found["90_tables_and_figures"]["needs"]) == 30 and not found["90_tables_and_figures"]["resources"]
    assert not found["04_mvtec-seed4"]["needs"]
    work = [0.0, 0.0]
    for name, job in found.items():
        if name != "90_tables_and_figures":
            (gpu,) = job["resources"]
            assert job["environment"] == f"CUDA_VISIBLE_DEVICES={gpu[-1]}"
            work[int(gpu[-1])] += job["work"]
    assert abs(work[0] - work[1]) <= max(job["work"] for job in found.values())


def test_small_jobs_share_a_gpu_as_far_as_its_memory_goes(planned, plan, monkeypatch, sample_data, tmp_path):
    import jobs

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    trainings, _ = planned(sample_data, "01_mnist", "03_cifar10", "04_mvtec")
    most = {}
    for memory in (80_000, 16_000, 8_000):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu, free=memory: (free * 2**20, 0))
        found = jobs.for_snakemake(trainings, tmp_path, "full", plan.settings_of({}), cluster=False)
        assert found["limits"] == {"gpu0": memory}
        for name, job in found["jobs"].items():
            most.setdefault(name.partition("-")[0], []).append(memory // job["resources"]["gpu0"])
    assert {name: sorted(set(counts), reverse=True) for name, counts in most.items()} == {
        "01_mnist": [4, 3],  # of 80 and 16 GB, and of 8
        "03_cifar10": [1],
        "04_mvtec": [4, 2, 1],
    }


@pytest.mark.parametrize(
    "runs, words",
    [
        ("runs:\n- {notebook: 02_mnist}", "run 1 (02_mnist): unknown notebook; it is one of"),
        ("runs:\n- {notebook: 01_mnist, EPOCH: 3}", "run 1 (01_mnist): unknown parameter EPOCH (did you mean EPOCHS"),
        ("runs:\n- {notebook: 01_mnist, CLASSES: [x]}", "run 1 (01_mnist): unknown class of mnist 'x'"),
        ("runs:\n- {notebook: 01_mnist, seeds: many}", "run 1 (01_mnist): seeds is 'many'"),
        (
            "runs:\n- {notebook: 06_head_ct}\n- {notebook: 06_head_ct, EPOCHS: 2}",
            "run 2 (06_head_ct): it would replace records of run 1",
        ),
        ("runs:\n- {notebook: 01_mnist, SEED: 5}", "run 1 (01_mnist): give `seeds` instead of SEED"),
        ("runs:\n- {notebook: 01_mnist, DATA_DIR: x}", "run 1 (01_mnist): SOURCE, DATA_DIR, RESULTS_DIR, DEVICE"),
        ("rums: []", "is not a run list"),
        ("runs: [", "is not a run list"),
    ],
)
def test_a_wrong_entry_of_a_run_list_is_named(plan, sample_data, tmp_path, runs, words):
    path = tmp_path / "runs.yaml"
    path.write_text(f"{COMMON}DATA_DIR: {sample_data}\nRESULTS_DIR: {tmp_path / 'results'}\n{runs}")
    with refused(str(path), words):
        plan.of_list(path, "full", {})


def test_the_list_of_the_committed_results_is_one(plan, sample_data, tmp_path):
    """With the samples' few classes in place of the real ones."""
    content = yaml.safe_load((ROOT / "results" / "measured.yaml").read_text())
    text = yaml.safe_dump(content | {"SOURCE": "untrained"}).replace("screw", "bottle")
    (tmp_path / "runs.yaml").write_text(text)
    jobs, _ = plan.of_list(
        tmp_path / "runs.yaml", "full", {"DATA_DIR": str(sample_data), "RESULTS_DIR": str(tmp_path / "results")}
    )
    assert jobs[0].name == "01-06_head_ct-seed0" and jobs[-1].name.endswith("04_mvtec-seed2")
