"""Your own images from folders to files: what is read, what is refused, what is written, and the detector again."""

import json
import os
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from kdhelpers import data, metrics, paths
from kdhelpers.data.layouts import LABELS, Own, list_files
from kdhelpers.experiments import config, runner
from kdhelpers.inspection import detector, own_images, regions, thresholds
from kdhelpers.inspection.accepting import accept
from kdhelpers.localization import localization_map
from kdhelpers.protocols import protocol_for
from kdhelpers.reporting import figures
from kdhelpers.tests.conftest import OWN, make_record, one_line, refused, write_record

PROTOCOL = protocol_for("official", "folder")


@pytest.fixture
def folders(sample_data, tmp_path):
    """Two plain folders in one with a space in its name: 14 good pictures and 6 to judge, of different sizes."""
    root = tmp_path / "my parts"
    sample = sample_data / "own_images"
    for name, kinds in (("fine", ("train/good", "test/good")), ("new", ("test/crack", "test/mould"))):
        (root / name).mkdir(parents=True)
        for kind in kinds:
            for path in (sample / kind).iterdir():
                shutil.copy(path, root / name / f"{kind.replace('/', '-')}-{path.name}")
    Image.new("L", (30, 90), 140).save(root / "fine" / "grey.png")
    Image.new("RGBA", (301, 20), (10, 200, 30, 128)).save(root / "new" / "wide.webp")
    return root


def given(root, **changed):
    apart = {"RESULTS_DIR": str(root.parent / "results")}  # from those of a run in this clone
    places = apart | {"DATA_DIR": str(root / "fine"), "TEST_DIR": str(root / "new"), "TEST_LABEL": None}
    return OWN | places | changed


def run_of(root, **changed):
    (run,) = config.from_notebook("00_quickstart", given(root, **changed))
    return run


def load(root, **changed):
    run = run_of(root, **changed)
    return run.load(run.classes[0])


@pytest.mark.parametrize("count, held_out", [(51, 11), (30, 10), (15, 7), (3, 1)])
def test_good_ones_are_held_out(tmp_path, count, held_out):
    for i in range(count):
        (tmp_path / f"{i}.png").write_text(f"picture {i}")
    (tmp_path / "copy.png").write_text("picture 0")

    def test(seed):
        files = list_files("folder", "", tmp_path, seed)
        found = {image.path for image in files.test}
        assert len(found) == held_out and len(found | set(files.train)) == count == held_out + len(files.train)
        assert len({path.read_text() for path in [*found, *files.train]}) == count  # its copy is on neither side
        assert {(image.kind, image.label) for image in files.test} == {("good", 0)}
        return found

    assert test(0) == test(0)
    assert count < 15 or test(0) != test(1)


@pytest.mark.parametrize(
    "layout, label, train, test",
    [
        ({"ok": 12, "NG": 3}, None, 6, {"good": 6, "NG": 3}),
        ({"Normal": 8, "healthy": 4, "scratch": 2, "unlabeled": 1}, None, 6, {"good": 6, "scratch": 2, "unknown": 1}),
        ({"no": 12, "yes": 3}, {"no": "good", "yes": "bad"}, 6, {"good": 6, "yes": 3}),
        ({"train/PASS": 6, "test/pass": 3, "test/dent": 2}, None, 6, {"good": 3, "dent": 2}),
        ({"a": 12, "b": 2}, {"a": "good"}, 6, {"good": 6, "b": 2}),
        ({"good": 12, "unknown": 2}, {"unknown": "bad"}, 6, {"good": 6, "bad": 2}),
        ({"ok": 12, "Good": 2}, {"good": "bad"}, 6, {"good": 6, "bad": 2}),
        # good ones only, and a folder to judge
        ({"good/lot_1": 6, "good/lot_2": 6, "Pass": 2}, None, 6, {"good": 8}),
        ({"good": 12, "new/dent": 1, "new/good": 1, "new/unknown": 1}, None, 6, {"good": 7, "dent": 1, "unknown": 1}),
        ({"good": 12, "new/NG": 1, "new/OK": 1, "new/Unlabeled": 1}, None, 6, {"good": 7, "NG": 1, "unknown": 1}),
        ({"good": 12, "new/no": 1, "new/yes": 1}, {"No": "good", "yes": "bad"}, 6, {"good": 7, "yes": 1}),
    ],
)
def test_folders_are_understood_by_their_names(tmp_path, layout, label, train, test):
    for place, count in layout.items():
        (tmp_path / place).mkdir(parents=True)
        for i in range(count):
            (tmp_path / place / f"{i}.png").write_text(f"{place} {i}")
    last = next(reversed(layout)).split("/")[0]
    own = Own(tmp_path / last if last in ("new", "Pass") else None, label)
    files = list_files("folder", "", tmp_path / "good" if own.test_dir else tmp_path, 0, own=own)
    kinds = [image.kind for image in files.test]
    assert len(files.train) == train and {kind: kinds.count(kind) for kind in kinds} == test
    assert all(image.label == LABELS.get(image.kind, 1) for image in files.test)


