"""A name or value that is not allowed is refused, in one line that says what is."""

from dataclasses import asdict, replace

import pytest
import torch

from kdhelpers import paths
from kdhelpers.data import samples
from kdhelpers.experiments import config
from kdhelpers.experiments.variants import variants_of
from kdhelpers.protocols import CLASS_NAMES, PROTOCOLS, SETTINGS, protocol_for
from kdhelpers.reporting import extras
from kdhelpers.tests.conftest import ASKED, refused, write_record


@pytest.fixture
def given(sample_data, tmp_path):
    return ASKED | {"DATA_DIR": str(sample_data), "RESULTS_DIR": str(tmp_path)}


def test_none_stands_for_the_article_s_value_and_every_deviation_is_named(given, sample_data):
    (run,) = config.resolve("01_mnist", **given)
    assert run.classes == tuple("0123456789")
    assert (run.epochs, run.image_size, run.batch_size) == (51, 32, 64)
    assert run.deviations() == ["source untrained instead of imagenet"]

    (run,) = config.resolve("01_mnist", **given | {"EPOCHS": 2, "IMAGE_SIZE": 64, "BATCH_SIZE": 8, "SEED": 10})
    named = ["epochs 2 instead of 51", "image size 64 instead of 32", "batch size 8 instead of 64"]
    assert run.deviations() == [*named, "source untrained instead of imagenet", "seed 10 instead of one of 0 to 9"]

    own = given | {"DATA_DIR": str(sample_data / "own_images"), "EPOCHS": 3}
    said = config.resolve("00_quickstart", **own)[0].deviations()
    assert said == ["your own images; the article has none", "source untrained instead of imagenet"]

    asked = given | {"SOURCE": "imagenet", "VARIANTS": ["untrained"], "CLASSES": {"mnist": ["3"]}}
    plain, untrained = config.resolve("15_unstated_details", **asked)
    assert (plain.deviations(), untrained.deviations()) == ([], ["source untrained instead of imagenet"])


def test_both_protocols_differ_as_the_article_and_its_code():
    text, official = PROTOCOLS["text"], PROTOCOLS["official"]
    assert (text.lam, text.score_points, text.batch_norm, text.gradient) == (None, 4, False, "cloner")
    assert (text.renormalise, text.soft_masks, text.stop) == (False, False, "converged")
    assert (official.score_points, official.batch_norm, official.gradient) == (3, True, "both")
    assert (official.renormalise, official.soft_masks, official.stop) == (True, True, "epochs")
    for dataset in SETTINGS:
        assert protocol_for("official", dataset).lam == (0.5 if dataset in ("mvtec", "folder") else 0.01)
        assert protocol_for("text", dataset) == text and not text.bias and not official.bias


def test_the_settings_are_those_of_the_article_and_its_code():
    assert {name: (setting.image_size, setting.epochs) for name, setting in SETTINGS.items()} == {
        "mnist": (32, 51),
        "fashion_mnist": (32, 51),
        "cifar10": (224, 201),
        "mvtec": (128, 601),
        "retinal_oct": (128, 51),
        "head_ct": (128, 601),
        "brain_mri": (256, 601),
        "folder": (128, 200),
    }
    names = "airplane automobile bird cat deer dog frog horse ship truck"  # the columns of Table 2
    assert CLASS_NAMES["cifar10"] == tuple(names.split())


