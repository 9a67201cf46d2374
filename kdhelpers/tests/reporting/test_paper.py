"""The typed numbers of the article: all there, once each, and printed means that follow from their rows."""

import pandas as pd
import pytest

from kdhelpers import paths
from kdhelpers.protocols import METHODS, MVTEC
from kdhelpers.reporting.published import TABLES, doubtful_means, published, reruns

# Table, data set, method, the mean as printed, the mean of the ten or fifteen classes as printed.
KNOWN_MISPRINTS = [(2, "cifar10", "CapsNet_PP", 61.2, 63.17)]
DIGITS = [*"0123456789", "mean"]
LAYOUT = {  # (table, data set): methods (in Table 1 ours without and with the filter), columns
    (1, "mvtec"): ("without_gaussian with_gaussian", METHODS),
    (2, "mnist"): ("ARAE OCSVM AnoGAN DSVDD CapsNet_PP OCGAN LSA CAVGA-D_u U-Std ours", DIGITS),
    (2, "fashion_mnist"): ("ARAE OCSVM DAGMM DSEBM DSVDD LSA ours", DIGITS),
    (2, "cifar10"): ("ARAE OCSVM AnoGAN DSVDD CapsNet_PP OCGAN LSA DROCC CAVGA-D_u GT U-Std ours", DIGITS),
    (3, "mvtec"): ("AVID AE_SSIM AE_L2 AnoGAN LSA CAVGA-D_u DSVDD VAE-grad GT ours", [*MVTEC, "mean"]),
    (4, "mvtec"): ("AE_SSIM AE_L2 AnoGAN CNN-Dict VAE-grad ours", [*MVTEC, "mean"]),
    (5, "retinal_oct"): ("DSVDD Auto-Encoder AnoGAN VAE-GAN Pix2Pix GANomaly Cycle-GAN P-Net GT", ["resc"]),
    (6, "brain_mri"): ("LSA OCGAN GT ours", ["normal"]),
    (6, "head_ct"): ("LSA OCGAN GT ours ours+aug", ["normal"]),
}


def test_every_method_of_a_data_set_has_every_column_once():
    expected = [
        (*place, m, c) for place, (methods, columns) in LAYOUT.items() for m in methods.split() for c in columns
    ]
    expected.append((5, "retinal_oct", "ours", "oct2017"))  # printed under RESC (see `published`)
    keys = ["dataset", "method", "class"]
    assert sorted((t, *row) for t in TABLES for row in published(t)[keys].itertuples(index=False)) == sorted(expected)


def test_numbers_are_per_cent_and_deviations_stand_where_the_article_prints_them():
    """Beside ours, except at means and in Tables 1 and 4, and beside every method of Table 6."""
    for table in TABLES:
        frame = published(table)
        assert frame["value"].between(0, 100).all() and (frame["std"].isna() | frame["std"].between(0, 100)).all()
        ours = frame["method"].str.startswith("ours") & (frame["class"] != "mean")
        expected = {1: ours & False, 4: ours & False, 6: ours | True}.get(table, ours)
        pd.testing.assert_series_equal(frame["std"].notna(), expected, check_names=False)


def test_printed_means_follow_from_their_rows_except_known_misprints():
    found = doubtful_means().drop(columns="allowed").round(4)
    assert list(found.itertuples(index=False, name=None)) == KNOWN_MISPRINTS


@pytest.mark.parametrize(
    "mean, classes, allowed",
    [
        ("50.0", ("50.0", "50.2"), None),  # 0.1 away and 0.1 allowed
        ("50.0", ("50.0", "50.3"), 0.1),  # 0.15 away
        ("50.0", ("50", "50.3"), None),  # 0.05 + (0.5 + 0.05) / 2 = 0.325 allowed
        ("50.00", ("50.0", "50.0", "50.3"), 0.055),  # 0.1 away
        ("51", ("50", "50", "50"), None),  # 1 away and 1 allowed
        ("51.1", ("50", "50", "50"), 0.55),  # 1.1 away: the mean has a decimal of its own
    ],
)
def test_what_rounding_allows_comes_from_the_printed_digits(tmp_path, monkeypatch, mean, classes, allowed):
    """The row is in Table 2; the other tables are empty."""
    monkeypatch.setattr(paths, "PAPER_DIR", tmp_path)
    for table in TABLES:
        cells = {**dict(enumerate(classes)), "mean": mean} if table == 2 else {}
        rows = [f"mnist,ours,{name},{text}," for name, text in cells.items()]
        (tmp_path / f"table_{table}.csv").write_text("\n".join(["dataset,method,class,value,std", *rows]))
    numbers = float(mean), sum(map(float, classes)) / len(classes), allowed
    found = [tuple(row) for row in doubtful_means().itertuples(index=False)]
    assert found == ([] if allowed is None else [(2, "mnist", "ours", *map(pytest.approx, numbers))])


def test_reruns_are_of_cells_that_the_tables_have():
    """Of each table; the port's means over fifteen categories are those of its rows."""
    for table in TABLES:
        cells = set(zip(*published(table)[["dataset", "class"]].T.to_numpy(), strict=True))
        others = reruns(table)
        assert set(zip(others["dataset"], others["class"], strict=True)) <= cells
        assert others["note"].notna().all() and others["value"].astype(float).between(0, 100).all()
    port = reruns(3).set_index(["who", "class"])["value"].astype(float)
    for who in ("Paddle port", "Paddle port, best epoch"):
        assert port[who].drop("mean").mean() == pytest.approx(port[who]["mean"], abs=0.01)