@pytest.mark.parametrize(
    "name, label, kind, value",
    [
        ("new", None, "new", 2),
        ("new", "bad", "new", 1),
        ("new", "good", "new", 0),
        ("new", "unknown", "new", 2),
        ("new", {"New": "bad"}, "new", 1),
        ("PASS", None, "good", 0),
    ],
)
def test_what_pictures_without_folders_are(folders, name, label, kind, value):
    (folders / "new").rename(folders / name)
    split = load(folders, TEST_DIR=str(folders / name), TEST_LABEL=label)
    theirs = [i for i, path in enumerate(split.names) if path.startswith(f"{name}/")]
    assert len(theirs) == 7 and len(split.labels) == 14
    assert {(split.kinds[i], split.labels[i]) for i in theirs} == {(kind, value)}


def test_pictures_to_judge_beside_a_folder_with_masks(sample_data, folders):
    """The threshold's good ones are test/good; a picture without a mask, bad or not, has no part in pixel metrics."""
    own = sample_data / "own_images"
    before = load(folders, DATA_DIR=str(own), TEST_DIR=None)
    rng = np.random.default_rng(0)
    shutil.rmtree(folders / "new")
    (folders / "new").mkdir()
    Image.new("RGB", (9, 9)).save(folders / "new" / "a.png")
    for label in ("bad", None):
        split = load(folders, DATA_DIR=str(own), TEST_LABEL=label)
        assert data.fingerprint(own, seed=0, own=Own(folders / "new", label)) == split.sha256
        assert len(split.train) == len(before.train) == 10 and len(split.labels) == len(before.labels) + 1
        maps = rng.random(split.masks.shape)
        with_it, without = (metrics.localization_of({"x": maps[: len(s.labels)]}, s, PROTOCOL) for s in (split, before))
        assert with_it == without


def emptied(root):
    shutil.rmtree(root / "new")
    (root / "new").mkdir()


def with_folders(root):
    (root / "new" / "dent").mkdir()
    for path in list((root / "new").glob("*.*")):
        path.rename(root / "new" / "dent" / path.name)


def with_a_folder_beside(root):
    Image.new("RGB", (9, 9)).save((root / "new" / "old").mkdir() or root / "new" / "old" / "a.png")


