"""Ours beside the article's: records on one side, the published numbers of data/paper on the other.

Every table is a DataFrame; `write` makes the three files of it. Numbers are per cent unless a column says otherwise.
"""

import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from kdhelpers.experiments.records import STALE, only_one
from kdhelpers.experiments.variants import ABLATIONS
from kdhelpers.files import atomic_write
from kdhelpers.metrics import BASELINES, either_way
from kdhelpers.reporting import extras
from kdhelpers.reporting.ablations import METRICS
from kdhelpers.reporting.comparison import MEAN, cells, value_of
from kdhelpers.reporting.published import TABLES, as_printed, published, reruns
from kdhelpers.reporting.text import NOTHING, main_runs, mean_std, number, title_of

_IN_LATEX = {"±": r"$\pm$", "–": "--", "λ": r"$\lambda$", "·": r"$\cdot$", "−": "$-$", STALE: r"$\dagger$"}


def beside_article(records: list[dict], table: int) -> pd.DataFrame:
    """A row for each record: its number, the article's, the difference, and in what the run deviates from the article.

    "article ±" is the article's standard deviation over ten seeds. A difference of one seed is not yet a comparison.
    """
    only_one(records)
    paper = published(table).set_index(["dataset", "class", "method"])
    rows = []
    for record in records:
        cell = record["dataset"], record["class"], "ours+aug" if record["variant"] == "augmented" else "ours"
        value, std = paper.loc[cell] if cell in paper.index else (None, None)
        ours = value_of(record, table)
        rows.append(
            {
                **{"class": record["class"], "variant": record["variant"] or "", "seed": record["seed"]},
                **{"ours": ours, "article": value, "article ±": std},
                "difference": None if ours is None or value is None else ours - value,
                **{words: either_way(name, record["baselines"][name]) for name, words in _baselines(table).items()},
                "deviates": "; ".join(record["deviations"]) or "in nothing",
            }
        )
    return extras.without_empty(pd.DataFrame(rows), "variant")


def _baselines(table: int) -> dict[str, str]:
    """The trivial detectors that stand in a table: none where maps are measured."""
    return {} if table in (1, 4) else BASELINES


def article_table(table: int, records: Sequence[dict]) -> pd.DataFrame:
    """Table 1 to 6 of the article in full, all competing methods, with our rows under the article's own; text.

    The numbers of the article stand as printed. Ours are mean ± standard deviation over seeds (no ± for one seed), "–"
    where records are missing; below them how many seeds, the difference, and the verdict of `comparison.verdict`; then
    what others got (`published.reruns`). Tables of detection end with the trivial rows, AUROC on the same split:
    whichever of brighter and darker separates better.
    """
    ours, others, trivial = cells(records, [table]), reruns(table), _trivial(table, records)
    by = {1: "method", 2: "dataset"}.get(table)  # what stands in the first column; the other tables have one block
    column = "dataset" if table == 6 else "class"
    blocks = []
    for group, part in as_printed(table).groupby(by, sort=False) if by else [("", as_printed(table))]:
        lines: dict[str, dict[str, str]] = {}
        of_block = [frame[frame["dataset"].isin(part["dataset"])] for frame in (ours, others, trivial)]
        for method, row in part.groupby("method", sort=False):
            name, own_name = _row_names(method)
            lines[name] = _texts(row, column)
            if own_name:
                lines |= _our_lines(of_block[0][of_block[0]["method"] == method], column, own_name)
        if table == 5:  # RESC has no published number of the article's own, and stands beside OCT2017
            resc = [r["detection"]["auroc"] for r in main_runs(records) if r["class"] == "resc"]
            lines["this reproduction"]["resc"] = mean_std(resc)
        for frame in of_block[1:]:
            for name, row in frame.groupby("method", sort=False):
                lines[name] = _texts(row, column)
        columns = sorted(dict.fromkeys(part[column]), key=lambda name: name != MEAN)  # the mean first, and in sight
        block = pd.DataFrame.from_dict(lines, orient="index").reindex(columns=columns)
        block = block.rename(columns=title_of).rename_axis("row").reset_index()
        if by:
            block.insert(0, title_of(by), [title_of(group), *[""] * (len(block) - 1)])
        blocks.append(block)
    return pd.concat(blocks).fillna("").reset_index(drop=True)


def _row_names(method: str) -> tuple[str, str]:
    """The row of a published method, and the one below it with ours; "" where it is not the article's own method."""
    if method == "ours+aug":
        return "article, augmented", "this reproduction, augmented"
    own = method in ("ours", "with_gaussian", "without_gaussian")
    return ("article", "this reproduction") if own else (method, "")


def _texts(rows: pd.DataFrame, column: str) -> dict[str, str]:
    """A row of the table: the numbers of the article as printed, computed ones with two decimals."""
    texts = {}
    for cell in rows.to_dict("records"):
        value, std = cell["value"], cell.get("std")
        text = NOTHING if pd.isna(value) else value if isinstance(value, str) else f"{value:.2f}"
        texts[cell[column]] = text + ("" if pd.isna(std) else f" ± {std}")
    return texts


