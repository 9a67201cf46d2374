"""anomalib's STFPM and PatchCore on a category of MVTecAD, by anomalib's own Engine and Folder, judged by our metrics.

anomalib is optional and imported inside functions only. The images, their size, the split, the seed and the number of
epochs are as for our own record; everything else is anomalib's default.
"""

import tempfile
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from kdhelpers import localization, losses, metrics
from kdhelpers.cache import SourceActivations
from kdhelpers.data import weights
from kdhelpers.errors import InputError
from kdhelpers.experiments import artifacts, config, parameters, records, runs
from kdhelpers.files import write_json
from kdhelpers.reporting import figures
from kdhelpers.training import timed

REQUIREMENT = "anomalib>=2.7,<3"  # as in pyproject.toml
NAMES = {"ours": "ours", "stfpm": "STFPM", "patchcore": "PatchCore"}
UNTRAINED = "untrained backbones: no number of anomalib's means anything"
_COLUMNS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_auroc_all": "pixel AUROC, all images",
    "aupro": "AUPRO",
    "train_seconds": "training (s)",
    "ms_per_image": "an image (ms)",
    "bytes": "stored (MB)",
}


class Asked(parameters.Training):
    """Parameters of the notebook that sets anomalib's methods beside ours."""

    METHODS: list[Literal["stfpm", "patchcore"]] | None
    STFPM_EPOCHS: parameters.Epochs
    CORESET: Annotated[float, Field(gt=0, le=1)]  # the share of patches that PatchCore keeps
    BACKBONES: Literal["imagenet", "untrained"]


def from_notebook(notebook: str, namespace: dict) -> tuple[runs.Run, dict]:
    """The `Run` of 04_mvtec of the one category to compare on, and the keywords of `run_methods`."""
    asked = parameters.from_cell(Asked, notebook, namespace)
    if not (asked.is_smoke and asked.CLASSES is None or isinstance(asked.CLASSES, list) and len(asked.CLASSES) == 1):
        raise InputError(f"CLASSES is {asked.CLASSES!r}; it is a list of the one category, such as ['screw']")
    (run,) = config.resolve("04_mvtec", **{name: getattr(asked, name) for name in parameters.Training.model_fields})
    config.refuse_to_replace([run])
    backbones = "untrained" if asked.is_smoke else asked.BACKBONES
    methods = asked.METHODS or (["patchcore"] if backbones == "untrained" else ["stfpm", "patchcore"])
    if backbones == "untrained" and "stfpm" in methods:
        raise InputError("METHODS has 'stfpm', whose teacher anomalib always loads: give BACKBONES='imagenet'")
    return run, {"methods": methods, "epochs": asked.STFPM_EPOCHS, "coreset": asked.CORESET, "backbones": backbones}


def versions() -> str:
    """The version of anomalib in words; InputError when it is missing or of another generation."""
    try:
        found = metadata.version("anomalib")
    except metadata.PackageNotFoundError:
        found = "none"
    if found.split(".")[0] != "2":
        raise InputError(f"this comparison needs {REQUIREMENT}, installed is {found}: pip install '{REQUIREMENT}'")
    return f"anomalib {found}"


def remark(run: runs.Run, backbones: str) -> str:
    """The caveat that every figure and table must carry."""
    return run.title or (UNTRAINED if backbones == "untrained" else "")


