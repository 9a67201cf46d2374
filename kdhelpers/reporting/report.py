"""The report: one page with the verdict, every table and figure, and the command that reproduces each number.

It is generated from records only and needs no network: the style is embedded, and figures are data URIs.
"""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path

import jinja2
import pandas as pd

from kdhelpers.experiments.records import STALE, Kind, is_stale, precision_of, remark
from kdhelpers.experiments.variants import ABLATIONS
from kdhelpers.files import atomic_write
from kdhelpers.metrics import AUPRO_LIMIT
from kdhelpers.protocols import LAST_EPOCHS, METHOD_VERSION, PRECISIONS, SEEDS
from kdhelpers.reporting import comparison, extras, tables
from kdhelpers.reporting.ablations import CONFIDENCE, METRICS, variants_frame
from kdhelpers.reporting.commands import command_for, command_line
from kdhelpers.reporting.figures import small_png
from kdhelpers.reporting.published import NAMES, TABLES, doubtful_means
from kdhelpers.reporting.text import NOTHING, as_text, number

FIGURES = {
    "figure_1": "Heat maps: test images, and where the gradient of the loss is largest.",
    "figure_2": "The framework: the source, the cloner, and the critical points at which they are compared.",
    "figure_3": "Critical layers: AUROC with the last, the last two and all four critical points in the loss.",
    "figure_4": "Size of the cloner: the compact one beside one as wide as the source.",
    "figure_5": "Loss terms: the two terms of the loss, each alone and both together.",
    "figure_6": "Heat maps by category and kind of defect: image, mask and map.",
    "epochs": "Not in the article: image AUROC by epoch, and what choosing the epoch on the test set adds.",
}
VERDICTS = {word: word for word in ("inside", "near", "off", "stale", "deviates")} | {NOTHING: "no records"}
_ARTICLE = {  # captions of Tables 1 to 6
    1: "Localization on MVTecAD by three methods, without and with the Gaussian filter: pixel AUROC.",
    2: "Detection on MNIST, Fashion-MNIST and CIFAR-10, each class in turn the normal one: AUROC.",
    3: "Detection on MVTecAD by category: AUROC.",
    4: "Localization on MVTecAD by category: pixel AUROC.",
    5: "Detection on retinal OCT: AUROC.",
    6: "Detection on BrainMRI and HeadCT, the latter without and with augmented training images: AUROC.",
}
_ABLATIONS = {
    "11_critical_layers": "How many of the critical points, counted from the last, make the loss (Sec. 3.3.1).",
    "12_cloner_size": "The compact cloner against one of the source's own size (Sec. 3.3.2).",
    "13_loss_terms": "Value and direction, together and each alone (Sec. 3.3.3).",
    "14_interpretability": "Maps by three kinds of gradient (Sec. 3.3.4), and by the disagreement and the edges of the "
    "image, which are not in the article; all share one score.",
    "15_unstated_details": "What the article leaves open: each difference of the protocols alone, then all together; "
    "bias, another λ, an untrained source; for the medical sets another size and split.",
}
_PROVENANCE = {  # tables of the numbers' origin: their columns, and the column that lists notebooks or classes
    "Source network": (["source", "notebook", "sha256"], "notebook"),
    "Data: SHA-256 over the names and contents of all files used": (["dataset", "class", "data sha256"], "class"),
    "Code": (["made by", "notebook", "method version", "commit", "working tree"], "notebook"),
    "Environment": (["python", "platform", "device", "precision", "threads", "packages"], None),
}
_GROUPS = ("filter", "data set", "dataset", "notebook", "number")  # a first column of this name becomes title rows
_TEXT = {  # columns that are not numbers; "long" ones may wrap
    **dict.fromkeys(("row", "class", "method", "variant", "Gaussian", "data set"), "text"),
    **dict.fromkeys(("device", "made by", "working tree", "source", "python"), "text"),
    **dict.fromkeys(("deviates in", "notebook", "platform", "packages"), "text long"),
    **dict.fromkeys(("data sha256", "commit", "sha256"), "text code"),
    "command": "text code long",
}
_ROWS = {"  ": "sub", "article": "article", "this reproduction": "ours"}  # style of rows by the start of their title