def _our_lines(ours: pd.DataFrame, column: str, name: str) -> dict[str, dict[str, str]]:
    augmented = name.removeprefix("this reproduction")  # of the second block of Table 6
    names = name, f"  seeds{augmented}", f"  difference{augmented}", f"  verdict{augmented}"
    lines: dict[str, dict[str, str]] = {line: {} for line in names}
    for cell in ours.to_dict("records"):
        texts = number(cell["ours"], cell["±"]), str(cell["seeds"]), f"{cell['difference']:+z.2f}"
        for line, text in zip(names, [*(texts if cell["seeds"] else [NOTHING] * 3), cell["verdict"]], strict=True):
            lines[line][cell[column]] = text
    return lines


def article_numbers(table: int, records: Sequence[dict]) -> pd.DataFrame:
    """The same table as numbers, a row for each: columns dataset, class, method, value, std, and for our rows seeds,
    difference, verdict, deviates, missing and command."""
    paper, ours = published(table), cells(records, [table]).rename(columns={"ours": "value", "±": "std"})
    for frame, which in ((paper, 0), (ours, 1)):
        block = ", " + frame["method"].str.replace("_", " ") if table == 1 else ""
        frame["method"] = frame["method"].map(lambda method, which=which: _row_names(method)[which]) + block
    others = reruns(table).astype({"value": float, "std": float})
    names = ["dataset", "class", "method", "value", "std", "seeds", "difference"]
    names += ["verdict", "deviates", "missing", "command"]
    frames = [frame for frame in (paper, ours, others, _trivial(table, records)) if len(frame)]
    return pd.concat(frames).reindex(columns=names).astype({"seeds": "Int64"})


def _trivial(table: int, records: Sequence[dict]) -> pd.DataFrame:
    """The numbers of the trivial detectors on the classes of a table: columns dataset, class, method and value.

    The mean over seeds, then the sign that separates better: one sign for a class, not one for each seed.
    """
    main = [r for r in main_runs(records) if r["variant"] is None]
    rows = []
    for name, words in _baselines(table).items():
        for dataset, part in published(table).groupby("dataset", sort=False):
            values = {}
            for cls in part["class"].unique():
                found = [r["baselines"][name] for r in main if (r["dataset"], r["class"]) == (dataset, cls)]
                values[cls] = either_way(name, _mean(values.values() if cls == MEAN else found))
            rows += [(dataset, cls, words, value) for cls, value in values.items()]
    return pd.DataFrame(rows, columns=["dataset", "class", "method", "value"]).astype({"value": float})


def _mean(values) -> float | None:
    values = list(values)
    return float(np.mean(values)) if values and None not in values else None


def write_all(records: Sequence[dict], folder: Path) -> None:
    """Write Tables 1 to 6 and what the article leaves out to `folder`, as csv, md and tex each.

    table_1 … table_6, cells, metrics, localization, running_time; in ablations NOTEBOOK_METRIC by class and by variant.
    """
    only_one(records)
    frames = {f"table_{table}": article_table(table, records) for table in TABLES}
    frames |= {"cells": cells(records)}
    frames |= {make.__name__: make(records) for make in (extras.metrics, extras.localization, extras.running_time)}
    for notebook, metric in product(ABLATIONS, METRICS):
        frames[f"ablations/{notebook}_{metric}"] = extras.ablation(notebook, records, metric)
        frames[f"ablations/{notebook}_{metric}_variants"] = extras.variants_beside(notebook, records, metric)
    numbers = {f"table_{table}": article_numbers(table, records) for table in TABLES}
    shutil.rmtree(folder, ignore_errors=True)  # none of another kind is left beside these
    for stem, frame in frames.items():
        _write(frame, numbers.get(stem, frame), folder / stem, str(only_one(records) or "no records"))


def _write(wide: pd.DataFrame, numbers: pd.DataFrame, stem: Path, kind: str) -> None:
    """Write STEM.csv of `numbers`, and STEM.md and STEM.tex of `wide`, each naming the kind of its records; a table
    without rows is not written."""
    if wide.empty:
        return
    as_text = wide.map(lambda value: f"{value:.2f}" if isinstance(value, float) else value).replace("nan", NOTHING)
    styled = as_text.astype(str).style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    latex = styled.to_latex(hrules=True, column_format="l" * len(wide.columns))
    files = {
        "csv": numbers.assign(records=kind).to_csv(index=False, lineterminator="\n"),
        "md": f"*{kind}*\n\n" + as_text.to_markdown(index=False, disable_numparse=True) + "\n",
        "tex": f"% {kind}\n" + latex.translate(str.maketrans(_IN_LATEX)),
    }
    for suffix, text in files.items():
        with atomic_write(stem.with_suffix(f".{suffix}")) as temporary:
            temporary.write_text(text, encoding="utf-8")
