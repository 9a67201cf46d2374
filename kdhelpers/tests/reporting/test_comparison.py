"""The 75 published cells: every one has its place, its verdict, and a command that fills it."""

import shlex
import shutil

import numpy as np
import pytest
import yaml

from kdhelpers.experiments import config
from kdhelpers.experiments.records import path_of
from kdhelpers.files import write_json
from kdhelpers.protocols import MVTEC
from kdhelpers.reporting.commands import command_for
from kdhelpers.reporting.comparison import cells, verdict
from kdhelpers.tests.conftest import ASKED


def mnist(records):
    return cells(records).query("table == 2 and dataset == 'mnist'").set_index("class")


def test_each_command_makes_the_records_that_fill_its_cell(record, sample_data, tmp_path):
    folder = shutil.copytree(sample_data, tmp_path / "data")
    for cls in MVTEC:  # the samples have a few of the fifteen
        if not (folder / "mvtec" / cls).is_dir():
            shutil.copytree(folder / "mvtec" / "bottle", folder / "mvtec" / cls)
    asked = ASKED | {"PROFILE": "full", "DATA_DIR": str(folder), "RESULTS_DIR": str(tmp_path)}
    empty = cells([])
    assert set(empty["verdict"]) == {"–"} and empty["ours"].isna().all()
    first_and_last = empty.groupby(["table", "dataset", "method"]).nth([0, -1])  # the last is the mean
    for command, of_command in first_and_last.groupby("command"):
        words = shlex.split(command)
        assert words[:2] == ["./run_all.sh", "full"]
        given = {name: yaml.safe_load(value) for name, value in (word.split("=", 1) for word in words[4:])}
        runs = [run for run in config.resolve(words[2], **asked | given) if run.notebook == words[2]]
        places = [(run.dataset, cls, run.variant, seed) for run in runs for cls in run.classes for seed in range(10)]
        methods = {run.variant: run.method for run in runs}
        filled = [record(words[2], *place, 50.0, method=methods[place[2]]) for place in places]
        again = cells(filled).loc[of_command.index]
        expected = np.where(again["method"] == "without_gaussian", 45, 50)
        assert set(again["seeds"]) == {10} and (again["ours"] == expected).all(), command


def test_a_cell_is_the_mean_over_seeds_and_a_mean_needs_all_classes(record):
    aurocs = {(cls, seed): 90 + int(cls) + seed for cls in "0123456789" for seed in range(10)}
    records = [record(cls=cls, seed=seed, auroc=value) for (cls, seed), value in aurocs.items()]
    found = mnist(records)
    assert found["ours"]["3"] == np.mean([93 + seed for seed in range(10)])
    assert found["ours"]["mean"] == pytest.approx(np.mean(list(aurocs.values())))
    assert found["±"][["3", "mean"]].tolist() == pytest.approx([np.std(range(10), ddof=1)] * 2)

    found = mnist([r for r in records if (r["class"], r["seed"]) != ("7", 4)])
    assert found["seeds"]["mean"] == 9  # seed 4 has no mean
    assert "9 seeds instead of 10" in found["deviates"]["mean"] and found["deviates"]["3"] == ""
    found = mnist([r for r in records if r["class"] != "7"])
    assert found.loc["mean", ["verdict", "missing"]].tolist() == ["–", "9 of 10 classes"]


@pytest.mark.parametrize(
    "ours, spread, std, deviates, word",
    [
        (None, None, 1, "", "–"),
        (90.3, None, None, "", "inside"),
        (90.31, None, None, "", "near"),
        (91.3, 0.3, 0.4, "", "inside"),  # 2 · √(0.3² + 0.4²) + 0.3 = 1.3
        (91.31, 0.3, 0.4, "", "near"),
        (88.0, 0.0, 0.0, "", "near"),
        (87.99, 0.0, 0.0, "", "off"),
        (90.0, 0.0, 0.0, "epochs 2 instead of 51", "deviates"),
    ],
)
def test_verdict(ours, spread, std, deviates, word):
    assert verdict(ours, spread, 90, std, deviates) == word


