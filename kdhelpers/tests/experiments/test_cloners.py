"""Trained cloners as assets of a release: packed, unpacked, and scored with instead of trained."""

import shutil

import pandas as pd
import pytest

from kdhelpers.experiments import cloners, config, runner
from kdhelpers.inspection import detector
from kdhelpers.tests.conftest import refused


@pytest.fixture
def made(of_a_run):
    """A recorded run of one category."""
    (run,) = config.resolve("04_mvtec", **of_a_run | {"CLASSES": ["bottle"]})
    runner.run_experiments([run])
    return run


def test_a_packed_cloner_is_used_instead_of_a_training(made, tmp_path, monkeypatch):
    results, zips = made.results_dir, tmp_path / "zips"
    for other in ("00_quickstart", "06_head_ct"):  # the maintainer's own pictures, and some without a licence
        shutil.copytree(made.record_path("bottle").parent, made.record_path("bottle").parents[1] / other)
        shutil.copytree(made.cloner_path("bottle").parent, made.cloner_path("bottle").parents[1] / other)
    assert cloners.pack(results, zips) == [zips / "untrained-04_mvtec.zip"]
    before = {path: path.read_bytes() for path in results.rglob("04_mvtec/*")}
    assert len(before) == 3
    shutil.rmtree(results / "cloners")
    assert made.is_pending("bottle", cloner=True)

    shutil.unpack_archive(zips / "untrained-04_mvtec.zip", results)
    assert {path: path.read_bytes() for path in results.rglob("04_mvtec/*")} == before
    assert not list(results.glob("cloners/*/*/*/06_head_ct"))
    monkeypatch.setattr(runner.training, "fit", lambda *_, **__: pytest.fail("it was trained"))
    runner.run_experiments([made], cloners=True)

    record = made.record_path("bottle")
    record.write_text(record.read_text().replace('"seconds"', '"seconds" '))
    assert not made.is_pending("bottle") and made.is_pending("bottle", cloner=True)
    assert cloners.pack(results, zips) == [] and not zips.exists()  # the cloner is of another record
    made.cloner_path("bottle").write_bytes(b"half of it")
    with refused(str(made.cloner_path("bottle")), "is damaged: remove it"):
        made.is_pending("bottle", cloner=True)


def test_a_cloner_scores_pictures_as_its_training_did(made, sample_data):
    loaded = detector.load(made.cloner_path("bottle"), device="cpu")
    table = pd.read_csv(made.predictions_path("bottle"))
    found = loaded.score([sample_data / name for name in table["name"]])
    assert list(found) == ["image", "score"]  # and no verdict, without a threshold
    assert found["score"].tolist() == pytest.approx(table.iloc[:, -1].tolist(), rel=1e-4)
    with refused("no held-out pictures", ".calibrated"):
        loaded.with_threshold(1.0)
    good = [sample_data / name for name in table["name"][table["label"] == 0]]
    assert not loaded.calibrated(good, 0.05).score(good)["bad"].any()
