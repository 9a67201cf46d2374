"""From data to record: what variants share, and what an ablation takes from the main run."""

import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from kdhelpers import localization, metrics, training
from kdhelpers.data import weights
from kdhelpers.experiments import config, verification
from kdhelpers.experiments import runner as experiment
from kdhelpers.experiments.runs import summary
from kdhelpers.networks import make_source
from kdhelpers.tests.conftest import ASKED, refused

pytestmark = pytest.mark.slow


@pytest.fixture
def given(sample_data, tmp_path):
    short = {"SEED": 1, "CLASSES": ["bottle"], "EPOCHS": 2, "IMAGE_SIZE": 32}
    data_dir = shutil.copytree(sample_data, tmp_path / "data")
    return ASKED | short | {"DATA_DIR": str(data_dir), "RESULTS_DIR": str(tmp_path / "a")}


def test_an_ablation_makes_the_main_run_as_its_own_notebook_does_and_never_twice(given, tmp_path, monkeypatch):
    (by_itself,) = experiment.run_experiments(config.resolve("04_mvtec", **given))
    runs = config.resolve("12_cloner_size", **given | {"RESULTS_DIR": str(tmp_path / "b")})
    by_ablation, equal = experiment.run_experiments(runs)
    assert not verification.differences(by_itself, by_ablation)
    assert equal["variant"] == "equal" and equal["parameters"]["protocol"]["width"] == "equal"

    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert experiment.run_experiments(runs) == [by_ablation, equal]


def test_a_class_recorded_with_others_is_the_one_recorded_alone(given):
    (run,) = config.resolve("04_mvtec", **given | {"CLASSES": ["bottle", "carpet"], "EPOCHS": 1})
    *_, carpet = experiment.run_experiments([run])
    run.record_path("carpet").unlink()
    assert not verification.differences(carpet, experiment.run_experiments([run])[1])


def test_variants_of_the_map_share_the_main_run_s_cloner(given, monkeypatch):
    trainings = []
    train = training.fit
    monkeypatch.setattr(training, "fit", lambda *a, **k: trainings.append(k["title"]) or train(*a, **k))
    monkeypatch.setattr("kdhelpers.localization.SMOOTHGRAD_SAMPLES", 2)
    runs = config.resolve("14_interpretability", **given)
    records = experiment.run_experiments(runs)
    assert trainings == ["mvtec bottle (1 of 5)"]
    methods = ["gradients", "smoothgrad", "guided_backprop", "disagreement", "edges"]
    assert [list(record["localization"]) for record in records] == [[method] for method in methods]
    for record in records[1:]:
        assert record["training"] == records[0]["training"] and record["detection"] == records[0]["detection"]
        assert record["seconds"].get("train", 0) == 0
    cloner, fit = runs[0].fit("bottle")
    split, (source, _) = runs[0].load("bottle"), weights.load_source("untrained")
    few, kept = split.sample_indices(), runs[0].pictures("bottle")
    maps = localization.maps("gradients", source, cloner, split.test, fit.protocol, seed=0)["gaussian"]
    np.testing.assert_allclose(kept.maps, maps[few], atol=1e-3)
    np.testing.assert_allclose(kept.masks, split.masks[few], atol=1e-6)
    assert kept.kinds == [split.kinds[i] for i in few] and "good" in kept.kinds
    maps = localization.maps("smoothgrad", source, cloner, split.test, fit.protocol, seed=1)  # the run's
    assert metrics.localization_of(maps, split, fit.protocol) == records[1]["localization"]["smoothgrad"]
    for record, method in zip(records[-2:], methods[-2:], strict=True):
        maps = localization.maps(method, source, cloner, split.test, fit.protocol, seed=0)["gaussian"]
        found = record["localization"][method]["gaussian"]
        assert found["auroc_maximum"] == pytest.approx(100 * roc_auc_score(split.labels, maps.max(axis=(1, 2))))
        top = np.sort(maps.reshape(len(maps), -1))[:, -10:].mean(1)  # 1 % of 32×32 pixels
        assert found["auroc_top"] == pytest.approx(100 * roc_auc_score(split.labels, top))

    # Without the cloner on this machine a variant that is missing has it trained again; else nothing needs it.
    runs[0].cloner_path("bottle").unlink()
    assert experiment.run_experiments(runs) == records and len(trainings) == 1
    words = "recorded, but trained again because their cloners are missing: mvtec bottle"
    assert "to do: 0 of 1" in summary(runs[:1]) and words in summary(runs[:1], cloners=True)
    runs[2].record_path("bottle").unlink()
    assert summary(runs).splitlines()[2:4] == ["to do: 2 of 5; the others are recorded", words]
    again = experiment.run_experiments(runs)
    assert len(trainings) == 2 and again[2]["localization"] == records[2]["localization"]

    # Its scores are not paired with the labels of other data.
    min((runs[0].data_dir / "mvtec/bottle/test/good").iterdir()).unlink()
    runs[2].record_path("bottle").unlink()
    with refused("mvtec bottle changed since its main run", "guided_backprop", "delete ", "04_mvtec/mvtec-bottle"):
        experiment.run_experiments(runs)


def test_every_detail_that_the_article_leaves_out_can_be_changed(given, tmp_path):
    torch.manual_seed(1)
    torch.save({f"features.{name}": v for name, v in make_source().state_dict().items()}, tmp_path / "w.pt")
    classes = {"mvtec": ["bottle"], "brain_mri": ["normal"]}
    changed = {"CLASSES": classes, "EPOCHS": 1, "SOURCE": str(tmp_path / "w.pt")}
    runs = config.resolve("15_unstated_details", **given | changed)
    records = experiment.run_experiments(runs)
    main = {r["dataset"]: r for r in records if r["variant"] is None}
    by_variant = {(r["dataset"], r["variant"]): r for r in records}
    assert len(by_variant) == len(runs) == len(records)
    # What is only judged differently has the training of the main run, what is trained differently has its own.
    assert by_variant["mvtec", "soft_masks"]["training"] == main["mvtec"]["training"]
    assert by_variant["mvtec", "soft_masks"]["localization"] != main["mvtec"]["localization"]
    assert by_variant["mvtec", "score_points"]["detection"]["auroc_by_epoch"] is not None
    for name in ("bias", "batch_norm", "order", "lam", "all", "untrained"):
        assert by_variant["mvtec", name]["training"]["loss"] != main["mvtec"]["training"]["loss"]
    assert by_variant["brain_mri", "size_128"]["training"]["loss"] != main["brain_mri"]["training"]["loss"]
    assert by_variant["brain_mri", "normal_test_20"]["data"]["test_normal"] == 20
    assert by_variant["brain_mri", "size_128"]["parameters"]["image_size"] == 128
    assert by_variant["brain_mri", None]["data"]["test_normal"] == 10
