"""PRECISION: what a run in bfloat16 computes, caches and records, on a CPU; float32 records do not know of it."""

import pytest
import torch

from kdhelpers import losses, training
from kdhelpers.cache import SourceActivations
from kdhelpers.experiments import config, records, runner, verification
from kdhelpers.inspection import own_images
from kdhelpers.reporting import commands, show
from kdhelpers.tests.conftest import OWN, refused

CPU = torch.device("cpu")


@pytest.fixture
def bfloat16():
    training.use_precision("bfloat16", CPU)
    yield
    training.use_precision("float32", CPU)


def made(of_a_run, precision):
    given = of_a_run | {"CLASSES": ["3"], "BATCH_SIZE": 8, "PRECISION": precision}
    runs = config.resolve("01_mnist", **given)
    return runs[0], runner.run_experiments(runs)[0]


def test_a_run_in_bfloat16_is_near_and_says_so_and_one_in_float32_is_as_ever(of_a_run, bfloat16):
    run, rough = made(of_a_run, "bfloat16")
    plain_run, plain = made(of_a_run, "float32")
    assert not torch.is_autocast_enabled("cpu")
    assert rough["training"]["loss"] == pytest.approx(plain["training"]["loss"], rel=0.05)
    assert rough["training"]["loss"] != plain["training"]["loss"]
    assert rough["environment"]["precision"] == rough["parameters"]["precision"] == "bfloat16"
    assert plain["environment"]["precision"] == "float32" and "precision" not in plain["parameters"]

    assert "precision bfloat16 instead of float32" in rough["deviations"]
    assert rough["deviations"][-1] == plain["deviations"][-1] == "source untrained instead of imagenet"
    assert run.record_path("3").is_file() and plain_run.record_path("3").is_file()  # neither replaces the other
    kinds = records.find(run.results_dir, "full")
    assert [kind.source for kind in kinds] == ["untrained", "untrained-bfloat16"]
    assert "computed in bfloat16" in run.title and "computed in bfloat16" in repr(show.beside_article([rough], 2))
    assert plain_run.title == "" and "float" not in repr(show.beside_article([plain], 2))
    assert "PRECISION=bfloat16" in commands.command_for("01_mnist", ["3"], None, [rough])
    assert "PRECISION" not in commands.command_for("01_mnist", ["3"], None, [plain])
    assert verification.runs_of(rough, run.results_dir)[-1].parameters("3") == rough["parameters"]


def test_activations_in_bfloat16_take_half_the_memory(source, images, bfloat16):
    half = SourceActivations(source, images)
    training.use_precision("float32", CPU)
    full = SourceActivations(source, images)
    for a, b in zip(half.cached, full.cached, strict=True):
        assert 2 * a.nbytes == b.nbytes
        torch.testing.assert_close(a.float(), b, rtol=0.1, atol=0.05 * b.abs().max().item())


def test_augmentation_does_not_round_pixels_to_bfloat16(bfloat16):
    def turned():
        torch.manual_seed(0)
        return training.random_affine(20, (0.9, 1.05))(torch.linspace(0, 1, 3 * 16**2).view(1, 3, 16, 16))

    rough = turned()
    training.use_precision("float32", CPU)
    assert torch.equal(rough, turned()) and len(rough.unique()) > 100


def test_a_detector_trained_in_bfloat16_judges_in_float32_as_it_will_from_its_file(sample_data, tmp_path, bfloat16):
    folders = {"DATA_DIR": str(sample_data / "own_images"), "RESULTS_DIR": str(tmp_path / "results")}
    (run,) = config.resolve("00_quickstart", **OWN | folders | {"PRECISION": "bfloat16"})
    runner.run_experiments([run], cloners=True)
    assert torch.is_autocast_enabled("cpu")
    made, table = own_images.judge(run, run.load(run.classes[0]))
    training.use_precision("float32", CPU)
    assert made.score(table["image"])["score"].tolist() == table["score"].tolist()


@pytest.mark.parametrize("can, precision", [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": False}, "float32")])
def test_auto_is_bfloat16_where_the_processor_computes_in_it_but_not_in_smoke(sample_data, monkeypatch, can, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
    given = OWN | {"PRECISION": "auto", "SOURCE": "untrained", "DATA_DIR": str(sample_data / "own_images")}
    (run,) = config.resolve("00_quickstart", **given | {"PROFILE": "full"})
    (smoke,) = config.resolve("00_quickstart", **given | {"PROFILE": "smoke"})
    assert (run.precision, smoke.precision) == (precision, "float32")
    assert run.source_name == ("untrained" if precision == "float32" else "untrained-bfloat16")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cosine_is_not_rounded_to_bfloat16(bfloat16, dtype):
    a = torch.rand(3, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    near = (a + 0.01 * torch.rand(3, 16, 8, 8, generator=torch.Generator().manual_seed(1))).to(dtype)
    a = a.to(dtype)
    exact = 1 - torch.nn.functional.cosine_similarity(a.flatten(1).double(), near.flatten(1).double())
    torch.testing.assert_close(losses.direction_loss([a], [near]).double(), exact, rtol=0.03, atol=0)


def test_bfloat16_is_refused_on_a_gpu_that_does_not_compute_in_it(sample_data, monkeypatch):
    of_gpu = {"get_device_capability": (7, 5), "get_device_name": "Tesla T4", "is_available": True}
    for name, value in of_gpu.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(config, "device_of", lambda name: torch.device("cuda"))
    given = OWN | {"SOURCE": "untrained", "DATA_DIR": str(sample_data / "own_images"), "PROFILE": "full"}
    with refused("Tesla T4 does not compute in bfloat16", "PRECISION=float32"):
        config.resolve("00_quickstart", **given | {"PRECISION": "bfloat16"})
    assert config.resolve("00_quickstart", **given | {"PRECISION": "auto"})[0].precision == "float32"