def render(found: dict[Kind, list[dict]], main: Kind, figures: dict[str, bytes]) -> str:
    """The page as HTML: `main` in full, then a section for the records of each other kind of its profile.

    found: as `records.find` returns it; `main` may be missing. figures: the available PNG files, by their names in
    FIGURES. The same arguments give the same text. Raises InputError for a list with records of several kinds.
    """
    records = found.get(main, [])
    others = [kind for kind in sorted(found) if kind.profile == main.profile and kind != main]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"table": _table, "words": _words}
    template = environment.from_string(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        remark=remark(main.profile, main.source),
        main=_section(main, records, everything=True) | {"begin": _begin(main)},
        others=[_section(kind, found[kind], everything=False) for kind in others],
        article=[(n, _ARTICLE[n], tables.article_table(n, records)) for n in TABLES],
        captions=FIGURES,
        figures={name: base64.b64encode(figures[name]).decode() for name in FIGURES if name in figures},
        doubtful=doubtful_means().replace({"dataset": NAMES}).rename(columns={"dataset": "data set"}),
        verdicts=VERDICTS,
        rule=comparison,
        seeds=SEEDS,
        last=LAST_EPOCHS,
        aupro=AUPRO_LIMIT,
        confidence=CONFIDENCE,
        method_version=METHOD_VERSION,
    )


def folder(results_dir: Path, kind: Kind) -> Path:
    """The folder for tables, figures and report: RESULTS_DIR; for smoke beside full records, RESULTS_DIR/smoke."""
    real = next((results_dir / "records").glob("*/full/**/*.json"), None)
    return results_dir / "smoke" if kind.profile == "smoke" and real else results_dir


