"""Tables as a notebook shows them: the same on GitHub, which knows no style sheets, as in JupyterLab, dark or light."""

import re
from dataclasses import dataclass
from html import escape

import pandas as pd
from tabulate import tabulate

from kdhelpers.experiments.records import kind_of, remark
from kdhelpers.reporting import tables

# In each cell, because JupyterLab's own sheet has everything on the right.
_TEXT = 'align="left" style="text-align: left; white-space: nowrap"'
_NUMBER = 'align="right" style="text-align: right"'
_NUMERIC = re.compile(r"[-+−±\d.,%()†\s]*\d[-+−±\d.,%()†\s]*")  # as text, perhaps with its deviation and a mark


@dataclass
class Table:
    """What a cell returns: HTML for a browser, text for everything else."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def table(frame: pd.DataFrame, caption: str = "", *, note: str = "", number: str = ".2f") -> Table:
    """The table without its index, under a caption and above a note.

    number: the format of floats; "–" stands for a missing value. A column with a number in it, even as text, is aligned
    to the right.
    """
    names = [str(name) for name in frame.columns]
    rows = [[_text(value, number) for value in row] for row in frame.itertuples(index=False)]
    right = [any(_NUMERIC.fullmatch(row[i]) for row in rows) for i in range(len(names))]

    def line(tag: str, values: list[str]) -> str:
        styles = [_NUMBER if one else _TEXT for one in right]
        cells = [f"<{tag} {style}>{_unbroken(value)}</{tag}>" for value, style in zip(values, styles, strict=True)]
        return f"<tr>{''.join(cells)}</tr>"

    html = [f"<p><b>{escape(caption)}</b></p>"] if caption else []
    html += ["<table>", "<thead>", line("th", names), "</thead>", "<tbody>"]
    html += [*(line("td", row) for row in rows), "</tbody>", "</table>"]
    html += [f"<p>{escape(note)}</p>"] if note else []
    sides = ["right" if one else "left" for one in right] if rows else None
    text = tabulate(rows, names, colalign=sides, disable_numparse=True)
    return Table("\n".join(html), "\n".join(filter(None, (caption, text, note))))


def beside_article(records: list[dict], number: int) -> Table:
    """`tables.beside_article` with Table `number`; how the runs deviate stands below, once for all that do it alike."""
    frame = tables.beside_article(records, number)
    names = frame["class"] + (" " + frame["variant"] if "variant" in frame else "")
    groups = names.str.strip().groupby(frame["deviates"], sort=False)
    said = [f"{', '.join(group)}: {words}" if len(groups) > 1 else words for words, group in groups]
    kind = kind_of(records[0])
    caption = remark(kind.profile, kind.source)
    return table(frame.drop(columns="deviates"), caption, note=f"Deviates from the article: {'. '.join(said)}.")


def _unbroken(value: str) -> str:
    """The text as HTML, indented where it begins with spaces, and a number on one line with its deviation."""
    words = value.lstrip(" ")
    return "&nbsp;" * (len(value) - len(words)) + re.sub(" ± (.*)", r"<br><small>±&nbsp;\1</small>", escape(words))


def _text(value: object, number: str) -> str:
    if isinstance(value, tuple):
        return " × ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if pd.isna(value):
        return tables.NOTHING
    return format(value, number) if isinstance(value, float) else str(value)
