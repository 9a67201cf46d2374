"""Tables in a notebook: what GitHub shows of them, and what a terminal does."""

import numpy as np
import pandas as pd
from bs4 import BeautifulSoup

from kdhelpers.reporting import show
from kdhelpers.tests.conftest import make_record

FRAME = pd.DataFrame({"class": ["a<b", "c"], "seed": [0, 1], "ours": [99.5, np.nan], "shape": [(3, 4), (5, 6)]})


def test_every_number_and_word_stands_in_both_forms():
    table = show.table(FRAME, "Table 9", note="one & two")
    html = table._repr_html_()
    rows = BeautifulSoup(html, "html.parser").find_all("tr")
    read = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in rows]
    assert read == [["class", "seed", "ours", "shape"], ["a<b", "0", "99.50", "3 × 4"], ["c", "1", "–", "5 × 6"]]
    assert "Table 9" in html and "one &amp; two" in html
    lines = repr(table).splitlines()
    assert (lines[0], lines[-1]) == ("Table 9", "one & two")
    assert lines[3].split() == ["a<b", "0", "99.50", "3", "×", "4"]
    # Numbers are on the right without a style sheet, and nothing changes from run to run.
    assert html.count('<td align="right"') == 4 and html.count('<td align="left"') == 4
    assert "<style" not in html and " id=" not in html and " object at 0x" not in repr(table)
    values = pd.DataFrame({"score": [0.0123412], "bad": [True]})
    assert repr(show.table(values, number=".4g")).split()[-2:] == ["0.01234", "yes"]
    assert "class" in repr(show.table(FRAME[:0]))  # an empty table has its columns


def test_how_a_run_deviates_is_said_once_where_it_is_the_same():
    records = [make_record(cls="0"), make_record(cls="1")]
    said = repr(show.beside_article(records, 2))
    assert said.endswith("Deviates from the article: in nothing.") and said.count("in nothing") == 1
    records[1]["deviations"] = ["epochs 5 instead of 51"]
    said = repr(show.beside_article(records, 2))
    assert said.endswith("Deviates from the article: 0: in nothing. 1: epochs 5 instead of 51.")
    assert "deviates" not in said


def test_a_column_with_numbers_as_text_is_on_the_right_and_names_with_digits_are_not():
    texts = {"row": ["article", "  verdict"], "0": ["91.00 ± 1.00", "inside"], "notebook": ["04_mvtec"] * 2}
    html = show.table(pd.DataFrame(texts))._repr_html_()
    first = html.split("</tr>")[1].split("</td>")[:3]
    assert ["right" in cell for cell in first] == [False, True, False]
    assert ">91.00<br><small>±&nbsp;1.00</small><" in html and ">&nbsp;&nbsp;verdict<" in html