def run_methods(
    run: runs.Run, split, *, methods: list[str], epochs: int, coreset: float, backbones: str
) -> dict[str, dict]:
    """Fit anomalib's methods and predict the test images: {method: {"scores", "maps", "numbers"}}.

    split: of one category, with masks; scores float (n_test,), maps float (n_test, h, w) in its order. epochs: of
    STFPM. coreset: the share of patches that PatchCore keeps. Raises InputError when the backbone's weights cannot be
    downloaded.
    """
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.models import Patchcore, Stfpm
    from lightning import seed_everything
    from lightning.pytorch.callbacks import TQDMProgressBar

    backbone = {"pre_trained": backbones == "imagenet"}
    models = {  # the class, its own arguments, and those of the training
        "stfpm": (Stfpm, {}, {"max_epochs": epochs}),
        "patchcore": (Patchcore, backbone | {"coreset_sampling_ratio": coreset}, {}),
    }
    size = (run.image_size, run.image_size)
    kinds = sorted(set(split.kinds) - {"good"})
    data = Folder(
        split.cls,
        "train/good",
        root=run.data_dir / "mvtec" / split.cls,
        normal_test_dir="test/good",
        abnormal_dir=[f"test/{kind}" for kind in kinds],
        mask_dir=[f"ground_truth/{kind}" for kind in kinds],
        val_split_mode="same_as_test",  # never run: no validation batches below
        num_workers=0,
        seed=run.seed,
    )
    found = {}
    for method in methods:
        seed_everything(run.seed, verbose=False)
        make, arguments, training = models[method]
        arguments |= dict.fromkeys(("post_processor", "evaluator", "visualizer"), False)
        try:
            model = make(pre_processor=make.configure_pre_processor(size), **arguments)
        except (OSError, RuntimeError) as error:  # OSError: huggingface_hub's too
            raise InputError(
                f"{NAMES[method]}'s ImageNet weights could not be downloaded ({type(error).__name__}): run this once "
                "with a network, or set HF_HOME to a cache that has them"
            ) from error
        seconds: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            engine = Engine(
                [TQDMProgressBar()],  # rich's, the default, fails in Jupyter
                default_root_dir=folder,
                accelerator="gpu" if run.device.type == "cuda" else "cpu",
                devices=1,
                limit_val_batches=0,
                enable_model_summary=False,
                **training,
            )
            with timed(seconds, "train"):
                engine.fit(model, datamodule=data)
            with timed(seconds, "predict"):
                batches = engine.predict(model, datamodule=data)
        by_path = {
            Path(path).resolve(): (float(score), heat.float().cpu().numpy().reshape(size))
            for batch in batches
            for path, score, heat in zip(batch.image_path, batch.pred_score, batch.anomaly_map, strict=True)
        }
        scores, maps = map(np.array, zip(*(by_path[path.resolve()] for path in split.paths), strict=True))
        numbers = {"image_auroc": metrics.detection(scores[None], split.labels)["auroc"]}
        numbers |= metrics.localization(maps, split.masks, split.labels, soft=run.protocol.soft_masks)
        found[method] = _result(scores, maps, numbers, seconds, [model.model])
    return found


def ours(run: runs.Run, record: dict, split) -> dict:
    """The same of our record; only the time of an image is measured now, on this machine.

    Detection is the mean over the last ten epochs, as recorded; scores and maps are those of the trained cloner.
    """
    source, _ = weights.load_source(run.source, run.device)
    cloner, fit = run.fit(split.cls)
    seconds = {"train": record["seconds"].get("source", 0) + record["seconds"]["train"]}
    with timed(seconds, "predict"):
        activations = SourceActivations(source, split.test, cache="none")
        scores = losses.scores(activations, cloner, fit.protocol).cpu().numpy()
        maps = localization.maps(run.method, source, cloner, split.test, fit.protocol, seed=run.seed)["gaussian"]
    numbers = {"image_auroc": record["detection"]["auroc"]} | record["localization"][run.method]["gaussian"]
    return _result(scores, maps, numbers, seconds, [source, cloner])


def _result(scores: np.ndarray, maps: np.ndarray, numbers: dict, seconds: dict[str, float], networks: list) -> dict:
    cost = {
        "train_seconds": round(seconds["train"], 3),
        "ms_per_image": round(1000 * seconds["predict"] / len(maps), 3),
        "bytes": sum(tensor.nbytes for network in networks for tensor in network.state_dict().values()),
    }
    return {"scores": scores, "maps": maps, "numbers": numbers | cost}


def table(found: dict[str, dict]) -> pd.DataFrame:
    """A row for each method: shares in per cent, times, and the size of what has to be stored."""
    frame = pd.DataFrame({NAMES[method]: one["numbers"] for method, one in found.items()}).T[list(_COLUMNS)]
    frame["bytes"] /= 1e6
    return frame.rename(columns=_COLUMNS).rename_axis("method").reset_index()


def pictures(split, maps: np.ndarray, index: np.ndarray) -> records.Pictures:
    """The test images at `index` with their maps, the least heat of all test images as 0, for `figures`."""
    shown = split.subset(index)
    return records.Pictures(figures.pixels(shown.test, slice(None)), shown.masks, maps[index] - maps.min(), shown.kinds)


def save(run: runs.Run, split, found: dict[str, dict], chosen: dict) -> Path:
    """Write the numbers of all methods to beside_anomalib/PROFILE/CLASS-seedN.json, atomically; return its path.

    chosen: the keywords of `run_methods`. Only notebook 30's own table reads the file. Raises ValueError when a number
    is not finite.
    """
    path = run.results_dir / "beside_anomalib" / run.profile / f"{split.cls}-seed{run.seed}.json"
    content = {
        "class": split.cls,
        "seed": run.seed,
        "remark": remark(run, chosen["backbones"]),
        "data": split.sha256,
        "ours": run.parameters(split.cls) | {"record": str(run.record_path(split.cls))},
        "anomalib": chosen | {"version": versions()},
        "methods": {method: one["numbers"] for method, one in found.items()},
        "environment": artifacts.environment(run.device),
    }
    write_json(path, content)
    return path
