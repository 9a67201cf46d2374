"""anomalib's STFPM and PatchCore on our images, judged by our metrics: what notebook 30 puts beside our record.

anomalib is optional: it is imported here only, inside functions. Layers, loss, optimiser, normalisation, map and score
are its own; the images and their size, the split, the seed and the number of epochs are not.
"""

import json
import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated, Literal
from unittest import mock

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import nn
from tqdm import tqdm

from kdhelpers import localization, losses, metrics
from kdhelpers.cache import SourceActivations
from kdhelpers.data import weights
from kdhelpers.errors import InputError
from kdhelpers.experiments import artifacts, config, runs
from kdhelpers.experiments import records as results
from kdhelpers.files import atomic_write
from kdhelpers.reporting import figures
from kdhelpers.training import seed_everything, timed

REQUIREMENT = "anomalib>=2.7,<3"  # as in pyproject.toml
COMPARED = ("stfpm", "patchcore")  # of anomalib
NAMES = {"ours": "ours", "stfpm": "STFPM", "patchcore": "PatchCore"}
BATCH_SIZE = 32  # anomalib's, and that of STFPM's article
UNTRAINED = "untrained backbones: no number of anomalib's means anything"
_PARTS = dict.fromkeys(("pre_processor", "post_processor", "evaluator", "visualizer"), False)  # ours stand in for them


@dataclass(frozen=True)
class Outcome:
    """What one method makes of the test images, and what it costs."""

    scores: np.ndarray  # float32 (n_test,)
    maps: np.ndarray  # float32 (n_test, h, w)
    numbers: dict  # as `save` writes them


def versions() -> dict[str, str]:
    """The versions of anomalib and of what brings its backbones; InputError when anomalib is not to be used."""
    way_out = f"pip install '{REQUIREMENT}'"
    try:
        found = {name: metadata.version(name) for name in ("anomalib", "timm")}
    except metadata.PackageNotFoundError as error:
        raise InputError(f"{error.name} is not installed, and this comparison needs it: {way_out}") from None
    if not (2, 7) <= tuple(int(part) for part in found["anomalib"].split(".")[:2]) < (3, 0):
        raise InputError(f"anomalib {found['anomalib']} is installed, and this comparison needs another: {way_out}")
    return found


def remark(run: runs.Run, backbones: str) -> str:
    """What every figure and table must say."""
    return run.title or (UNTRAINED if backbones == "untrained" else "")


def run_experiments(
    run: runs.Run, split, *, methods: tuple[str, ...], epochs: int, coreset: float, backbones: str
) -> dict[str, Outcome]:
    """Trains and judges anomalib's methods on a `data.Split` with masks, one after the other; {method: Outcome}.

    methods: some of COMPARED. epochs: of STFPM. coreset: the share of patches that PatchCore keeps.
    backbones: "imagenet" or "untrained". Raises InputError when weights are not there and cannot be downloaded.
    """
    found = {}
    for method in methods:
        seconds, pretrained = {}, backbones == "imagenet"
        seed_everything(run.seed)
        if method == "stfpm":
            module = make_stfpm(pretrained=pretrained).to(run.device)
            with timed(seconds, "train"):
                fit_stfpm(module, split.train, epochs=epochs, seed=run.seed)
        else:
            module = make_patchcore(pretrained=pretrained, coreset=coreset).to(run.device)
            with timed(seconds, "train"):
                fit_patchcore(module, split.train, seed=run.seed)
        predict(module, split.train.subset(slice(0, BATCH_SIZE)))  # the first batch is slower
        with timed(seconds, "predict"):
            scores, maps = predict(module, split.test)
        numbers = judge(split, scores, maps, soft=run.protocol.soft_masks) | cost(
            seconds["train"], seconds["predict"] / len(split.test), module.model
        )
        found[method] = Outcome(scores, maps, numbers)
    return found


def ours(run: runs.Run, record: dict, split) -> Outcome:
    """The same of our record of the split's class; only the time of an image is measured now, on this machine.

    Detection is the mean over the last ten epochs, as recorded; scores and maps are those of the trained cloner.
    """
    source, _ = weights.load_source(run.source, run.device)
    cloner, fit = run.fit(split.cls)

    def predict_ours(images) -> tuple[np.ndarray, np.ndarray]:
        of_source = SourceActivations(source, images, cache="none")
        scores = losses.scores(of_source, cloner, fit.protocol).cpu().numpy()
        attributions = localization.attribution(run.method, source, cloner, images, fit.protocol, seed=run.seed)
        return scores, localization.localization_map(attributions)

    predict_ours(split.train.subset(slice(0, BATCH_SIZE)))
    seconds: dict[str, float] = {}
    with timed(seconds, "predict"):
        scores, maps = predict_ours(split.test)
    train = record["seconds"].get("source", 0) + record["seconds"]["train"]  # S computes before the training, once
    pixels = record["localization"][run.method]["gaussian"]
    numbers = {"image_auroc": record["detection"]["auroc"]} | pixels
    return Outcome(scores, maps, numbers | cost(train, seconds["predict"] / len(split.test), source, cloner))


