"""AUROC by epoch: what is marked, by hand."""

import numpy as np
import pytest

from kdhelpers.reporting import epochs


@pytest.fixture
def records(record):
    """Two seeds of screw; the last ten epochs' mean is 75, the best is epoch 20 with 90 and 95."""
    found = []
    for seed in (1, 0):
        curve = [[10, 60.0], [20, 90.0 + 5 * seed], *([591 + i, 75.0 + (i - 4.5)] for i in range(10))]
        one = record("04_mvtec", "mvtec", "screw", seed=seed)
        found.append(one | {"detection": one["detection"] | {"auroc_by_epoch": curve}})
    return [*found, record("04_mvtec", "mvtec", "pill"), record("14_interpretability", "mvtec", "screw", "smoothgrad")]


def test_last_mean_and_best_by_hand(records):
    rows = epochs.by_epoch(records, "mvtec", "screw").to_dict("records")
    assert [row["seed"] for row in rows] == [0, 1]
    assert [(row["last"], row["best"], row["best epoch"]) for row in rows] == [(79.5, 90, 20), (79.5, 95, 20)]
    assert [row["mean"] for row in rows] == pytest.approx([75, 75])


def test_the_figure_says_what_choosing_the_epoch_adds(records):
    axes = epochs.show_epochs(records).axes[0]
    assert "choosing it adds 17.50" in axes.get_title(loc="left")
    lines = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 12]
    assert len(lines) == 2 and np.max(lines) == 95
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (69.19, 81.31)


def test_without_records_it_is_empty():
    assert not epochs.show_epochs([], "mnist", "3").axes[0].lines
