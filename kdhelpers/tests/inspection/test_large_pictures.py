"""Your own large pictures in tiles or in other shapes, regions that are ignored, and false alarms that are accepted."""

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

from kdhelpers import losses
from kdhelpers.cache import SourceActivations
from kdhelpers.data import tiles
from kdhelpers.data.images import Images, read_images, read_picture
from kdhelpers.experiments import config, runner
from kdhelpers.inspection import accepting, detector, export, own_images
from kdhelpers.inspection.accepting import accept
from kdhelpers.reporting import extras
from kdhelpers.reporting.commands import command_for
from kdhelpers.tests.conftest import OWN, refused


@pytest.fixture
def pictures(tmp_path):
    """Eight good pictures of 200×90, alike but for noise, and one of another size with a bright square."""
    rng = np.random.default_rng(0)
    root = tmp_path / "parts"
    (root / "good").mkdir(parents=True)
    (root / "bad").mkdir()
    for i in range(8):
        noise = rng.integers(90, 110, (90, 200, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "good" / f"{i}.png")
    odd = rng.integers(90, 110, (100, 160, 3), dtype=np.uint8)
    odd[10:40, 100:130] = 250
    Image.fromarray(odd).save(root / "bad" / "odd.png")
    return root


def judged(root, **changed):
    folders = {"DATA_DIR": str(root), "RESULTS_DIR": str(root.parent / "r")}
    (run,) = config.from_notebook("00_quickstart", OWN | folders | changed)
    (record,) = runner.run_experiments([run])
    split = run.load(run.classes[0])
    return run, record, split, *own_images.judge(run, split)


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (200, 90), (40, 300), (333, 777)])
def test_tiles_overlap_and_their_maps_are_joined_where_they_were_cut(size):
    """The tiles of a picture are their own maps: joined, they are the picture."""
    picture = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    side = min(64, *size)
    lefts = sorted({box[0] for box in tiles.boxes(size, side)})
    assert all(b - a <= 0.75 * side for a, b in zip(lefts, lefts[1:], strict=False))  # at least a quarter is shared
    cut = tiles.cut(Image.fromarray(picture), side, side)
    assert np.allclose(tiles.joined(cut[:, 0].astype(float), size, side), picture[..., 0], atol=1e-3)


def test_the_maps_of_two_tiles_that_differ_are_joined_without_a_seam():
    maps = np.stack([np.zeros((64, 64)), np.ones((64, 64))])
    assert (np.diff(tiles.joined(maps, (112, 64), 64)[:, 47:65]) > 0).all()  # the tiles share columns 48 to 63


def test_maps_of_tiles_have_a_value_everywhere_and_large_ones_are_computed_one_by_one(whole, tmp_path, monkeypatch):
    Image.new("RGB", (120, 91)).save(tmp_path / "a.png")
    assert np.isfinite(replace(whole, image_size=45, tile=90).maps(tmp_path)[0]).all()
    sizes = []
    monkeypatch.setattr(detector.Detector, "loss", lambda _, x: sizes.append(len(x)) or x[:, 0, 0, 0])
    for size in (16, 128, 512, 600):
        replace(whole, image_size=size, tile=16).score(tmp_path)  # 80 tiles
    assert sizes == [80, *[16] * 5, *[1] * 160]


def test_a_picture_scores_as_its_worst_tile(pictures, source):
    run, record, split, made, table = judged(pictures, TILE=64)
    assert record["parameters"]["tile"] == 64 and record["localization"] is None
    assert (record["data"]["train"], len(split.tiles.train)) == (4, 4 * 4 * 2)
    assert "in tiles: 32 to learn from, 38 to score" in own_images.describe(split)
    assert not len(run.pictures(run.classes[0]).maps)
    odd = split.names.index("bad/odd.png")
    cut = torch.from_numpy(tiles.cut(read_picture(pictures / "bad" / "odd.png"), 64, 32))
    cloner, fit = run.fit(run.classes[0])
    expected = losses.scores(SourceActivations(source, Images(cut)), cloner, fit.protocol).max().item()
    assert table["score"][odd] == pytest.approx(expected, rel=1e-5) == pytest.approx(fit.scores[-1][odd], rel=1e-5)
    (heat,) = made.maps(pictures / "bad" / "odd.png")
    assert heat.shape == (50, 80)
    said = f"scored by loss: {100 * roc_auc_score(split.labels, table['score']):.1f} %"
    assert own_images.auroc_of_scores(run, split, table) == said
    own_images.write(run, made, table)
    loaded = detector.load(own_images.folder_of(run) / "detector.safetensors", "untrained", "cpu")
    of_cloner = detector.load(run.cloner_path(run.classes[0]), "untrained", "cpu")
    for one in (loaded, of_cloner):
        assert one.tile == 64 and one.score(split.paths)["score"].tolist() == table["score"].tolist()


