"""A list of runs: worked through in its order, resumed, and refused as a whole when an entry is wrong."""

import os
import subprocess
import sys

import pytest
import yaml

from kdhelpers.errors import InputError
from kdhelpers.experiments.variants import DATASETS, variants_of
from kdhelpers.paths import ROOT
from kdhelpers.protocols import SETTINGS, protocol_for
from kdhelpers.tests.conftest import one_line

pytestmark = pytest.mark.slow

COMMON = "SOURCE: untrained\nEPOCHS: 1\nIMAGE_SIZE: 32\n"


@pytest.fixture
def work_through(sample_data, tmp_path):
    """The exit code and everything that ./run_all.sh prints for a list of these runs, with the samples as data."""

    def call(runs: str, *options: str) -> tuple[int, str]:
        path = tmp_path / "runs.yaml"
        path.write_text(f"{COMMON}DATA_DIR: {sample_data}\nRESULTS_DIR: {tmp_path / 'results'}\n{runs}")
        done = subprocess.run(
            ["./run_all.sh", str(path), *options, "--config", "gpus=0"],
            cwd=ROOT,
            env=os.environ | {"VIRTUAL_ENV": sys.prefix},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    return call


def test_the_runs_are_done_in_the_order_of_the_list_and_once(work_through, tmp_path):
    runs = """
runs:
  - {notebook: 06_head_ct, VARIANTS: [augmented], seeds: [3]}
  - {notebook: 01_mnist, CLASSES: ["2"], seeds: 1}
  - {notebook: 06_head_ct, VARIANTS: [plain], seeds: [3]}
"""
    code, said = work_through(runs)
    assert code == 0, said
    done = [line.split()[0] for line in said.splitlines() if " done: " in line]
    assert done == ["01-06_head_ct-seed3", "02-01_mnist-seed0", "03-06_head_ct-seed3"]
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("results/records/**/*.json")}
    assert set(written) == {"head_ct-normal-augmented-seed3.json", "mnist-2-seed0.json", "head_ct-normal-seed3.json"}

    next(tmp_path.rglob("mnist-2-seed0.json")).unlink()
    code, said = work_through(runs)
    assert code == 0 and [line.split()[0] for line in said.splitlines() if " done: " in line] == ["02-01_mnist-seed0"]
    again = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("results/records/**/*.json")}
    assert {name for name in written if written[name] != again[name]} == {"mnist-2-seed0.json"}


@pytest.mark.parametrize(
    "runs, words",
    [
        ("runs:\n- {notebook: 02_mnist}", "run 1 (02_mnist): unknown notebook; it is one of"),
        ("runs:\n- {notebook: 01_mnist, EPOCH: 3}", "run 1 (01_mnist): unknown parameter EPOCH (did you mean EPOCHS"),
        ("runs:\n- {notebook: 01_mnist, CLASSES: [x]}", "run 1 (01_mnist): unknown class of mnist 'x'"),
        ("runs:\n- {notebook: 01_mnist, seeds: many}", "run 1 (01_mnist): seeds is 'many'"),
        (
            "runs:\n- {notebook: 06_head_ct}\n- {notebook: 06_head_ct, EPOCHS: 2}",
            "run 2 (06_head_ct): it would replace records of run 1",
        ),
        ("runs:\n- {notebook: 01_mnist, SEED: 5}", "has SEED: give `seeds`"),
        (
            "runs:\n- {notebook: 01_mnist, DATA_DIR: x}",
            "run 1 (01_mnist): SOURCE, DATA_DIR, RESULTS_DIR, DEVICE",
        ),
        ("rums: []", "is not a run list"),
        ("runs: [", "is not a run list"),
    ],
)
def test_a_wrong_entry_is_named_in_one_line(sample_data, tmp_path, monkeypatch, runs, words):
    monkeypatch.syspath_prepend(ROOT / "notebooks")
    import plan

    path = tmp_path / "runs.yaml"
    path.write_text(f"{COMMON}DATA_DIR: {sample_data}\nRESULTS_DIR: {tmp_path / 'results'}\n{runs}")
    config = yaml.safe_load((ROOT / "notebooks" / "config.yaml").read_text())
    with pytest.raises(InputError) as error:
        plan.make(config | {"list": str(path), "given": []})
    one_line(str(error.value), (str(path), words))


def test_nothing_runs_of_a_wrong_list(work_through, tmp_path):
    code, said = work_through("runs:\n- {notebook: 01_mnist}\n- {notebook: 02_mnist}")
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 1 and "run 2 (02_mnist): unknown notebook; it is one of" in line, said
    assert "Traceback" not in said and not list(tmp_path.rglob("*.json"))


def test_the_kept_results_list_is_one(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "notebooks")
    import execute

    content = yaml.safe_load((ROOT / "results" / "measured.yaml").read_text())
    for entry in content["runs"]:
        parameters = {name: value for name, value in (content | entry).items() if name.isupper()}
        execute.check_names(ROOT / "notebooks" / f"{entry['notebook']}.ipynb", parameters)
        known = set()
        for dataset in DATASETS[entry["notebook"]]:
            size = (entry.get("IMAGE_SIZE") or {}) if not isinstance(entry.get("IMAGE_SIZE"), int) else {}
            protocol = protocol_for(entry.get("PROTOCOL", "official"), dataset)
            variants = variants_of(
                entry["notebook"], dataset, protocol, size.get(dataset, SETTINGS[dataset].image_size)
            )
            known |= {variant.name or variant.label for variant in variants}
        assert set(entry.get("VARIANTS", [])) <= known
