"""Tables in notebooks: the same on GitHub, which ignores style sheets, as in JupyterLab, dark or light."""

import re
from dataclasses import dataclass
from html import escape

import pandas as pd
from tabulate import tabulate

from kdhelpers.experiments.records import kind_of, remark
from kdhelpers.reporting import tables
from kdhelpers.reporting.text import as_text

_WIDE, _DENSE = 12, "; padding: 2px 4px; font-size: 85%"  # a table of more columns fits a page of 1280 pixels so
_NUMERIC = re.compile(r"[-+−±\d.,%()†\s]*\d[-+−±\d.,%()†\s]*")  # as text, possibly with a standard deviation and a mark


@dataclass
class Table:
    """The result of a cell: HTML for a browser, text for everything else."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def table(frame: pd.DataFrame, caption: str = "", *, note: str = "", number: str = ".2f") -> Table:
    """A frame as a table without its index, with a caption above and a note below.

    number: the format of floats; "–" is a missing value. A column that contains a number, even as text, is aligned to
    the right.
    """
    names = [str(name) for name in frame.columns]
    rows = [[as_text(value, number) for value in row] for row in frame.itertuples(index=False)]
    dense = _DENSE if len(names) > _WIDE else ""
    sides = ["right" if any(_NUMERIC.fullmatch(row[i]) for row in rows) else "left" for i in range(len(names))]

    def line(tag: str, values: list[str]) -> str:
        cells = []  # each with its style, because JupyterLab's own style sheet aligns everything to the right
        for side, value in zip(sides, values, strict=True):
            style = f"text-align: {side}{'; white-space: nowrap' if side == 'left' else ''}{dense}"
            cells.append(f'<{tag} align="{side}" style="{style}">{_unbroken(value)}</{tag}>')
        return f"<tr>{''.join(cells)}</tr>"

    html = [f"<p><b>{escape(caption)}</b></p>"] if caption else []
    html += ["<table>", "<thead>", line("th", names), "</thead>", "<tbody>"]
    html += [*(line("td", row) for row in rows), "</tbody>", "</table>"]
    html += [f"<p>{escape(note)}</p>"] if note else []
    text = tabulate(rows, names, colalign=sides if rows else None, disable_numparse=True)
    return Table("\n".join(html), "\n".join(filter(None, (caption, text, note))))


def beside_article(records: list[dict], number: int) -> Table:
    """`tables.beside_article` for Table `number`; the note below has each set of deviations once."""
    frame = tables.beside_article(records, number)
    names = frame["class"] + (" " + frame["variant"] if "variant" in frame else "")
    groups = names.str.strip().groupby(frame["deviates"], sort=False)
    said = [f"{', '.join(group)}: {words}" if len(groups) > 1 else words for words, group in groups]
    kind = kind_of(records[0])
    caption = remark(kind.profile, kind.source)
    return table(frame.drop(columns="deviates"), caption, note=f"Deviates from the article: {'. '.join(said)}.")


def _unbroken(value: str) -> str:
    """The text as HTML: leading spaces indent it, and a standard deviation goes below its number, unbroken."""
    words = value.lstrip(" ")
    return "&nbsp;" * (len(value) - len(words)) + re.sub(" ± (.*)", r"<br><small>±&nbsp;\1</small>", escape(words))
