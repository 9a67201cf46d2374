"""The results for your own images besides the record: scores, heat maps, a sheet of the worst, and the detector."""

import math
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from kdhelpers import metrics, paths
from kdhelpers.data import ignore, safe_name
from kdhelpers.data.images import read_masks, read_picture
from kdhelpers.errors import InputError
from kdhelpers.experiments import records as results
from kdhelpers.files import atomic_write, refusal
from kdhelpers.inspection import detector, regions
from kdhelpers.inspection.detector import Detector
from kdhelpers.reporting import figures
from kdhelpers.reporting.text import BASELINES, either_way

DETECTOR = "detector.safetensors"
MOST = 100  # heat maps at most, of the highest scores above the threshold
MEASURED = 2 * 10**7  # pixels at most; each takes about 120 bytes
ON_SHEET = 24  # images with the highest scores, above the threshold or not; these always have a heat map
_LONGER_SIDE = (256, 800)  # minimum and maximum for a picture beside its heat map, in pixels


def folder_of(run) -> Path:
    """The folder of all results; smoke and every seed but 0 have separate ones, so that they overwrite no others."""
    place = run.results_dir / "smoke" if run.profile == "smoke" else run.results_dir
    return place / "own_images" / (run.classes[0] + (f"-seed{run.seed}" if run.seed else ""))


def describe(split) -> str:
    """Lines with the number of images of each kind, and the consequences of too few."""
    good, bad, unlabeled = np.bincount(split.labels, minlength=3)
    lines = [
        f"{len(split.train)} good images to learn from",
        *split.notes,
        f"{len(split.labels)} to score: {good} good ones, held out for the threshold; {bad} bad, {unlabeled} unlabeled",
    ]
    kinds = [("good", "bad", "unlabeled")[label] for label in split.labels]
    counts = Counter((str(path.parent), kind) for path, kind in zip(split.paths, kinds, strict=True))
    lines += [f"  {folder}: {count} {kind}" for (folder, kind), count in sorted(counts.items())]
    if split.tiles:
        lines.append(f"in tiles: {len(split.tiles.train)} to learn from, {len(split.tiles.test)} to score")
    if not bad:
        lines.append("no AUROC: " + ("the images to score are unlabeled" if unlabeled else "there are no bad images"))
    if len(split.train) < 30:
        few = f"too few good images: from {len(split.train)} the cloner hardly learns what may vary among good ones"
        lines.append(f"{few}, and will call new good images bad; use a hundred or more")
    return "\n".join(lines)


def judge(run, split) -> tuple[Detector, pd.DataFrame]:
    """The calibrated detector of a recorded run, and a table with one row per test image, in the split's order.

    Columns: image (path), kind, score (float32), bad ("yes" or "no"), threshold (float32). Computed in float32 after a
    training in any precision, as by the saved detector.
    """
    cls = run.classes[0]
    made = detector.load(run.cloner_path(cls), run.source, run.device)
    settings = {"map": run.map, "score_by": run.score_by}
    settings |= {"ignore": ignore.kept(run.own.ignore)}  # an equal mask may have been elsewhere in training
    made = replace(made, record=results.read(run.record_path(cls)), **settings)
    table, good = made.score(split.paths), np.flatnonzero(split.labels == 0)
    made = made.calibrated([split.paths[i] for i in good], run.false_alarms, table["score"].to_numpy()[good])
    table = made.verdicts(table)
    table.insert(1, "kind", split.kinds)
    return made, table


def auroc_of(record: dict) -> str:
    """The record's AUROC as text, beside two baselines without a network: mean brightness, and PCA of the pixels."""
    found, trivial = record["detection"]["auroc"], record["baselines"]
    if found is None:
        return f"no AUROC: {record['detection']['reason']}"
    alone = [f"{words} {either_way(name, trivial[name]):.1f} %" for name, words in BASELINES.items()]
    return f"AUROC: {found:.1f} %; without any network: {', '.join(alone)}"


