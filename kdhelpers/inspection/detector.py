"""A trained cloner with its threshold in one file: loaded anywhere, it scores pictures and shows where they are odd.

Command line: `python -m kdhelpers.inspection.detector DETECTOR FOLDER [--source S] [--out scores.csv]`.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
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
    """Source, cloner and threshold. Each picture is computed alone: no score depends on what else is scored.

    To the last digit scores are the same on the same kind of device with as many threads.
    """

    source: nn.Sequential | None  # None: not loaded
    cloner: nn.Sequential
    protocol: Protocol  # with the λ of the training
    image_size: int  # pixels that pictures are resized to
    source_id: dict[str, str]  # {"name", "sha256"}, as `weights.load_source` returns it
    record: dict  # of the training, as `artifacts.save` makes it
    threshold: Threshold | None = None

    def score(self, images: Path | str | Sequence[Path | str]) -> pd.DataFrame:
        """A row for each picture: image (its path), score (float32), bad (bool: the score is above the threshold).

        images: a folder, with or without subfolders, one picture, or a list of pictures. Raises InputError for a path
        that is not a picture.
        """
        paths = _listed(images)
        scores = self.scores(paths)
        bad = scores > np.float32(self.threshold.value)
        return pd.DataFrame({"image": [str(path) for path in paths], "score": scores, "bad": bad})

    @torch.no_grad()
    def scores(self, paths: Sequence[Path]) -> np.ndarray:
        """The score of each picture: float32 (n,)."""
        found = []
        for image in self._each(paths, "scores"):
            a_s, a_c = (networks.critical_points(network, image[:]) for network in (self.source, self.cloner))
            found.append(losses.score(a_s, a_c, self.protocol).cpu().numpy())
        return np.concatenate(found)

    def maps(self, images: Path | str | Sequence[Path | str]) -> np.ndarray:
        """Where each picture is odd: float32 (n, image_size, image_size) in [0, 1]; `images` as in `score`."""
        networks_ = self.source, self.cloner
        each = self._each(_listed(images), "heat maps")
        greys = [localization.attribution("gradients", *networks_, image, self.protocol) for image in each]
        return localization.localization_map(np.concatenate(greys))

    def _each(self, paths: Sequence[Path], title: str) -> Iterator[Images]:
        """The pictures one by one on the cloner's device, with a progress bar."""
        device = next(self.cloner.parameters()).device
        with tqdm(total=len(paths), desc=title, unit="image", delay=1, mininterval=1) as progress:
            for start in range(0, len(paths), _AT_ONCE):
                pixels, _ = read_images(paths[start : start + _AT_ONCE], self.image_size)
                for one in pixels.split(1):
                    yield Images(one).to(device)
                    progress.update()


def save(detector: Detector, path: Path) -> None:
    """Write the cloner's weights, and all settings as JSON in the metadata, atomically; the source is not included."""
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
    None: where they were then. device: auto, cpu, cuda ... Raises InputError for a file that is not a detector, and for
    a source whose SHA-256 is not the recorded one.
    """
    found, place = read(path), device_of(device)
    network = load_source(source or found.record["environment"]["source"], found.source_id, path, place)
    return replace(found, source=network, cloner=found.cloner.to(place))


def read(path: Path | str) -> Detector:
    """The same on the CPU and without its source. Raises InputError for a file that is not a detector."""
    path = Path(path).expanduser()
    try:
        with safe_open(path, framework="pt") as file:
            settings = json.loads((file.metadata() or {})["detector"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, KeyError, ValueError):
        fix = "name the detector.safetensors that 00_quickstart has written"
        raise InputError(f"{path} is missing, or is not a detector: {fix}") from None
    try:
        if settings["schema"] != SCHEMA:
            raise ValueError(f"schema {settings['schema']} instead of {SCHEMA}")
        protocol, threshold = Protocol(**settings["protocol"]), settings["threshold"]
        threshold = Threshold(**threshold | {"interval": tuple(threshold["interval"])})
        cloner = networks.make_cloner(protocol, seed=0)
        cloner.load_state_dict(state)
        rest = (settings[name] for name in ("image_size", "source", "record"))
        return Detector(None, cloner.eval(), protocol, *rest, threshold)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is a detector of another version of kdhelpers ({reason}): make it again") from None


def load_source(given: str, wanted: dict[str, str], path: Path | str, device: torch.device | str) -> nn.Sequential:
    """The source `given`, as the notebooks' SOURCE, if it is the one that the cloner at `path` was trained with.

    wanted: its {"name", "sha256"}. Raises InputError when it is another one, without a download where that is known.
    """
    network, found = None, {"sha256": ""}
    if given not in (builtin := ("imagenet", "untrained")):
        found = weights.identify_source(given)
    if found["sha256"] == wanted["sha256"] or given == wanted["name"]:
        network, found = weights.load_source(given, device)
    if found["sha256"] == wanted["sha256"]:
        return network
    fix = wanted["name"] if wanted["name"] in builtin else "the path of that file"
    of = f" ({found['sha256'][:8]}…)" if found["sha256"] else ""
    raise InputError(
        f"{path} was trained with the source {wanted['name']} (SHA-256 {wanted['sha256'][:8]}…), and {given}{of} is "
        f"another one: give {fix} as source"
    )


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
    parser.add_argument("detector", type=Path, metavar="DETECTOR", help="detector.safetensors, from 00_quickstart")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of pictures, or one picture")
    parser.add_argument("--source", help="where the source's weights are now, if they were moved")
    parser.add_argument("--out", type=Path, metavar="CSV", help="a file for the scores; default: standard output")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    in_one_line(_main, parser.parse_args())