def write(found: dict[Kind, list[dict]], main: Kind, out: Path) -> Path:
    """Write report.html to the folder `out`, with the figures in its subfolder figures; returns the page's path."""
    there = {name: out / "figures" / f"{name}.png" for name in FIGURES}
    page = render(found, main, {name: small_png(path) for name, path in there.items() if path.is_file()})
    with atomic_write(out / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out / "report.html"


def _section(kind: Kind, records: Sequence[dict], everything: bool) -> dict:
    """The page's content for one kind. everything: True to include published numbers without records."""
    of_article = comparison.cells(records)
    by_table = pd.crosstab(of_article["table"], of_article["verdict"], margins=True, margins_name="all")
    by_table = by_table.reindex(columns=["all", *VERDICTS], fill_value=0)
    words = ["all" if table == "all" else f"Table {table}" for table in by_table.index]
    return {
        "kind": kind,
        "records": len(records),
        "counts": by_table.loc["all"].to_dict(),
        "by_table": by_table.rename(columns={"all": "published"} | VERDICTS).set_axis(words).reset_index(names="row"),
        "cells": _as_text(of_article if everything else of_article[of_article["verdict"] != NOTHING]),
        "ablations": list(_ablations(records)),
        "extras": {make.__name__: make(records) for make in (extras.metrics, extras.localization, extras.running_time)},
        "another_version": pd.Series([r["notebook"] for r in records if is_stale(r)]).value_counts().sort_index(),
        "provenance": _provenance(records),
    }


def _begin(kind: Kind) -> str:
    """The command that creates the first records of a kind."""
    precision = precision_of(kind.source)
    source = kind.source.removesuffix(f"-{precision}")
    source = source if source in ("imagenet", "untrained") else "PATH"
    settings = {"PROTOCOL": kind.protocol, "SOURCE": source, "PRECISION": precision}
    defaults = "official", "untrained" if kind.profile == "smoke" else "imagenet", PRECISIONS[0]
    changed = {k: v for (k, v), default in zip(settings.items(), defaults, strict=True) if v != default}
    return command_line(kind.profile, "", changed)


def _as_text(of_article: pd.DataFrame) -> pd.DataFrame:
    """One row per published number as text; the first column has its table, data set and method."""
    rows = []
    for cell in of_article.to_dict("records"):
        cell["number"] = f"Table {cell['table']}, {NAMES[cell['dataset']]}{comparison.OWN[cell['method']]}"
        cell["class"] = _words(cell["class"])
        cell["article"] = number(cell["article"], cell["article ±"], "g")
        cell["ours"] = number(cell["ours"], cell["±"])
        cell["seeds"] = cell["seeds"] or NOTHING
        cell["difference"] = number(cell["difference"], digits="+.2f")
        cell["deviates in"] = cell["deviates"] or (f"recorded: {cell['missing']}" if cell["missing"] else "")
        rows.append(cell)
    columns = ["number", "class", "article", "ours", "seeds", "difference", "verdict", "deviates in", "command"]
    return pd.DataFrame(rows, columns=columns)


def _ablations(records: Sequence[dict]) -> Iterator[dict]:
    """Yield each ablation with its tables by metric, for the classes that have a variant."""
    for notebook in ABLATIONS:
        _, left_out = variants_frame(notebook, records)
        of_metrics = []
        for metric, title in METRICS.items():
            beside = extras.variants_beside(notebook, records, metric)
            if len(beside):
                of_metrics.append((title, beside, extras.ablation(notebook, records, metric)))
        words = {"title": _words(notebook[3:]).capitalize(), "about": _ABLATIONS[notebook]}
        words["command"] = command_for(notebook, None, None, [], records)
        yield words | {"name": notebook, "metrics": of_metrics, "left_out": left_out}


def _provenance(records: Sequence[dict]) -> dict[str, pd.DataFrame]:
    """The numbers' origin, by the titles of _PROVENANCE: each entry once, with its number of records."""
    rows = []
    for record in records:
        made, source = record["environment"], record["source"]
        names = {"source": source["name"], "sha256": source["sha256"], "data sha256": record["data"]["sha256"]}
        names |= {"dataset": NAMES[record["dataset"]], "method version": made["method_version"]}
        names["made by"] = "another version" if is_stale(record) else "this version"
        names["commit"] = made["commit"] or "unknown"
        names["working tree"] = {True: "uncommitted changes", False: "clean", None: "unknown"}[made["dirty"]]
        names["packages"] = ", ".join(f"{name} {version}" for name, version in sorted(made["packages"].items()))
        rows.append(record | made | names)
    found = {}
    for title, (columns, listed) in _PROVENANCE.items():
        groups = pd.DataFrame(rows, columns=columns).groupby([name for name in columns if name != listed])
        table = groups.size().rename("records").to_frame()
        if listed:
            table[listed] = groups[listed].agg(lambda values: ", ".join(sorted(set(values))))
        found[title] = table.reset_index()[[*columns, "records"]]
    return found


def _table(frame: pd.DataFrame) -> dict:
    """A frame as the template takes it: a head and rows of (text, style) cells.

    A first column of _GROUPS is replaced by title rows, one wherever its value changes.
    """
    names = list(frame.columns)
    group = names.pop(0) if names and names[0] in _GROUPS else None
    texts = frame.map(lambda value: as_text(value, nothing=""))
    rows, last = [], ""
    for line in texts.to_dict("records"):
        if group and line[group] not in ("", last):
            last = line[group]
            rows.append(("group", [(last, "")]))
        style = next((style for start, style in _ROWS.items() if line.get("row", "").startswith(start)), "")
        rows.append((style, [(line[name], _style(name, line)) for name in names]))
    head = [("" if name == "row" else name, _TEXT.get(name, "number")) for name in names]
    return {"head": head, "rows": rows, "stale": any(STALE in value for value in texts.to_numpy().ravel())}


def _style(column: str, line: dict) -> str:
    value = line[column]
    if column == "verdict" or (line.get("row", "").strip().startswith("verdict") and value in VERDICTS):
        return "number verdict " + ("none" if value == NOTHING else value)
    if column == "made by":
        return "text verdict " + ("off" if value == "another version" else "inside")
    return _TEXT.get(column, "number")


def _words(name: str) -> str:
    return name.replace("_", " ")