@pytest.mark.parametrize(
    "spoil, changed, words",
    [
        (None, {"TEST_DIR": "/nowhere"}, ("TEST_DIR /nowhere is not a folder", "leave it out")),
        (emptied, {}, ("my parts/new: there are no image files", "put some there")),
        (None, {"TEST_DIR": "fine"}, ("TEST_DIR", "my parts/fine is DATA_DIR too", "name a folder of other pictures")),
        (None, {"TEST_DIR": "."}, ("is in DATA_DIR and in TEST_DIR", "my parts/fine/", "share no picture")),
        (with_folders, {"TEST_LABEL": "bad"}, ("TEST_LABEL is 'bad'", "my parts/new has folders", "leave TEST_LABEL")),
        (with_a_folder_beside, {}, ("lies beside the folders of new", "move the folders away, or name one of them")),
        (None, {"DATA_DIR": ".", "TEST_DIR": None}, ("my parts: no folder in it holds good", "good images only")),
        (None, {"TEST_LABEL": "god"}, ("TEST_LABEL is 'god'", "'good', 'bad' or 'unknown'", "did you mean good")),
        (None, {"TEST_DIR": None, "TEST_LABEL": "bad"}, ("TEST_LABEL is 'bad' and there is no TEST_DIR",)),
        (None, {"FALSE_ALARMS": 0}, ("FALSE_ALARMS is 0: input should be",)),
        (None, {"FALSE_ALARMS": 0.51}, ("FALSE_ALARMS is 0.51: input should be",)),
    ],
)
def test_refused_in_one_line(folders, spoil, changed, words):
    if spoil:
        spoil(folders)
    places = {name: str(folders / changed[name]) for name in ("DATA_DIR", "TEST_DIR") if changed.get(name)}
    with refused(*words):
        run_of(folders, **changed | places)


def test_copies_of_held_out_pictures_are_warned_of_by_name(folders):
    held_out = load(folders).paths[0]
    shutil.copy(held_out, folders / "fine" / f"zz{held_out.suffix}")
    assert "byte-identical copies of good images, left out: 1\n" in own_images.describe(load(folders))
    (folders / "fine" / f"zz{held_out.suffix}").unlink()
    copy = shutil.copy(held_out, folders / "new" / f"h{held_out.suffix}")
    with pytest.warns(UserWarning, match="images of TEST_DIR that are in DATA_DIR too") as caught:
        load(folders)
    assert [str(warning.message).endswith(f"{copy} = {held_out}") for warning in caught] == [True]


def written(folders, **changed):
    """Train, judge and write as the notebook does: the run, its record, the split and the table."""
    run = run_of(folders, **changed)
    (record,) = runner.run_experiments([run])
    split = run.load(run.classes[0])
    made, table = own_images.judge(run, split)
    own_images.write(run, made, table)
    return run, record, split, table


