"""Records: whole or not there, current or stale, and what they hold."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from kdhelpers import metrics, networks, training
from kdhelpers.cache import SourceActivations
from kdhelpers.errors import InputError
from kdhelpers.experiments import artifacts, config
from kdhelpers.experiments import records as results
from kdhelpers.protocols import METHOD_VERSION


@pytest.fixture
def run(of_a_run):
    plain, _ = config.resolve("06_head_ct", **of_a_run)
    return plain


@pytest.fixture
def finished(run, source):
    """Arguments of `artifacts.save`."""
    split = run.load("normal")
    cloner = networks.make_cloner(run.protocol, run.seed)
    train, test = (SourceActivations(source, images) for images in (split.train, split.test))
    fit = training.fit(train, cloner, run.protocol, epochs=1, batch_size=64, seed=run.seed, test=test)
    shown = split.sample_indices(3)
    return {
        "run": run,
        "cls": "normal",
        "split": split,
        "fit": fit,
        "cloner": cloner,
        "shown": (split.subset(shown), np.linspace(0, 1, 3 * 32 * 32).reshape(3, 32, 32)),
        "measured": {
            "source": {"name": "untrained", "sha256": "0" * 64},
            "detection": metrics.detection(fit.scores, split.labels, fit.scored),
            "localization": None,
            "baselines": metrics.baselines(split),
            "seconds": {"data": 0.5},
        },
    }


def test_a_record_lies_where_it_is_looked_for_and_holds_what_it_must(run, finished):
    artifacts.save(**finished)
    path = run.results_dir / "records/untrained/full/official/06_head_ct/head_ct-normal-seed2.json"
    text = path.read_text()
    record = json.loads(text)
    assert text == json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    assert set(record) == set(
        "schema notebook dataset class variant seed profile protocol source parameters deviations data training "
        "detection localization baselines seconds peak_memory_mb environment".split()
    )
    assert record["data"]["test_normal"] == 10 and len(record["data"]["sha256"]) == 64
    assert record["training"]["stopped_at"] == 1 and record["training"]["lambda"] == 0.01
    assert 0 <= record["detection"]["auroc"] <= 100
    assert "epochs 1 instead of 601" in record["deviations"]
    assert record["peak_memory_mb"]["host"] > 50
    assert set(record["environment"]) == set(
        "commit dirty method_version source data_dir python platform device precision threads packages".split()
    )


def test_pending_until_recorded_and_again_when_anything_changes(run, finished, monkeypatch):
    assert run.is_pending("normal")
    artifacts.save(**finished)
    assert not run.is_pending("normal") and not run.is_pending("normal", cloner=True)
    assert replace(run, epochs=2).is_pending("normal")
    run.cloner_path("normal").unlink()
    assert not run.is_pending("normal") and run.is_pending("normal", cloner=True)
    monkeypatch.setattr(results, "METHOD_VERSION", METHOD_VERSION + 1)
    assert run.is_pending("normal")


def test_the_cloner_and_its_pictures_come_back_as_they_were(run, finished):
    artifacts.save(**finished)
    cloner, fit = run.fit("normal")
    assert fit.protocol.lam == 0.01
    assert np.array_equal(fit.scores, finished["fit"].scores) and fit.loss == finished["fit"].loss
    x = finished["split"].test[:]
    with torch.no_grad():
        assert torch.equal(cloner(x), finished["cloner"].eval()(x))
    shown, maps = finished["shown"]
    pictures = run.pictures("normal")
    assert np.array_equal(pictures.pixels, shown.test.pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy())
    assert np.abs(pictures.maps - maps).max() < 1e-3 and pictures.kinds == shown.kinds and pictures.masks is None


def test_a_number_that_is_none_leaves_no_record(run, finished):
    finished["measured"]["baselines"]["pca"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.save(**finished)
    assert [path for path in run.results_dir.rglob("*") if path.is_file()] == []


def test_a_results_folder_that_cannot_be_written_is_named(run, finished, tmp_path):
    (tmp_path / "results").write_text("a file where a folder should be")
    with pytest.raises(InputError, match="cannot be written .*give another RESULTS_DIR"):
        artifacts.save(**finished)


def test_predictions_hold_what_any_metric_needs(run, finished):
    artifacts.save(**finished)
    table = pd.read_csv(run.predictions_path("normal"))
    split, fit = finished["split"], finished["fit"]
    assert list(table.columns) == ["name", "label", "kind", "epoch 1"]
    assert list(table["name"]) == split.names and list(table["kind"]) == split.kinds
    auroc = 100 * roc_auc_score(table["label"], table["epoch 1"])
    assert auroc == finished["measured"]["detection"]["auroc_last"]
    assert np.array_equal(table["epoch 1"].to_numpy(np.float32), fit.scores[-1])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 0}', '{"schema": 1}'])
def test_what_is_no_record_is_refused_by_name(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match="r.json is not a record"):
        results.read(tmp_path / "r.json")


def test_a_run_switches_tf32_off_before_the_source_computes(run, monkeypatch):
    """cuDNN's convolutions would use it by default; a record says float32."""
    from kdhelpers.data import weights
    from kdhelpers.experiments import runner

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    seen, load = [], weights.load_source
    tf32 = lambda: (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)  # noqa: E731
    monkeypatch.setattr(weights, "load_source", lambda *a: seen.append(tf32()) or load(*a))
    (record,) = runner.run_experiments([run])
    assert seen == [(False, False)] and record["environment"]["precision"] == "float32"
