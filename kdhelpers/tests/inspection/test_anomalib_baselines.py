"""anomalib beside ours: parameters, PatchCore through anomalib's own Engine, and the one line without anomalib."""

import json
import shutil
import sys
import tomllib
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from kdhelpers import metrics, networks
from kdhelpers.data import weights
from kdhelpers.experiments import artifacts, config, runner
from kdhelpers.files import write_json
from kdhelpers.inspection import anomalib_baselines
from kdhelpers.paths import ROOT
from kdhelpers.tests.conftest import ASKED, execute, refused, write_record

pytestmark = pytest.mark.slow

needs_anomalib = pytest.mark.skipif(not find_spec("anomalib"), reason="anomalib is optional and not installed")
NOTEBOOK = "30_beside_anomalib"


@pytest.fixture
def given(sample_data, tmp_path):
    chosen = {"METHODS": None, "STFPM_EPOCHS": 100, "CORESET": 0.1, "BACKBONES": "imagenet"}
    folders = {"DATA_DIR": str(sample_data), "RESULTS_DIR": str(tmp_path)}
    return ASKED | {"CLASSES": ["bottle"]} | chosen | folders


@pytest.mark.parametrize("version", [None, "1.2.0", "3.0.0"])
def test_without_the_right_anomalib_one_line_says_how_to_get_it(monkeypatch, version):
    found = {"return_value": version} if version else {"side_effect": PackageNotFoundError}
    monkeypatch.setattr(anomalib_baselines.metadata, "version", Mock(**found))
    with refused(f"installed is {version or 'none'}: pip install 'anomalib>=2.7,<3'"):
        anomalib_baselines.versions()


def test_the_optional_dependency_is_the_one_that_is_asked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["anomalib"] == [anomalib_baselines.REQUIREMENT]
    assert not [name for name in project["dependencies"] if "anomalib" in name]


def test_none_stands_for_both_methods_and_in_smoke_for_patchcore(given):
    run, methods, chosen = config.beside_anomalib(NOTEBOOK, given)
    assert (run.notebook, run.classes, run.epochs, run.image_size) == ("04_mvtec", ("bottle",), 601, 128)
    assert methods == ["stfpm", "patchcore"]
    assert chosen == {"epochs": 100, "coreset": 0.1, "backbones": "imagenet"}
    smoke = given | {"PROFILE": "smoke", "CLASSES": None}
    assert config.beside_anomalib(NOTEBOOK, smoke)[1:] == (["patchcore"], chosen | {"backbones": "untrained"})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"CLASSES": None}, "CLASSES is None; it is a list of the one category"),
        ({"CLASSES": ["bottle", "screw"]}, "'screw']; it is a list of the one category"),
        ({"METHODS": ["patchcor"]}, "METHODS is ['patchcor']: input should be 'stfpm' or 'patchcore'"),
        ({"METHODS": ["stfpm"], "BACKBONES": "untrained"}, "leave it out or give BACKBONES='imagenet'"),
        ({"STFPM_EPOCHS": 0}, "STFPM_EPOCHS is 0: input should be greater than or equal to 1"),
        ({"CORESET": 10}, "CORESET is 10: input should be less than or equal to 1"),
        ({"BACKBONES": "source"}, "BACKBONES is 'source', and SOURCE 'untrained'"),
        ({"BACKBONES": "vgg"}, "BACKBONES is 'vgg': input should be 'imagenet', 'source' or 'untrained'"),
    ],
)
def test_a_wrong_value_is_refused(given, changed, message):
    with refused(message):
        config.beside_anomalib(NOTEBOOK, given | changed)


def test_a_record_made_otherwise_is_not_undone(given, record):
    run, _, _ = config.beside_anomalib(NOTEBOOK, given)
    made = record("04_mvtec", "mvtec", "bottle", source_name="untrained", parameters=run.parameters("bottle"))
    write_record(run.results_dir, made)
    with refused("has epochs 601, this run 5", "another RESULTS_DIR"):
        config.beside_anomalib(NOTEBOOK, given | {"EPOCHS": 5})


def test_the_folder_that_was_loaded_is_given_to_anomalib(given, tmp_path, sample_data, monkeypatch):
    place = shutil.copytree(sample_data / "mvtec" / "bottle", tmp_path / "data" / "MVTec" / "Bottle")
    run, _, chosen = config.beside_anomalib(NOTEBOOK, given | {"DATA_DIR": str(tmp_path / "data")})
    fake = Mock(**{"data.Folder.side_effect": InterruptedError})  # nothing is trained
    monkeypatch.setitem(sys.modules, "anomalib", fake)
    monkeypatch.setitem(sys.modules, "lightning", Mock())
    with pytest.raises(InterruptedError):
        anomalib_baselines.run_method(run, run.load("bottle"), "patchcore", **chosen)
    assert fake.data.Folder.call_args.kwargs["root"] == place


