"""The article's tables in full, with ours below the article's own: from records, and the same from the same."""

import pandas as pd
import pytest

from kdhelpers.reporting import tables
from kdhelpers.reporting.published import published


@pytest.fixture(scope="module")
def records(record):
    return [record(cls=cls, seed=seed, auroc=90 + seed) for cls in "03" for seed in range(3)] + [
        record("04_mvtec", "mvtec", "screw", seed=seed, auroc=80.0, baselines={"mean_brightness": 2.0, "pca": None})
        for seed in range(3)
    ]


@pytest.mark.parametrize("table", [1, 2, 3, 4, 5, 6])
def test_every_published_number_stands_in_its_table(table):
    wide = tables.article_table(table, [])
    wide = wide[~wide["row"].str.startswith("rerun: ")]
    numbers = wide.drop(columns=["row", "data set", "filter"], errors="ignore")
    shown = [float(text.split(" ± ")[0]) for text in numbers.to_numpy().ravel() if text not in ("", "–")]
    assert sorted(shown) == sorted(published(table)["value"])
    assert not wide.isna().any().any()


def test_ours_stands_below_the_article_s_and_what_is_missing_is_a_dash(records):
    wide = tables.article_table(2, records)
    mnist = wide.iloc[: wide["data set"].tolist().index("Fashion-MNIST")].set_index("row")
    ours = ["this reproduction", "  seeds", "  difference", "  verdict"]
    assert mnist.index.tolist()[-7:] == ["article", *ours, "mean brightness alone", "PCA of the pixels"]
    assert mnist["0"].tolist()[-6:] == ["91.00 ± 1.00", "3", "-8.82", "deviates", "60.00", "70.00"]
    assert mnist["1"].tolist()[-6:] == ["–"] * 6 and mnist["mean"].tolist()[-6:] == ["–"] * 6


def test_what_others_got_stands_below_ours():
    rows = tables.article_table(3, []).set_index("row")
    assert [row for row in rows.index if row.startswith("rerun: ")][0] == "rerun: Paddle port"
    assert rows.loc["rerun: Paddle port", "screw"] == "77.99" and rows.loc["rerun: AHL", "mean"] == "86.3 ± 2.9"
    assert tables.article_table(5, []).set_index("row").loc["rerun: BMAD"].tolist() == ["88.97 ± 0.20", "96.62 ± 0.22"]
    numbers = tables.article_numbers(6, [])
    assert set(numbers.loc[numbers["method"] == "rerun: a user of the released code", "value"]) == {81.73, 60.8}


def test_ours_on_resc_has_no_number_of_the_article_s_but_all_else(record):
    of = "05_retinal_oct", "retinal_oct", "resc"
    records = [record(*of, seed=seed, auroc=80.0 + seed, deviations=["batch size 8 instead of 64"]) for seed in (0, 1)]
    rows = tables.article_table(5, records).set_index("row")["RESC"]
    assert rows["article":"  verdict"].tolist() == ["", "80.50 ± 0.71", "2", "–", "deviates"]
    (ours,) = tables.article_numbers(5, records).query("`class` == 'resc' and seeds > 0").to_dict("records")
    assert (ours["method"], ours["value"], ours["seeds"]) == ("this reproduction", 80.5, 2)
    assert ours["deviates"].startswith("batch size 8") and 'CLASSES=["resc"]' in ours["command"]
    records[0]["environment"] |= {"method_version": 0}
    assert tables.article_table(5, records).set_index("row").loc["  verdict", "RESC"] == "stale"
    ten = tables.article_table(5, [record(*of, seed=seed) for seed in range(10)])
    assert ten.set_index("row").loc["  verdict", "RESC"] == "–"


def test_brightness_separates_either_way_round(records):
    screw = tables.article_numbers(3, records).query("`class` == 'screw'").set_index("method")["value"]
    assert screw["mean brightness alone"] == 98 and pd.isna(screw["PCA of the pixels"])


def test_a_notebook_s_table_compares_a_variant_with_the_article_s_number_of_it(record):
    augmented = record("06_head_ct", "head_ct", "normal", "augmented", auroc=81.0)
    (row,) = tables.beside_article([augmented], 6).to_dict("records")
    assert (row["ours"], row["article"], row["difference"]) == (81.0, 80.42, pytest.approx(0.58))


@pytest.fixture(scope="module")
def written(records, record, tmp_path_factory):
    """The tables of `records` in a folder that had those of another kind."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "mine.txt").touch()
    tables.write_all([record("11_critical_layers", variant="last"), record()], folder)
    assert (folder / "ablations" / "11_critical_layers_auroc_variants.md").is_file()
    tables.write_all(records, folder)
    return folder


def test_files_are_the_same_bytes_from_the_same_records(records, written, tmp_path):
    tables.write_all(list(reversed(records)), tmp_path)
    first, second = ({p.name: p.read_bytes() for p in folder.rglob("*.*")} for folder in (written, tmp_path))
    assert {f"table_{n}.{suffix}" for n in range(1, 7) for suffix in ("csv", "md", "tex")} <= set(first)
    assert first.pop("mine.txt") == b"" and first == second and not list(written.glob("ablations/*"))
    assert b"source imagenet, profile full" in first["table_2.md"]


def test_tables_without_records_have_the_article_s_numbers_alone(tmp_path):
    tables.write_all([], tmp_path)
    assert not (tmp_path / "metrics.md").exists()
    assert "no records" in (tmp_path / "table_2.md").read_text()
    assert "nan" not in (tmp_path / "cells.md").read_text()


def test_the_csv_has_the_numbers_and_the_commands(written):
    written = pd.read_csv(written / "table_2.csv", dtype={"class": str})
    ours = written[(written["method"] == "this reproduction") & (written["dataset"] == "mnist")].set_index("class")
    assert ours.loc["3", ["value", "std", "seeds"]].tolist() == [91, 1, 3]
    assert "seeds=3" in ours.loc["3", "command"] and ours.loc["1", "command"].startswith("./run_all.sh full 01_mnist")
    assert (written["method"] == "article").sum() == 33 and len(written) == 319 + 33 + 2 + 2 * 33


def test_latex_has_no_sign_that_latex_lacks(written):
    for path in written.rglob("*.tex"):
        text = path.read_text()
        assert text.isascii() and text.count(r"\begin{tabular}") == 1, path.name