@pytest.mark.slow
def test_the_whole_way_and_again(folders, capsys):
    run, record, split, table = written(folders)
    said = own_images.describe(split) + own_images.auroc_of(record)
    for words in ("8 good images to learn from", "7 unlabeled", "no AUROC: there are no anomalous", "too few good"):
        assert words in said
    for folder, words in (("fine", "8 good"), ("fine", "7 good"), ("new", "7 unlabeled")):
        assert f"  {folders / folder}: {words}" in said
    counts = {"train": 8, "test_normal": 7, "test_anomalous": 0, "test_unlabeled": 7}
    assert record["data"] == counts | {"sha256": split.sha256}
    assert record["parameters"]["test_label"] is None and record["environment"]["test_dir"] == str(folders / "new")

    folder = own_images.folder_of(run)
    assert folder == folders.parent / "results" / "smoke" / "own_images" / "fine"
    assert own_images.folder_of(replace(run, seed=1)) == folder.with_name("fine-seed1")
    file = folder / "detector.safetensors"
    first, table = file.read_bytes(), pd.read_csv(folder / "scores.csv", dtype={"score": str, "threshold": str})
    assert list(table) == ["image", "kind", "score", "bad", "threshold"] and len(table) == 14
    assert [sum(table.kind == kind) for kind in ("good", "new")] == [7, 7]
    threshold = np.float32(table.threshold[0])
    highest = table.score.astype(np.float32)[table.kind == "good"].max()
    assert highest < threshold < 1.0001 * highest  # 5 % of 7 is none
    assert list(table.bad) == ["yes" if np.float32(score) > threshold else "no" for score in table.score]
    pictures = sorted((folder / "heat_maps").iterdir())
    assert len(pictures) == 14  # fewer than go on a sheet: all of them
    assert pictures[0].stem.endswith(Path(table.image[table.score.astype(np.float32).idxmax()]).stem)
    above = int((table.bad == "yes").sum())
    assert f"above the threshold: 0 of 7 good, {above} of 7 new\n" in capsys.readouterr().out
    for picture in pictures:
        pixels, mask = (np.asarray(Image.open(one)) for one in (picture, folder / "regions/masks" / picture.name))
        wide = pixels.shape[1] // 2 - 4  # the picture, eight white columns, and the picture with its heat
        assert (pixels[:, :wide] != pixels[:, -wide:]).any() == mask.any()
        assert max(wide, len(pixels)) == max(256, *mask.shape)  # small ones are scaled up

    # The same numbers from the file alone, in whatever company, in Python and on the command line.
    loaded = detector.load(file, "untrained", "cpu")
    again = loaded.score(list(table.image))
    assert [str(score) for score in again["score"].to_numpy()] == list(table.score)
    assert list(again["bad"]) == list(table.bad == "yes")
    assert loaded.score(table.image[9])["score"][0] == again["score"][9]
    assert len(list((folder / "regions" / "masks").iterdir())) == 14 and (folder / "regions" / "boxes.csv").exists()
    capsys.readouterr()
    arguments = [str(file), str(folders / "new"), "--device", "cpu"]  # the source is the recorded one
    detector.main(arguments)
    printed = capsys.readouterr()
    assert f"{above} of 7 are above the threshold" in printed.err
    lines = printed.out.splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == list(table.score[table.kind == "new"])
    regions_of = folders.parent / "regions"
    detector.main([*arguments, "--out", str(folders.parent / "new.csv"), "--regions", str(regions_of)])
    for name, heat in zip(sorted((regions_of / "masks").iterdir()), loaded.maps(folders / "new"), strict=True):
        assert np.asarray(Image.open(name)).any() == (heat.max() > loaded.pixel_threshold)
    assert (regions_of / "boxes.csv").is_file()
    assert capsys.readouterr().out == "" and (folders.parent / "new.csv").read_text().splitlines() == lines

    # Another rate needs no training; another picture does, and what no longer belongs there goes, but no threshold of a
    # person.
    detector.save(loaded.with_threshold(0.25), file)
    path = run.record_path("fine")
    before = path.stat().st_mtime_ns
    assert not own_images.is_written(run_of(folders, FALSE_ALARMS=0.5))
    assert own_images.is_written(written(folders, FALSE_ALARMS=0.5)[0]) and path.stat().st_mtime_ns == before
    for other in ({"MAP": "gradients"}, {"SCORE": "top"}):
        assert not own_images.is_written(run_of(folders, FALSE_ALARMS=0.5, **other))
    looser = detector.read(file).threshold
    assert "detector-previous-1.safetensors  the previous one" in capsys.readouterr().out
    previous = [folder / f"detector-previous-{number}.safetensors" for number in range(6)]
    assert detector.read(previous[1]).threshold.value == 0.25
    assert (looser.false_alarms, looser.above, looser.value < threshold) == (0.5, 3, True)
    assert file.read_bytes() != first
    of_run = file.read_bytes()
    masked = replace(loaded, ignore=np.eye(9, dtype=np.uint8))
    for number, chosen in enumerate((loaded.with_threshold(false_alarms=0.25), masked), start=2):
        detector.save(chosen, file)
        by_hand = file.read_bytes()
        written(folders, FALSE_ALARMS=0.5)  # the same run
        assert (previous[number].read_bytes(), file.read_bytes()) == (by_hand, of_run)
    capsys.readouterr()
    written(folders, FALSE_ALARMS=0.5)
    assert "previous" not in capsys.readouterr().out and not previous[4].exists()
    detector.save(replace(loaded, accepted=["a.png"]), file)  # in a terminal; the notebook is open
    for value in (0.3, 0.4):
        own_images.save(run, loaded.with_threshold(value))
    assert (detector.read(previous[4]).accepted, detector.read(file).threshold.value) == (["a.png"], 0.4)
    assert not previous[5].exists()
    (folders / "new" / "wide.webp").unlink()
    written(folders)
    assert path.stat().st_mtime_ns != before
    assert len(list((folder / "heat_maps").iterdir())) == 13 and not list(folder.glob("*/*wide*"))
    changed(schema=3)(file)  # of an earlier version: kept and written again, not refused
    assert not own_images.is_written(run_of(folders))
    assert own_images.save(run, loaded).read_bytes() != file.read_bytes()


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_a_picture_whose_name_is_not_text_is_trained_on_and_recorded(folders, monkeypatch):
    place = folders / "new" / os.fsdecode(b"gr\xfcn")
    place.mkdir()
    (folders / "new" / "wide.webp").rename(place / os.fsdecode(b"w\xfcde.webp"))
    for path in (folders / "new").glob("*.*"):
        path.rename(place / path.name)
    monkeypatch.setattr(paths, "DATA_DIR", folders / "fine")
    run, _, split, table = written(folders)
    assert run_of(folders) == run  # the folder is recorded in full, not as that of the data sets
    assert run.fit("fine")[1].scores.shape[1] == len(split.paths) == len(table)