def auroc_of_scores(run, split, table: pd.DataFrame) -> str:
    """AUROC of the table's scores as text: by SCORE and of the last epoch, so it differs from the recorded one."""
    found = metrics.auroc(table["score"].to_numpy(), split.labels)
    if found is None:
        return "without both good and bad images, no AUROC of these scores either"
    return f"scored by {run.score_by}: {found:.1f} %"


def pixels_of(made: Detector, split) -> str:
    """Pixel AUROC and AUPRO of the detector's maps as text, at the size of the maps, also with tiles.

    Images without a mask that are not known to be good are excluded, and so are ignored regions. Of more than MEASURED
    pixels, every second one, third one ... of a row and a column is measured.
    """
    if not any(split.mask_paths):
        return "no pixel AUROC: there are no masks"
    known = [i for i, mask in enumerate(split.mask_paths) if mask or split.labels[i] == 0]
    measured, mask_of = [], ignore.reader(made.ignore)
    for i in tqdm(known, desc="maps against masks", unit="image", delay=1, mininterval=1):
        path, mask = split.paths[i], split.mask_paths[i]
        (heat,) = made.maps([path])
        truth = read_masks([(mask, path)], heat.shape, own=True)[0] >= 0.5 if mask else np.zeros(heat.shape, bool)
        inside = ~ignore.ignored(heat.shape, mask_of(path))
        step = math.ceil(math.sqrt(heat.size * len(known) / MEASURED))
        measured.append([pixels[::step, ::step].copy() for pixels in (heat, truth, inside)])  # a view would keep all
    maps, masks, counted = zip(*measured, strict=True)
    found = metrics.localization(maps, masks, split.labels[known], soft=False, counted=counted)
    if reason := found.get("reason"):
        return f"no pixel AUROC: {reason}"
    names = {"pixel_auroc": "pixel AUROC of bad images", "pixel_auroc_all": "of all images", "aupro": "AUPRO"}
    return f"{made.map}: " + ", ".join(f"{words} {found[name]:.1f} %" for name, words in names.items())


