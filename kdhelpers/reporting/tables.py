"""Tables of our numbers, from records, beside the article's, from data/paper.

Every table is a DataFrame; `write_all` writes three files of each. Numbers are per cent unless a column says otherwise.
"""

import shutil
from collections import defaultdict
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
from kdhelpers.reporting.comparison import MEAN, OWN, cells, value_of
from kdhelpers.reporting.published import TABLES, as_printed, published, reruns
from kdhelpers.reporting.text import NOTHING, main_runs, mean_std, number, title_of

_IN_LATEX = {"±": r"$\pm$", "–": "--", "λ": r"$\lambda$", "·": r"$\cdot$", "−": "$-$", STALE: r"$\dagger$"}
TRIVIAL = {table: {} if table in (1, 4) else BASELINES for table in TABLES}  # none for localization


def beside_article(records: list[dict], table: int) -> pd.DataFrame:
    """One row per record: its number, the article's, the difference, the trivial baselines, and the run's deviations.

    "article ±" is the article's standard deviation over ten seeds. One seed's difference is not yet a comparison.
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
                **{words: either_way(name, record["baselines"][name]) for name, words in TRIVIAL[table].items()},
                "deviates": "; ".join(record["deviations"]) or "in nothing",
            }
        )
    return extras.without_empty(pd.DataFrame(rows), "variant")


def article_table(table: int, records: Sequence[dict]) -> pd.DataFrame:
    """One of the article's Tables 1 to 6 with all competing methods, and our rows below the article's own; text.

    The article's numbers are as printed. Ours are mean ± standard deviation over seeds (no ± for one seed), "–" without
    records. Below them are the number of seeds, the difference, and `comparison.verdict`; then the reruns by others
    (`published.reruns`). Detection tables end with the trivial baselines: AUROC on the same split, for brightness in
    whichever direction separates better.
    """
    printed, ours = as_printed(table), cells(records, [table]).set_index(["dataset", "method", "class"])
    below = pd.concat([reruns(table), trivial(table, records)])
    by = {1: "method", 2: "dataset"}.get(table)  # the first column; other tables have one block
    column = "dataset" if table == 6 else "class"
    blocks = []
    for group, part in printed.groupby(by, sort=False) if by else [("", printed)]:
        lines: dict[str, dict[str, str]] = defaultdict(dict)  # by row and column
        for dataset, method, cls, value, std in part.itertuples(index=False):
            at = dataset if table == 6 else cls
            if method not in OWN:
                lines[method][at] = _text(value, std)
                continue
            of_own, cell = "" if table == 1 else OWN[method], ours.loc[dataset, method, cls]
            lines[f"article{of_own}"][at] = _text(value, std)
            lines[f"this reproduction{of_own}"][at] = number(cell["ours"], cell["±"])
            lines[f"  seeds{of_own}"][at] = str(cell["seeds"] or NOTHING)
            lines[f"  difference{of_own}"][at] = number(cell["difference"], digits="+z.2f")
            lines[f"  verdict{of_own}"][at] = cell["verdict"]
        if table == 5:  # the article has no own number for RESC; ours is beside OCT2017
            resc = [r["detection"]["auroc"] for r in main_runs(records) if r["class"] == "resc"]
            lines["this reproduction"]["resc"] = mean_std(resc)
        for cell in below[below["dataset"].isin(part["dataset"])].to_dict("records"):
            lines[cell["method"]][cell[column]] = _text(cell["value"], cell["std"])
        columns = sorted(dict.fromkeys(part[column]), key=lambda name: name != MEAN)  # the mean first, in view
        block = pd.DataFrame.from_dict(lines, orient="index").reindex(columns=columns)
        block = block.rename(columns=title_of).rename_axis("row").reset_index()
        if by:
            block.insert(0, title_of(by), [title_of(group), *[""] * (len(block) - 1)])
        blocks.append(block)
    return pd.concat(blocks).fillna("").reset_index(drop=True)


def _text(value: str | float, std: str | float) -> str:
    """A number as printed, or with two decimals when it was computed."""
    return number(value) if isinstance(value, float) else value + ("" if pd.isna(std) else f" ± {std}")


def article_numbers(table: int, records: Sequence[dict]) -> pd.DataFrame:
    """The numbers of `article_table`, one per row: columns dataset, class, method, value, std, and for our rows seeds,
    difference, verdict, deviates, missing and command."""
    paper, ours = published(table), cells(records, [table]).rename(columns={"ours": "value", "±": "std"})
    paper["method"] = [f"article{OWN[method]}" if method in OWN else method for method in paper["method"]]
    ours["method"] = "this reproduction" + ours["method"].map(OWN)
    others = reruns(table).astype({"value": float, "std": float})
    names = ["dataset", "class", "method", "value", "std", "seeds", "difference"]
    names += ["verdict", "deviates", "missing", "command"]
    frames = [frame for frame in (paper, ours, others, trivial(table, records)) if len(frame)]
    return pd.concat(frames).reindex(columns=names).astype({"seeds": "Int64"})


def trivial(table: int, records: Sequence[dict]) -> pd.DataFrame:
    """The trivial baselines on the classes of a table: columns dataset, class, method and value.

    A value is the mean over seeds. For brightness, the direction is then chosen once per class, not for each seed.
    """
    main = [r for r in main_runs(records) if r["variant"] is None]
    rows = []
    for name, words in TRIVIAL[table].items():
        for dataset, part in published(table).groupby("dataset", sort=False):
            values: dict[str, float | None] = {}
            for cls in part["class"].unique():
                found = [r["baselines"][name] for r in main if (r["dataset"], r["class"]) == (dataset, cls)]
                of = list(values.values()) if cls == MEAN else found
                values[cls] = either_way(name, np.mean(of) if of and None not in of else None)
            rows += [(dataset, cls, words, value) for cls, value in values.items()]
    return pd.DataFrame(rows, columns=["dataset", "class", "method", "value"]).astype({"value": float})


def write_all(records: Sequence[dict], folder: Path) -> None:
    """Replace `folder` by Tables 1 to 6 and the tables beyond the article's, as csv, md and tex each.

    table_1 … table_6, cells, metrics, localization, running_time; in ablations NOTEBOOK_METRIC by class and
    NOTEBOOK_METRIC_variants. Each file names the kind of its records; tables without rows are not written.
    """
    kind = str(only_one(records) or "no records")
    frames = {f"table_{table}": article_table(table, records) for table in TABLES}
    frames |= {"cells": cells(records)}
    frames |= {make.__name__: make(records) for make in (extras.metrics, extras.localization, extras.running_time)}
    for notebook, metric in product(ABLATIONS, METRICS):
        frames[f"ablations/{notebook}_{metric}"] = extras.ablation(notebook, records, metric)
        frames[f"ablations/{notebook}_{metric}_variants"] = extras.variants_beside(notebook, records, metric)
    numbers = frames | {f"table_{table}": article_numbers(table, records) for table in TABLES}
    shutil.rmtree(folder, ignore_errors=True)  # so that no tables of another kind remain
    for stem, frame in frames.items():
        if frame.empty:
            continue
        texts = frame.map(lambda value: number(value) if isinstance(value, float) else str(value))
        styled = texts.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
        latex = styled.to_latex(hrules=True, column_format="l" * len(frame.columns))
        files = {
            "csv": numbers[stem].assign(records=kind).to_csv(index=False, lineterminator="\n"),
            "md": f"*{kind}*\n\n" + texts.to_markdown(index=False, disable_numparse=True) + "\n",
            "tex": f"% {kind}\n" + latex.translate(str.maketrans(_IN_LATEX)),
        }
        for suffix, text in files.items():
            with atomic_write(folder / f"{stem}.{suffix}") as temporary:
                temporary.write_text(text, encoding="utf-8")
