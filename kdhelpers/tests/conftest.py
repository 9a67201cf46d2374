"""Small networks, images, records and runs that the tests share."""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import urllib.request
from dataclasses import asdict, replace
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pytest
import torch

from kdhelpers import data, paths
from kdhelpers.cache import keep_freed_memory
from kdhelpers.data import samples, weights
from kdhelpers.data.images import Images
from kdhelpers.errors import InputError
from kdhelpers.experiments import records
from kdhelpers.protocols import METHOD_VERSION, PROTOCOLS, SETTINGS, protocol_for

keep_freed_memory()  # as every run does; without it a training step takes twice as long


@pytest.fixture(scope="session")
def source():
    return weights.load_source("untrained")[0]


@pytest.fixture(params=["official", "text"])
def protocol(request):
    """Both protocols, λ set where it would be calibrated."""
    found = PROTOCOLS[request.param]
    return replace(found, lam=found.lam or 0.5)


@pytest.fixture(scope="session")
def images():
    rng = np.random.default_rng(0)
    return Images(torch.from_numpy(rng.integers(0, 256, (7, 3, 32, 32), dtype=np.uint8)))


def make_record(notebook="01_mnist", dataset="mnist", cls="0", variant=None, seed=0, auroc=90.0, **changed):
    """A record as `artifacts.save` writes it, each number a little below another one; changed: any of its fields."""
    folder = changed.pop("source_name", "imagenet")
    profile, protocol = changed.pop("profile", "full"), changed.pop("protocol", "official")
    method = changed.pop("method", "gradients")
    setting = SETTINGS[dataset]
    raw, maps = ({"pixel_auroc": top, "pixel_auroc_all": top - 1, "aupro": top - 2} for top in (auroc - 5, auroc))
    one = {"class": cls, "variant": variant, "seed": seed}
    source = {"source": folder, "source_name": folder}
    size = {"epochs": setting.epochs, "image_size": setting.image_size, "batch_size": 64, "normal_test": 10}
    how = {"method": method, "augment": variant == "augmented", "protocol": asdict(protocol_for(protocol, dataset))}
    environment = {"commit": "c" * 40, "dirty": False, "method_version": METHOD_VERSION, "source": folder}
    environment |= {"data_dir": paths.DATA_DIR.name, "python": "3.11.2", "platform": "Linux", "device": "cpu"}
    environment |= {"precision": "float32", "threads": 2, "packages": {"torch": "2.14.1"}}
    record = {"schema": 2, "notebook": notebook, "dataset": dataset, "profile": profile, "protocol": protocol}
    record |= {"source": {"name": folder, "sha256": "5" * 64}, "deviations": [], "environment": environment}
    record["parameters"] = one | source | size | how | changed.pop("parameters", {})
    record["data"] = {"train": 3, "test_normal": 2, "test_anomalous": 2, "sha256": "d" * 64}
    record["training"] = {"lambda": 0.01, "loss": [1.0], "loss_val": [1.0], "loss_dir": [1.0], "stopped_at": 1}
    record["detection"] = {"auroc": auroc, "auroc_last": auroc - 0.5, "ap": auroc - 1.5, "f1_max": auroc - 2.5}
    record["detection"]["auroc_by_epoch"] = [[1, auroc - 1], [2, auroc + 1]]
    record["localization"] = {method: {"raw": raw, "gaussian": maps}} if dataset == "mvtec" else None
    record["baselines"] = {"mean_brightness": 40.0, "pca": 70.0}
    record["seconds"] = {"data": 1.0, "source": 2.0, "train": 3.0, "detect": 4.0, "localize": 5.0}
    record["peak_memory_mb"] = {"host": 1000, "device": None}
    return record | one | changed


@pytest.fixture(scope="session")
def record():
    return make_record


def write_record(results, one):
    """Write a record in its place under RESULTS_DIR; return its path."""
    path = records.path_of(results, "records", one, ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(one))
    return path


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory):
    return samples.make(tmp_path_factory.mktemp("samples") / "data")


@pytest.fixture
def of_a_run(sample_data, tmp_path):
    """The parameters of a short run on the samples, whose records lie in tmp_path/results."""
    folders = {"DATA_DIR": str(sample_data), "RESULTS_DIR": str(tmp_path / "results")}
    return OWN | {"PROFILE": "full", "SEED": 2} | folders


