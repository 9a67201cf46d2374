"""A run: the settings of one variant of one data set, the paths of its files, and its pending classes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kdhelpers import data
from kdhelpers.data.images import Size, in_words, sides
from kdhelpers.data.layouts import Own
from kdhelpers.experiments import artifacts, records
from kdhelpers.protocols import BATCH_SIZE, FALSE_ALARMS, METHODS, NORMAL_TEST, PRECISIONS, SEEDS, SETTINGS, Protocol
from kdhelpers.training import Fit

# Costs of an image, in steps of the compact cloner's training, measured on a CPU: a step of the equal cloner, a step in
# which S computes too, a map of SmoothGrad.
_EQUAL, _AUGMENTED, _SMOOTHGRAD = 15, 4, 550


@dataclass(frozen=True)
class Run:
    """All settings of one variant of one data set; its classes run one after the other, with one seed."""

    notebook: str  # to which the records belong
    dataset: str
    profile: str
    protocol: Protocol
    seed: int
    source: str  # "imagenet", "untrained" or a path
    source_name: str  # the source's name in the records' paths
    classes: tuple[str, ...]
    epochs: int
    image_size: Size
    batch_size: int
    device: torch.device
    data_dir: Path
    results_dir: Path
    variant: str | None = None
    label: str = ""  # of the variant, in tables and figures
    cache: str = "auto"  # where S's activations are cached; it does not change results
    precision: str = PRECISIONS[0]
    method: str = METHODS[0]  # of localization
    augment: bool = False  # Sec. 4.2.3, HeadCT
    normal_test: int = NORMAL_TEST  # number of random normal test images of HeadCT and BrainMRI
    shares_cloner: bool = False  # with its main run; the two differ only after training
    own: Own = Own()  # options for your own images: pictures to score, regions to ignore, tiles
    # Settings of the detector for your own images; no record depends on them.
    map: str = "disagreement"  # one of `inspection.detector.MAPS`
    score_by: str = "loss"  # or by the map, as in `metrics.strongest`
    false_alarms: float = FALSE_ALARMS  # share of good images that may be called bad

    def parameters(self, cls: str) -> dict:
        """The settings that determine the numbers of one record; a record with other values is out of date."""
        names = "variant seed source_name epochs image_size batch_size method augment normal_test".split()
        names += ["precision"] if self.precision != PRECISIONS[0] else []  # records in float32 omit it
        found = {name: getattr(self, name) for name in names}
        if self.dataset == "folder":
            found |= {"test_label": self.own.test_label} | ({"tile": self.own.tile} if self.own.tile else {})
            found["image_size"] = self.image_size if isinstance(self.image_size, int) else list(self.image_size)
        plain = self.source_name.removesuffix(f"-{self.precision}")
        found["source"] = "untrained" if self.source == "untrained" else plain
        return found | {"class": cls, "protocol": asdict(self.protocol)}

    def head(self, cls: str) -> dict:
        """The fields of a record that are known before the run."""
        same = {name: getattr(self, name) for name in ("notebook", "dataset", "variant", "seed", "profile")}
        return same | {"class": cls, "protocol": self.protocol.name, "parameters": self.parameters(cls)}

    def record_path(self, cls: str) -> Path:
        return records.path_of(self.results_dir, "records", self.head(cls), ".json")

    def cloner_path(self, cls: str) -> Path:
        return records.path_of(self.results_dir, "cloners", self.head(cls), ".safetensors")

    def predictions_path(self, cls: str) -> Path:
        return self.cloner_path(cls).with_suffix(".predictions.csv.gz")

    def checkpoint_path(self, cls: str) -> Path:
        return records.path_of(self.results_dir, "checkpoints", self.head(cls), ".pt")

    def load(self, cls: str) -> data.Split:
        """Load the training and test images of a class, on the device."""
        given = {"image_size": self.image_size, "seed": self.seed, "normal_test": self.normal_test, "own": self.own}
        return data.load(self.dataset, cls, self.data_dir, **given).to(self.device)

    def is_pending(self, cls: str, cloner: bool = False) -> bool:
        """True without an up-to-date record with these parameters; cloner: also without its own cloner on this machine.

        A record of your own images is out of date when these have changed.
        """
        path, has_scores = self.record_path(cls), self.predictions_path(cls).is_file()
        if not path.is_file() or cloner and not (has_scores and records.is_made_with(path, self.cloner_path(cls))):
            return True
        record = records.read(path)
        if records.is_stale(record) or record["parameters"] != self.parameters(cls):
            return True
        changing = self.dataset == "folder"
        return changing and record["data"]["sha256"] != data.fingerprint(self.data_dir, seed=self.seed, own=self.own)

    def fit(self, cls: str) -> tuple[torch.nn.Sequential, Fit]:
        """Load the trained cloner, in eval mode, and its `training.Fit` with protocol and test scores.

        `seconds` is empty, since nothing was trained.
        """
        cloner = artifacts.load_cloner(self.cloner_path(cls), self.protocol, self.device)
        training = records.read(self.record_path(cls))["training"]
        curves = [training[name] for name in ("loss", "loss_val", "loss_dir")]
        scores = pd.read_csv(self.predictions_path(cls)).filter(like="epoch ")
        epochs = [int(name.removeprefix("epoch ")) for name in scores]
        protocol = replace(self.protocol, lam=training["lambda"])
        return cloner, Fit(protocol, *curves, {}, epochs, scores.to_numpy(np.float32).T)

    def pictures(self, cls: str) -> records.Pictures:
        """Load a few test images with their maps, stored with the cloner."""
        return records.load_pictures(self.cloner_path(cls))

    @property
    def title(self) -> str:
        """The remark for every figure of this run."""
        return records.remark(self.profile, self.source_name)

    @property
    def cost(self) -> float:
        """The relative cost of one class: epochs, images, pixels, and the cost of a step; in smoke, most are alike."""
        setting, is_smooth = SETTINGS[self.dataset], self.method == "smoothgrad"
        step = _EQUAL if self.protocol.width == "equal" else _AUGMENTED if self.augment else 1
        if self.profile == "smoke":
            return 14.0 if is_smooth else float(step)
        steps = setting.images * (1 if self.shares_cloner else self.epochs * step)
        steps += _SMOOTHGRAD * setting.masked if is_smooth else 0
        return float(steps * math.prod(sides(self.image_size)))

    def deviations(self) -> list[str]:
        """The run's differences from the article and its released code; [] without any."""
        setting = SETTINGS[self.dataset]
        compared = [
            ("epochs", self.epochs, setting.epochs),
            ("image size", self.image_size, setting.image_size),
            ("batch size", self.batch_size, BATCH_SIZE),
            ("precision", self.precision, PRECISIONS[0]),
            ("source", self.parameters("")["source"], "imagenet"),
        ]
        found = []
        if self.profile == "smoke":
            found.append("smoke: a small generated sample, an untrained source; no number means anything")
        if self.dataset == "folder":
            found.append("your own images; the article has none")
            compared = compared[2:]  # the article has neither epochs nor size for these
        found += [f"{name} {given} instead of {set_}" for name, given, set_ in compared if given != set_]
        if self.seed >= SEEDS:
            found.append(f"seed {self.seed} instead of one of 0 to {SEEDS - 1}")
        return found


