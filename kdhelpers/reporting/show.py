"""Tables as a notebook shows them: the same on GitHub, which knows no style sheets, as in JupyterLab, dark or light."""

import re
from collections.abc import Sequence
from html import escape

import pandas as pd
from tabulate import tabulate

from kdhelpers.reporting import tables

_TEXT = (
    'align="left" style="text-align: left; white-space: nowrap"'  # JupyterLab's own sheet has everything on the right
)
_NUMBER = 'align="right" style="text-align: right"'
_NUMERIC = re.compile(r"[-+−±\d.,%()†\s]*\d[-+−±\d.,%()†\s]*")  # as text, perhaps with its deviation and a mark


class Table:
    """What a cell returns: HTML for a browser, text for everything else."""

    def __init__(self, html: str, text: str):
        self.html, self.text = html, text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def table(frame: pd.DataFrame, caption: str = "", *, note: str = "", number: str = ".2f") -> Table:
    """The table without its index, under a caption and above a note.

    number: the format of what is a float; "–" stands for what is not there. A column with a number in it is on the
    right, be it as text.
    """
    rows = [[_text(value, number) for value in row] for row in frame.itertuples(index=False)]
    numeric = [any(map(_NUMERIC.fullmatch, column)) for column in zip(*rows, strict=True)] or [False] * frame.shape[1]
    kinds = [_NUMBER if right else _TEXT for right in numeric]
    names = [str(name) for name in frame.columns]
    html = [f"<p><b>{escape(caption)}</b></p>"] if caption else []
    html += ["<table>", "<thead>", _row("th", names, kinds), "</thead>", "<tbody>"]
    html += [_row("td", row, kinds) for row in rows]
    html += ["</tbody>", "</table>", *([f"<p>{escape(note)}</p>"] if note else [])]
    sides = ["right" if right else "left" for right in numeric]
    text = tabulate(rows, names, colalign=sides if rows else None, disable_numparse=True)
    return Table("\n".join(html), "\n".join(line for line in (caption, text, note) if line))


def beside_article(records: list[dict], number: int) -> Table:
    """`tables.beside_article` with Table `number`; how the runs deviate stands below, once for all that do it alike."""
    frame = tables.beside_article(records, number)
    alike = frame.groupby("deviates", sort=False)
    if len(alike) == 1:
        note = f"Deviates from the article: {frame['deviates'].iloc[0]}."
    else:
        names = frame["class"] + (" " + frame["variant"] if "variant" in frame else "")
        said = [f"{', '.join(names[rows].str.strip())}: {words}" for words, rows in alike.groups.items()]
        note = f"Deviates from the article: {'. '.join(said)}."
    return table(frame.drop(columns="deviates"), note=note)


def _row(tag: str, values: Sequence[str], kinds: Sequence[str]) -> str:
    cells = [f"<{tag} {kind}>{_unbroken(value)}</{tag}>" for value, kind in zip(values, kinds, strict=True)]
    return f"<tr>{''.join(cells)}</tr>"


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