def fit_stfpm(module, images, *, epochs: int, seed: int) -> None:
    """Trains the student of anomalib's `Stfpm` in place on `images.Images`, with its own loss and optimiser.

    Raises FloatingPointError naming the epoch in which the loss stops being finite.
    """
    module.train()
    optimiser, transform = module.configure_optimizers(), transform_of(module, images)
    generator = torch.Generator().manual_seed(seed)
    progress = tqdm(range(epochs), desc="STFPM", unit="epoch", mininterval=1)
    for epoch in progress:
        for batch in torch.randperm(len(images), generator=generator).to(images.pixels.device).split(BATCH_SIZE):
            loss = module.loss(*module.model(transform(images[batch])))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"STFPM's loss is not finite in epoch {epoch + 1}")
        progress.set_postfix(loss=f"{loss.item():.4g}", refresh=False)
    module.eval()


def fit_patchcore(module, images, *, seed: int) -> None:
    """Fills the memory bank of anomalib's `Patchcore` with the patches of `images.Images`, and thins it out.

    Raises InputError when its share of patches is less than one of them.
    """
    seed_everything(seed)  # of the random projection and of the first patch
    module.train()
    transform = transform_of(module, images)
    for start in tqdm(range(0, len(images), BATCH_SIZE), desc="PatchCore", unit="batch", mininterval=1):
        module.model(transform(images[start : start + BATCH_SIZE]))
    try:
        module.fit()
    except ValueError as error:
        share = module.coreset_sampling_ratio
        raise InputError(f"CORESET {share} leaves nothing of so few images; give a larger one ({error})") from error
    module.eval()


@torch.no_grad()
def predict(module, images) -> tuple[np.ndarray, np.ndarray]:
    """The image scores (n,) and maps (n, h, w), both float32, of `images.Images` by a trained method of anomalib."""
    module.eval()
    transform, found = transform_of(module, images), []
    for start in range(0, len(images), BATCH_SIZE):
        out = module.model(transform(images[start : start + BATCH_SIZE]))
        found.append((out.pred_score.flatten().float().cpu(), out.anomaly_map[:, 0].float().cpu()))
    scores, maps = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return scores, maps


def judge(split, scores: np.ndarray, maps: np.ndarray, *, soft: bool) -> dict:
    """{image_auroc, pixel_auroc, pixel_auroc_all, aupro} in per cent, by `evaluation`; masks as in our records."""
    found = {"image_auroc": metrics.detection(scores[None], split.labels)["auroc"]}
    return found | metrics.localization(maps, split.masks, split.labels, soft=soft)


def cost(train: float, predict: float, *networks_: nn.Module) -> dict:
    """Seconds of the training and of one image, and what is kept: parameters, memory bank (patches, length), bytes."""
    bank = getattr(networks_[0], "memory_bank", None)
    return {
        "train_seconds": round(train, 3),
        "ms_per_image": round(1000 * predict, 3),
        "parameters": sum(p.numel() for network in networks_ for p in network.parameters()),
        "memory_bank": None if bank is None else list(bank.shape),
        "bytes": sum(tensor.nbytes for network in networks_ for tensor in network.state_dict().values()),
    }


def table(found: dict[str, Outcome]) -> pd.DataFrame:
    """A row for each method: shares in per cent, times, and what is stored."""
    rows = []
    for method, outcome in found.items():
        numbers, bank = outcome.numbers, outcome.numbers["memory_bank"]
        rows.append(
            {
                "method": NAMES[method],
                "image AUROC": numbers["image_auroc"],
                "pixel AUROC": numbers["pixel_auroc"],
                "pixel AUROC, all images": numbers["pixel_auroc_all"],
                "AUPRO": numbers["aupro"],
                "training (s)": numbers["train_seconds"],
                "an image (ms)": numbers["ms_per_image"],
                "parameters (M)": numbers["parameters"] / 1e6,
                "memory bank": f"{bank[0]} patches × {bank[1]}" if bank else "none",
                "stored (MB)": numbers["bytes"] / 1e6,
            }
        )
    return pd.DataFrame(rows)


def pictures(split, outcome: Outcome, index: np.ndarray) -> results.Pictures:
    """The test images at `index` with their maps, the least heat of all test images as 0, for `figures`."""
    shown, heat = split.subset(index), outcome.maps[index] - outcome.maps.min()
    return results.Pictures(figures.pixels(shown.test, slice(None)), shown.masks, heat, shown.kinds)