def test_a_size_may_be_height_and_width_and_the_source_a_file(pictures, source, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    torch.save(source.state_dict(), "w.pt")
    run, record, split, made, table = judged(pictures, IMAGE_SIZE=[32, 64], SOURCE="w.pt")
    assert record["parameters"]["image_size"] == [32, 64] and not run.is_pending(run.classes[0])
    full = record | {"profile": "full"}
    command = command_for("00_quickstart", None, None, [full, full | {"seed": 3}])
    assert "'IMAGE_SIZE=[32, 64]'" in command and f"DATA_DIR={pictures}" in command
    tiled = full | {"parameters": full["parameters"] | {"tile": 512}}
    tiled["environment"] = full["environment"] | {"test_dir": "/new"}
    assert {"TILE=512", "TEST_DIR=/new"} < set(command_for("00_quickstart", None, None, [tiled]).split())
    assert extras.running_time([full])["px"].tolist() == ["32×64"]
    assert split.test.pixels.shape[2:] == made.maps(pictures / "bad")[0].shape == (32, 64)
    detector.save(made, pictures.parent / "d.safetensors")
    monkeypatch.chdir(pictures)
    loaded = detector.load(pictures.parent / "d.safetensors", device="cpu")
    assert loaded.image_size == made.image_size == (32, 64) and loaded.record == record
    assert loaded.score(split.paths)["score"].tolist() == table["score"].tolist()
    with refused("IMAGE_SIZE is [32]", "at least 2"):
        judged(pictures, IMAGE_SIZE=[32])
    moved = (pictures.parent / "w.pt").rename("moved.pt")
    with refused("w.pt", "give the weights' path as --source"):
        detector.load(pictures.parent / "d.safetensors", device="cpu")
    assert detector.load(pictures.parent / "d.safetensors", str(moved), "cpu").source_id == made.source_id


def test_pixels_are_measured_at_the_size_of_the_joined_maps(whole, tmp_path, monkeypatch):
    """Pixel AUROC as scikit-learn's over the pixels of all maps, although the pictures differ in size."""
    rng, dent, good, mask = np.random.default_rng(0), *(tmp_path / f"{name}.png" for name in ("dent", "good", "mask"))
    for path, shape in ((dent, (128, 192, 3)), (good, (96, 64, 3))):
        Image.fromarray(rng.integers(90, 110, shape, dtype=np.uint8)).save(path)
    truth = np.zeros((128, 192), np.uint8)
    truth[20:60, 100:120] = 255
    Image.fromarray(truth).save(mask)
    of = {"paths": [dent, good], "mask_paths": [mask, None], "labels": np.array([1, 0], np.uint8)}
    split, made = SimpleNamespace(**of), replace(whole, tile=64)
    heat = made.maps(split.paths)
    assert [one.shape for one in heat] == [(64, 96), (48, 32)]
    half = np.zeros((64, 96), bool)
    half[10:30, 50:60] = True
    for maps, masks, words in (
        (heat[:1], [half], "AUROC of bad images"),
        (heat, [half, np.zeros((48, 32), bool)], "of all images"),
    ):
        flat = (np.concatenate([one.ravel() for one in each]) for each in (masks, maps))
        assert f"{words} {100 * roc_auc_score(*flat):.1f} %" in own_images.pixels_of(made, split)
    # With a single region, the PRO curve is the ROC curve.
    flat = np.concatenate([half.ravel(), np.zeros(48 * 32)]), np.concatenate([one.ravel() for one in heat])
    rate, overlap, _ = roc_curve(*flat)
    grid = np.append(rate[rate <= 0.3], 0.3)
    expected = 100 * np.trapezoid(np.append(overlap[rate <= 0.3], np.interp(0.3, rate, overlap)), grid) / 0.3
    everything = own_images.pixels_of(made, split)
    assert f"AUPRO {expected:.1f} %" in everything
    unlabeled = SimpleNamespace(**of | {"labels": np.array([1, 2], np.uint8)})
    assert own_images.pixels_of(made, unlabeled) != everything  # the good one no longer counts
    ignored = np.zeros((10, 10), np.uint8)
    ignored[:, 5:] = 255  # the defect, x from 100 of 192, lies in it
    assert "no mask has a pixel set" in own_images.pixels_of(replace(made, ignore=ignored), split)
    monkeypatch.setattr(own_images, "MEASURED", 2000)
    assert own_images.pixels_of(made, split) != everything
    unmasked = SimpleNamespace(**of | {"mask_paths": [None, None]})
    assert own_images.pixels_of(made, unmasked) == "no pixel AUROC: there are no masks"


def test_a_graph_of_one_tile_ignores_nothing_and_scores_by_loss(whole, tmp_path):
    made = replace(whole, tile=64)
    (tmp_path / "masks").mkdir()
    for changed, words in (
        ({"ignore": np.eye(9, dtype=np.uint8)}, "train with SCORE=loss and without IGNORE"),
        ({"score_by": "top"}, "train with SCORE=loss and without IGNORE"),
        ({"tile": None, "ignore": tmp_path / "masks"}, "a mask for each picture"),
    ):
        detector.save(replace(made, **changed), tmp_path / "d.safetensors")
        with refused("d.safetensors", words):
            export.main([str(tmp_path / "d.safetensors"), str(tmp_path / "o.onnx")])
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize("per_picture", [False, True])
def test_what_is_ignored_changes_no_score_and_no_map(pictures, per_picture, capsys):
    mask = np.zeros((45, 100), np.uint8)
    mask[:, 50:] = 1
    place = pictures.parent / "masks" / ("odd_mask.png" if per_picture else "all.png")
    place.parent.mkdir()
    Image.fromarray(mask).save(place)
    given = place.parent if per_picture else place
    run, record, split, made, table = judged(pictures, IGNORE=str(given))
    assert ("IGNORE: 1 of 9 images have a mask" in own_images.describe(split)) == per_picture
    odd = pictures / "bad" / "odd.png"
    before, (heat,) = made.scores([odd]), made.maps([odd])
    assert table["score"][split.names.index("bad/odd.png")] == before[0]
    assert (heat[:, 16:] == 0).all() and heat[:, :16].any()
    detector.save(made, pictures.parent / "d.safetensors")
    with Image.open(odd) as picture:
        changed = np.array(picture)
    changed[:, 80:] = 0
    Image.fromarray(changed).save(odd)
    loaded = detector.load(pictures.parent / "d.safetensors", "untrained", "cpu")
    assert loaded.scores([odd]) == before and np.array_equal(loaded.maps([odd])[0], heat)
    assert detector.load(run.cloner_path(run.classes[0]), "untrained", "cpu").scores([odd]) == before
    assert replace(loaded, ignore=None).scores([odd]) != before
    again = pictures.parent / "again.safetensors"
    detector.save(replace(loaded, ignore=None), again)
    detector.main([str(again), "--device", "cpu", "--ignore", str(given), "--save", str(again)])
    assert detector.load(again, "untrained", "cpu").scores([odd]) == before
    detector.main([str(again), str(pictures), "--device", "cpu"])
    assert ("1 of 9 pictures have a mask" in capsys.readouterr().err) == per_picture
    assert run.is_pending(run.classes[0])  # the picture is another one
    if per_picture:
        Image.new("RGB", (9, 9)).save(pictures / "good" / "odd.jpg")
        with refused("odd_mask.png: 1 masks and 2 pictures are called odd"):
            detector.main([str(again), str(pictures), "--device", "cpu", "--ignore", str(given)])


@pytest.mark.parametrize(
    "names, value, words",
    [
        (["all.png"], 0, ("all.png", "ignores nothing", "white what is to be ignored")),
        (["all.png"], 255, ("all.png", "ignores everything")),
        (["strange.png"], 1, ("strange.png", "0 pictures are called strange")),
        (["1.png", "1_mask.png"], 1, ("1.png: 2 masks and 1 pictures are called 1", "the one mask")),
        (["7.png"], 1, ("7.png", "1 masks and 2 pictures", "the one picture NAME")),
        (["all.png", "new/all.png"], 1, ("new/all.png lies among the pictures",)),
        ([], 1, ("IGNORE", "is missing")),
    ],
)
def test_masks_that_cannot_be_meant_are_refused(pictures, names, value, words):
    folder = pictures.parent / "masks"
    (pictures / "bad" / "odd.png").rename(pictures / "bad" / "7.png")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), value).save(folder / name)
    new = {"TEST_DIR": str(folder / "new")} if (folder / "new").is_dir() else {}
    of_all = [name for name in names[-1:] if name.endswith("all.png")]
    with refused(*words):
        judged(pictures, IGNORE=str(folder.joinpath(*of_all)), **new)


