"""Records: whole or absent, current or stale, what they hold, and how they are found."""

import gzip
import json
import platform
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from kdhelpers import files, metrics, networks, paths, training
from kdhelpers.cache import SourceActivations
from kdhelpers.data import weights
from kdhelpers.experiments import artifacts, baselines, config, records, runner, verification
from kdhelpers.protocols import METHOD_VERSION
from kdhelpers.reporting import ablations, article_figures, comparison, extras, tables
from kdhelpers.tests import conftest
from kdhelpers.tests.conftest import make_record, refused, write_record


@pytest.fixture
def run(of_a_run):
    return config.resolve("06_head_ct", **of_a_run)[0]


@pytest.fixture
def finished(run, source):
    """Arguments of `artifacts.save`."""
    split = run.load("normal")
    cloner = networks.make_cloner(run.protocol, run.seed)
    train, test = (SourceActivations(source, images) for images in (split.train, split.test))
    fit = training.fit(train, cloner, run.protocol, epochs=1, batch_size=64, seed=run.seed, test=test)
    measured = {"source": {"name": "untrained", "sha256": "0" * 64}, "localization": None, "seconds": {"data": 0.5}}
    measured["detection"] = metrics.detection(fit.scores, split.labels, fit.scored)
    measured["baselines"] = baselines.without_network(split)
    shown = split.subset(split.sample_indices()[:3]), np.linspace(0, 1, 3 * 32 * 32).reshape(3, 32, 32)
    return {"run": run, "cls": "normal"} | dict(split=split, fit=fit, cloner=cloner, shown=shown, measured=measured)


def test_a_record_and_its_cloner_lie_where_they_are_looked_for_and_come_back_as_they_were(run, finished):
    artifacts.save(**finished)
    path = run.results_dir / "records/untrained/full/official/06_head_ct/head_ct-normal-seed2.json"
    text, split, (shown, maps) = path.read_text(), finished["split"], finished["shown"]
    record = json.loads(text)
    assert text == json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    assert record.keys() == make_record().keys()
    assert record["environment"].keys() == make_record()["environment"].keys()
    counts = {"train": len(split.train), "test_normal": 10, "test_anomalous": sum(split.labels == 1)}
    assert record["data"] == counts | {"sha256": split.sha256}
    assert record["training"]["stopped_at"] == 1 and record["training"]["lambda"] == 0.01
    assert "epochs 1 instead of 601" in record["deviations"]
    assert record["peak_memory_mb"]["host"] > 50

    cloner, fit = run.fit("normal")
    assert fit.protocol.lam == 0.01 and fit.loss == finished["fit"].loss
    assert np.array_equal(fit.scores, finished["fit"].scores)
    with torch.no_grad():
        assert torch.equal(cloner(split.test[:]), finished["cloner"].eval()(split.test[:]))
    pictures = run.pictures("normal")
    assert np.array_equal(pictures.pixels, shown.test.pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy())
    assert np.abs(pictures.maps - maps).max() < 1e-3 and pictures.kinds == shown.kinds and pictures.masks is None
    packed = run.predictions_path("normal").read_bytes()
    assert packed == gzip.compress(gzip.decompress(packed), mtime=0)  # no name of a temporary file, no time
    table = pd.read_csv(run.predictions_path("normal"))
    assert list(table.columns) == ["name", "label", "kind", "epoch 1"]
    assert list(table["name"]) == split.names and list(table["kind"]) == split.kinds
    assert 100 * roc_auc_score(table["label"], table["epoch 1"]) == record["detection"]["auroc_last"]


def test_pending_until_recorded_and_again_when_anything_changes(run, finished, monkeypatch):
    assert run.is_pending("normal")
    artifacts.save(**finished)
    assert not run.is_pending("normal") and not run.is_pending("normal", cloner=True)
    assert replace(run, epochs=2).is_pending("normal")
    path, text = run.record_path("normal"), run.record_path("normal").read_text()
    older = json.loads(text)
    del older["parameters"]["protocol"]["bias"]  # as if made before `Protocol` had it
    files.write_json(path, older)
    assert not run.is_pending("normal") and not verification.differences(records.read(path), json.loads(text))
    config.refuse_to_replace([run])
    path.write_text(text)
    run.cloner_path("normal").unlink()
    assert not run.is_pending("normal") and run.is_pending("normal", cloner=True)
    monkeypatch.setattr(records, "METHOD_VERSION", METHOD_VERSION + 1)
    assert run.is_pending("normal")


@pytest.mark.skipif(platform.machine() != "x86_64" or not shutil.which("lscpu"), reason="lscpu knows other names")
def test_a_record_names_the_processor_since_its_last_digits_depend_on_it():
    words = subprocess.run("lscpu", check=True, capture_output=True, text=True, env={"LC_ALL": "C"}).stdout
    name = next(line for line in words.splitlines() if line.startswith("Model name:"))
    assert artifacts.environment(torch.device("cpu"))["device"] == name.partition(":")[2].strip()


