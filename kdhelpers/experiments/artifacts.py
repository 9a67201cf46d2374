"""Write and read the results of a run: record, trained cloner and predictions."""

import gzip
import json
import platform
import re
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from kdhelpers import networks, paths
from kdhelpers.data.split import Split
from kdhelpers.data.weights import BUILTIN
from kdhelpers.experiments.records import SCHEMA
from kdhelpers.files import atomic_write, to_json, write_json
from kdhelpers.protocols import METHOD_VERSION, PRECISIONS, Protocol
from kdhelpers.training import Fit

_PACKAGES = ("PIL", "cv2", "numpy", "scipy", "sklearn", "torch", "torchvision")  # import names


def save(run, cls: str, split: Split, fit: Fit, cloner: torch.nn.Module, shown: tuple, measured: dict) -> None:
    """Write the cloner with a few maps, the predictions and, last, the record.

    run: `runs.Run`. shown: a `Split` of a few test images for display, and their maps (n, h, w). measured: the record's
    source, detection, localization, baselines and seconds. Raises ValueError when a number is not finite.
    """
    places = {"source": run.source, "test_dir": run.own.test_dir, "ignore": run.own.ignore}
    if run.dataset == "folder" and run.source not in BUILTIN:
        places["source"] = Path(run.source).expanduser().absolute()  # for its detector, from any working directory
    of_data_sets = run.data_dir == paths.DATA_DIR and run.dataset != "folder"
    places["data_dir"] = paths.DATA_DIR.name if of_data_sets else run.data_dir
    normal, anomalous, unlabeled = np.bincount(split.labels, minlength=3).tolist()
    counts = {"train": len(split.train), "test_normal": normal, "test_anomalous": anomalous}
    curves = {name: getattr(fit, name) for name in ("loss", "loss_val", "loss_dir")}
    record = {
        **run.head(cls),
        **measured,
        "schema": SCHEMA,
        "deviations": run.deviations() + list(split.deviations),
        "data": counts | ({"test_unlabeled": unlabeled} if unlabeled else {}) | {"sha256": split.sha256},
        "training": curves | {"lambda": fit.protocol.lam, "stopped_at": len(fit.loss)},
        "seconds": {name: round(value, 3) for name, value in (fit.seconds | measured["seconds"]).items()},
        "peak_memory_mb": _peak_memory_mb(run.device),
        "environment": environment(run.device, run.precision) | {k: str(v) for k, v in places.items() if v},
    }
    pictures, maps = shown
    tensors = {f"cloner.{name}": value.contiguous() for name, value in cloner.state_dict().items()}
    tensors["shown.pixels"] = pictures.test.pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().contiguous()
    tensors["shown.maps"] = torch.from_numpy(maps.astype(np.float16))
    if pictures.masks is not None:
        tensors["shown.masks"] = torch.from_numpy(np.round(255 * pictures.masks).astype(np.uint8))
    metadata = {"record": to_json(record), "kinds": json.dumps(pictures.kinds)}
    with atomic_write(run.cloner_path(cls)) as temporary:
        temporary.write_bytes(to_bytes(tensors, metadata))  # an OSError when the disk is full
    scores = {f"epoch {epoch}": map(repr, map(float, row)) for epoch, row in zip(fit.scored, fit.scores, strict=True)}
    predictions = pd.DataFrame({"name": split.names, "label": split.labels, "kind": split.kinds} | scores)
    with atomic_write(run.predictions_path(cls)) as temporary:
        text = predictions.to_csv(index=False).encode(errors="backslashreplace")  # a file's name may be invalid text
        temporary.write_bytes(gzip.compress(text, mtime=0))  # no time in it: the same scores are the same bytes
    write_json(run.record_path(cls), record)


def load_cloner(path: Path, protocol: Protocol, device: torch.device | str = "cpu") -> torch.nn.Sequential:
    """Load the trained cloner at `path`, in eval mode."""
    state = {name.removeprefix("cloner."): v for name, v in load_file(path).items() if name.startswith("cloner.")}
    cloner = networks.make_cloner(protocol, seed=0)
    cloner.load_state_dict(state)
    return cloner.eval().to(device)


def _peak_memory_mb(device: torch.device) -> dict:
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes on macOS, KiB on Linux
    on_device = round(torch.cuda.max_memory_allocated(device) / 2**20) if device.type == "cuda" else None
    return {"host": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit), "device": on_device}


def environment(device: torch.device, precision: str = PRECISIONS[0]) -> dict:
    """The code version, package versions and machine; numbers may depend on them besides the parameters."""
    return _CODE | {
        "method_version": METHOD_VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "packages": {name: import_module(name).__version__ for name in _PACKAGES},
    }


def device_name(device: torch.device) -> str:
    """The model of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    about = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:(.*)", about.read_text() if about.is_file() else "", re.MULTILINE)
    return model[1].strip() if model else platform.processor() or device.type


def _code() -> dict[str, str | bool | None]:
    """The code's commit, and whether files other than results differ from it; None outside of its repository."""

    def git(*words: str) -> str | None:
        try:
            # The checkout may belong to another user, or be read-only.
            command = ["git", "-C", paths.ROOT, "--no-optional-locks", "-c", f"safe.directory={paths.ROOT}", *words]
            return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    root, _, commit = (git("rev-parse", "--show-toplevel", "HEAD") or "").rpartition("\n")
    if not paths.IN_REPOSITORY or root != str(paths.ROOT):  # the working directory, or ROOT, is in another one
        return {"commit": None, "dirty": None}
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


_CODE = _code()  # at the import, because a later commit changes nothing in what runs
