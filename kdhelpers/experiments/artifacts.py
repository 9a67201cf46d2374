"""Write and read the results of a run that need torch: record, trained cloner, and predictions."""

import json
import platform
import resource
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes

from kdhelpers import networks, paths
from kdhelpers.experiments.records import SCHEMA
from kdhelpers.files import atomic_write
from kdhelpers.protocols import METHOD_VERSION, PRECISIONS, Protocol
from kdhelpers.training import Fit

_PACKAGES = ("PIL", "cv2", "numpy", "scipy", "sklearn", "torch", "torchvision")  # by the name they are imported under


def save(run, cls, *, source, split, fit, cloner, detection, localization, baselines, seconds, shown) -> dict:
    """Write the cloner with a few maps, the predictions and, last, the record; return the record.

    run: `runs.Run`. source: as `weights.load_source` describes the network. localization: {method: {raw | gaussian:
    metrics}} or None. baselines: as `metrics.baselines` gives it. seconds: wall times by name. shown: a `data.Split` of
    the few test images to look at, and their maps (n, h, w). Raises ValueError when a number is not finite.
    """
    record = {
        "schema": SCHEMA,
        "notebook": run.notebook,
        "dataset": run.dataset,
        "class": cls,
        "variant": run.variant,
        "seed": run.seed,
        "profile": run.profile,
        "protocol": run.protocol.name,
        "source": source,
        "parameters": run.parameters(cls),
        "deviations": run.deviations() + list(split.deviations),
        "data": {
            "train": len(split.train),
            "test_normal": int(np.sum(split.labels == 0)),
            "test_anomalous": int(np.sum(split.labels == 1)),
            "sha256": split.sha256,
        }
        | ({"test_unlabeled": unlabeled} if (unlabeled := int(np.sum(split.labels > 1))) else {}),
        "training": {
            "lambda": fit.protocol.lam,
            "loss": fit.loss,
            "loss_val": fit.loss_val,
            "loss_dir": fit.loss_dir,
            "stopped_at": len(fit.loss),
        },
        "detection": detection,
        "localization": localization,
        "baselines": baselines,
        "seconds": {name: round(value, 3) for name, value in (fit.seconds | seconds).items()},
        "peak_memory_mb": _peak_memory_mb(run.device),
        "environment": environment(run.device, run.precision)
        | {
            "source": run.source,
            "data_dir": paths.DATA_DIR.name if run.data_dir == paths.DATA_DIR else str(run.data_dir),
        }
        | ({"test_dir": str(run.test_dir)} if run.test_dir else {}),
    }
    text = json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    tensors = {f"cloner.{name}": value.contiguous() for name, value in cloner.state_dict().items()}
    tensors |= _pictures(*shown)
    metadata = {"record": text, "kinds": json.dumps(shown[0].kinds, ensure_ascii=False)}
    with atomic_write(run.cloner_path(cls)) as temporary:
        temporary.write_bytes(to_bytes(tensors, metadata))
    with atomic_write(run.predictions_path(cls)) as temporary:
        _predictions(split, fit).to_csv(temporary, index=False, compression={"method": "gzip", "mtime": 0})
    with atomic_write(run.record_path(cls)) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return record


def _predictions(split, fit: Fit) -> pd.DataFrame:
    """A row for each test image: its name, label, kind, and its score after each of the scored epochs."""
    scores = {f"epoch {epoch}": map(repr, map(float, row)) for epoch, row in zip(fit.scored, fit.scores, strict=True)}
    return pd.DataFrame({"name": split.names, "label": split.labels, "kind": split.kinds} | scores)


def load_cloner(path: Path, run) -> torch.nn.Sequential:
    """The trained cloner at `path` in eval mode, on the run's device."""
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith("cloner.")]  # noqa: SIM118 - not a dict
        state = {name.removeprefix("cloner."): file.get_tensor(name) for name in names}
    cloner = networks.make_cloner(run.protocol, run.seed)
    cloner.load_state_dict(state)
    return cloner.eval().to(run.device)


def load_fit(record: dict, predictions: Path, protocol: Protocol) -> Fit:
    """The `Fit` of a record and the predictions saved with it; `protocol` gets the λ of the training.

    `seconds` is empty, since nothing was trained.
    """
    scores = pd.read_csv(predictions).filter(like="epoch ")
    training = record["training"]
    return Fit(
        replace(protocol, lam=training["lambda"]),
        training["loss"],
        training["loss_val"],
        training["loss_dir"],
        seconds={},
        scored=[int(name.removeprefix("epoch ")) for name in scores],
        scores=scores.to_numpy(np.float32).T,
    )


def _pictures(split, maps: np.ndarray) -> dict[str, torch.Tensor]:
    tensors = {
        "shown.pixels": split.test.pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().contiguous(),
        "shown.maps": torch.from_numpy(maps.astype(np.float16)),
    }
    if split.masks is not None:
        tensors["shown.masks"] = torch.from_numpy(np.round(255 * split.masks).astype(np.uint8))
    return tensors


def _peak_memory_mb(device: torch.device) -> dict:
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes on macOS, KiB on Linux
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {
        "host": round(host),
        "device": round(torch.cuda.max_memory_allocated(device) / 2**20) if device.type == "cuda" else None,
    }


def environment(device: torch.device, precision: str = PRECISIONS[0]) -> dict:
    """What a number may depend on beside the parameters: the code, the versions, the machine."""

    def git(*arguments: str) -> str | None:
        try:
            return subprocess.run(
                ["git", "-C", paths.ROOT, *arguments], capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    changes = git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "method_version": METHOD_VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or device.type,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "packages": {name: import_module(name).__version__ for name in _PACKAGES},
    }