def by_class(runs: Sequence[Run]) -> Iterator[tuple[str, list[Run]]]:
    """Yield each class of each data set with its variants, the main run first."""
    for dataset in dict.fromkeys(run.dataset for run in runs):
        group = [run for run in runs if run.dataset == dataset]
        yield from ((cls, group) for cls in group[0].classes)


def to_do(runs: Sequence[Run], cloners: bool = False) -> list[tuple[str, Run, Run]]:
    """Class, run and main run of each pending class, in order; cloners: as in `runner.run_experiments`."""
    found = []
    for cls, (main, *variants) in by_class(runs):
        used = any(run.shares_cloner and run.is_pending(cls) for run in variants)  # needs the main run's cloner
        found += [(cls, main, main)] if main.is_pending(cls, cloners or used) else []
        found += [(cls, run, main) for run in variants if run.is_pending(cls, cloners)]
    return found


def summary(runs: Sequence[Run], *, cloners: bool = False) -> str:
    """A few lines on what `run_experiments(runs, cloners=cloners)` will do, for the reader of a notebook."""
    first, todo, count = runs[0], to_do(runs, cloners), sum(len(run.classes) for run in runs)
    deviations = dict.fromkeys(deviation for run in runs for deviation in run.deviations())
    lines = [f"protocol {first.protocol.name}, seed {first.seed}, source {first.source_name}, on {first.device}"]
    for dataset in dict.fromkeys(run.dataset for run in runs):
        main = next(run for run in runs if run.dataset == dataset)
        lines.append(f"{dataset}, classes {', '.join(main.classes)}; {in_words(main.image_size)}, {main.epochs} epochs")
    lines.append(f"to do: {len(todo)} of {count}" + ("" if len(todo) == count else "; the others are recorded"))
    if again := [f"{run.dataset} {cls}" for cls, run, _ in todo if not run.is_pending(cls)]:
        lines.append(f"recorded, but trained again because their cloners are missing: {', '.join(again)}")
    lines.append(f"deviates from the article: {'; '.join(deviations) or 'in nothing'}")
    return "\n".join([*lines, f"records: {runs[-1].record_path('').parent}"])
