"""The style of the figures on paper: sizes, fonts, headings, and the files they are saved in."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdhelpers.experiments.records import STALE, is_stale, only_one
from kdhelpers.files import atomic_write
from kdhelpers.reporting.text import title_of

NO_RECORD = "no record"
WIDTH, _DPI = 7.0, 200  # inches on paper; dots per inch
GREY = "0.4"
_STYLE = {
    "font.family": "DejaVu Sans",  # part of matplotlib: the same font on every machine
    "font.size": 6.5,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "image.composite_image": False,  # or a PDF applies the heat's alpha twice
    "pdf.fonttype": 42,
}
in_style = plt.style.context(["default", _STYLE])  # a complete style, independent of the session's settings


def say_nothing(axes: Axes, words: str = NO_RECORD) -> None:
    """Draw an empty frame with these words in place of a figure or of a part of it."""
    axes.set(xticks=[], yticks=[], facecolor="0.93")
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=9, color=GREY)


@in_style
def save(figure: Figure, stem: str, folder: Path) -> None:
    """Write STEM.png (200 dots per inch) and STEM.pdf; the same figure always gives the same bytes."""
    fixed = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": "kdhelpers"}}
    for suffix, metadata in fixed.items():
        with atomic_write(Path(folder, f"{stem}.{suffix}")) as file:
            figure.savefig(file, format=suffix, dpi=_DPI, metadata=metadata)


def origin(records: Sequence[dict], notebooks: Iterable[str], left_out: Sequence[str] = ()) -> list[str]:
    """Lines: the number of records left out, the kind, and of `notebooks` the deviations and stale records."""
    lines = [f"records left out for other settings or data: {len(left_out)}"] if left_out else []
    if kind := only_one(records):
        records = [record for record in records if record["notebook"] in notebooks]
        several = len({record["dataset"] for record in records}) > 1
        deviations = {
            f"{title_of(record['dataset'])}: " * several + deviation
            for record in records
            for deviation in record["deviations"]
            if not deviation.startswith(("smoke:", "source "))  # stated elsewhere
        }
        lines.append("; ".join([f"source {kind.source}, protocol {kind.protocol}", *sorted(deviations)]))
        if stale := sum(map(is_stale, records)):
            lines.append(f"{STALE} {stale} record{'s' * (stale > 1)} of another method version")
    return lines


def heading(name: str, title: str, lines: Iterable[str], width: float = WIDTH) -> str:
    letters = int(18.5 * width)  # per line
    first = [f"{name} — {title}"] if title and len(name) + len(title) + 3 <= letters else [name, title]
    return "\n".join(fill(line, letters, break_on_hyphens=False) for line in (*first, *lines) if line)
