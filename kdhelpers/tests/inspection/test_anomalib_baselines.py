"""anomalib beside ours: what is known of its methods beforehand, the metrics by hand, and what is said without it."""

import json
import tomllib
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from kdhelpers.data import Split
from kdhelpers.data.images import Images
from kdhelpers.errors import InputError
from kdhelpers.inspection import anomalib_baselines as peers
from kdhelpers.paths import ROOT

pytestmark = pytest.mark.slow

needs_anomalib = pytest.mark.skipif(not find_spec("anomalib"), reason="anomalib is optional and not installed")
NOTEBOOK = "30_beside_anomalib"


@pytest.fixture
def given(sample_data, tmp_path):
    common = dict.fromkeys(("EPOCHS", "IMAGE_SIZE", "BATCH_SIZE"))
    return common | {
        "PROFILE": "full",
        "PROTOCOL": "official",
        "SEED": 0,
        "SOURCE": "untrained",
        "CLASSES": ["bottle"],
        "DEVICE": "cpu",
        "CACHE": "auto",
        "DATA_DIR": str(sample_data),
        "RESULTS_DIR": str(tmp_path),
        "METHODS": None,
        "STFPM_EPOCHS": None,
        "CORESET": 0.1,
        "BACKBONES": "imagenet",
    }


@pytest.fixture
def split(images):
    """Two normal and two anomalous images; half of one mask is set, a quarter of the other's left half."""
    masks = np.zeros((4, 32, 32), np.float32)
    masks[2, :16], masks[3, :16, :16] = 1, 1
    kinds, labels = ["good", "good", "dent", "dent"], np.array([0, 0, 1, 1], np.uint8)
    test = images.subset(slice(0, 4))
    return Split("mvtec", "bottle", images, test, labels, masks, kinds, [f"{i}.png" for i in range(4)], "d" * 64)


def test_without_anomalib_one_line_says_how_to_get_it(given, monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(peers.metadata, "version", version)
    with pytest.raises(InputError, match=r"^anomalib is not installed, .*: pip install 'anomalib>=2\.7,<3'$"):
        peers.versions()


@pytest.mark.parametrize("version", ["1.2.0", "2.6.1", "3.0.0"])
def test_another_generation_of_anomalib_is_refused(given, monkeypatch, version):
    monkeypatch.setattr(peers.metadata, "version", lambda name: version)
    with pytest.raises(InputError, match=f"^anomalib {version} is installed, .*pip install"):
        peers.versions()


def test_the_optional_dependency_is_the_one_that_is_asked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["anomalib"] == [peers.REQUIREMENT]
    assert not [name for name in project["dependencies"] if "anomalib" in name]


def test_none_stands_for_both_methods_and_a_hundred_epochs(given):
    run, chosen = peers.from_notebook(NOTEBOOK, given)
    assert (run.notebook, run.classes, run.epochs, run.image_size) == ("04_mvtec", ("bottle",), 601, 128)
    assert chosen == {"methods": ("stfpm", "patchcore"), "epochs": 100, "coreset": 0.1, "backbones": "imagenet"}
    smoke = given | {"PROFILE": "smoke", "CLASSES": None}
    assert peers.from_notebook(NOTEBOOK, smoke)[1] == chosen | {"epochs": 1, "backbones": "untrained"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CLASSES", None, "CLASSES is None; it is a list of the one category"),
        ("CLASSES", ["bottle", "screw"], "CLASSES is .*; it is a list of the one category"),
        (
            "METHODS",
            ["patchcor"],
            "METHODS is ..patchcor..: input should be 'stfpm' or 'patchcore' .did you mean patchcore",
        ),
        ("STFPM_EPOCHS", 0, "STFPM_EPOCHS is 0: input should be greater than or equal to 1"),
        ("CORESET", 10, "CORESET is 10: input should be less than or equal to 1"),
        ("CORESET", "0.1", "CORESET is '0.1': input should be a valid number"),
        ("BACKBONES", "vgg", "BACKBONES is 'vgg': input should be 'imagenet' or 'untrained'"),
        ("STFPM_EPOCH", 3, "unknown parameter STFPM_EPOCH .did you mean STFPM_EPOCHS"),
    ],
)
def test_a_wrong_value_is_refused(given, name, value, message):
    with pytest.raises(InputError, match=message) as error:
        peers.from_notebook(NOTEBOOK, given | {name: value})
    assert "\n" not in str(error.value)


def test_a_record_made_otherwise_is_not_undone(given, record):
    run, _ = peers.from_notebook(NOTEBOOK, given)
    path = run.record_path("bottle")
    path.parent.mkdir(parents=True)
    content = record("04_mvtec", "mvtec", "bottle", source_name="untrained", parameters=run.parameters("bottle"))
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="has epochs 601, this run 5.*another RESULTS_DIR"):
        peers.from_notebook(NOTEBOOK, given | {"EPOCHS": 5})


