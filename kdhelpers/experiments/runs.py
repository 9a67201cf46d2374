"""A run: the settings of one variant of one data set, where its files are, and which classes are pending."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from kdhelpers import data
from kdhelpers.experiments import artifacts, records
from kdhelpers.experiments.variants import METHODS
from kdhelpers.protocols import BATCH_SIZE, FALSE_ALARMS, NORMAL_TEST, SEEDS, SETTINGS, Protocol
from kdhelpers.training import Fit


@dataclass(frozen=True)
class Run:
    """All settings of one variant of one data set: its classes are run one after the other, with one seed."""

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
    cache: str = "auto"  # where S's activations are cached; no number depends on it
    method: str = METHODS[0]  # of localization
    augment: bool = False  # Sec. 4.2.3, HeadCT
    normal_test: int = NORMAL_TEST  # random normal test images of a medical data set
    shares_cloner: bool = False  # with its main run, from which it differs only in how the trained cloner is used
    # Of your own images only:
    test_dir: Path | None = None  # pictures to score
    test_label: str | dict | None = None  # their label, one of `layouts.LABELS`, or those of folders by name
    map: str = "disagreement"  # of the detector, one of `inspection.detector.MAPS`; no record depends on it
    score_by: str = "loss"  # of the detector, one of `inspection.detector.SCORES`; no record depends on it
    false_alarms: float = FALSE_ALARMS  # the share of good images that may be called bad; no record depends on it

    def parameters(self, cls: str) -> dict:
        """The settings that the numbers of one record depend on; a record with other values is stale."""
        names = "variant seed source_name epochs image_size batch_size method augment normal_test".split()
        names += ["test_label"] if self.dataset == "folder" else []
        source = "untrained" if self.source == "untrained" else self.source_name
        same = {name: getattr(self, name) for name in names}
        return same | {"class": cls, "source": source, "protocol": asdict(self.protocol)}

    def head(self, cls: str) -> dict:
        """The fields of a record that are known before it is made."""
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
        """Training and test images of a class, on the device."""
        names = ("image_size", "seed", "normal_test", "test_dir", "test_label")
        split = data.load(self.dataset, cls, self.data_dir, **{name: getattr(self, name) for name in names})
        return split.to(self.device)

    def is_pending(self, cls: str, cloner: bool = False) -> bool:
        """True without an up-to-date record with these parameters; cloner: or without its cloner on this machine.

        Your own images may change: a record of other images than the present ones does not count.
        """
        if not (path := self.record_path(cls)).is_file():
            return True
        record = records.read(path)
        if records.is_stale(record) or record["parameters"] != self.parameters(cls):
            return True
        if self.dataset == "folder":
            now = data.fingerprint(self.data_dir, seed=self.seed, test_dir=self.test_dir, test_label=self.test_label)
            if record["data"]["sha256"] != now:
                return True
        return cloner and not (self.cloner_path(cls).is_file() and self.predictions_path(cls).is_file())

    def fit(self, cls: str) -> tuple[torch.nn.Sequential, Fit]:
        """The trained cloner in eval mode, and the `training.Fit` with its protocol and test scores."""
        cloner = artifacts.load_cloner(self.cloner_path(cls), self.protocol, self.device)
        record = records.read(self.record_path(cls))
        return cloner, artifacts.load_fit(record, self.predictions_path(cls), self.protocol)

    def pictures(self, cls: str) -> records.Pictures:
        """A few test images with their maps, stored beside the cloner."""
        return records.load_pictures(self.cloner_path(cls))

    @property
    def title(self) -> str:
        """The remark that every figure of this run must show."""
        return records.remark(self.profile)

    @property
    def work(self) -> float:
        """The cost of the pending classes, relative to other runs: pixels that pass through the cloner in training.

        In smoke all runs take about equally long: starting them dominates.
        """
        pending = sum(map(self.is_pending, self.classes))
        cost = 1 if self.profile == "smoke" else SETTINGS[self.dataset].images * self.epochs * self.image_size**2
        return float(pending * cost)

    def deviations(self) -> list[str]:
        """How the run differs from the article and its released code; [] when it does not."""
        setting = SETTINGS[self.dataset]
        compared = [
            ("epochs", self.epochs, setting.epochs),
            ("image size", self.image_size, setting.image_size),
            ("batch size", self.batch_size, BATCH_SIZE),
            ("source", self.source_name, "imagenet"),
        ]
        found = []
        if self.profile == "smoke":
            found.append("smoke: a small generated sample, an untrained source; no number means anything")
        if self.dataset == "folder":
            found.append("images of one's own; the article has none")
            compared = compared[2:]  # for these the article sets neither epochs nor size
        found += [f"{name} {given} instead of {set_}" for name, given, set_ in compared if given != set_]
        if self.seed >= SEEDS:
            found.append(f"seed {self.seed} instead of one of 0 to {SEEDS - 1}")
        return found


def summary(runs: Sequence[Run]) -> str:
    """What will happen, in a few lines, for the reader of a notebook."""
    first = runs[0]
    pending = sum(run.is_pending(cls) for run in runs for cls in run.classes)
    count = sum(len(run.classes) for run in runs)
    firsts = [run for i, run in enumerate(runs) if run.dataset not in [before.dataset for before in runs[:i]]]
    deviations = dict.fromkeys(deviation for run in runs for deviation in run.deviations())
    return "\n".join(
        [
            f"protocol {first.protocol.name}, seed {first.seed}, source {first.source_name}, on {first.device}",
            *(f"{r.dataset}, classes {', '.join(r.classes)}; {r.image_size} px, {r.epochs} epochs" for r in firsts),
            f"to do: {pending} of {count}" + ("; the others are recorded" if pending < count else ""),
            f"deviates from the article: {'; '.join(deviations) or 'in nothing'}",
            f"records: {runs[-1].record_path('').parent}",
        ]
    )
