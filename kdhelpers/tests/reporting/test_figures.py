"""What a notebook keeps of its figures: small pictures with words, which reach the page that is made of it."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from kdhelpers.data import Split
from kdhelpers.data.images import Images
from kdhelpers.experiments.records import Pictures
from kdhelpers.reporting import figures


@pytest.fixture(autouse=True)
def plain_style():
    """Whatever the session's other tests have set."""
    with plt.style.context("default"):
        yield


def split(dataset="mvtec", side=32):
    labels = np.repeat([0, 1, 2], 4)
    test = Images(torch.randint(0, 256, (12, 3, side, side), dtype=torch.uint8, generator=torch.manual_seed(0)))
    kinds, names = ["good"] * 4 + ["dent"] * 8, [f"{i}.png" for i in range(12)]
    return Split(dataset, "screw", test, test, labels, None, kinds, names, "")


def texts(figure):
    return {text.get_text() for text in figure.findobj(plt.Text)}


@pytest.mark.parametrize(("dataset", "words"), [("mvtec", ("normal", "anomalous")), ("folder", ("good", "bad"))])
def test_one_s_own_images_are_good_and_bad(dataset, words):
    images, figure = split(dataset), figures.show_split(split(dataset))
    rows = np.arange(12), *np.arange(12).reshape(3, 4)  # all for training, then four of each label
    for line, members in zip(np.reshape(figure.axes, (4, 8)), rows, strict=True):
        drawn = [axes.images[0].get_array() for axes in line if axes.images]
        chosen = np.unique(np.linspace(members[0], members[-1], 8).astype(int))
        assert np.array_equal(drawn, figures.pixels(images.test, chosen))
    shown = texts(figure)
    assert {f"train,\n{words[0]}", *(f"test,\n{word}" for word in (*words, "unlabeled"))} <= shown
    scores = {"x": (np.arange(12.0), split().labels)}
    figure = figures.show_scores(scores, labels=figures.labels_of(dataset))
    assert {*words, "unlabeled"} <= texts(figure)
    for first, bars in zip((0, 4, 8), figure.axes[0].containers, strict=True):
        drawn = [bar.get_x() + bar.get_width() / 2 for bar in bars if bar.get_height()]
        assert first - 0.5 < min(drawn) and max(drawn) < first + 3.5


def test_each_curve_and_each_map_is_under_its_own_name(record):
    one = record()
    one["training"] |= {"loss": [3.0, 1.0], "loss_val": [5.0, 4.0], "loss_dir": [7.0, 6.0]}
    drawn = [axes.lines[0].get_ydata().tolist() for axes in figures.show_losses([one]).axes]
    assert drawn == [[3, 1], [5, 4], [7, 6]]
    maps = np.random.default_rng(0).random((2, 2, 4, 4)).astype(np.float32)
    methods = [Pictures(np.zeros((2, 4, 4, 3), np.uint8), None, of_method, ["good"] * 2) for of_method in maps]
    lines = np.reshape(figures.show_methods(methods, ["a", "b"], one_scale=True).axes, (3, 2))[1:]
    for line, of_method in zip(lines, maps, strict=True):
        for axes, heat in zip(line, of_method, strict=True):
            assert np.array_equal(axes.images[1].get_array().data, heat)
            assert axes.images[1].get_clim() == (0, of_method.max())


def test_pictures_of_a_sheet_keep_their_shape_below_names_at_one_height():
    shapes = [(30, 40), (40, 30), (30, 40), (30, 40), (30, 40), (30, 40), (15, 40)]
    images = [np.full((*shape, 3), 9, np.uint8) for shape in shapes]
    names = [f"{i}.png" for i in range(7)]
    figure = figures.show_sheet(images, names, ["new"] * 7, np.arange(7.0), 3.0, "sheet")
    shown = [axes for axes in figure.axes if axes.images]
    for axes, shape in zip(shown, shapes, strict=True):
        rows, columns = np.nonzero((axes.images[0].get_array() == 9).all(-1))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == shape and rows.min() == 0 and len(rows) == np.prod(shape)
    figure.draw_without_rendering()
    assert np.ptp([axes.get_window_extent().y1 for axes in shown[:6]]) < 1
    assert [axes.title.get_color() for axes in shown] == ["black"] * 4 + [figures.ANOMALOUS] * 3


def before_and_after(figure):
    """The figure's pixels as drawn and as a notebook keeps them, and the files' sizes."""
    drawn, kept = io.BytesIO(), figures.picture_of(figure)[0]
    figure.savefig(drawn, format="png", dpi=figure.dpi, bbox_inches="tight")
    images = [Image.open(file).convert("RGB") for file in (drawn, io.BytesIO(kept))]
    return *images, len(drawn.getvalue()), len(kept)


def test_a_kept_picture_is_small_and_shows_the_same():
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    maps = np.stack([np.exp(-((x - at) ** 2 + y**2) * 8) for at in np.linspace(-0.5, 0.5, 6)]).astype(np.float32)
    pictures = Pictures(figures.pixels(split(side=64).test, slice(6)), None, maps, ["good"] * 6)
    before, after, size, small = before_and_after(figures.show_methods([pictures], ["map"], one_scale=True))
    assert small < 0.5 * size
    assert (np.asarray(after)[(np.asarray(before) == 255).all(-1)] == 255).all()  # the paper
    blurred = [np.asarray(one.resize((100, 60), Image.Resampling.BOX), int) for one in (before, after)]
    assert np.abs(blurred[0] - blurred[1]).max() <= 16  # of 255


def test_letters_and_lines_keep_their_colours():
    before, after, *_ = before_and_after(figures.show_scores({"x": (np.arange(12.0), split().labels)}))
    assert np.abs(np.subtract(before, after, dtype=int)).max() <= 4
