"""Recorded cells run again: the same comes out, and what was changed since is found and named."""

import json
import shutil
from dataclasses import asdict

import pytest
import torch
from PIL import Image

from kdhelpers.experiments import config, runner, verification
from kdhelpers.experiments.variants import DATASETS
from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import ASKED, refused, write_record

pytestmark = pytest.mark.slow

GIVEN = ASKED | {"SEED": 1, "EPOCHS": 2, "IMAGE_SIZE": 32, "BATCH_SIZE": 8}
VARIANT = "untrained/full/official/14_interpretability/mvtec-bottle-guided_backprop-seed1"


@pytest.fixture(scope="module")
def made(tmp_path_factory, sample_data):
    """RESULTS_DIR with the records of a main run and of a variant that shares its cloner, and their own DATA_DIR."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(sample_data / "mvtec", folder / "data" / "mvtec")
    given = GIVEN | {"DATA_DIR": str(folder / "data"), "RESULTS_DIR": str(folder / "results")}
    chosen = {"CLASSES": ["bottle"], "VARIANTS": ["guided_backprop"]}
    runner.run_experiments(config.resolve("14_interpretability", **given | chosen))
    return folder


@pytest.fixture
def recorded(made):
    main, variant = verification.choose(made / "results")
    assert (main["variant"], variant["variant"]) == (None, "guided_backprop")
    return main


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_the_same_comes_out_a_tampered_number_is_named_and_nothing_is_touched(made, tmp_path, command):
    results_dir = shutil.copytree(made / "results", tmp_path / "results")
    before = contents(results_dir)
    done = command("verify", f"RESULTS_DIR={results_dir}")
    assert f"· {VARIANT}: same" in done.stdout and "04_mvtec/mvtec-bottle-seed1: same" in done.stdout
    assert done.stdout.splitlines()[-1] == "2 records: 2 the same" and done.returncode == 0
    assert contents(results_dir) == before

    path = results_dir / "records" / f"{VARIANT}.json"
    record = json.loads(path.read_text())
    (main,) = results_dir.glob("records/**/04_mvtec/*.json")
    main.write_text(json.dumps(json.loads(main.read_text()) | {"seconds": {"train": 7200.0}}))
    was = record["detection"]["auroc"]
    record["detection"]["auroc"] = was * 0.9
    path.write_text(json.dumps(record))
    done = command("verify", "2", f"RESULTS_DIR={results_dir}", "seed=5")
    *said, last = done.stdout.splitlines()
    assert said[0].startswith("2 of profile full; they took 4:00:0")  # twice two hours: the variant trains it again
    (line,) = [line for line in said if f"· {VARIANT}: " in line]
    assert f"{VARIANT}: differs: detection.auroc {0.9 * was:.6g} -> {was:.6g}" in line
    assert "relative difference 0.1 in detection.auroc" in line
    assert last == "2 records: 1 the same, 1 different" and done.returncode == 1


def test_ctrl_c_leaves_the_records_and_promises_no_checkpoint(made, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "notebooks")
    import verify

    def stopped(*_, **__):
        raise KeyboardInterrupt

    before = contents(made)
    monkeypatch.setattr(runner, "_record", stopped)  # in the middle of a training
    with pytest.raises(KeyboardInterrupt):
        verify.main([f"RESULTS_DIR={made / 'results'}"])
    assert "checkpoint" not in capsys.readouterr().out
    assert contents(made) == before


def test_tampered_parameters_are_named_first(recorded):
    lam = recorded["parameters"]["protocol"]["lam"]
    recorded["parameters"]["protocol"]["lam"] = 0.25  # what this protocol does not have
    verdict, line = verification.verify(recorded)
    assert verdict == "differs" and f"differs: parameters.protocol.lam 0.25 -> {lam}, the largest" in line

    recorded["parameters"]["epochs"] = 1  # what can be run, and gives something else
    _, line = verification.verify(recorded)
    assert ", deviations[0] epochs 2 instead of 601 -> epochs 1 instead of 601" in line and " more" in line

    recorded["parameters"]["epochs"] = "many"
    verdict, line = verification.verify(recorded)
    assert verdict == "cannot be run here" and ": cannot be run here: EPOCHS is 'many': input should be" in line


def test_another_environment_is_named_but_for_the_threads_which_are_used(recorded):
    threads, torch_here = torch.get_num_threads(), recorded["environment"]["packages"]["torch"]
    recorded["environment"] |= {"method_version": 0, "python": "3.9.0", "device": "a GPU", "threads": threads + 1}
    recorded["environment"]["packages"]["torch"] = "1.0"
    recorded["seconds"], recorded["peak_memory_mb"]["host"] = {}, -1  # neither is compared
    _, line = verification.verify(recorded)
    assert " (another version; python 3.9.0 -> " in line and "; device a GPU -> " in line
    assert f"; torch 1.0 -> {torch_here}" in line and "threads" not in line and "seconds" not in line
    assert torch.get_num_threads() == threads


def test_data_or_weights_that_changed_or_are_missing_are_reported(made, recorded, tmp_path):
    def line(**where):
        _, found = verification.verify(recorded, **where)
        assert "\n" not in found
        return found

    data_dir = shutil.copytree(made / "data", tmp_path / "elsewhere")
    assert line(data_dir=str(data_dir)).endswith(": same")  # wherever it lies
    image = min((data_dir / "mvtec" / "bottle" / "train" / "good").iterdir())
    Image.open(image).rotate(90).save(image)
    found = line(data_dir=str(data_dir))
    assert "differs: the data changed since it was recorded, " in found and "data.sha256" not in found
    shutil.rmtree(data_dir / "mvtec" / "bottle")
    assert ": cannot be run here: mvtec bottle: " in line(data_dir=str(data_dir))
    recorded["environment"]["data_dir"] = str(tmp_path / "gone")
    assert f": cannot be run here: DATA_DIR {tmp_path / 'gone'} is not a folder" in line()
    recorded["parameters"] |= {"source": "vgg16-01234567", "source_name": "vgg16-01234567"}
    recorded["environment"]["source"] = "/gone/vgg16.pt"
    assert ": cannot be run here: SOURCE '/gone/vgg16.pt' is neither imagenet" in line(data_dir=str(data_dir))
    recorded["variant"] = "fancy"
    with refused("04_mvtec has no variant 'fancy' of mvtec"):
        verification.runs_of(recorded, tmp_path, data_dir=str(made / "data"), source="untrained")


CLASSES = {"mnist": "0", "fashion_mnist": "0", "cifar10": "0", "mvtec": "bottle", "retinal_oct": "oct2017"}
CLASSES |= {"head_ct": "normal", "brain_mri": "normal"}
SHARES = {"14_interpretability": {"smoothgrad", "guided_backprop", "disagreement", "edges"}}
SHARES |= {"15_unstated_details": {"gradient", "renormalise", "soft_masks"}}


@pytest.mark.parametrize("protocol", ["official", "text"])
def test_the_run_of_every_variant_of_every_notebook_comes_from_its_record(record, sample_data, tmp_path, protocol):
    weights = tmp_path / "other.pt"
    weights.write_bytes(b"never loaded")
    given = GIVEN | {"PROTOCOL": protocol, "SOURCE": str(weights), "RESULTS_DIR": str(tmp_path)}
    variants = 0
    for notebook, datasets in DATASETS.items():
        own = datasets == ("folder",)
        classes = None if own else {dataset: [CLASSES[dataset]] for dataset in datasets}
        given |= {"CLASSES": classes, "DATA_DIR": str(sample_data / "own_images" if own else sample_data)}
        for run in config.resolve(notebook, **given):
            (cls,) = run.classes
            told = record(run.notebook, run.dataset, cls, run.variant, run.seed, protocol=protocol)
            told["parameters"] = run.parameters(cls)
            told["environment"] |= {"source": run.source, "data_dir": str(run.data_dir)}
            *main, again = verification.runs_of(told, tmp_path)
            assert again.parameters(cls) == told["parameters"] and again.record_path(cls) == run.record_path(cls)
            assert asdict(again.protocol) == asdict(run.protocol) and again.data_dir == run.data_dir
            # The main run goes before it where it only uses the trained cloner in another way.
            assert [one.variant for one in main] == [None] * (run.variant in SHARES.get(notebook, ()))
            variants += run.variant is not None
    assert variants > 50


def test_records_are_drawn_by_the_seed(record, tmp_path):
    for seed in range(5):
        write_record(tmp_path, record(seed=seed, source_name="untrained", profile="smoke"))
    assert len(verification.choose(tmp_path)) == 5  # all of smoke
    with refused("there are no records of profile full under", "./run_all.sh full first"):
        verification.choose(tmp_path, profile="full")
    for seed in range(20):
        write_record(tmp_path, record(seed=seed))
    drawn = [[one["seed"] for one in verification.choose(tmp_path, seed=seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and [len(set(seeds)) for seeds in drawn] == [3, 3, 3]
    assert len(verification.choose(tmp_path, 7)) == 7 and len(verification.choose(tmp_path, 50)) == 20
    assert {one["profile"] for one in verification.choose(tmp_path, 2, profile="smoke")} == {"smoke"}


def test_differences_are_to_the_last_digit():
    one = {"detection": {"auroc": 95.47, "reason": None}, "training": {"loss": [1.0, 2.0]}, "seconds": {"train": 1.0}}
    other = {"detection": {"auroc": 95.47000000000001}, "training": {"loss": [1.0, 3.0]}, "seconds": {"train": 2.0}}
    first, second, third, *new = verification.differences(one | {"new": {"a": 1}}, other)
    assert str(first) == "detection.auroc 95.47 -> 95.47000000000001"
    assert str(second) == "detection.reason none -> nothing"
    assert str(third) == "training.loss[1] 2 -> 3" and third.relative == pytest.approx(1 / 3)
    assert [each.name for each in new] == ["new.a", "new"]  # a part that only one record has
