"""anomalib's STFPM and PatchCore on a category of MVTecAD: run by its Engine and Folder, measured by our metrics.

anomalib is optional, so functions import it. Images, size, split and seed are those of the record that our own numbers
come from. The notebook sets epochs, coreset and backbones; the other hyperparameters are anomalib's defaults.
"""

import logging
import tempfile
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np

from kdhelpers import localization, losses, metrics
from kdhelpers.cache import SourceActivations
from kdhelpers.data import weights
from kdhelpers.data.listing import find
from kdhelpers.errors import InputError
from kdhelpers.training import timed, use_precision

REQUIREMENT = "anomalib>=2.7,<3"  # as in pyproject.toml
NAMES = {"ours": "ours", "stfpm": "STFPM", "patchcore": "PatchCore"}
LAYERS = ("16", "23")  # of S as backbone: its pools with PatchCore's strides, 8 and 16; anomalib normalises its input
TITLES = {"source": "PatchCore with our source as backbone", "untrained": "anomalib is untrained: ignore its numbers"}


def versions() -> str:
    """The installed anomalib as text; InputError when it is missing or not version 2."""
    try:
        found = metadata.version("anomalib")
    except metadata.PackageNotFoundError:
        found = "none"
    if found.split(".")[0] != "2":
        raise InputError(f"this comparison needs {REQUIREMENT}, installed is {found}: pip install '{REQUIREMENT}'")
    return f"anomalib {found}"


def run_method(run, split, method: str, *, epochs: int, coreset: float, backbones: str) -> dict:
    """Fit STFPM or PatchCore on one category and predict its test images: {"scores", "maps", "numbers"}.

    scores: float (n,), maps: float (n, h, w), in the split's order. epochs: of STFPM; coreset: the share of patches
    that PatchCore stores. Raises InputError when the backbone's weights cannot be downloaded.
    """
    use_precision(run.precision, run.device)
    warnings.filterwarnings("ignore", module=r"(anomalib|lightning|timm)\b")  # of their internals
    from anomalib import data, engine, models
    from lightning import pytorch as lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # importing it sets INFO
    lightning.seed_everything(run.seed, verbose=False)
    size, kinds = (run.image_size, run.image_size), sorted(set(split.kinds) - {"good"})
    tests = {"normal_test_dir": "test/good", "abnormal_dir": [f"test/{kind}" for kind in kinds]}
    tests |= {"mask_dir": [f"ground_truth/{kind}" for kind in kinds], "val_split_mode": "same_as_test"}
    tests |= {"root": find(run.data_dir, "mvtec", split.cls), "num_workers": 0, "seed": run.seed}
    folder = data.Folder(split.cls, "train/good", **tests)
    own = dict.fromkeys(("post_processor", "evaluator", "visualizer"), False)
    make = models.Patchcore if method == "patchcore" else models.Stfpm
    if method == "patchcore":
        own |= {"pre_trained": backbones == "imagenet", "coreset_sampling_ratio": coreset}
    if backbones == "source":
        own |= {"backbone": weights.load_source(run.source, run.device)[0], "layers": LAYERS}
    try:
        model = make(pre_processor=make.configure_pre_processor(size), **own)
    except (OSError, RuntimeError) as error:  # OSError includes huggingface_hub's errors
        why = f"{NAMES[method]}'s ImageNet weights could not be downloaded ({type(error).__name__})"
        raise InputError(f"{why}: run this once with a network, or set HF_HOME to a cache that has them") from error
    seconds, trainer = {}, {"limit_val_batches": 0, "enable_model_summary": False}  # no validation
    trainer |= {"devices": [run.device.index or 0] if run.device.type == "cuda" else 1}  # 1 alone is GPU 0
    trainer |= {"accelerator": run.device.type} | ({"max_epochs": epochs} if method == "stfpm" else {})
    with tempfile.TemporaryDirectory() as temporary:
        # The default, rich's progress bar, fails in Jupyter.
        fitted = engine.Engine([lightning.callbacks.TQDMProgressBar()], default_root_dir=temporary, **trainer)
        with timed(seconds, "train"):
            fitted.fit(model, datamodule=folder)
        with timed(seconds, "predict"):
            batches = fitted.predict(model, datamodule=folder)
    each = [one for b in batches for one in zip(b.image_path, b.pred_score, b.anomaly_map, strict=True)]
    found = {Path(path).resolve(): (float(s), heat.float().cpu().numpy().reshape(size)) for path, s, heat in each}
    scores, maps = map(np.array, zip(*(found[path.resolve()] for path in split.paths), strict=True))
    pixels = metrics.localization(maps, split.masks, split.labels, soft=run.protocol.soft_masks)
    stored = {name: tensor for name, tensor in model.model.state_dict().items() if "backbone" not in name}  # S again
    return _result(scores, maps, metrics.auroc(scores, split.labels), pixels, seconds, [stored])


def ours(run, record: dict, split) -> dict:
    """`run_method` for our record: AUROC is its mean over the last ten epochs; only the time per image is new."""
    (source, _), (cloner, fit) = weights.load_source(run.source, run.device), run.fit(split.cls)
    seconds = {"train": record["seconds"].get("source", 0) + record["seconds"]["train"]}
    with timed(seconds, "predict"):
        scores = losses.scores(SourceActivations(source, split.test, cache="none"), cloner, fit.protocol).cpu().numpy()
        maps = localization.maps(run.method, source, cloner, split.test, fit.protocol, seed=run.seed)["gaussian"]
    pixels = record["localization"][run.method]["gaussian"]
    states = [source.state_dict(), cloner.state_dict()]
    return _result(scores, maps, record["detection"]["auroc"], pixels, seconds, states)


def _result(scores, maps, auroc: float, pixels: dict, seconds: dict, states: list[dict]) -> dict:
    cost = {"train_seconds": seconds["train"], "ms_per_image": 1000 * seconds["predict"] / len(maps)}
    cost["mb"] = sum(tensor.nbytes for state in states for tensor in state.values()) / 1e6
    return {"scores": scores, "maps": maps, "numbers": {"image_auroc": auroc} | pixels | cost}
