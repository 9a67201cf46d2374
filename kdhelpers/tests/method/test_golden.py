"""The golden numbers: short trainings on generated samples, written down to the digits that survive another CPU.

When a number here moves on purpose, raise `protocols.METHOD_VERSION` in the same commit, with a line of history, and
write the new numbers with `python -m kdhelpers.tests.method.test_golden`.
"""

import json
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
import torch

from kdhelpers.data import samples
from kdhelpers.experiments import config
from kdhelpers.experiments import runner as experiment
from kdhelpers.experiments.verification import _values
from kdhelpers.protocols import METHOD_VERSION
from kdhelpers.tests.conftest import ASKED

GOLDEN = Path(__file__).with_name("golden.json")
# Between a CPU's widest and narrowest vector instructions losses and scores differ by up to 1 %, and percentages (of
# a dozen images: AUROC moves in steps of three points) by up to three points.
RELATIVE, POINTS = 5e-2, 5
RUNS = {  # notebook, protocol, and what else is asked for
    "text": ("04_mvtec", "text", {"CLASSES": ["bottle"]}),
    "digits": ("01_mnist", "official", {"CLASSES": ["3"]}),
    "maps": ("14_interpretability", "official", {"CLASSES": ["bottle"]}),
    "augmented": ("06_head_ct", "official", {"VARIANTS": ["augmented"]}),
}


def measure(name: str, folder: Path) -> dict:
    """The numbers of one run of RUNS by record."""
    notebook, protocol, more = RUNS[name]
    given = ASKED | {"PROTOCOL": protocol, "EPOCHS": 2, "IMAGE_SIZE": 32, "BATCH_SIZE": 4}
    given |= {"DATA_DIR": str(samples.make(folder / "data")), "RESULTS_DIR": str(folder / "results")}
    runs = config.resolve(notebook, **given | more)
    found, threads = {}, torch.get_num_threads()
    torch.set_num_threads(1)  # with two, the order of the sums moves single scores by 6 %
    try:
        with patch("kdhelpers.localization.SMOOTHGRAD_SAMPLES", 5):
            records = experiment.run_experiments(runs)
    finally:
        torch.set_num_threads(threads)
    for run, record in zip(runs, records, strict=True):
        scores = pd.read_csv(run.predictions_path(record["class"])).iloc[:, -1]
        maps = (record["localization"] or {}).get(record["parameters"]["method"], {})
        found[record["variant"] or "main"] = {
            **{name: record["training"][name] for name in ("lambda", "loss", "loss_val", "loss_dir")},
            "scores": [scores.mean(), scores.median()],
            **{name: record["detection"][name] for name in ("auroc", "ap")},
            "pixel_auroc": maps.get("gaussian", {}).get("pixel_auroc"),
            "pixel_auroc_raw": maps.get("raw", {}).get("pixel_auroc"),
            "aupro": maps.get("gaussian", {}).get("aupro"),
            "baselines": record["baselines"],
        }
    return found


@pytest.mark.parametrize("name", RUNS)
def test_no_number_moves_without_a_new_method_version(name, tmp_path):
    golden = json.loads(GOLDEN.read_text())
    assert golden["method_version"] == METHOD_VERSION, "write the golden numbers of this version: see above"
    expected, found = (_values("", numbers) for numbers in (golden[name], measure(name, tmp_path)))
    assert found.keys() == expected.keys()
    for path, number in expected.items():
        near = {"rel": RELATIVE} if any(part in path for part in (".loss", ".lambda", ".scores")) else {"abs": POINTS}
        assert found[path] == pytest.approx(number, **near), f"{path} has moved: raise METHOD_VERSION, see above"


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDEN
    with tempfile.TemporaryDirectory() as folder:
        numbers = {name: measure(name, Path(folder, name)) for name in RUNS}
    out.write_text(json.dumps({"method_version": METHOD_VERSION} | numbers, indent=1) + "\n")