def test_the_commit_is_that_of_the_loaded_code_and_results_are_no_change_of_it(run, tmp_path, monkeypatch):
    def git(*words):
        command = ["git", "-C", tmp_path, "-c", "user.name=somebody", "-c", "user.email=somebody@example.org", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    loaded = artifacts.environment(run.device)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    code, result = tmp_path / "code.py", tmp_path / "results" / "record.json"
    code.touch()
    result.touch()
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "code and results")
    result.write_text("of another run")
    assert artifacts._code() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    code.write_text("changed")
    assert artifacts._code()["dirty"] is True
    assert artifacts.environment(run.device) == loaded
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as in a container with the checkout of another user
    assert artifacts._code() == {"commit": git("-c", f"safe.directory={tmp_path}", "rev-parse", "HEAD"), "dirty": True}
    monkeypatch.setattr(paths, "ROOT", tmp_path / "results")  # an archive unpacked in another repository
    assert artifacts._code() == {"commit": None, "dirty": None}
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "IN_REPOSITORY", False)
    assert artifacts._code() == {"commit": None, "dirty": None}


def test_a_record_that_cannot_be_written_leaves_nothing(run, finished, tmp_path):
    baselines = finished["measured"]["baselines"]
    finished["measured"]["baselines"] = baselines | {"pca": float("nan")}
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.save(**finished)
    assert [path for path in run.results_dir.rglob("*") if path.is_file()] == []
    finished["measured"]["baselines"] = baselines
    (tmp_path / "results").write_text("a file where a folder should be")
    with refused("cannot be written ", "give another RESULTS_DIR"):
        artifacts.save(**finished)
    with pytest.MonkeyPatch.context() as patch, refused("cannot be written ", "give another RESULTS_DIR"):
        patch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained in vain"))
        runner.run_experiments([run])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 2, "notebook": "01_mnist"}'])
def test_what_is_no_record_is_refused_by_name(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with refused("r.json is not a record"):
        records.read(tmp_path / "r.json")


def test_a_run_has_its_seed_and_switches_tf32_off_before_the_source_computes(run, source, monkeypatch):
    """cuDNN's convolutions would use TF32 by default; a record says float32."""
    run = replace(run, epochs=2, batch_size=4)
    assert run.load("normal").names == conftest.load("head_ct", "normal", run.data_dir, seed=2).names
    known, cloner = SourceActivations(source, run.load("normal").train), networks.make_cloner(run.protocol, 2)
    by_hand = training.fit(known, cloner, run.protocol, epochs=2, batch_size=4, seed=2)
    seen, load = [], weights.load_source
    training.use_precision("tf32", run.device)
    assert torch.backends.cudnn.allow_tf32
    monkeypatch.setattr(weights, "load_source", lambda *a: seen.append(torch.backends.cudnn.allow_tf32) or load(*a))
    (record,) = runner.run_experiments([run])
    assert seen == [False] and record["environment"]["precision"] == "float32"
    assert record["training"]["loss"] == pytest.approx(by_hand.loss, rel=1e-5)


OTHERS = [{"source_name": "untrained"}, {"profile": "smoke"}, {"protocol": "text"}]


TABLES = [
    comparison.cells,
    lambda records: tables.article_table(2, records),
    lambda records: tables.article_numbers(2, records),
    lambda records: tables.beside_article(records, 2),
    extras.metrics,
    extras.localization,
    extras.running_time,
    lambda records: extras.ablation("11_critical_layers", records),
    lambda records: extras.variants_beside("11_critical_layers", records),
    lambda records: ablations.variants_frame("11_critical_layers", records),
    article_figures.figure_3,
]


@pytest.mark.parametrize("make", TABLES)
def test_mixed_records_are_refused(record, make):
    make([record(seed=0), record(seed=1)])
    for other in OTHERS:
        with refused("records of different kinds cannot share a table: source ", "; source"):
            make([record(seed=0), record(seed=1, **other)])


def test_an_untrained_variant_belongs_to_the_run_that_it_varies(record):
    variant = record("15_unstated_details", variant="untrained", source={"name": "untrained", "sha256": "0" * 64})
    assert records.only_one([record(), variant]) == ("imagenet", "full", "official")
    assert records.only_one([]) is None


def test_records_are_found_by_kind_each_in_its_place(record, tmp_path):
    assert records.find(tmp_path / "nothing", "full") == {}
    for one in [record(seed=1), record(seed=0), *(record(**other) for other in OTHERS)]:
        path = write_record(tmp_path, one)
    found = records.find(tmp_path, "full")
    assert list(found) == sorted(found) and len(found) == 3
    assert [one["seed"] for one in found["imagenet", "full", "official"]] == [0, 1]
    assert list(records.find(tmp_path, "smoke")) == [("imagenet", "smoke", "official")]
    path.rename(path.with_name("mnist-0-seed2.json"))
    with refused("seed2.json is the record that belongs at ", "seed0.json: move it there"):
        records.find(tmp_path, "full")
    newer = record("08_svhn", source_name="aaa")
    files.write_json(records.path_of(tmp_path, "records", newer, ".json"), newer)
    with refused("08_svhn/mnist-0-seed0.json is of a notebook or data set that is not here", "update this clone"):
        records.find(tmp_path, "full")