def test_accepted_pictures_are_learned_and_no_longer_held_out(pictures, monkeypatch, capsys):
    _, _, split, made, _ = judged(pictures, EPOCHS=2)
    held_out = split.paths[0]
    odd = pictures / "bad" / "odd.png"
    before = made.scores([odd])[0]
    gone = made.record | {"environment": made.record["environment"] | {"test_dir": "/gone"}}
    (emptied := pictures.parent / "new").mkdir()
    record = made.record | {"environment": made.record["environment"] | {"test_dir": str(emptied)}}
    monkeypatch.setattr(accepting, "EPOCHS", 1)
    assert "trained 1 more epochs" in accept(replace(made, record=record), [odd])[1]
    (emptied / "notes.txt").touch()
    with refused("notes.txt: not an image file"):
        accept(replace(made, record=record), [odd])
    monkeypatch.setattr(accepting, "EPOCHS", 30)
    learned, report = accept(replace(made, record=gone), [odd, held_out])
    assert learned.scores([odd])[0] < before / 2 and made.scores([odd])[0] == before
    assert learned.threshold.held_out == 3 and "trained 30 more epochs on 6 good pictures, 2 of them accepted" in report
    now, new = learned.scores([odd])[0], learned.threshold.value
    words = f"before, {now:.6g} now, {'above' if now > new else 'below'} the threshold"
    assert f"{odd}: score {before:.6g} {words}" in report
    assert f"threshold {made.threshold.value:.6g} before, {new:.6g} now, set on 3 held-out" in report
    path = pictures.parent / "d.safetensors"
    detector.save(made, path)
    monkeypatch.setattr(accepting, "accept", lambda _, files: (learned, files))
    detector.main([str(path), "--device", "cpu", "--accept", str(odd), str(held_out)])
    assert str([odd, held_out]) in capsys.readouterr().err
    again = detector.load(path, "untrained", "cpu")
    assert again.accepted == [str(odd), str(held_out)]
    path, other = path.rename(pictures.parent / "old.safetensors"), path
    detector.main([str(path), "--device", "cpu", "--accept", str(odd), "--save", str(other)])
    assert other.read_bytes() == path.read_bytes()
    with refused("no.png: cannot be read"):
        accept(again, [pictures / "no.png"])
    with refused("/gone/a.png was accepted earlier and is missing: put it back"):
        accept(replace(again, accepted=["/gone/a.png"]), [odd])
    with refused("no rate set the threshold", "--false-alarms"):
        accept(again.with_threshold(0.5), [odd])
    with refused("only a detector that 00_quickstart made"):
        accept(replace(again, record=again.record | {"dataset": "mvtec"}), [odd])
    Image.new("RGB", (200, 90)).save(pictures / "good" / "new.png")  # others would be held out
    with refused("good pictures", "have changed", "train again"):
        accept(again, [odd])
    min({*(pictures / "good").iterdir()} - {*split.paths}).unlink()  # as many as before, but others are held out
    with refused("good pictures", "have changed", "train again"):
        accept(made, [odd])


