"""Accepting false alarms: the cloner is trained further on pictures that a person has judged to be good."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdhelpers import training
from kdhelpers.cache import SourceActivations, keep_freed_memory
from kdhelpers.data import ignore, tiles
from kdhelpers.data.images import Images
from kdhelpers.data.layouts import Own, list_files
from kdhelpers.errors import InputError
from kdhelpers.files import file_sha256, reading
from kdhelpers.inspection.detector import Detector
from kdhelpers.protocols import SETTINGS

EPOCHS = SETTINGS["folder"].epochs // 4  # a quarter of a training from scratch


def accept(detector: Detector, files: Sequence[Path]) -> tuple[Detector, str]:
    """Train the cloner further on its good pictures and `files`; return it with new thresholds, and a report.

    Training resumes from the cloner with a new Adam. An accepted picture is no longer held out, since a threshold must
    not be set on learned pictures. Pictures accepted earlier are learned again. `detector` itself does not change.
    Raises InputError for missing pictures, when fewer than two held-out ones would remain, for a cloner of a data set,
    when the held-out pictures do not score as they did, and when no rate set the threshold (none, or one set by hand),
    because the new threshold needs one.
    """
    if detector.record["dataset"] != "folder":
        raise InputError("only a detector that 00_quickstart made learns accepted pictures")
    if not detector.threshold or detector.threshold.false_alarms is None:
        raise InputError("no rate set the threshold: also give --false-alarms, the rate for the new one")
    parameters, environment = detector.record["parameters"], detector.record["environment"]
    test_dir, masks = (value and Path(value) for value in map(environment.get, ("test_dir", "ignore")))
    place, label = ("folder", "", Path(environment["data_dir"]), parameters["seed"]), parameters["test_label"]
    try:
        split = list_files(*place, own=Own(test_dir, label, masks))
    except InputError:  # TEST_DIR may be gone or empty: good ones among its pictures are missed below
        if test_dir is None or any(map(Path.is_file, test_dir.rglob("*"))):
            raise
        split = list_files(*place, own=Own(None, label, None if masks and masks.is_dir() else masks))
    good = [image.path for image in split.test if image.label == 0]
    accepted = list(dict.fromkeys([*map(Path, detector.accepted), *(Path(file).absolute() for file in files)]))
    if gone := [path for path in detector.accepted if not Path(path).is_file()]:
        raise InputError(f"{gone[0]} was accepted earlier and is missing: put it back, because it is learned again")
    with reading():
        sums = {path: file_sha256(path) for path in [*split.train, *good, *accepted]}
    learned, known = {sums[Path(path)] for path in detector.accepted}, {sums[path] for path in accepted}
    scores, expected = detector.scores([p for p in good if sums[p] not in learned]), detector.held_out["scores"]
    if len(scores) != len(expected) or not np.allclose(scores, expected, rtol=1e-4):
        # Others would be held out now, most of them learned.
        what = f"the good pictures in {environment['data_dir']}, or what is ignored, have changed"
        raise InputError(f"{what}: the threshold was set on other held-out pictures; train again")
    held_out = [path for path in good if sums[path] not in known]
    if (left := len(held_out)) < 2:
        raise InputError(f"{left} held-out good pictures would be left for the threshold: add some, and train again")
    train = [*(path for path in split.train if sums[path] not in known), *accepted]
    before = detector.scores(accepted)

    cloner = deepcopy(detector.cloner)
    pixels, _ = tiles.read(train, detector.image_size, detector.tile, ignore.reader(detector.ignore))
    keep_freed_memory()
    activations = SourceActivations(detector.source, Images(pixels).to(next(cloner.parameters()).device))
    settings = {"epochs": EPOCHS, "title": "accepting"} | {name: parameters[name] for name in ("batch_size", "seed")}
    training.fit(activations, cloner, detector.protocol, **settings)
    learned = replace(detector, cloner=cloner.eval(), accepted=[str(path) for path in accepted])
    learned = learned.calibrated(held_out, detector.threshold.false_alarms)
    old, new = detector.threshold.value, learned.threshold.value
    lines = [
        f"trained {EPOCHS} more epochs on {len(train)} good pictures, {len(accepted)} of them accepted",
        f"threshold {old:.6g} before, {new:.6g} now, set on {len(held_out)} held-out good pictures",
    ]
    for path, b, a in zip(accepted, before, learned.scores(accepted), strict=True):
        lines.append(f"{path}: score {b:.6g} before, {a:.6g} now, {'above' if a > new else 'below'} the threshold")
    lines.append("keep accepted files in place for the next --accept; to train from scratch, add them to the good ones")
    return learned, "\n".join(lines)
