"""Trained cloners as assets of a release: listed, downloaded, put in place, and scored with instead of trained."""

import csv
import hashlib
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


def test_a_downloaded_cloner_is_used_instead_of_a_training(made, tmp_path, monkeypatch):
    results, downloads = made.results_dir, tmp_path / "downloads"
    assert cloners.collect(results, downloads) == 2
    (results / cloners.LIST).write_text(cloners.table(results))
    rows = list(csv.DictReader((results / cloners.LIST).open()))
    assert {row["file"] for row in rows} == {path.name for path in downloads.iterdir()}
    for row in rows:
        content = (downloads / row["file"]).read_bytes()
        assert (row["sha256"], row["bytes"]) == (hashlib.sha256(content).hexdigest(), str(len(content)))
        assert results / row["record"] == made.record_path("bottle")
    shutil.copytree(downloads, tmp_path / "copies")  # not links
    before = {path: path.read_bytes() for path in results.rglob("*-seed2.*")}
    shutil.rmtree(results / "cloners")
    assert made.is_pending("bottle", cloner=True) and cloners.table(results) == ""

    cloners.place(tmp_path / "copies", results)
    assert {path: path.read_bytes() for path in results.rglob("*-seed2.*")} == before
    monkeypatch.setattr(runner.training, "fit", lambda *_, **__: pytest.fail("it was trained"))
    runner.run_experiments([made], cloners=True)

    record = made.record_path("bottle")
    record.write_text(record.read_text().replace('"seconds"', '"seconds" '))
    assert not made.is_pending("bottle") and made.is_pending("bottle", cloner=True)
    made.cloner_path("bottle").write_bytes(b"half of it")
    with refused(str(made.cloner_path("bottle")), "is damaged: remove it"):
        made.is_pending("bottle", cloner=True)
    shutil.rmtree(results / "cloners")
    with refused("is not the cloner of", str(record)):
        cloners.place(tmp_path / "copies", results)
    assert not (results / "cloners").exists()  # not even the predictions, which belong to it
    (tmp_path / "copies" / rows[0]["file"]).write_bytes(b"half of it")
    with refused(rows[0]["file"], "download it again"):
        cloners.place(tmp_path / "copies", results)
    with refused("has none of the files in"):
        cloners.place(tmp_path, results)


def test_a_cloner_scores_pictures_as_its_training_did(made, sample_data):
    loaded = detector.load(made.cloner_path("bottle"), device="cpu")
    table = pd.read_csv(made.predictions_path("bottle"))
    found = loaded.score([sample_data / name for name in table["name"]])
    assert list(found) == ["image", "score"]  # and no verdict, without a threshold
    assert found["score"].tolist() == pytest.approx(table.iloc[:, -1].tolist(), rel=1e-4)
    with refused("no held-out good pictures", ".calibrated"):
        loaded.with_threshold(1.0)
    good = [sample_data / name for name in table["name"][table["label"] == 0]]
    assert not loaded.calibrated(good, 0.05).score(good)["bad"].any()
