"""A trained cloner with its threshold, in one file: loaded anywhere, it scores pictures and shows where they are odd.

Command line: `python -m kdhelpers.inspection.detector DETECTOR FOLDER`, see --help.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import nn
from tqdm import tqdm

from kdhelpers import localization, losses, networks
from kdhelpers.data import layouts, weights
from kdhelpers.data.images import Images, read_images
from kdhelpers.errors import InputError, in_one_line
from kdhelpers.experiments.config import device_of
from kdhelpers.files import atomic_write, reading
from kdhelpers.inspection import regions, thresholds
from kdhelpers.inspection.thresholds import Threshold
from kdhelpers.protocols import Protocol

SCHEMA = 2
MAPS = ("gradients", "disagreement")
SCORES = ("loss", "maximum", "top")
TOP = 0.01  # the share of a map's pixels whose mean is the score "top"
_PLAIN = ("map", "score_by", "pixel_threshold", "held_out")  # fields that are stored as they are
_AT_ONCE = 64  # pictures that are read before they are scored


@dataclass(frozen=True)
class Detector:
    """Source, cloner and thresholds. Each picture is computed by itself: no score depends on what else is scored.

    To the last digit scores are the same on the same kind of device with as many threads.
    """

    source: nn.Sequential
    cloner: nn.Sequential
    protocol: Protocol  # with the λ of the training
    image_size: int  # pixels that pictures are resized to
    source_id: dict[str, str]  # as `weights.load_source` has it
    record: dict  # of the training, as `artifacts.save` makes it
    map: str = "gradients"  # one of MAPS: of the article, or `localization.disagreement`
    score_by: str = "loss"  # one of SCORES: the article's, or the map's maximum, or the mean of its top 1 %
    threshold: Threshold | None = None  # of scores
    pixel_threshold: float = 0.0  # of maps: no more of the held-out good pictures than asked for exceed it anywhere
    held_out: dict[str, list[float]] = field(default_factory=dict)  # scores and the maps' maxima of good pictures

    def calibrated(self, good: Sequence[Path], false_alarms: float) -> "Detector":
        """The detector with both thresholds set on held-out good pictures, at this rate of false alarms."""
        maps = self.maps(good)
        scores = self.scores(good, maps)
        held_out = {"scores": scores.tolist(), "peaks": maps.max((1, 2)).tolist()}
        return replace(self, held_out=held_out).with_threshold(false_alarms=false_alarms)

    def with_threshold(self, value: float | None = None, *, false_alarms: float | None = None) -> "Detector":
        """The detector with another threshold: this value, or by another rate of false alarms; nothing is trained.

        A rate sets the threshold of pixels too. Raises InputError unless one of the two is given, the rate in (0, 0.5].
        """
        scores, peaks = (np.array(self.held_out[name], np.float32) for name in ("scores", "peaks"))
        if (value is None) == (false_alarms is None):
            raise InputError("give either a threshold or a rate of false alarms")
        if value is not None:
            return replace(self, threshold=thresholds.at(scores, value))
        if not 0 < false_alarms <= 0.5:
            raise InputError(f"the rate of false alarms is {false_alarms}; it is a share above 0 and at most 0.5")
        pixel = thresholds.choose(peaks, false_alarms).value
        return replace(self, threshold=thresholds.choose(scores, false_alarms), pixel_threshold=pixel)

    def score(self, images: Path | str | Sequence[Path | str]) -> pd.DataFrame:
        """A row for each picture: image (its path), score (float32), bad (bool: the score is above the threshold).

        images: a folder, with or without folders in it, one picture, or a list of pictures. Raises InputError for what
        is no picture.
        """
        paths = _listed(images)
        scores = self.scores(paths)
        bad = scores > np.float32(self.threshold.value)
        return pd.DataFrame({"image": [str(path) for path in paths], "score": scores, "bad": bad})

    def maps(self, images: Path | str | Sequence[Path | str]) -> np.ndarray:
        """Where in each picture: float32 (n, image_size, image_size), 0 or more, after the filters of Eq. 6.

        Unlike the article's, maps are not stretched picture by picture: those of good and bad pictures compare.
        `images` as in `score`.
        """

        def one(x: Images) -> np.ndarray:
            if self.map == "disagreement":
                grey = localization.disagreement(self.source, self.cloner, x[:], self.protocol)
            else:
                grey = localization.gradients(self.source, self.cloner, x[:], self.protocol).abs().sum(1)
            return localization.localization_map(grey.cpu().numpy())

        return np.concatenate(self._each(_listed(images), one, "heat maps"))

    def scores(self, paths: Sequence[Path], maps: np.ndarray | None = None) -> np.ndarray:
        """The score of each picture: float32 (n,). maps: where they have been computed already."""
        if self.score_by != "loss":
            ordered = np.sort((self.maps(paths) if maps is None else maps).reshape(len(paths), -1), axis=1)
            count = 1 if self.score_by == "maximum" else max(1, round(TOP * ordered.shape[1]))
            return ordered[:, -count:].mean(1)

        @torch.no_grad()
        def one(x: Images) -> np.ndarray:
            a_s, a_c = (networks.critical_points(network, x[:]) for network in (self.source, self.cloner))
            return losses.score(a_s, a_c, self.protocol).cpu().numpy()

        return np.concatenate(self._each(paths, one, "scores"))

    def _each(self, paths: Sequence[Path], function, title: str) -> list[np.ndarray]:
        device = next(self.cloner.parameters()).device
        found = []
        with tqdm(total=len(paths), desc=title, unit="image", delay=1, mininterval=1) as progress:
            for start in range(0, len(paths), _AT_ONCE):
                pixels, _ = read_images(paths[start : start + _AT_ONCE], self.image_size)
                images = Images(pixels).to(device)
                for i in range(len(images)):
                    found.append(function(images.subset(slice(i, i + 1))))
                    progress.update()
        return found


def save(detector: Detector, path: Path) -> None:
    """Writes the cloner's weights, and all settings as JSON in the metadata, whole or not at all; not the source."""
    settings = {
        "schema": SCHEMA,
        "protocol": asdict(detector.protocol),
        "image_size": detector.image_size,
        "source": detector.source_id,
        "record": detector.record,
        "threshold": asdict(detector.threshold),
    } | {name: getattr(detector, name) for name in _PLAIN}
    tensors = {name: value.contiguous() for name, value in detector.cloner.state_dict().items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(to_bytes(tensors, {"detector": json.dumps(settings, sort_keys=True)}))


def load(path: Path | str, source: str | None = None, device: str = "auto") -> Detector:
    """The detector that `save` wrote at `path`.

    source: where the weights are that it was trained with, as the notebooks' SOURCE: imagenet, or the path of a file;
    None: where they were then. device: auto, cpu, cuda ... Raises InputError for a file that is no detector, and for a
    source whose SHA-256 is not the recorded one.
    """
    settings, cloner = read(path)
    source = source or settings["record"]["environment"]["source"]
    network, identity = _source(str(source), settings["source"], path, place := device_of(device))
    threshold = Threshold(**settings["threshold"] | {"interval": tuple(settings["threshold"]["interval"])})
    protocol = Protocol(**settings["protocol"])
    return Detector(
        network,
        cloner.to(place),
        protocol,
        settings["image_size"],
        identity,
        settings["record"],
        threshold=threshold,
        **{name: settings[name] for name in _PLAIN},
    )


def read(path: Path | str) -> tuple[dict, nn.Sequential]:
    """The settings that `save` stores as JSON, and the cloner.

    The cloner is in eval mode, on the CPU. Raises InputError for a file that is no detector.
    """
    path = Path(path).expanduser()
    settings, state = _read(path)
    try:
        cloner = networks.make_cloner(Protocol(**settings["protocol"]), seed=0)
        cloner.load_state_dict(state)
        for name in ("image_size", "source", "record", *_PLAIN):
            settings[name]
        Threshold(**settings["threshold"])
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is a detector of another version of kdhelpers ({reason}): make it again") from None
    return settings, cloner.eval()


def _read(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    way_out = "name the detector.safetensors that 00_quickstart has written"
    with reading(path):
        if not path.is_file():
            raise InputError(f"{path} is not a file: {way_out}")
        try:
            with safe_open(path, framework="pt") as file:
                settings = json.loads((file.metadata() or {})["detector"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, KeyError, ValueError):
            raise InputError(f"{path} is not a detector: {way_out}") from None
    if not isinstance(settings, dict) or settings.get("schema") != SCHEMA:
        raise InputError(f"{path} is not a detector of schema {SCHEMA}: make it again with 00_quickstart")
    return settings, state


def _source(given: str, wanted: dict, path, device: torch.device) -> tuple[nn.Sequential, dict]:
    def refused(name: str, sha256: str = "") -> InputError:
        of = f" ({sha256[:8]}…)" if sha256 else ""
        way_out = wanted["name"] if wanted["name"] in ("imagenet", "untrained") else "the path of that file"
        return InputError(
            f"{path} was trained with the source {wanted['name']} (SHA-256 {wanted['sha256'][:8]}…), and {name}{of} is "
            f"another one: give {way_out} as source"
        )

    if given in ("imagenet", "untrained"):
        if given != wanted["name"]:  # known without a download
            raise refused(given)
    elif (found := weights.identify_source(given))["sha256"] != wanted["sha256"]:
        raise refused(given, found["sha256"])
    network, identity = weights.load_source(given, device)
    if identity["sha256"] != wanted["sha256"]:
        raise refused(given, identity["sha256"])
    return network, identity


@reading()
def _listed(images: Path | str | Sequence[Path | str]) -> list[Path]:
    if isinstance(images, str | Path):
        place = Path(images).expanduser()
        if not place.exists():
            raise InputError(f"{place} is neither a folder nor a picture: name what is to be scored")
        return layouts.to_score(place, None)[0] if place.is_dir() else [place]
    if not len(images):
        raise InputError("there are no pictures to score: give at least one")
    return [Path(path).expanduser() for path in images]


def _main(arguments: argparse.Namespace) -> None:
    loaded = load(arguments.detector, arguments.source, arguments.device)
    if arguments.threshold is not None or arguments.false_alarms is not None:
        loaded = loaded.with_threshold(arguments.threshold, false_alarms=arguments.false_alarms)
        print(loaded.threshold, file=sys.stderr)
    if arguments.save:
        save(loaded, arguments.save)
    if arguments.folder is None:
        return
    table = loaded.score(arguments.folder)
    above = int(table["bad"].sum())
    table["bad"] = np.where(table["bad"], "yes", "no")  # as in the scores.csv of 00_quickstart
    table["threshold"] = np.float32(loaded.threshold.value)
    if arguments.out:
        with atomic_write(arguments.out) as temporary:
            table.to_csv(temporary, index=False, errors="surrogateescape")
    else:
        sys.stdout.reconfigure(errors="surrogateescape")  # a file's name may be no text
        print(table.to_csv(index=False), end="")
    if arguments.regions:
        paths = [Path(path) for path in table["image"]]
        names = [f"{number:05d}" for number in range(1, len(paths) + 1)]
        regions.write(arguments.regions, names, paths, loaded.maps(paths), loaded.pixel_threshold)
    print(f"{above} of {len(table)} are above the threshold", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m kdhelpers.inspection.detector", description=__doc__)
    parser.add_argument("detector", type=Path, metavar="DETECTOR", help="detector.safetensors of 00_quickstart")
    parser.add_argument("folder", type=Path, metavar="FOLDER", nargs="?", help="of pictures to score, or one picture")
    parser.add_argument("--source", help="where the weights of its source are now, if not where they were then")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the scores go; without it, to standard output")
    parser.add_argument("--regions", type=Path, metavar="FOLDER", help="also write boxes.csv, masks/ and maps/ there")
    parser.add_argument("--threshold", type=float, help="another threshold, set by hand")
    parser.add_argument("--false-alarms", type=float, metavar="SHARE", help="another threshold, by its rate: 0.01")
    parser.add_argument("--save", type=Path, metavar="DETECTOR", help="save the detector with that threshold")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    in_one_line(_main, parser.parse_args())