def test_files_of_other_methods_and_protocols_are_others(given, tmp_path, monkeypatch):
    monkeypatch.setattr(anomalib_baselines, "versions", Mock(return_value="anomalib 2.7"))
    *_, cell = json.loads((ROOT / "notebooks" / f"{NOTEBOOK}.ipynb").read_text())["cells"]
    names = {"split": SimpleNamespace(cls="bottle", sha256="0"), "title": "", "found": {}}
    names |= {"anomalib_baselines": anomalib_baselines, "artifacts": artifacts, "write_json": write_json}
    for changed in ({}, {"METHODS": ["stfpm"]}, {"PROTOCOL": "text"}, {"PROFILE": "smoke"}, {"SEED": 1}):
        run, methods, chosen = config.beside_anomalib(NOTEBOOK, given | changed)
        exec("".join(cell["source"]), names | {"run": run, "methods": methods, "chosen": chosen})
    assert len([*tmp_path.glob("beside_anomalib/untrained/*/*/*.json")]) == 5


def test_ours_are_the_record_s_numbers_with_the_time_of_an_image(given, monkeypatch):
    @contextmanager
    def timed(seconds, name):
        yield
        seconds[name] = 3.0

    run, *_ = config.beside_anomalib(NOTEBOOK, given | {"EPOCHS": 2, "IMAGE_SIZE": 32})
    (record,) = runner.run_experiments([run], cloners=True)
    split, states = run.load("bottle"), [weights.load_source("untrained")[0], run.fit("bottle")[0]]
    monkeypatch.setattr(anomalib_baselines, "timed", timed)
    one = anomalib_baselines.ours(run, record, split)
    numbers, recorded = one["numbers"], record["localization"]["gradients"]["gaussian"]
    assert numbers == numbers | recorded | {"image_auroc": record["detection"]["auroc"], "ms_per_image": 3000 / 12}
    assert numbers["train_seconds"] == record["seconds"]["source"] + record["seconds"]["train"]
    stored = [tensor.nbytes for network in states for tensor in network.state_dict().values()]
    assert numbers["mb"] == sum(stored) / 1e6
    assert 100 * roc_auc_score(split.labels, one["scores"]) == pytest.approx(record["detection"]["auroc_last"])
    assert metrics.localization_of({"x": one["maps"]}, split, run.protocol)["x"] == pytest.approx(recorded)


@needs_anomalib
@pytest.mark.parametrize("backbones", ["untrained", "source"])
def test_patchcore_scores_every_test_image_and_finds_the_generated_defects(given, backbones):
    changed = {"BACKBONES": "untrained", "METHODS": ["patchcore"], "IMAGE_SIZE": 64}
    run, (method,), chosen = config.beside_anomalib(NOTEBOOK, given | changed)
    chosen["backbones"] = backbones  # an untrained source as backbone is refused
    split = run.load("bottle")
    one = anomalib_baselines.run_method(run, split, method, **chosen)
    assert one["scores"].shape == (len(split.test),) and one["maps"].shape == split.masks.shape
    normal, anomalous = (one["scores"][split.labels == label] for label in (0, 1))
    assert len(np.unique(one["scores"])) > 2 and normal.mean() < anomalous.mean()
    assert one["numbers"]["image_auroc"] == 100 * roc_auc_score(split.labels, one["scores"])
    if backbones == "source":  # S up to the last of the two layers, 30.5 MB, and patches of 768 numbers
        used = sum(parameter.nbytes for parameter in networks.make_source()[:24].parameters()) / 1e6
        assert used < one["numbers"]["mb"] < used + 4 * 768 * len(split.train) * 8 * 8 / 1e6


@needs_anomalib
def test_the_notebook_writes_what_it_shows(tmp_path):
    done = execute(NOTEBOOK, tmp_path / "out.ipynb", PROFILE="smoke", EPOCHS=2, RESULTS_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    path = tmp_path / "beside_anomalib" / "untrained" / "smoke" / "official" / "bottle-untrained-patchcore-seed0.json"
    content = json.loads(path.read_text())
    assert list(content["methods"]) == ["ours", "patchcore"] and "smoke" in content["remark"].lower()
    assert content["anomalib"]["version"] == anomalib_baselines.versions()
