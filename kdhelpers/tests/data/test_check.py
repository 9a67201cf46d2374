"""What `python -m kdhelpers.data.check` says of each data set."""

import pytest

from kdhelpers.data import check
from kdhelpers.protocols import MVTEC


def test_complete_is_what_has_all_images_masks_and_labels(tmp_path, monkeypatch):
    two = {place: count for place, count in check.COUNTS["mvtec"].items() if place.startswith(("bottle", "toothbrush"))}
    monkeypatch.setitem(check.COUNTS, "mvtec", two)
    for dataset in ("mvtec", "head_ct", "brain_mri"):
        for place, count in check.COUNTS[dataset].items():
            folder = tmp_path / dataset / place.replace("*", "kind")
            folder.mkdir(parents=True)
            for i in range(count):  # empty: their contents are not looked at
                (folder / f"{i:03d}{'_mask' if 'ground_truth' in place else ''}.png").touch()
    assert check.check("mvtec", tmp_path) == check.check("brain_mri", tmp_path) == "complete"
    assert "labels.csv is missing" in check.check("head_ct", tmp_path)
    labels = "".join(f"{i}, {int(i < 100)}\n" for i in range(200))
    (tmp_path / "head_ct/labels.csv").write_text(f"id, hemorrhage\n{labels}")
    assert check.check("head_ct", tmp_path) == "complete"

    defects = tmp_path / "mvtec/toothbrush/test/kind"
    (defects / "000.png").unlink()
    (tmp_path / "brain_mri/yes/more.png").touch()
    state = check.check("mvtec", tmp_path)
    assert state.startswith("missing 1 of 487: 1 in toothbrush/test/*; complete are bottle")
    assert check.check("brain_mri", tmp_path) == "1 more than the official 253"
    (defects / "999.png").touch()
    state = check.check("mvtec", tmp_path)
    assert state.startswith("damaged: ") and "999_mask" in state


def test_data_that_lie_elsewhere_are_not_absent(tmp_path):
    (tmp_path / "oct2017/OCT2017/train/NORMAL").mkdir(parents=True)
    assert "oct2017/train is missing; download OCT2017.tar.gz" in check.check("oct2017", tmp_path)
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    assert check.check("mnist", tmp_path) == "absent"
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte.gz").touch()
    assert check.check("mnist", tmp_path) == check.PACKED
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").touch()
    assert check.check("mnist", tmp_path).startswith("missing 3 of 4 files: train-images-idx3-ubyte, ")


def test_the_counts_are_those_of_the_publications():
    """MVTec AD's paper gives 3,629 + 1,725 images of which 1,258 have masks, OCT2017's page 26,315 normal ones."""
    by_place = {}
    for place, count in check.COUNTS["mvtec"].items():
        kind = place.partition("/")[2]
        by_place[kind] = by_place.get(kind, 0) + count
    assert by_place == {"train/good": 3629, "test/good": 467, "test/*": 1258, "ground_truth/*": 1258}
    assert 467 + 1258 == 1725 and len(check.COUNTS["mvtec"]) == 4 * len(MVTEC)


def test_a_line_for_each_data_set(sample_data, tmp_path, capsys, monkeypatch):
    for folder, code, words in ((sample_data, True, "missing "), (tmp_path, False, "absent")):
        with pytest.raises(SystemExit) as ended:
            check.main(folder)
        lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        assert ended.value.code is code
        assert list(lines) == list(check.COUNTS) and all(line.startswith(words) for line in lines.values())
        assert words == "absent" or lines["mnist"].startswith("missing 69400 of 70000: 59600 in train")
    (tmp_path / "MNIST").symlink_to(sample_data / "MNIST")  # the others are absent
    monkeypatch.setitem(check.COUNTS, "mnist", {"train": 400, "test": 200})
    with pytest.raises(SystemExit) as ended:
        check.main(tmp_path)
    first, *_ = capsys.readouterr().out.splitlines()
    assert ended.value.code is True and "damaged: " in first and "train-images-idx3-ubyte is damaged: MD5" in first
