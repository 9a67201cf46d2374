"""Score pictures and map their anomalies with a detector: a trained cloner and its thresholds, saved in one file.

Command line: `python -m kdhelpers.inspection.detector DETECTOR FOLDER`, see --help.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from tqdm import tqdm

from kdhelpers import localization, losses, networks
from kdhelpers.data import ignore, layouts, tiles, weights
from kdhelpers.data.images import Images, Size, blanked, read_picture
from kdhelpers.data.listing import subfolders
from kdhelpers.errors import InputError, in_one_line
from kdhelpers.experiments import artifacts
from kdhelpers.experiments.config import device_of
from kdhelpers.files import atomic_write, reading
from kdhelpers.inspection import regions, thresholds
from kdhelpers.inspection.thresholds import Threshold
from kdhelpers.metrics import strongest
from kdhelpers.protocols import PRECISIONS, Protocol
from kdhelpers.training import use_precision

SCHEMA = 5
MAPS = ("gradients", "disagreement")


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True, extra="forbid"))
class Detector:
    """A source, a trained cloner and thresholds. Pictures are scored one by one: no score depends on other pictures.

    On the same kind of device with the same number of threads, scores are identical to the last digit.
    """

    source: nn.Sequential | None  # None: not loaded
    cloner: nn.Sequential | None
    protocol: Protocol  # with the λ of the training
    image_size: Size  # pictures, or their tiles, are resized to it
    source_id: dict[str, str]  # {"name", "sha256"}, as `weights.load_source` returns it
    record: dict  # of the training, as `artifacts.save` writes it
    map: Literal[MAPS] = "disagreement"  # the article's gradients, or `localization.disagreement`
    score_by: Literal["loss", "maximum", "top"] = "loss"  # the last two are of the map: `metrics.strongest`
    threshold: Threshold | None = None  # of scores; None: not calibrated
    pixel_threshold: float = 0.0  # of maps: at most the requested share of held-out good pictures exceeds it anywhere
    held_out: dict[str, list[float]] = field(default_factory=dict)  # good pictures' scores, their maps' maxima
    tile: int | None = None  # side of a tile in pixels, for large pictures: `data.tiles`
    ignore: Path | np.ndarray | None = None  # the mask or masks for `data.ignore.reader`; an array is saved in the file
    accepted: list[str] = field(default_factory=list)  # false alarms learned later: `inspection.accepting`

    def calibrated(self, good: Sequence[Path], false_alarms: float, scores: np.ndarray | None = None) -> "Detector":
        """The detector with both thresholds set on held-out good pictures for this rate; scores: theirs, if known."""
        good = listed(good)
        scores = self.scores(good) if scores is None else scores
        held_out = {"scores": scores.tolist(), "maxima": [float(heat.max()) for heat in self.each_map(good)]}
        return replace(self, held_out=held_out).with_threshold(false_alarms=false_alarms)

    def with_threshold(self, value: float | None = None, *, false_alarms: float | None = None) -> "Detector":
        """The detector with another threshold: this value, or one for another false-alarm rate; nothing is trained.

        A rate also sets the pixel threshold. Raises InputError unless exactly one of the two is passed, for a rate
        outside (0, 0.5], and before `calibrated`.
        """
        if not self.held_out:
            raise InputError("a cloner has no held-out pictures: give a detector.safetensors, or .calibrated(...)")
        scores, maxima = (np.array(self.held_out[name], np.float32) for name in ("scores", "maxima"))
        if (value is None) == (false_alarms is None):
            raise InputError("give either a threshold or a rate of false alarms")
        if value is not None:
            if np.isnan(value):
                raise InputError("the threshold is not a number")
            return replace(self, threshold=thresholds.at(scores, value))
        if not 0 < false_alarms <= 0.5:
            raise InputError(f"the rate of false alarms is {false_alarms}; it is a share above 0 and at most 0.5")
        chosen, of_pixels = (thresholds.choose(values, false_alarms) for values in (scores, maxima))
        return replace(self, threshold=chosen, pixel_threshold=of_pixels.value)

    def score(self, images: Path | str | Iterable[Path | str]) -> pd.DataFrame:
        """A table with one row per picture: image (path), score (float32), bad (bool: the score exceeds the threshold).

        A cloner that was not calibrated has no threshold, so its table has no column bad.
        images: a folder with or without subfolders, one picture, or a list of pictures. Raises InputError for a path
        that is not a picture.
        """
        paths = listed(images)
        table = pd.DataFrame({"image": [str(path) for path in paths], "score": self.scores(paths)})
        return table.assign(bad=table["score"] > np.float32(self.threshold.value)) if self.threshold else table

    def verdicts(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table of `score` as in scores.csv: bad is "yes" or "no", and the threshold is a column."""
        if not self.threshold:
            return table
        threshold = np.float32(self.threshold.value)
        return table.assign(bad=np.where(table["score"] > threshold, "yes", "no"), threshold=threshold)

    def scores(self, paths: Sequence[Path]) -> np.ndarray:
        """The score of each picture: float32 (n,); a loss is the highest over its tiles."""
        if self.score_by != "loss":
            return np.array([strongest(heat, self.score_by) for heat in self.each_map(paths)], np.float32)
        return np.array([found.max() for found, _, _ in self._each(paths, self.loss, "scores")], np.float32)

    def maps(self, images: Path | str | Iterable[Path | str]) -> list[np.ndarray]:
        """One map of anomalies per picture, after the filters of Eq. 6: float32 (h, w), 0 or more, 0 where ignored.

        (h, w) is `image_size` or, with tiles, the size of the joined tiles. Unlike the article's, maps are not
        stretched picture by picture, so good and bad pictures are comparable. images: as in `score`.
        """
        return list(self.each_map(listed(images)))

    @torch.inference_mode(False)  # which enables gradients too
    def each_map(self, paths: Sequence[Path | str]) -> Iterator[np.ndarray]:
        """Yield the `maps` one by one, because those of tiles are large."""
        for found, size, mask in self._each(paths, self.attribution, "heat maps"):
            heat = tiles.joined(localization.localization_map(found), size, self.tile)
            heat[ignore.ignored(heat.shape, mask)] = 0
            yield heat

    @torch.no_grad()
    def loss(self, x: Tensor) -> Tensor:
        """The loss of each image of a batch (n, 3, h, w), the article's score: float (n,)."""
        a_s, a_c = (networks.critical_points(network, x) for network in (self.source, self.cloner))
        return losses.score(a_s, a_c, self.protocol)

    def attribution(self, x: Tensor) -> Tensor:
        """Disagreement or gradients of a batch (n, 3, h, w), before the filters of Eq. 6: float (n, h, w)."""
        if self.map == "disagreement":
            return localization.disagreement(self.source, self.cloner, x, self.protocol)
        return localization.gradients(self.source, self.cloner, x, self.protocol).abs().sum(1)

    def _each(
        self, paths: Sequence[Path], function: Callable[[Tensor], Tensor], title: str
    ) -> Iterator[tuple[np.ndarray, tuple[int, int], Image.Image | None]]:
        """Yield for each picture `function` of it or its tiles, (n, ...), its (width, height), and its ignore mask."""
        if self.record.get("dataset") == "cifar10":
            raise InputError("cloners of CIFAR-10 need pictures prepared in another way: use 03_cifar10")
        device, mask_of = next(self.cloner.parameters()).device, ignore.reader(self.ignore)
        for path in tqdm(paths, desc=title, unit="image", delay=1, mininterval=1):
            mask = mask_of(path)
            picture = blanked(read_picture(path), mask)
            pixels = torch.from_numpy(tiles.cut(picture, self.tile, self.image_size))
            parts = pixels.split(max(1, localization.PIXELS // pixels[0, 0].numel()))
            with torch.autocast(device.type, enabled=False):  # whatever precision a training in this process has
                found = torch.cat([function(Images(part).to(device)[:]) for part in parts])
            yield found.cpu().numpy(), picture.size, mask


def save(detector: Detector, path: Path) -> None:
    """Atomically write the cloner's weights, with all settings as JSON in the metadata; the source is not included.

    Raises InputError for a cloner without a threshold.
    """
    if not detector.threshold:
        raise InputError("a cloner without a threshold is not a detector: set one with .calibrated(good, rate)")
    settings = vars(detector) | {
        "schema": SCHEMA,
        "protocol": asdict(detector.protocol),
        "source": detector.source_id,
        "threshold": asdict(detector.threshold),
        "ignore": str(detector.ignore) if isinstance(detector.ignore, Path) else None,
    }
    del settings["cloner"], settings["source_id"]
    tensors = {name: value.contiguous() for name, value in detector.cloner.state_dict().items()}
    if isinstance(detector.ignore, np.ndarray):
        tensors["ignore"] = torch.from_numpy(detector.ignore)
    with atomic_write(path) as temporary:
        temporary.write_bytes(to_bytes(tensors, {"detector": json.dumps(settings, sort_keys=True)}))


def load(path: Path | str, source: str | None = None, device: str | torch.device = "auto") -> Detector:
    """Load the detector that `save` wrote; a trained cloner of results/cloners gives a detector without a threshold.

    source: the location of the source's weights, as the notebooks' SOURCE (imagenet, untrained or a path); None: the
    recorded location. device: auto, cpu, cuda ... Raises InputError for a file that is not a detector, and for a source
    whose SHA-256 differs from the recorded one.
    """
    found, place = read(path), device_of(device) if isinstance(device, str) else device
    use_precision(PRECISIONS[0], place)  # float32, the default
    network = weights.load_recorded(source or found.record["environment"]["source"], found.source_id, path, place)
    return replace(found, source=network, cloner=found.cloner.to(place))


def read(path: Path | str) -> Detector:
    """Load a detector on the CPU without its source. Raises InputError for a file that is not a detector."""
    path = Path(path).expanduser()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            settings = json.loads(metadata["detector" if "detector" in metadata else "record"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, KeyError, ValueError):
        fix = "name the detector.safetensors that 00_quickstart wrote, or a cloner of results/cloners"
        raise InputError(f"{path} is missing, or is not a detector: {fix}") from None
    try:
        if "record" in metadata:  # a cloner, as `artifacts.save` writes it
            parameters = settings["parameters"]
            protocol = Protocol(**parameters["protocol"] | {"lam": settings["training"]["lambda"]})
            cloner = artifacts.load_cloner(path, protocol)
            masks = settings["environment"].get("ignore")
            own = {"tile": parameters.get("tile"), "ignore": masks and ignore.kept(Path(masks))}
            return Detector(None, cloner, protocol, parameters["image_size"], settings["source"], settings, **own)
        if (schema := settings.pop("schema")) != SCHEMA:
            raise ValueError(f"schema {schema} instead of {SCHEMA}")
        settings |= {"ignore": state.pop("ignore").numpy()} if "ignore" in state else {}
        found = Detector(None, None, source_id=settings.pop("source"), **settings)
        cloner = networks.make_cloner(found.protocol, seed=0)
        cloner.load_state_dict(state)
        return replace(found, cloner=cloner.eval())
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).splitlines()[:2])
        raise InputError(f"{path} is of another version of kdhelpers ({reason}): rerun its notebook") from None


@reading()
def listed(images: Path | str | Iterable[Path | str]) -> list[Path]:
    """The pictures of a folder, with or without subfolders, or of a list; InputError when there are none."""
    if isinstance(images, str | Path):
        place = Path(images).expanduser()
        place.stat()
        kinds = {folder.name: layouts.UNKNOWN for folder in subfolders(place)}  # so that no name needs a label
        images = [image.path for image in layouts.to_score(place, kinds)] if place.is_dir() else [place]
    if not (images := [Path(path).expanduser() for path in images]):
        raise InputError("there are no pictures to score: give at least one")
    return images


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, see --help. Raises InputError for a missing or unsuitable file or option."""
    parser = argparse.ArgumentParser(prog="python -m kdhelpers.inspection.detector", description=__doc__)
    parser.add_argument("detector", type=Path, metavar="DETECTOR", help="of 00_quickstart, or a trained cloner")
    parser.add_argument("folder", type=Path, metavar="FOLDER", nargs="?", help="pictures to score, or one picture")
    parser.add_argument("--source", help="the new path of the source's weights, if they were moved")
    parser.add_argument("--ignore", type=Path, metavar="PATH", help="other regions to ignore; the thresholds stay")
    parser.add_argument("--out", type=Path, metavar="CSV", help="write the scores to this file, not to standard output")
    parser.add_argument("--regions", type=Path, metavar="FOLDER", help="write boxes, masks, maps to this empty folder")
    parser.add_argument("--threshold", type=float, help="set the threshold to this value")
    parser.add_argument("--false-alarms", type=float, metavar="SHARE", help="set the threshold by this rate, e.g. 0.01")
    parser.add_argument("--accept", type=Path, metavar="FILE", nargs="+", help="learn these false alarms, and save")
    parser.add_argument("--save", type=Path, metavar="DETECTOR", help="save the changed detector to this file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    given = parser.parse_args(arguments)
    if given.folder is None and (given.out or given.regions or not (given.save or given.accept)):
        raise InputError("--out and --regions need FOLDER, the pictures to score; without it, give --save or --accept")
    if given.regions and any(given.regions.glob("*")):
        raise InputError(f"{given.regions} is not empty: name an empty or a new folder for --regions")
    loaded = load(given.detector, given.source, given.device)
    if given.regions and not loaded.threshold:
        raise InputError(f"{given.detector} is a cloner without a threshold for regions: give a detector.safetensors")
    paths = listed(given.folder) if given.folder else []
    if given.ignore:
        loaded = replace(loaded, ignore=ignore.kept(given.ignore.absolute()))
        ignore.reader(loaded.ignore)  # or a missing one would be saved
        ignore.listed(given.ignore.absolute(), paths, some=True)
    if paths and isinstance(loaded.ignore, Path):
        masked = [*filter(ignore.reader(loaded.ignore), paths)]
        print(f"{len(masked)} of {len(paths)} pictures have a mask", file=sys.stderr)
    if given.threshold is not None or given.false_alarms is not None:
        loaded = loaded.with_threshold(given.threshold, false_alarms=given.false_alarms)
        print(loaded.threshold, file=sys.stderr)
    if given.accept:
        from kdhelpers.inspection.accepting import accept  # here, because it imports this module

        loaded, report = accept(loaded, given.accept)
        print(report, file=sys.stderr)
    if given.save or given.accept:
        save(loaded, given.save or given.detector)
    if given.folder is None:
        return
    table = loaded.verdicts(loaded.score(paths))
    above = f"{sum(table['bad'] == 'yes')} of {len(table)} are above the" if loaded.threshold else "there is no"
    if given.out:
        with atomic_write(given.out) as temporary:
            table.to_csv(temporary, index=False, errors="surrogateescape")
    else:
        sys.stdout.reconfigure(errors="surrogateescape")  # a file's name may be invalid text
        print(table.to_csv(index=False), end="")
    if given.regions:
        names = (f"{number:05d}" for number in range(1, len(paths) + 1))
        regions.write(given.regions, zip(names, paths, loaded.each_map(paths), strict=True), loaded.pixel_threshold)
    print(above, "threshold", file=sys.stderr)


if __name__ == "__main__":
    in_one_line(main)