def test_the_metrics_of_known_scores_and_maps(split):
    right = peers.judge(split, np.array([0.1, 0.2, 0.3, 0.4]), split.masks, soft=False)
    assert right == pytest.approx({"image_auroc": 100, "pixel_auroc": 100, "pixel_auroc_all": 100, "aupro": 100})
    # One normal image above one anomalous one: three of four pairs are in order. The map is the image's left half:
    # of the anomalous images 256 + 256 of 768 masked pixels are hot, and 256 + 256 of 1280 others.
    left = np.zeros((4, 32, 32), np.float32)
    left[2:, :, :16] = 1
    found = peers.judge(split, np.array([0.1, 0.35, 0.3, 0.4]), left, soft=False)
    assert found["image_auroc"] == pytest.approx(75)
    assert found["pixel_auroc"] == pytest.approx(50 * (1 + 512 / 768 - 512 / 1280))
    assert found["pixel_auroc_all"] == pytest.approx(50 * (1 + 512 / 768 - 512 / (1280 + 2048)))


def test_what_is_stored_is_counted():
    layer = torch.nn.Linear(3, 2)
    layer.register_buffer("memory_bank", torch.zeros(5, 4))
    found = peers.cost(1.0, 0.5, layer, torch.nn.Linear(2, 1, bias=False))
    assert found["parameters"] == 3 * 2 + 2 + 2 and found["memory_bank"] == [5, 4]
    assert found["bytes"] == 4 * (10 + 20) and found["ms_per_image"] == 500


@needs_anomalib
def test_a_student_that_equals_its_teacher_sees_nothing(images):
    torch.manual_seed(0)
    module = peers.make_stfpm(pretrained=False)
    _, before = peers.predict(module, images)
    module.model.student_model.load_state_dict(module.model.teacher_model.state_dict())
    scores, maps = peers.predict(module, images)
    assert before.min() > 0 and maps.shape == (7, 32, 32)
    assert np.abs(scores).max() < 1e-12 and np.abs(maps).max() < 1e-12


@needs_anomalib
def test_stfpm_learns_and_the_same_seed_gives_the_same_maps(images):
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        module = peers.make_stfpm(pretrained=False)
        teacher = {name: value.clone() for name, value in module.model.teacher_model.state_dict().items()}
        _, before = peers.predict(module, images)
        peers.fit_stfpm(module, images, epochs=5, seed=0)
        found.append(peers.predict(module, images)[1])
        assert found[-1].mean() < before.mean()
        assert all(torch.equal(value, teacher[name]) for name, value in module.model.teacher_model.state_dict().items())
    assert np.array_equal(*found)


@needs_anomalib
def test_patchcore_is_at_home_in_what_it_has_stored(images):
    torch.manual_seed(0)
    module = peers.make_patchcore(pretrained=False, coreset=1.0)
    peers.fit_patchcore(module, images, seed=0)
    assert list(module.model.memory_bank.shape) == [7 * 4 * 4, 1536]
    stored, maps = peers.predict(module, images)
    strange, _ = peers.predict(module, Images(255 - images.pixels // 8))
    assert maps.shape == (7, 32, 32)
    assert stored.max() < 0.01 * strange.min()


@needs_anomalib
def test_a_coreset_of_nothing_is_refused(images):
    module = peers.make_patchcore(pretrained=False, coreset=0.001)
    with pytest.raises(InputError, match="CORESET 0.001 leaves nothing of so few images; give a larger one"):
        peers.fit_patchcore(module, images, seed=0)


@needs_anomalib
def test_images_of_their_size_are_only_normalised(images):
    module = peers.make_stfpm(pretrained=False)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    x = peers.transform_of(module, images)(images[:])
    torch.testing.assert_close(x, (images.pixels / 255 - mean) / std)


@needs_anomalib
def test_weights_that_cannot_be_had_are_one_line(monkeypatch):
    import timm

    def create_model(*_, pretrained=False, **__):
        raise OSError("no network\nat all")

    monkeypatch.setattr(timm, "create_model", create_model)
    for make in (peers.make_stfpm, lambda pretrained: peers.make_patchcore(pretrained=pretrained, coreset=0.1)):
        with pytest.raises(InputError, match="the ImageNet weights timm/.*BACKBONES='untrained'") as error:
            make(pretrained=True)
        assert "\n" not in str(error.value)


@needs_anomalib
def test_the_file_says_what_it_was_made_with(given, split):
    run, chosen = peers.from_notebook(NOTEBOOK, given | {"BACKBONES": "untrained", "METHODS": ["stfpm"]})
    found = peers.run_experiments(run, split, **chosen | {"epochs": 1})
    path = peers.save(run, split, found, chosen)
    content = json.loads(path.read_text())
    assert path == run.results_dir / "peers" / "full" / "bottle-seed0.json"
    assert content["methods"]["stfpm"] == found["stfpm"].numbers and content["remark"] == peers.UNTRAINED
    assert content["environment"]["anomalib"]["anomalib"] == peers.versions()["anomalib"]
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    found["stfpm"].numbers["aupro"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        peers.save(run, split, found, chosen)
    assert json.loads(path.read_text()) == content