def test_no_more_heat_maps_than_it_says(folders, monkeypatch, capsys):
    run = run_of(folders)
    images = [str(path) for path in sorted((folders / "new").iterdir())]
    scores = np.arange(len(images), dtype=np.float32)
    table = pd.DataFrame({"image": images, "kind": "new", "score": scores, "bad": "yes", "threshold": np.float32(-1)})
    made = Mock(threshold=thresholds.choose(np.float32([-1]), 0.05), pixel_threshold=0.5)
    written = own_images.folder_of(run) / "heat_maps"

    def each_map(paths):
        for number in range(len(paths)):
            assert len(list(written.iterdir())) == number  # each is written before the next one is computed
            yield np.random.default_rng(0).random((32, 32), np.float32)

    made.each_map = each_map
    monkeypatch.setattr(own_images, "MOST", 3)
    monkeypatch.setattr(own_images, "ON_SHEET", 2)
    monkeypatch.setattr(own_images.detector, "save", Mock())
    written.mkdir(parents=True)
    (written / "old.png").touch()
    with refused("old.png cannot be written", "give another RESULTS_DIR"), monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", Mock(side_effect=PermissionError(13, "Permission denied", "old.png")))
        own_images.write(run, made, table)
    own_images.write(run, made, table)
    assert len(list(written.glob("*.png"))) == 3
    assert "the 3 worst of 7 above the threshold" in capsys.readouterr().out


def changed(**settings):
    def spoil(path):
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            before = json.loads(file.metadata()["detector"])
        save_file(tensors, path, {"detector": json.dumps(before | settings)})

    return spoil


OTHER_VERSION = "another version of kdhelpers", "rerun its notebook"
NO_DETECTOR = "is not a detector", "name the detector.safetensors"


@pytest.mark.parametrize(
    "spoil, source, words",
    [
        (lambda path: path.unlink(), "untrained", NO_DETECTOR),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "untrained", NO_DETECTOR),
        (lambda path: save_file({"a": np.zeros(2)}, path), "untrained", NO_DETECTOR),
        (changed(schema=1), "untrained", ("schema 1 instead of", *OTHER_VERSION)),
        (changed(protocol=vars(PROTOCOL) | {"width": "equal"}), "untrained", OTHER_VERSION),
        (None, "imagenet", ("was trained with the source untrained", "imagenet is another", "give untrained")),
        (None, "other.pt", ("was trained with the source untrained", "other.pt (9a129038…) is another one")),
        (None, "gone.pt", ("gone.pt", "give the weights' path as --source")),
        (changed(source={"name": "untrained", "sha256": "0" * 64}), "untrained", ("00000000…", "is another one")),
    ],
)
def test_a_file_that_is_not_a_detector_or_another_source(made, tmp_path, monkeypatch, spoil, source, words):
    _, path = made
    monkeypatch.setattr(detector.weights, "_download", lambda *_: pytest.fail("it was downloaded"))
    (tmp_path / "other.pt").write_bytes(b"weights")
    if spoil:
        spoil(path)
    with refused(*words):
        detector.load(path, str(tmp_path / source) if source.endswith(".pt") else source, "cpu")


