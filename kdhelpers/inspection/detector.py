"""A trained cloner with its threshold, in one file: loaded anywhere, it scores pictures and shows where they are odd.

Command line: `python -m kdhelpers.inspection.detector DETECTOR FOLDER [--source S] [--out scores.csv]`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from kdhelpers.inspection.thresholds import Threshold
from kdhelpers.protocols import Protocol

SCHEMA = 1
_AT_ONCE = 64  # pictures that are read before they are scored


@dataclass(frozen=True)
class Detector:
    """Source, cloner and threshold. Each picture is computed by itself: no score depends on what else is scored.

    To the last digit scores are the same on the same kind of device with as many threads.
    """

    source: nn.Sequential
    cloner: nn.Sequential
    protocol: Protocol  # with the λ of the training
    image_size: int  # pixels that pictures are resized to
    source_id: dict[str, str]  # as `weights.load_source` has it
    record: dict  # of the training, as `artifacts.save` makes it
    threshold: Threshold | None = None

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
        """Where in each picture: float32 (n, image_size, image_size), each in [0, 1]; `images` as in `score`."""

        def one(x: Images) -> np.ndarray:
            return localization.maps("gradients", self.source, self.cloner, x, self.protocol, seed=0)["gaussian"]

        return np.concatenate(self._each(_listed(images), one, "heat maps"))

    def scores(self, paths: Sequence[Path]) -> np.ndarray:
        """The score of each picture: float32 (n,)."""

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
        "threshold": asdict(detector.threshold),
        "record": detector.record,
    }
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
        network, cloner.to(place), protocol, settings["image_size"], identity, settings["record"], threshold
    )


def read(path: Path | str) -> tuple[dict, nn.Sequential]:
    """What a detector says of itself, {schema, protocol, image_size, source, threshold, record}, and its cloner.

    The cloner is in eval mode, on the CPU. Raises InputError for a file that is no detector.
    """
    path = Path(path).expanduser()
    settings, state = _read(path)
    try:
        cloner = networks.make_cloner(Protocol(**settings["protocol"]), seed=0)
        cloner.load_state_dict(state)
        for name in ("image_size", "source", "record"):
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
        return [image.path for image in layouts.to_score(place, None)] if place.is_dir() else [place]
    if not len(images):
        raise InputError("there are no pictures to score: give at least one")
    return [Path(path).expanduser() for path in images]


def _main(arguments: argparse.Namespace) -> None:
    loaded = load(arguments.detector, arguments.source, arguments.device)
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
    print(f"{above} of {len(table)} are above the threshold", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m kdhelpers.inspection.detector", description=__doc__)
    parser.add_argument(
        "detector", type=Path, metavar="DETECTOR", help="detector.safetensors, as 00_quickstart made it"
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of pictures, or one picture")
    parser.add_argument("--source", help="where the weights of its source are now, if not where they were then")
    parser.add_argument("--out", type=Path, metavar="CSV", help="where the scores go; without it, to standard output")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    in_one_line(_main, parser.parse_args())
