"""The results of your own images beside the record: scores, heat maps, a sheet of the worst, and the detector."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from kdhelpers.data import weights
from kdhelpers.data.images import read_picture
from kdhelpers.experiments import records as results
from kdhelpers.files import atomic_write
from kdhelpers.inspection import detector, thresholds
from kdhelpers.inspection.detector import Detector
from kdhelpers.metrics import BASELINES, either_way
from kdhelpers.reporting import figures

MOST = 100  # heat maps, of the images above the threshold, the worst first
ON_SHEET = 24  # of the worst, above the threshold or not; these always have a heat map
_LONGER_SIDE = (256, 800)  # pixels: the least and the most of a picture beside its heat map


def folder_of(run) -> Path:
    """The folder of all results; a smoke run has its own, so that it replaces nothing."""
    place = run.results_dir / "smoke" if run.profile == "smoke" else run.results_dir
    return place / "own_images" / run.classes[0]


def describe(split) -> str:
    """How many images of each kind there are, and what follows from too few, in plain lines."""
    good, bad, unlabeled = (int(np.sum(split.labels == label)) for label in (0, 1, 2))
    lines = [
        f"{len(split.train)} good images to learn from",
        f"{len(split.labels)} to score: {good} good ones, held out for the threshold; {bad} bad, {unlabeled} unlabeled",
    ]
    if not bad:
        lines.append("no AUROC: " + ("the images to score are unlabeled" if unlabeled else "there are no bad images"))
    if len(split.train) < 30:
        lines.append(
            f"too few good images: from {len(split.train)} the cloner hardly learns what may vary among good ones, and "
            "will call new good images bad; a hundred is a beginning"
        )
    return "\n".join(lines)


def judge(run, split) -> tuple[Detector, pd.DataFrame]:
    """The detector of a recorded run, with its threshold, and a row for each test image, in the split's order.

    The table: image (its path), kind, score (float32), bad (yes or no), threshold (float32).
    """
    cls = run.classes[0]
    source, source_id = weights.load_source(run.source, run.device)
    cloner, fit = run.fit(cls)
    made = Detector(source, cloner, fit.protocol, run.image_size, source_id, results.read(run.record_path(cls)))
    scores = made.scores(split.paths)
    threshold = thresholds.choose(scores[split.labels == 0], run.false_alarms)
    table = pd.DataFrame({"image": map(str, split.paths), "kind": split.kinds, "score": scores})
    table["bad"] = np.where(scores > np.float32(threshold.value), "yes", "no")
    table["threshold"] = np.float32(threshold.value)
    return replace(made, threshold=threshold), table


def auroc_of(record: dict) -> str:
    """AUROC in words, beside what needs no network: the images' mean brightness, and PCA of their pixels."""
    found, trivial = record["detection"]["auroc"], record["baselines"]
    if found is None:
        return f"no AUROC: {record['detection']['reason']}"
    alone = [f"{words} {either_way(name, trivial[name]):.1f} %" for name, words in BASELINES.items()]
    return f"AUROC: {found:.1f} %; without any network: {', '.join(alone)}"


def write(run, made: Detector, table: pd.DataFrame) -> Figure:
    """Write scores.csv, heat_maps/*.png, worst.png and detector.safetensors to `folder_of(run)`; return the sheet.

    Each file is written atomically, the detector last; heat maps of an earlier run are removed. Prints a list of the
    files. Raises InputError when there is no room.
    """
    folder, bad = folder_of(run), int((table["bad"] == "yes").sum())
    worst = table.sort_values("score", ascending=False, kind="stable").head(min(max(bad, ON_SHEET), MOST))
    maps = made.maps(list(worst["image"]))
    with atomic_write(folder / "scores.csv") as temporary:
        table.to_csv(temporary, index=False, errors="surrogateescape")
    for old in folder.glob("heat_maps/*.png"):
        old.unlink()
    on_sheet = []
    for rank, (row, heat) in enumerate(zip(worst.itertuples(), maps, strict=True), start=1):
        picture = _picture(row.image)
        hot = figures.overlay(picture, heat, float(maps.max()))
        name = f"{rank:03d}-{_safe(row.kind)}-{_safe(Path(row.image).stem)}.png"
        with atomic_write(folder / "heat_maps" / name) as temporary:
            Image.fromarray(np.hstack([picture, np.full_like(picture[:, :8], 255), hot])).save(temporary, "png")
        on_sheet += [hot] if rank <= ON_SHEET else []
    shown = worst.head(ON_SHEET)
    title = f"{run.classes[0]}: the {len(shown)} highest scores of {len(table)}, in orange above the threshold"
    title += f" — {run.title}" if run.title else ""
    scores = shown["score"].to_numpy()
    sheet = figures.show_sheet(on_sheet, list(shown["image"]), list(shown["kind"]), scores, made.threshold.value, title)
    with atomic_write(folder / "worst.png") as temporary:
        sheet.savefig(temporary, format="png", dpi=150)
    detector.save(made, folder / "detector.safetensors")
    which = f"the {len(worst)} worst" if len(worst) > bad else f"those above the threshold, {bad}"
    which = f"the {MOST} worst of the {bad} above the threshold, no more are drawn" if bad > MOST else which
    print(
        f"{folder}:\n  scores.csv            {len(table)} images\n  heat_maps/            {which}\n"
        f"  worst.png             the sheet below\n  detector.safetensors  for new pictures"
    )
    return sheet


def is_written(run) -> bool:
    """True when the saved detector is of the run's record and its false-alarm rate."""
    path = folder_of(run) / "detector.safetensors"
    if not path.is_file():
        return False
    saved = detector.read(path)
    current = results.read(run.record_path(run.classes[0]))
    return saved.record == current and saved.threshold.false_alarms == run.false_alarms


def _picture(path: str) -> np.ndarray:
    """The picture as uint8 (h, w, 3), scaled so that its longer side is within `_LONGER_SIDE`."""
    picture = read_picture(path)
    factor = np.clip(max(picture.size), *_LONGER_SIDE) / max(picture.size)
    size = [max(1, round(side * factor)) for side in picture.size]
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def _safe(name: str) -> str:
    """The name with "_" for what is unsafe in a file name, no longer than file systems allow."""
    return re.sub(r"[^\w.]+", "_", name).strip("._")[:80] or "image"