def save(run: runs.Run, split, found: dict[str, Outcome], chosen: dict) -> Path:
    """Writes the numbers of all methods to peers/PROFILE/CLASS-seedN.json, whole or not at all, and returns its path.

    chosen: the keywords of `run_experiments`. No table but notebook 30's own reads the file. Raises ValueError when a
    number is not finite.
    """
    path = run.results_dir / "peers" / run.profile / f"{split.cls}-seed{run.seed}.json"
    content = {
        "dataset": split.dataset,
        "class": split.cls,
        "seed": run.seed,
        "profile": run.profile,
        "remark": remark(run, chosen["backbones"]),
        "images": {"sha256": split.sha256, "image_size": run.image_size, "soft_masks": run.protocol.soft_masks},
        "ours": run.parameters(split.cls) | {"record": str(run.record_path(split.cls))},
        "anomalib": chosen | {"batch_size": BATCH_SIZE},
        "methods": {method: outcome.numbers for method, outcome in found.items()},
        "environment": artifacts.environment(run.device) | {"anomalib": versions()},
    }
    text = json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def make_stfpm(*, pretrained: bool):
    """anomalib's `Stfpm`, its student untrained; InputError when the teacher's weights cannot be had."""
    stfpm = _imported("stfpm")
    if pretrained:
        with _weights("resnet18"):
            return stfpm.Stfpm(**_PARTS)
    extractor = stfpm.torch_model.TimmFeatureExtractor  # anomalib has no parameter for a teacher that is not trained
    with mock.patch.object(
        stfpm.torch_model, "TimmFeatureExtractor", lambda **given: extractor(**given | {"pre_trained": False})
    ):
        return stfpm.Stfpm(**_PARTS)


def make_patchcore(*, pretrained: bool, coreset: float):
    """anomalib's `Patchcore`, its memory bank empty; InputError when the weights cannot be had."""
    patchcore = _imported("patchcore")
    with _weights("wide_resnet50_2"):
        return patchcore.Patchcore(pre_trained=pretrained, coreset_sampling_ratio=coreset, **_PARTS)


def _imported(method: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what anomalib's authors have to change in it
        try:
            return import_module(f"anomalib.models.image.{method}")
        except ImportError as error:
            raise InputError(f"anomalib cannot be imported ({error}): install it anew, {REQUIREMENT}") from error


@contextmanager
def _weights(backbone: str):
    """Says in one line, and without the tries before it, that a backbone's weights cannot be had."""
    from huggingface_hub.errors import HfHubHTTPError

    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    except (OSError, RuntimeError, HfHubHTTPError) as error:
        import timm

        name = timm.models.get_pretrained_cfg(backbone).hf_hub_id
        raise InputError(
            f"the ImageNet weights {name} could not be downloaded from the Hugging Face Hub ({type(error).__name__}): "
            "run this once with a network, or set HF_HOME to a cache that has them; BACKBONES='untrained' needs none, "
            "and its numbers mean nothing"
        ) from error
    finally:
        log.setLevel(level)


def transform_of(module, images) -> nn.Module:
    """anomalib's own preparation of RGB in [0, 1]; the images have their size already, so that it only normalises."""
    return type(module).configure_pre_processor(image_size=tuple(images.pixels.shape[-2:])).transform


class Asked(config.Training):
    """Parameters of the notebook that sets anomalib's methods beside ours."""

    METHODS: list[Literal["stfpm", "patchcore"]] | None
    STFPM_EPOCHS: config.Epochs | None
    CORESET: Annotated[float, Field(gt=0, le=1)]  # the share of patches that PatchCore keeps
    BACKBONES: Literal["imagenet", "untrained"]


def from_notebook(notebook: str, namespace: dict) -> tuple[runs.Run, dict]:
    """The `Run` of 04_mvtec of the one category to compare on, and the keywords of `run_experiments`."""
    asked = config.from_cell(Asked, notebook, namespace)
    if not (asked.is_smoke and asked.CLASSES is None) and not (
        isinstance(asked.CLASSES, list) and len(asked.CLASSES) == 1
    ):
        raise InputError(f"CLASSES is {asked.CLASSES!r}; it is a list of the one category, such as ['screw']")
    (run,) = config.resolve("04_mvtec", **{name: getattr(asked, name) for name in config.Training.model_fields})
    config.refuse_to_replace([run])
    return run, {
        "methods": tuple(dict.fromkeys(COMPARED if asked.METHODS is None else asked.METHODS)),
        "epochs": asked.STFPM_EPOCHS or (1 if asked.is_smoke else 100),
        "coreset": float(asked.CORESET),
        "backbones": "untrained" if asked.is_smoke else asked.BACKBONES,
    }