@pytest.mark.parametrize(
    "notebook, changed, words",
    [
        ("01_mnist", {"PROFILE": "fulll"}, "PROFILE is 'fulll': input should be 'smoke' or 'full' (did you mean full"),
        ("01_mnist", {"PROTOCOL": None}, "PROTOCOL is None: input should be 'official' or 'text'"),
        ("01_mnist", {"SEED": -1}, "SEED is -1: input should be greater than or equal to 0"),
        ("01_mnist", {"SEED": True}, "SEED is True"),
        ("01_mnist", {"IMAGE_SIZE": 16}, "IMAGE_SIZE is 16: input should be greater than or equal to 32"),
        ("01_mnist", {"CLASSES": ["11"]}, "unknown class of mnist '11'; allowed are 0, 1"),
        ("01_mnist", {"CLASSES": "3"}, "CLASSES is '3': input should be a valid list"),
        ("01_mnist", {"DEVICE": "gpu"}, "DEVICE 'gpu' cannot be used"),
        ("01_mnist", {"VARIANTS": []}, "VARIANTS is []"),
        ("00_quickstart", {"DATA_DIR": None}, "DATA_DIR is not given: name the folder of your images"),
        ("04_mvtec", {"DATA_DIR": str(paths.PAPER_DIR)}, "mvtec bottle: .*download MVTec AD from"),
        ("04_mvtec", {"PROFILE": "smoke", "DATA_DIR": None, "CLASSES": ["screw"]}, "mvtec screw: .*some of bottle, "),
        ("06_head_ct", {"VARIANTS": ["augment"]}, "VARIANTS has 'augment'; .* some of ['plain', 'augmented']"),
        ("11_critical_layers", {"VARIANTS": ["las"]}, "VARIANTS has 'las'; .* some of ['last_two', 'last'] (did you m"),
        ("11_critical_layers", {"CLASSES": ["3"]}, "CLASSES is ['3']; give None, or a dict of some of mnist, mvtec"),
        ("11_critical_layers", {"CLASSES": {"cifar10": ["3"]}}, "CLASSES is {'cifar10': ['3']}; .*mnist, mvtec"),
        ("11_critical_layers", {"EPOCHS": {"mnits": 3}}, "EPOCHS is {'mnits': 3}; .*mnist, mvtec"),
    ],
)
def test_a_wrong_value_is_refused(given, notebook, changed, words):
    with refused(*words.split(".*")):
        config.resolve(notebook, **given | ({"CLASSES": {"mnist": ["3"]}} if notebook[:2] == "11" else {}) | changed)


def test_an_ablation_has_its_main_run_and_one_change_in_each_variant(given):
    classes = {"mnist": ["3"], "mvtec": ["bottle"]}
    runs = config.resolve("11_critical_layers", **given | {"CLASSES": classes, "EPOCHS": {"mnist": 5}})
    assert [(r.dataset, r.notebook, r.variant, r.protocol.points) for r in runs] == [
        ("mnist", "01_mnist", None, 4),
        ("mnist", "11_critical_layers", "last_two", 2),
        ("mnist", "11_critical_layers", "last", 1),
        ("mvtec", "04_mvtec", None, 4),
        ("mvtec", "11_critical_layers", "last_two", 2),
        ("mvtec", "11_critical_layers", "last", 1),
    ]
    changes = extras.changes(runs)["changes"].tolist()
    assert changes[:3] == ["nothing: the run of 01_mnist", "points: 4 → 2", "points: 4 → 1"]
    assert {r.dataset: (r.classes, r.epochs) for r in runs} == {"mvtec": (("bottle",), 601), "mnist": (("3",), 5)}
    # The main run is what a chosen variant is compared with; in another notebook, it is a variant like the others.
    chosen = config.resolve("11_critical_layers", **given | {"CLASSES": {"mnist": ["3"]}, "VARIANTS": ["last"]})
    assert [r.variant for r in chosen] == [None, "last"]
    classes = {"mnist": ["3"], "head_ct": ["normal"], "brain_mri": ["normal"]}
    medical = config.resolve("15_unstated_details", **given | {"CLASSES": classes, "VARIANTS": ["normal_test_20"]})
    assert [(r.dataset, r.variant) for r in medical] == [  # MNIST has no such variant
        (dataset, variant) for dataset in ("head_ct", "brain_mri") for variant in (None, "normal_test_20")
    ]
    plain, augmented = config.resolve("06_head_ct", **given)
    assert (plain.variant, augmented.variant, augmented.augment) == (None, "augmented", True)
    assert config.resolve("06_head_ct", **given | {"VARIANTS": ["augmented"]}) == [augmented]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dataset", ["mnist", "mvtec", "head_ct", "brain_mri"])
def test_unstated_details_change_one_thing_at_a_time(protocol, dataset):
    main = protocol_for(protocol, dataset)
    other = protocol_for("text" if protocol == "official" else "official", dataset)
    differing = {name for name in asdict(main) if name != "name" and getattr(main, name) != getattr(other, name)}
    variants = {variant.name: variant for variant in variants_of("15_unstated_details", dataset, main)}
    for variant in variants.values():
        assert replace(main, **variant.protocol) != main or variant.run or variant.name is None
    single = {name for name, variant in variants.items() if list(variant.protocol) == [name]}
    measured = differing if dataset == "mvtec" else differing - {"gradient", "soft_masks"}
    assert single == (measured - {"renormalise"}) | {"bias"}  # plain gradients are not renormalised by either
    assert replace(replace(main, **variants["all"].protocol), name=other.name) == other