def test_only_the_article_s_own_runs_get_a_verdict_and_only_from_this_version(record):
    ten = [record(seed=seed, auroc=99.8) for seed in range(10)]
    assert mnist(ten)["verdict"]["0"] == "inside"
    odd = ten[:9] + [record(seed=9, auroc=99.8, deviations=["epochs 5 instead of 51"])]
    assert mnist(odd).loc["0", ["verdict", "deviates"]].tolist() == ["deviates", "epochs 5 instead of 51"]
    ten[4]["environment"]["method_version"] = 0
    assert mnist(ten).loc["0", ["verdict", "ours"]].tolist() == ["stale", pytest.approx(99.8)]


def test_the_command_of_a_number_repeats_what_was_changed(record):
    made = {"epochs": 5, "image_size": 32, "batch_size": 64}
    environment = record()["environment"] | {"source": "/a b/w.pt", "data_dir": "/data"}
    of = {"source_name": "w-12345678", "parameters": made, "environment": environment}
    records = [record(seed=seed, **of) for seed in range(3)]
    words = shlex.split(mnist(records)["command"]["0"])
    assert words[:4] == ["./run_all.sh", "full", "01_mnist", "--config"]
    assert words[4:] == ['CLASSES=["0"]', "EPOCHS=5", "SOURCE=/a b/w.pt", "DATA_DIR=/data", "seeds=3"]
    # What is not recorded yet is of the same kind.
    own = record("00_quickstart", "folder", "parts") | {"environment": environment | {"data_dir": "/parts"}}
    own["parameters"]["source_name"] = "w-12345678"
    words = shlex.split(mnist([own, *records])["command"]["1"])
    assert words[4:] == ['CLASSES=["1"]', "SOURCE=/a b/w.pt", "DATA_DIR=/data"]
    # Seeds that were made otherwise, or are not the first ones, have lines of their own.
    records[1]["parameters"]["epochs"] = 7
    lines = [shlex.split(line) for line in mnist(records)["command"]["0"].split(" && ")]
    assert [line[5] + " " + line[-1] for line in lines] == ["EPOCHS=5 seeds=[0, 2]", "EPOCHS=7 seeds=[1]"]
    # So have classes, in the command of their mean.
    ten = [record(cls=cls, seed=seed) for cls in "0123456789" for seed in (0, 1)]
    for one in ten[6:8]:  # both seeds of 3
        one["parameters"]["epochs"] = 20
    lines = [shlex.split(line)[4:] for line in mnist(ten)["command"]["mean"].split(" && ")]
    others = 'CLASSES=["0", "1", "2", "4", "5", "6", "7", "8", "9"]'
    assert lines == [[others, "seeds=2"], ['CLASSES=["3"]', "EPOCHS=20", "seeds=2"]]
    # A smoke run has its own defaults.
    small = {"profile": "smoke", "source_name": "untrained", "protocol": "text"}
    few = {"epochs": 12, "image_size": 32, "batch_size": 4}
    smoke = [record(seed=seed, parameters=few | {"precision": "tf32"}, **small) for seed in (0, 2)]
    words = shlex.split(mnist(smoke)["command"]["0"])
    assert words[1:3] == ["smoke", "01_mnist"]
    assert words[4:] == ['CLASSES=["0"]', "PROTOCOL=text", "PRECISION=tf32", "seeds=[0, 2]"]


def test_the_command_of_an_ablation_has_the_sizes_of_its_main_runs(record, tmp_path):
    one = record("03_cifar10", "cifar10", source_name="untrained", parameters={"image_size": 32, "batch_size": 32})
    write_json(path_of(tmp_path, "records", one, ".json"), one)
    words = shlex.split(command_for("13_loss_terms", None, None, [], [one, record(source_name="untrained")]))
    assert words[4:] == ["SOURCE=untrained", 'IMAGE_SIZE={"cifar10": 32}', "BATCH_SIZE=32"]
    given = {name: yaml.safe_load(value) for name, value in (word.split("=", 1) for word in words[4:])}
    asked = ASKED | {"DATA_DIR": str(tmp_path), "RESULTS_DIR": str(tmp_path), "CLASSES": {"cifar10": ["0"]}}
    assert config.from_notebook("13_loss_terms", asked | given)  # which refuses any other size
