"""A run: everything in force for one variant of one data set, where its records lie, and what is left to do of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from kdhelpers import data
from kdhelpers.data import weights
from kdhelpers.experiments import artifacts
from kdhelpers.experiments import records as results
from kdhelpers.experiments.variants import AFTER_TRAINING, METHODS
from kdhelpers.protocols import BATCH_SIZE, FALSE_ALARMS, NORMAL_TEST, SEEDS, SETTINGS, Protocol


@dataclass(frozen=True)
class Run:
    """Everything in force for one variant of one data set: its classes, one after the other, with one seed."""

    notebook: str  # whose records these are
    dataset: str
    variant: str | None
    label: str  # of the variant, in tables and figures
    profile: str
    protocol: Protocol
    seed: int
    source: str  # "imagenet", "untrained" or a path
    source_name: str  # the name of the source whose records these lie among
    classes: tuple[str, ...]
    epochs: int
    image_size: int
    batch_size: int
    device: torch.device
    data_dir: Path
    results_dir: Path
    cache: str = "auto"  # where S's activations are kept; no number depends on it
    method: str = METHODS[0]  # of localization
    augment: bool = False  # Sec. 4.2.3, HeadCT
    normal_test: int = NORMAL_TEST  # random normal test images of a medical data set
    # Of one's own images only:
    test_dir: Path | None = None  # pictures to score
    test_label: str | None = None  # what they are known to be, as in `layouts.LABELS`
    false_alarms: float = FALSE_ALARMS  # the share of good images that may be called bad; no record depends on it

    def record_path(self, cls: str) -> Path:
        return self._path("records", cls, ".json")

    def cloner_path(self, cls: str) -> Path:
        return self._path("cloners", cls, ".safetensors")

    def predictions_path(self, cls: str) -> Path:
        return self._path("cloners", cls, ".predictions.csv.gz")

    def checkpoint_path(self, cls: str) -> Path:
        return self._path("checkpoints", cls, ".pt")

    def _path(self, kind: str, cls: str, suffix: str) -> Path:
        names = ("source_name", "profile", "notebook", "dataset", "variant", "seed")
        record = {name: getattr(self, name) for name in names} | {"protocol": self.protocol.name, "class": cls}
        return results.path_of(self.results_dir, kind, record, suffix)

    def parameters(self, cls: str) -> dict:
        """What decides the numbers of one record; a record made with other values is stale."""
        return {
            "class": cls,
            "variant": self.variant,
            "seed": self.seed,
            "source": weights.source_name(self.source),
            "source_name": self.source_name,
            "epochs": self.epochs,
            "image_size": self.image_size,
            "batch_size": self.batch_size,
            "method": self.method,
            "augment": self.augment,
            "normal_test": self.normal_test,
            "protocol": asdict(self.protocol),
        } | ({"test_label": self.test_label} if self.dataset == "folder" else {})

    def shares_cloner_with(self, main: "Run") -> bool:
        """True for a variant that differs from the run `main` only in what is done with the trained cloner."""
        settled = {name: getattr(main.protocol, name) for name in AFTER_TRAINING}
        alike = replace(self, protocol=replace(self.protocol, **settled), method=main.method)
        if self.dataset != main.dataset or self.variant == main.variant:
            return False
        return alike.parameters("") | {"variant": main.variant} == main.parameters("")

    def load(self, cls: str, image_size: int | None = None, normal_test: int | None = None) -> data.Split:
        """Training and test images of a class, on the device; of this run's size and split unless told otherwise."""
        split = data.load(
            self.dataset,
            cls,
            self.data_dir,
            image_size=image_size or self.image_size,
            seed=self.seed,
            normal_test=normal_test or self.normal_test,
            test_dir=self.test_dir,
            test_label=self.test_label,
        )
        return split.to(self.device)

    def is_pending(self, cls: str, cloner: bool = False) -> bool:
        """True without a record by this code and these parameters; cloner: or without its cloner on this machine.

        One's own images change more often than a data set: a record of others than are there now does not count.
        """
        if not results.is_current(self.record_path(cls), self.parameters(cls)):
            return True
        if self.dataset == "folder":
            now = data.fingerprint(self.data_dir, seed=self.seed, test_dir=self.test_dir, test_label=self.test_label)
            if results.read(self.record_path(cls))["data"]["sha256"] != now:
                return True
        return cloner and not (self.cloner_path(cls).is_file() and self.predictions_path(cls).is_file())

    def records(self) -> list[dict]:
        """The records of all classes, in order."""
        return [results.read(self.record_path(cls)) for cls in self.classes]

    def fit(self, cls: str) -> tuple:
        """The trained cloner in eval mode, and the `training.Fit` with its protocol and test scores."""
        record = results.read(self.record_path(cls))
        fit = artifacts.load_fit(record, self.predictions_path(cls), self.protocol)
        return artifacts.load_cloner(self.cloner_path(cls), self), fit

    @property
    def work(self) -> float:
        """The cost of what is pending, relative to other runs: pixels that pass through the cloner in training.

        In smoke every run takes about as long: what counts is starting it.
        """
        pending = sum(self.is_pending(cls) for cls in self.classes)
        if self.profile == "smoke":
            return float(pending)
        return pending * SETTINGS[self.dataset].images * self.epochs * self.image_size**2

    def deviations(self) -> list[str]:
        """What differs from the article and its released code; [] when nothing does."""
        setting, own = SETTINGS[self.dataset], self.dataset == "folder"
        compared = [("batch size", self.batch_size, BATCH_SIZE), ("source", self.source_name, "imagenet")]
        if not own:  # for one's own images the article sets neither
            compared = [
                ("epochs", self.epochs, setting.epochs),
                ("image size", self.image_size, setting.image_size),
                *compared,
            ]
        found = ["images of one's own; the article has none"] if own else []
        found += [f"{name} {given} instead of {set_}" for name, given, set_ in compared if given != set_]
        if self.profile == "smoke":
            found.insert(0, "smoke: a small generated sample, an untrained source; no number means anything")
        if self.seed >= SEEDS:
            found.append(f"seed {self.seed} instead of one of 0 to {SEEDS - 1}")
        return found

    def pictures(self, cls: str) -> results.Pictures:
        """A few test images with their maps, as they were kept beside the cloner."""
        return results.load_pictures(self.cloner_path(cls))

    @property
    def title(self) -> str:
        """What every figure of this run must say."""
        return results.remark(self.profile)


def summary(runs: Sequence[Run]) -> str:
    """What will happen, in a few lines, for the reader of a notebook."""
    first = runs[0]
    pending = sum(run.is_pending(cls) for run in runs for cls in run.classes)
    count = sum(len(run.classes) for run in runs)
    lines = [f"protocol {first.protocol.name}, seed {first.seed}, source {first.source_name}, on {first.device}"]
    for run in runs:
        if run.dataset not in [before.dataset for before in runs[: runs.index(run)]]:
            lines += [f"{run.dataset}, classes {', '.join(run.classes)}; {run.image_size} px, {run.epochs} epochs"]
    deviations = dict.fromkeys(deviation for run in runs for deviation in run.deviations())
    lines += [
        f"to do: {pending} of {count}" + ("; the others are recorded" if pending < count else ""),
        f"deviates from the article: {'; '.join(deviations) or 'in nothing'}",
        f"records: {runs[-1].record_path('').parent}",
    ]
    return "\n".join(lines)
