"""Records: whole or not there, current or stale, and what they hold."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdhelpers import evaluation, networks, parameters, results, training
from kdhelpers.errors import InputError


@pytest.fixture
def run(sample_data, tmp_path):
    return parameters.resolve(
        "06_head_ct",
        PROFILE="full",
        PROTOCOL="official",
        SEED=2,
        SOURCE="untrained",
        EPOCHS=1,
        IMAGE_SIZE=32,
        BATCH_SIZE=None,
        DEVICE="cpu",
        DATA_DIR=str(sample_data),
        RESULTS_DIR=str(tmp_path / "results"),
    )


@pytest.fixture
def finished(run, source):
    """Arguments of `results.save`."""
    split = run.load("normal")
    cloner = networks.make_cloner(run.protocol, run.seed)
    train, test = (networks.SourceActivations(source, images) for images in (split.train, split.test))
    fit = training.train(train, cloner, run.protocol, test=test, **run.training)
    detection = evaluation.detection(fit.scores, split.labels)
    return {
        "run": run,
        "cls": "normal",
        "arm": None,
        "source": {"name": "untrained", "sha256": "0" * 64},
        "split": split,
        "fit": fit,
        "cloner": cloner,
        "detection": detection,
        "seconds": {"data": 0.5},
    }


def test_a_record_lies_where_it_is_looked_for_and_holds_what_it_must(run, finished):
    results.save(**finished)
    path = run.results_dir / "records/untrained/full/official/06_head_ct/head_ct-normal-seed2.json"
    text = path.read_text()
    record = json.loads(text)
    assert text == json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    assert set(record) == set(
        "schema notebook dataset class arm seed profile protocol source parameters deviations data training detection "
        "localization seconds peak_memory_mb environment".split()
    )
    assert record["data"]["test_normal"] == 10 and len(record["data"]["sha256"]) == 64
    assert record["training"]["stopped_at"] == 1 and record["training"]["lambda"] == 0.01
    assert 0 <= record["detection"]["auroc"] <= 100
    assert "epochs 1 instead of 601" in record["deviations"]
    assert record["peak_memory_mb"]["host"] > 50
    assert {"commit", "dirty", "code_sha256", "python", "platform", "device", "threads", "packages"} == set(
        record["environment"]
    )


def test_pending_until_recorded_and_again_when_anything_changes(run, finished, monkeypatch):
    assert run.pending() == [("normal", None), ("normal", "augmented")]
    results.save(**finished)
    assert run.pending() == [("normal", "augmented")]
    assert replace(run, epochs=2).pending() == [("normal", None), ("normal", "augmented")]
    run.cloner_path("normal", None).unlink()
    assert run.pending() == [("normal", "augmented")]
    assert run.pending(cloners=True) == [("normal", None), ("normal", "augmented")]
    monkeypatch.setattr(results, "code_sha256", lambda: "other code")
    assert run.pending() == [("normal", None), ("normal", "augmented")]


def test_the_cloner_comes_back_as_it_was(run, finished, source):
    results.save(**finished)
    cloner, protocol, scores = run.cloner("normal")
    assert protocol.lam == 0.01
    assert np.array_equal(scores, finished["fit"].scores[-1])
    x = finished["split"].test[:]
    with torch.no_grad():
        assert torch.equal(cloner(x), finished["cloner"].eval()(x))


def test_a_number_that_is_none_leaves_no_record(run, finished):
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.save(**finished | {"detection": finished["detection"] | {"auroc": float("nan")}})
    assert [path for path in run.results_dir.rglob("*") if path.is_file()] == []


def test_a_results_folder_that_cannot_be_written_is_named(run, finished, tmp_path):
    (tmp_path / "results").write_text("a file where a folder should be")
    with pytest.raises(InputError, match="cannot write to .*give another RESULTS_DIR"):
        results.save(**finished)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 0}'])
def test_what_is_no_record_is_refused_by_name(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match="r.json is not a record"):
        results.read(tmp_path / "r.json")


def test_every_decisive_module_counts_for_the_code_s_checksum():
    from pathlib import Path

    import kdhelpers.paths

    there = {path.stem for path in Path(kdhelpers.paths.__file__).parent.glob("*.py")}
    of_no_number = {"__init__", "errors", "figures", "memory", "parameters", "paths", "results", "tables"}
    assert there - of_no_number == set(results._DECISIVE)