def test_variants_change_what_their_names_say():
    official, text = PROTOCOLS["official"], PROTOCOLS["text"]
    terms = {v.name: v.protocol.get("terms") for v in variants_of("13_loss_terms", "mnist", official)}
    assert terms == {None: None, "dir": "dir", "val": "val"}
    unstated = {v.name: v for v in variants_of("15_unstated_details", "head_ct", official)}
    assert unstated["bias_no_batch_norm"].protocol == {"bias": True, "batch_norm": False}
    assert unstated["order_lam"].protocol == {"order": text.order, "lam": None}
    assert unstated["size_256"].run == {"image_size": 256}


def test_an_ablation_does_not_undo_a_main_run_made_otherwise(given, record):
    wanted = given | {"CLASSES": {"mnist": ["3"]}, "EPOCHS": 5}
    main = config.resolve("11_critical_layers", **wanted)[0]
    write_record(main.results_dir, record(cls="3", source_name="untrained", parameters=main.parameters("3")))
    assert config.from_notebook("11_critical_layers", wanted)[0].epochs == 5
    with refused("mnist-3-seed0.json has epochs 5, this run 6", "another RESULTS_DIR"):
        config.from_notebook("11_critical_layers", wanted | {"EPOCHS": 6})


def test_the_tables_have_few_parameters_and_check_them(tmp_path):
    given = {"PROFILE": "smoke", "PROTOCOL": "text", "SOURCE": "imagenet", "RESULTS_DIR": str(tmp_path)}
    kind, folder = config.tables_from_notebook("90_tables_and_figures", given)
    assert kind == ("untrained", "smoke", "text") and folder == tmp_path
    (tmp_path / "records" / "vgg-12345678").mkdir(parents=True)  # a source by the name that its records have
    kind, _ = config.tables_from_notebook("90_tables_and_figures", given | {"SOURCE": "vgg-12345678"})
    assert kind.source == "vgg-12345678"
    kind, _ = config.tables_from_notebook("90_tables_and_figures", given | {"PRECISION": "bfloat16"})
    assert kind.source == "untrained-bfloat16"
    with refused("RESULTS_DIR ", "/nowhere is not a folder"):
        config.tables_from_notebook("90_tables_and_figures", given | {"RESULTS_DIR": str(tmp_path / "nowhere")})


def test_a_name_in_a_notebook_s_globals_is_checked(given):
    with refused("unknown parameter EPOCH (did you mean EPOCHS?); 01_mnist has PROFILE"):
        config.from_notebook("01_mnist", given | {"EPOCH": 3})
    with refused("unknown parameter epochs (did you mean EPOCHS?)"):
        config.from_notebook("01_mnist", given | {"In": ["", "# Parameters\nepochs = 3\n"], "epochs": 3})
    del given["SEED"]
    with refused("missing parameter SEED"):
        config.from_notebook("01_mnist", given)


def test_smoke_takes_the_sample_and_says_so(given, monkeypatch):
    made = []
    monkeypatch.setattr(samples, "make", lambda: made.append(1))
    (run,) = config.resolve("01_mnist", **given | {"PROFILE": "smoke", "DATA_DIR": None, "SOURCE": "imagenet"})
    assert made and run.data_dir == paths.SAMPLES_DIR and run.source == "untrained" and run.classes == ("0",)
    assert "smoke" in run.title and "smoke" in run.deviations()[0]
    assert "/untrained/smoke/" in str(run.record_path("0"))


def test_a_gpu_with_or_without_a_number_is_a_device_and_only_the_number_makes_it_the_current_one(monkeypatch):
    current = []
    monkeypatch.setattr(torch, "ones", lambda *_, device: torch.zeros(1))  # as if there were two GPUs
    monkeypatch.setattr(torch._C, "_cuda_setDevice", current.append, raising=False)
    assert [config.device_of(name) for name in ("cuda", "cuda:1")] == [torch.device("cuda"), torch.device("cuda:1")]
    assert current == [1]