def test_a_mask_among_the_good_pictures_is_no_picture_when_those_to_judge_are_gone(pictures, monkeypatch):
    (pictures / "train").mkdir()
    (pictures / "good").rename(pictures / "train" / "good")
    new = (pictures / "bad").rename(pictures.parent / "new")
    Image.fromarray(np.eye(90, dtype=np.uint8)).save(pictures / "mask.png")
    *_, split, made, _ = judged(pictures, TEST_DIR=str(new), IGNORE=str(pictures / "mask.png"), TILE=64)
    kept = (new / "odd.png").rename(pictures.parent / "odd.png")
    new.rmdir()
    monkeypatch.setattr(accepting, "SourceActivations", learned := Mock(side_effect=SourceActivations))
    monkeypatch.setattr(accepting, "EPOCHS", 1)
    assert accept(made, [kept])[0].accepted == [str(kept)]
    pixels, first = learned.call_args.args[1].pixels, split.tiles.train.pixels
    assert torch.equal(pixels[: len(first)], first) and len(pixels) == len(first) + 6  # cut and masked as before


def test_a_format_that_pillow_cannot_read_names_the_package(tmp_path):
    Image.new("RGB", (40, 40), (200, 10, 10)).save(tmp_path / "a.avif")
    assert abs(int(read_images([tmp_path / "a.avif"], 32)[0, 0, 5, 5]) - 200) < 9
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with refused("a.heic", "pip install 'pillow-heif'"):
        read_picture(tmp_path / "a.heic")