def write(run, made: Detector, table: pd.DataFrame) -> Figure:
    """Write scores.csv, heat_maps/*.png, regions/, worst.png and detector.safetensors; return the sheet of the worst.

    The files are in `folder_of(run)`. Heat is drawn where a map exceeds the pixel threshold. Each file is written
    atomically, the detector last; heat maps and regions of an earlier run are removed. Prints a list of the files.
    Raises InputError when they cannot be written.
    """
    folder = folder_of(run)
    bad = int((table["bad"] == "yes").sum())
    worst = table.sort_values("score", ascending=False, kind="stable").head(min(max(bad, ON_SHEET), MOST))
    pictures, kinds = list(worst["image"]), list(worst["kind"])
    with atomic_write(folder / "scores.csv") as temporary:
        table.to_csv(temporary, index=False, errors="surrogateescape")
    try:
        for old in [*folder.glob("heat_maps/*.png"), *folder.glob("regions")]:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    except OSError as error:
        raise refusal(error.filename or folder, error) from error
    top = made.pixel_threshold / figures.LOW  # so that exactly the heat above the threshold is drawn
    on_sheet = []

    def drawn() -> Iterator[tuple[str, str, np.ndarray]]:
        """Write the heat maps one by one, since all maps may exceed the memory; yield name, picture and map."""
        for number, (path, kind, heat) in enumerate(zip(pictures, kinds, made.each_map(pictures), strict=True), 1):
            picture = _picture(path)
            hot = figures.overlay(picture, heat, top)
            # A file's name has at most 255 bytes.
            words = (safe_name(w).encode()[:80].decode(errors="ignore") or "image" for w in (kind, Path(path).stem))
            name = "-".join([f"{number:03d}", *words])
            with atomic_write(folder / "heat_maps" / f"{name}.png") as temporary:
                Image.fromarray(np.hstack([picture, np.full_like(picture[:, :8], 255), hot])).save(temporary, "png")
            on_sheet.extend([hot] * (number <= ON_SHEET))
            yield name, path, heat

    regions.write(folder / "regions", drawn(), made.pixel_threshold)
    title = f"{run.classes[0]}: the {len(on_sheet)} highest scores of {len(table)}, in orange above the threshold"
    title += f" — {run.title}" if run.title else ""
    sheet = figures.show_sheet(on_sheet, pictures, kinds, worst["score"].to_numpy(), made.threshold.value, title)
    with atomic_write(folder / "worst.png") as temporary:
        sheet.savefig(temporary, format="png", dpi=150)
    made_at, here = folder / DETECTOR, Path(sys.executable)
    previous = f"  {moved.name}  the previous one, which differs\n" if (moved := save(run, made)) else ""
    above = table.groupby("kind", sort=False)["bad"].agg(lambda each: f"{(each == 'yes').sum()} of {len(each)}")
    of_more = f" of {bad} above the threshold" if bad > MOST else ""
    python = here.relative_to(paths.ROOT) if here.is_relative_to(paths.ROOT) else "python"
    quoted = shlex.quote(str(made_at))
    print(
        f"above the threshold: {', '.join(f'{count} {kind}' for kind, count in above.items())}\n"
        f"{folder}:\n  scores.csv            {len(table)} images\n"
        f"  heat_maps/            the {len(worst)} worst{of_more}\n"
        f"  regions/              of the same: boxes.csv, masks/, maps/\n  worst.png             the sheet below\n"
        f"{previous}  {DETECTOR}  for new pictures:\n"
        f"    {python} -m kdhelpers.inspection.detector {quoted} FOLDER\n"
        f"    {python} -m kdhelpers.inspection.detector {quoted} --false-alarms 0.01 --save {quoted}\n"
        f"    {python} -m kdhelpers.inspection.detector {quoted} --accept FILE ...\n"
        f"    {python} -m kdhelpers.inspection.export {quoted} OUT.onnx"
    )
    return sheet


def save(run, made: Detector) -> Path | None:
    """Save the detector; return where the old one is now if it differed, not only by a threshold set by hand."""
    path, old, moved = folder_of(run) / DETECTOR, _saved(run), None
    but = {"source": None, "cloner": None, "ignore": None}  # the cloner's scores are in `held_out`
    but |= {"threshold": None, "pixel_threshold": 0.0} if made.threshold.false_alarms is None else {}
    same = old and replace(old, **but) == replace(made, **but) and np.array_equal(old.ignore, made.ignore)
    if path.is_file() and not same:
        places = (path.with_stem(f"{path.stem}-previous-{number}") for number in count(1))
        path.replace(moved := next(place for place in places if not place.exists()))
    detector.save(made, path)
    return moved


def is_written(run) -> bool:
    """True when the saved detector has the run's record, map, score and false-alarm rate."""
    saved, wanted = _saved(run), (run.map, run.score_by, run.false_alarms)
    same = bool(saved) and (saved.map, saved.score_by, saved.threshold.false_alarms) == wanted
    return same and saved.record == results.read(run.record_path(run.classes[0]))


def _saved(run) -> Detector | None:
    """The detector of an earlier run; None when it is missing, damaged, of another version or without a threshold."""
    with suppress(InputError):
        found = detector.read(folder_of(run) / DETECTOR)
        return found if found.threshold else None


def _picture(path: str) -> np.ndarray:
    """The picture as uint8 (h, w, 3), scaled so that its longer side is within `_LONGER_SIDE`."""
    picture = read_picture(path)
    factor = np.clip(max(picture.size), *_LONGER_SIDE) / max(picture.size)
    size = [max(1, round(side * factor)) for side in picture.size]
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
