"""A name or value that is not allowed is refused, in one line that says what is."""

import pytest
import torch

from kdhelpers import parameters
from kdhelpers.errors import InputError
from kdhelpers.protocols import SETTINGS


@pytest.fixture
def given(sample_data, tmp_path):
    return {
        "PROFILE": "full",
        "PROTOCOL": "official",
        "SEED": 0,
        "SOURCE": "untrained",
        "CLASSES": None,
        "EPOCHS": None,
        "IMAGE_SIZE": None,
        "BATCH_SIZE": None,
        "DEVICE": "cpu",
        "DATA_DIR": str(sample_data),
        "RESULTS_DIR": str(tmp_path),
    }


def test_none_stands_for_the_article_s_value(given):
    run = parameters.resolve("01_mnist", **given)
    assert run.classes == tuple("0123456789")
    assert (run.epochs, run.image_size, run.batch_size) == (51, 32, 64)
    assert run.deviations() == ["source untrained instead of imagenet"]
    assert parameters.resolve("06_head_ct", **given).arms == (None, "augmented")


def test_every_deviation_is_named(given):
    run = parameters.resolve("01_mnist", **given | {"EPOCHS": 2, "IMAGE_SIZE": 64, "BATCH_SIZE": 8, "SEED": 10})
    said = "; ".join(run.deviations())
    for part in ("epochs 2 instead of 51", "image size 64 instead of 32", "batch size 8 instead of 64", "seed 10"):
        assert part in said


def test_one_s_own_images_deviate_in_their_source_and_in_smoke_too(given, sample_data):
    own = given | {"DATA_DIR": str(sample_data / "own_images"), "EPOCHS": 3}
    said = parameters.resolve("00_quickstart", **own).deviations()
    assert said == ["images of one's own; the article has none", "source untrained instead of imagenet"]
    assert "smoke" in parameters.resolve("00_quickstart", **own | {"PROFILE": "smoke"}).deviations()[0]


@pytest.mark.parametrize("dataset", SETTINGS)
def test_both_protocols_differ_as_the_article_and_its_code(dataset):
    from kdhelpers.protocols import protocol_for

    text, official = protocol_for("text", dataset), protocol_for("official", dataset)
    assert (text.lam, text.score_points, text.batch_norm, text.gradient) == (None, 4, False, "cloner")
    assert (official.score_points, official.batch_norm, official.gradient) == (3, True, "both")
    assert official.lam == (0.5 if dataset in ("mvtec", "folder") else 0.01)
    assert not text.bias and not official.bias


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("PROFILE", "fulll", "PROFILE is 'fulll'; it is one of smoke, full .did you mean full"),
        ("PROTOCOL", None, "PROTOCOL is None; it is one of official, text"),
        ("SEED", -1, "SEED is -1; it is a whole number of at least 0"),
        ("SEED", "0", "SEED is '0'"),
        ("SEED", True, "SEED is True"),
        ("EPOCHS", 0, "EPOCHS is 0; it is a whole number of at least 1 or None"),
        ("EPOCHS", 2.5, "EPOCHS is 2.5"),
        ("IMAGE_SIZE", 16, "IMAGE_SIZE is 16; it is a whole number of at least 32 or None"),
        ("BATCH_SIZE", "64", "BATCH_SIZE is '64'"),
        ("SOURCE", "vgg.pt", "SOURCE 'vgg.pt' is neither imagenet, nor untrained, nor an existing weights file"),
        ("SOURCE", None, "SOURCE is None"),
        ("CLASSES", ["11"], "unknown class of mnist '11'; allowed are 0, 1"),
        ("CLASSES", "3", "CLASSES is '3'; it is None for all classes, or a list"),
        ("CLASSES", [], "CLASSES is .."),
        ("DEVICE", "gpu", "DEVICE 'gpu' cannot be used"),
        ("DATA_DIR", "/nowhere", "DATA_DIR /nowhere is not a folder"),
    ],
)
def test_a_wrong_value_is_refused(given, name, value, message):
    with pytest.raises(InputError, match=message) as error:
        parameters.resolve("01_mnist", **given | {name: value})
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(given):
    with pytest.raises(InputError, match="DEVICE 'cuda' cannot be used"):
        parameters.resolve("01_mnist", **given | {"DEVICE": "cuda"})


def test_missing_data_names_what_to_fetch(given, tmp_path):
    with pytest.raises(InputError, match="mvtec bottle: .*download MVTec AD from .*name others in CLASSES"):
        parameters.resolve("04_mvtec", **given | {"DATA_DIR": str(tmp_path), "METHODS": ["gradients"]})
    with pytest.raises(InputError, match="brain_mri normal: .*kaggle"):
        parameters.resolve("07_brain_mri", **given | {"DATA_DIR": str(tmp_path)})


def test_one_s_own_folder_must_be_named(given):
    with pytest.raises(InputError, match="DATA_DIR is not given: name the folder of your images"):
        parameters.resolve("00_quickstart", **given | {"DATA_DIR": None})


def test_a_wrong_arm_or_method_is_refused(given):
    with pytest.raises(InputError, match="ARMS is ..plain..; it is None for all, or a list of some of"):
        parameters.resolve("06_head_ct", **given | {"ARMS": ["plain"]})
    with pytest.raises(InputError, match="METHODS is ..gradient..; .*guided_backprop"):
        parameters.resolve("04_mvtec", **given | {"METHODS": ["gradient"], "CLASSES": ["bottle"]})


def test_a_mistyped_name_is_refused_with_the_one_that_was_meant(given):
    with pytest.raises(InputError, match="unknown parameter EPOCH .did you mean EPOCHS.*01_mnist has PROFILE"):
        parameters.check("01_mnist", given | {"EPOCH": 3})
    injected = {"In": ["", "# Parameters\nepochs = 3\n"], "epochs": 3}
    with pytest.raises(InputError, match="unknown parameter epochs .did you mean EPOCHS"):
        parameters.check("01_mnist", given | injected)
    missing = {name: value for name, value in given.items() if name != "SEED"}
    with pytest.raises(InputError, match="parameter SEED is missing"):
        parameters.check("01_mnist", missing)


def test_smoke_takes_the_sample_and_says_so(given, tmp_path, monkeypatch):
    from kdhelpers import samples

    monkeypatch.setattr(samples, "make", lambda: tmp_path)
    run = parameters.resolve("01_mnist", **given | {"PROFILE": "smoke", "DATA_DIR": None, "SOURCE": "imagenet"})
    assert run.data_dir == tmp_path and run.source == "untrained" and run.classes == ("0",)
    assert "smoke" in run.title and "smoke" in run.deviations()[0]
    assert "/untrained/smoke/" in str(run.record_path("0", None))