@pytest.fixture
def offline(monkeypatch):
    """No network; the returned Mock stands for it, and a test may change the error that it raises."""
    network = Mock(side_effect=URLError("no network"))
    for module in (urllib.request, torch.hub):
        monkeypatch.setattr(module, "urlopen", network)
    return network


def load(dataset, cls, data_dir, image_size=32, seed=0):
    return data.load(dataset, cls, data_dir, image_size=image_size, seed=seed)


@contextlib.contextmanager
def refused(*words: str):
    """Expects an InputError of one line that holds all `words`."""
    with pytest.raises(InputError) as error:
        yield
    one_line(str(error.value), words)


# The parameters of a notebook that trains, but for its folders.
ASKED = {"PROFILE": "full", "PROTOCOL": "official", "SEED": 0, "SOURCE": "untrained", "DEVICE": "cpu", "CACHE": "auto"}
ASKED |= dict.fromkeys(("CLASSES", "EPOCHS", "IMAGE_SIZE", "BATCH_SIZE"))
ENVIRONMENT = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}
ENVIRONMENT |= {"VIRTUAL_ENV": sys.prefix, "CI": "true"}
OWN = {name: value for name, value in ASKED.items() if name != "CLASSES"}  # of notebook 00, and a short run
OWN |= {"PROFILE": "smoke", "EPOCHS": 1, "IMAGE_SIZE": 32, "DATA_DIR": None, "RESULTS_DIR": None}


def execute(notebook, out, *options, **parameters):
    """Run a notebook, of this repository or at any path, as ./run_all.sh does."""
    values = [f"{name}={json.dumps(value)}" for name, value in parameters.items()]
    path = paths.ROOT / "notebooks" / f"{notebook}.ipynb"
    command = [sys.executable, "notebooks/execute.py", path, out, *values, *options]
    return subprocess.run(command, cwd=paths.ROOT, env=ENVIRONMENT, capture_output=True, text=True)


def run_all(*words):
    """The outcome of ./run_all.sh, started with the Python of this test."""
    words = ["./run_all.sh", *map(str, words)]
    return subprocess.run(words, cwd=paths.ROOT, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.fixture
def command(capfd):
    """As `run_all`, but seconds faster: without a process of its own, of `root`, this repository or a copy of it."""

    def run(*words, root=paths.ROOT):
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.chdir(root)
            patch.syspath_prepend(root / "notebooks")
            patch.setattr(sys, "argv", ["run_all.py", *map(str, words)])
            patch.setattr(signal, "signal", lambda *_: None)
            patch.setattr(paths, "ROOT", root)
            patch.setattr(paths, "RESULTS_DIR", root / "results")
            for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
                patch.setenv(name, ENVIRONMENT[name])
            for script in root.glob("notebooks/*.py"):
                sys.modules.pop(script.stem, None)
            runpy.run_path("notebooks/run_all.py", run_name="__main__")
        out, err = capfd.readouterr()
        code = end.value.code
        text = f"{code}\n" if isinstance(code, str) else ""  # as Python prints it
        return subprocess.CompletedProcess(words, int(bool(code)), out, err + text)

    return run


def comparable(results):
    """The records, tables and figures by path, without what may differ between two runs: seconds, memory, machine."""
    found = {path.relative_to(results): json.loads(path.read_text()) for path in results.glob("records/**/*.json")}
    for record in found.values():
        for may_differ in ("seconds", "peak_memory_mb", "environment"):
            del record[may_differ]
    files = [path for name in ("tables", "figures") for path in (results / name).rglob("*.*")]
    return found | {path.relative_to(results): path.read_bytes() for path in files if path.stem != "running_time"}


def times(results):
    """When each record was written."""
    return {path: path.stat().st_mtime_ns for path in results.glob("records/**/*.json")}


def one_line(message: str, words: tuple[str, ...]) -> None:
    assert message.isprintable() and not [word for word in words if word not in message], message


def pools(network, x):
    """The outputs of max-pools two to five, layer by layer."""
    found = []
    for layer in network:
        x = layer(x)
        if isinstance(layer, torch.nn.MaxPool2d):
            found.append(x)
    return found[1:]
