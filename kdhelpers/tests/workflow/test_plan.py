"""What ./run_all.sh says first, to one who has nothing yet and to one who has some of it."""

import re
import socket
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import yaml

from kdhelpers.errors import InputError
from kdhelpers.experiments import config
from kdhelpers.experiments import runner as experiment
from kdhelpers.paths import ROOT

pytest.importorskip("snakemake_interface_logger_plugins", reason="Snakemake is missing: pip install -e '.[run]'")


@pytest.fixture
def said(monkeypatch, tmp_path):
    """The jobs and the text of a full run with the DATA_DIR given, without the ImageNet weights."""
    monkeypatch.syspath_prepend(ROOT / "notebooks")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    import plan  # of the scripts beside the notebooks, not of a package

    config = yaml.safe_load((ROOT / "notebooks" / "config.yaml").read_text()) | {
        "RESULTS_DIR": str(tmp_path / "results")
    }
    return lambda folder, **changed: plan.make(config | {"DATA_DIR": str(folder)} | changed)


def test_a_newcomer_is_told_what_can_be_done_in_a_dozen_lines(said, tmp_path):
    jobs, text = said(tmp_path)
    first, *lines = text.splitlines()
    assert len(lines) < 12 and max(map(len, lines)) <= 110, text
    assert first == f"There is no data in {tmp_path}, and no ImageNet weights. What you can run:"
    assert f"are downloaded, then {sum(job.seed is not None for job in jobs)} runs start" in text
    for words in ("run_all.sh smoke", "run_all.sh full 00 --config DATA_DIR=", "SOURCE=/path/to/vgg16-397923af.pth"):
        assert words in text
    by_itself, by_hand = (next(line for line in text.splitlines() if name in line) for name in ("MNIST", "MVTecAD"))
    assert "CIFAR-10 (170 MB)" in by_itself and "weights (528 MB)" in by_itself
    assert "RESC" in by_hand and "BrainMRI" in by_hand and "data/README.md" in text


def test_with_weights_nothing_is_said_of_them(said, tmp_path):
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth").touch()
    _, text = said(tmp_path)
    first, *lines = text.splitlines()
    assert first == f"There is no data in {tmp_path}. What you can run:"
    assert not [line for line in lines if "weights" in line or "SOURCE" in line] and "MNIST (12 MB)" in text


def test_with_some_of_the_data_there_is_a_table_that_fits(said, sample_data):
    jobs, text = said(sample_data)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110 + len(str(sample_data)), text  # a path is not broken
    assert re.fullmatch(r"01_mnist +present +0 of 100 +10 +\d+ %", lines[1])
    assert re.fullmatch(r"04_mvtec +2 of 15 classes +0 of 20 +10 +\d+ %", lines[4])
    assert re.fullmatch(r"13_loss_terms +2 of 15 classes: mvtec +0 of 640 +10 +\d+ %", lines[10])
    assert any(line.startswith("04_mvtec, 2 of 15 classes: ") for line in lines)
    assert "source imagenet: VGG-16's weights (528 MB) will be downloaded" in text


def test_a_data_set_that_was_asked_for_and_is_missing_is_an_error(said, tmp_path):
    with pytest.raises(InputError, match="04_mvtec has no data: .*www.mvtec.com"):
        said(tmp_path, only=["04_mvtec"])
    assert " download " in said(tmp_path, only=["01_mnist"])[1]


@pytest.mark.parametrize("name, words", [("mnist", "MNIST cannot"), ("imagenet", "ImageNet weights cannot")])
def test_without_a_network_what_cannot_be_downloaded_is_a_short_line(monkeypatch, tmp_path, said, name, words):
    import fetch

    def urlopen(*_, **__):
        raise URLError(reason)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    where = [] if name == "imagenet" else [str(tmp_path)]
    reason = socket.gaierror(-2, "Name or service not known")
    with pytest.raises(InputError, match=f"^no network, .*{words} be downloaded; by hand: see data/README.md$"):
        fetch.fetch(name, *where)
    reason = ConnectionRefusedError(111, "Connection refused")  # there is a network: which server, and the way out
    with pytest.raises(InputError, match="could not be downloaded .*Connection refused.*: fetch .* put "):
        fetch.fetch(name, *where)
    assert not [path for path in Path(tmp_path).rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_job_of_which_only_files_are_missing_is_work_too(said, tmp_path, sample_data):
    """Its record is there and its results folder is not: a time left that is divided by no work at all is an error."""
    import execute
    from progress import Progress

    asked = {"only": ["00_quickstart"], "SOURCE": "untrained", "EPOCHS": 1, "IMAGE_SIZE": 32, "DEVICE": "cpu"}
    asked |= {"RESULTS_DIR": str(tmp_path / "results")}
    jobs, _ = said(sample_data / "own_images", **asked)
    defaults = execute.parameters_of(ROOT / "notebooks" / "00_quickstart.ipynb")
    experiment.run_experiments(config.resolve("00_quickstart", **defaults | jobs[0].changed), cloners=True)
    jobs, _ = said(sample_data / "own_images", **asked)
    assert jobs[0].recorded == 1 and jobs[0].pending
    progress = Progress(jobs)
    progress.done.append(jobs[0].name)
    assert "1 of 1 in" in progress.line()


def test_a_list_of_sizes_is_numbers_and_a_list_of_classes_names(said, tmp_path):
    import plan

    config = yaml.safe_load((ROOT / "notebooks" / "config.yaml").read_text()) | {"RESULTS_DIR": str(tmp_path)}
    (job,), _ = plan.make(config | {"only": ["21_running_time"], "SIZES": ["32", "128"]})  # of a command line
    assert job.changed["SIZES"] == [32, 128]
    jobs, _ = plan.make(config | {"profile": "smoke", "only": ["01_mnist"], "CLASSES": ["3"]})
    assert [job.changed["CLASSES"] for job in jobs] == [["3"]]
