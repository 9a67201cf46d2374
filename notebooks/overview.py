"""What is printed before anything runs: a table of it, or, without any data, what you can still run."""

import textwrap
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from kdhelpers.reporting.published import NAMES

WIDTH = 110
DOWNLOAD = "download"
SIZES = {"mnist": "12 MB", "fashion_mnist": "31 MB", "cifar10": "170 MB"}
BY_HAND = {"mvtec": "MVTecAD", "retinal_oct": "OCT2017, RESC", "head_ct": "HeadCT", "brain_mri": "BrainMRI"}
_WITHOUT_DATA = {
    "21_running_time": "running time of this machine",
    "30_beside_anomalib": "anomalib's methods beside ours, on one category of MVTecAD",
    "90_tables_and_figures": "tables and figures from the records",
}


@dataclass(frozen=True)
class Row:
    """A notebook that trains: the state of its data, how to get what is missing, and the sums over its jobs."""

    notebook: str
    data: str
    help: str
    records: int
    recorded: int
    runs: int
    work: float


def without_data(notebooks: Iterable[str]) -> str:
    """Instead of a table, where nothing is trained."""
    return "; ".join(_WITHOUT_DATA[notebook] for notebook in notebooks)


def state_of(states: dict[str, str]) -> str:
    """One word or two for the data sets of a notebook; of several that differ, only what is not all there."""
    if len(set(states.values())) == 1:
        return next(iter(states.values()))
    lacking = {state: [] for state in states.values() if state not in ("present", "as given", DOWNLOAD)}
    for dataset in (dataset for dataset in states if states[dataset] in lacking):
        lacking[states[dataset]].append(dataset)
    return "; ".join(f"{state}: {', '.join(datasets)}" for state, datasets in lacking.items()) or DOWNLOAD


def table(rows: list[Row], weights: Path | None) -> str:
    """The table, and below it what is missing and how to get it; weights: where the ImageNet weights will go."""
    total = max(sum(row.work for row in rows), 1)
    cells = [("notebook", "data", "recorded", "runs to do", "share of work")]
    for row in rows:
        recorded = f"{row.recorded} of {row.records}" if row.records else "–"
        cells.append((row.notebook, row.data, recorded, str(row.runs), f"{100 * row.work / total:.0f} %"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = (str.ljust, str.ljust, str.rjust, str.rjust, str.rjust)
    lines = ["  ".join(side(*cell) for side, *cell in zip(sides, line, widths, strict=True)) for line in cells]
    notes = [f"{row.notebook}, {row.data}: {row.help}" for row in rows if row.help]
    if weights:
        notes.append(f"source imagenet: VGG-16's weights (528 MB) will be downloaded to {weights}")
    return "\n".join([*lines, *map(_folded, notes)])


def nothing_yet(
    folder: Path, downloads: Collection[str], by_hand: Collection[str], weights: Path | None, runs: int
) -> str:
    """What can be run without data and records.

    folder: DATA_DIR. downloads, by_hand: the data sets that can be downloaded, and the others. weights: where the
    ImageNet weights belong, None where they are present. runs: how many can run after the downloads.
    """
    come = [f"{NAMES[dataset]} ({SIZES[dataset]})" for dataset in downloads] + ["the weights (528 MB)"] * bool(weights)
    own = "./run_all.sh full 00 --config DATA_DIR=good_parts TEST_DIR=new_parts"
    items = {
        "without data": [
            "./run_all.sh smoke",
            "all notebooks on generated samples, in minutes: checks the installation",
        ],
        "with your own images": [own],
    }
    if weights:
        items["with your own images"] = [
            f"{own} SOURCE=vgg16.pth",
            "SOURCE: the path of a VGG-16; or untrained, only to try it",
        ]
    if come:
        items["with a network"] = [_listed(come), f"are downloaded, then {runs} runs start"]
    if by_hand:
        fetched = _listed(BY_HAND[dataset] for dataset in by_hand)
        items["by hand"] = [
            f"{fetched}:",
            "data/README.md lists sources and folders; then rerun the same command",
        ]
    if weights:
        url = f"download.pytorch.org/models/{weights.name}"
        items["the weights by hand"] = [f"{url},", f"then --config SOURCE=/path/to/{weights.name}"]
    lines = [f"There is no data in {folder}{', and no ImageNet weights' * bool(weights)}. What you can run:"]
    for title, (first, *rest) in items.items():
        lines += [f"  {title:22}{first}", *(f"{'':24}{line}" for line in rest)]
    return "\n".join(lines)


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _folded(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