def test_folders_to_score_need_no_label(made, tmp_path):
    for name in ("no", "yes"):
        (tmp_path / "new" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), (0, 90, 0)).save(tmp_path / "new" / name / "a.png")
    assert len(made[0].score(tmp_path / "new")) == 2
    assert made[0].calibrated(str(tmp_path / "new"), 0.5).threshold.held_out == 2


@pytest.mark.parametrize(
    "options, words",
    [
        (["gone", "--out", "scores.csv"], "gone: cannot be read (No such file or directory)"),
        (["empty.png", "--out", "scores.csv"], "empty.png: the file is empty"),
        (["--false-alarms", "0.1", "--out", "scores.csv"], "need FOLDER"),
        (["--threshold", "0.1"], "need FOLDER"),
        (["gone", "--threshold", "0.1", "--save", "it.safetensors"], "gone: cannot be read"),
        (["empty.png", "--regions", "."], "is not empty"),
        (["--ignore", "no_mask.png", "--save", "it.safetensors"], "no_mask.png: cannot be read"),
        (["--threshold", "nan", "--save", "it.safetensors"], "the threshold is not a number"),
    ],
)
def test_options_that_cannot_be_meant_write_nothing(made, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.png").touch()
    before = sorted(tmp_path.iterdir())
    with refused(words):
        detector.main([str(made[1]), *options, "--source", "untrained", "--device", "cpu"])
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_line_takes_names_that_are_not_text(made, tmp_path, capfdbinary):
    os.mkdir(tmp_path / "new")
    Image.new("RGB", (40, 40)).save(tmp_path / "new" / "a.png")
    os.rename(tmp_path / "new" / "a.png", os.fsencode(tmp_path / "new") + b"/\xfc,$a$.png")
    detector.main([str(made[1]), str(tmp_path / "new"), "--source", "untrained"])
    assert b"/\xfc,$a$.png" in capfdbinary.readouterr().out


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize("module", ["detector", "export"])
def test_the_commands_end_in_one_line(module, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [module, str(tmp_path / "none"), str(tmp_path / "it.onnx")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"kdhelpers.inspection.{module}", run_name="__main__")
    one_line(ended.value.code, ("error: ", "none is missing, or is not a detector"))


def test_another_folder_of_the_same_name_replaces_nothing(folders):
    """Most people's folder of good images is called good."""
    run = run_of(folders, SEED=1)
    record = make_record("00_quickstart", "folder", "fine", source_name="untrained", profile=run.profile)
    write_record(run.results_dir, record | {"environment": {"data_dir": "/elsewhere/fine"}})
    with refused("has the results of /elsewhere/fine, another folder called fine: rename one"):
        run_of(folders, SEED=1)
    write_record(run.results_dir, record | {"environment": {"data_dir": str(folders / "fine")}})
    assert run_of(folders, SEED=1) == run


def test_auroc_is_reported_beside_what_needs_no_network():
    said = own_images.auroc_of(make_record(auroc=49.5) | {"baselines": {"mean_brightness": 25.4, "pca": 73.3}})
    assert "49.5 %" in said and "brightness alone 74.6 %" in said and "73.3 %" in said


def test_another_threshold_needs_no_training(made, tmp_path, capsys):
    whole, path = made
    assert (whole.threshold.value, whole.pixel_threshold) == pytest.approx((18.00018, 38.00038), rel=1e-6)  # 5 %
    tighter = whole.with_threshold(false_alarms=0.5)
    found = tighter.threshold.value, tighter.threshold.above, tighter.pixel_threshold
    assert found == pytest.approx((9, 10, 29), rel=2e-5)
    by_hand = whole.with_threshold(16.5)
    assert (by_hand.threshold.above, by_hand.threshold.false_alarms) == (3, None)
    assert by_hand.pixel_threshold == whole.pixel_threshold and "set by hand" in str(by_hand.threshold)
    for value, rate in ((None, None), (1.0, 0.5), (None, 0.6)):
        with refused("rate of false alarms"):
            whole.with_threshold(value, false_alarms=rate)
    out = tmp_path / "changed.safetensors"
    for option, expected in (("--threshold=16.5", by_hand), ("--false-alarms=0.5", tighter)):
        detector.main([str(path), "--source", "untrained", "--device", "cpu", option, "--save", str(out)])
        assert str(expected.threshold) in capsys.readouterr().err
        assert detector.read(out).threshold == expected.threshold
    assert "threshold 16.5: 3 of 20 held-out" in str(by_hand.threshold)


def test_a_picture_that_exceeds_nothing_is_drawn_without_heat():
    """The threshold is one picture's own maximum: neither drawn, nor a region; a little less draws it."""
    heat = localization_map(np.random.default_rng(0).random((1, 32, 32), np.float32), gaussian=False)[0]
    picture = np.full((288, 288, 3), 100, np.uint8)
    for threshold, shows in ((float(heat.max()), False), (0.99 * float(heat.max()), True), (0.0, True)):
        drawn = figures.overlay(picture, heat, threshold / figures.LOW)
        assert (drawn != picture).any() == shows == bool(len(regions.boxes(heat, threshold)))


def test_scores_by_the_map_are_its_maximum_and_top(whole, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    loss = whole.scores([tmp_path / "a.png"])
    for name in detector.MAPS:
        heat = np.sort(replace(whole, map=name).maps(tmp_path / "a.png")[0].ravel())
        for score_by, expected in (("maximum", heat[-1]), ("top", heat[-10:].mean())):  # 1 % of 32 × 32 pixels
            made = replace(whole, map=name, score_by=score_by)
            table = made.score(tmp_path.glob("*.png"))
            assert table["score"][0] == pytest.approx(expected)
            # As after a training in bfloat16, and where no gradients are computed.
            with torch.inference_mode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                assert made.score(tmp_path).equals(table)
                assert replace(made, score_by="loss").scores(list(table["image"])) == loss


def test_a_cloner_without_a_threshold_is_no_detector(whole, tmp_path, monkeypatch):
    cloner = replace(whole, threshold=None, held_out={})
    monkeypatch.setattr(detector, "load", lambda *_: cloner)
    with refused("without a threshold for regions"):
        detector.main(["it.safetensors", str(tmp_path), "--regions", str(tmp_path / "r")])
    with refused("without a threshold is not a detector"):
        detector.save(cloner, tmp_path / "it.safetensors")
    with refused("no rate set the threshold"):
        accept(cloner, [])


def test_calibration_keeps_to_the_rate_in_scores_and_in_pictures_with_heat(whole, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i:02d}.png")
    paths = sorted(tmp_path.glob("*.png"))
    found = whole.calibrated(paths, 0.05)
    assert (found.scores(paths) > np.float32(found.threshold.value)).sum() == 1
    assert sum((heat > np.float32(found.pixel_threshold)).any() for heat in found.maps(paths)) == 1


def test_regions_are_those_of_the_drawn_map(tmp_path):
    heat = np.zeros((2, 8, 8), np.float32)
    heat[0, 1:3, 2:6], heat[0, 2, 2] = 2, 3
    heat[0, [5, 6], [6, 7]] = 5  # one region, as corners touch
    found = regions.boxes(heat[0], 1)
    assert found.values.tolist() == [[6, 5, 2, 2, 2, 5], [2, 1, 4, 2, 8, 3]]
    for i, size in enumerate([(16, 8), (8, 8)]):
        Image.new("RGB", size).save(tmp_path / f"{i}.png")
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    regions.write(tmp_path / "out", zip("ab", paths, heat, strict=True), 1)
    with Image.open(tmp_path / "out" / "masks" / "a.png") as mask:
        assert mask.size == (16, 8) and set(np.unique(mask)) == {0, 255}
        assert np.asarray(mask)[1, 6] == 255 and np.asarray(mask)[4, 4] == 0
    assert np.array_equal(np.load(tmp_path / "out" / "maps" / "b.npy"), heat[1])
    table = pd.read_csv(tmp_path / "out" / "boxes.csv")
    assert list(table["mask"]) == ["masks/a.png"] * 2
    assert list(table.image) == [str(paths[0])] * 2 and table.width[1] > 4  # stretched to the picture
