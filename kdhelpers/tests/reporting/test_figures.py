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


def split(dataset="mvtec", *, cls="screw", side=32):
    labels = np.repeat([0, 1, 2], 4)
    test = Images(torch.randint(0, 256, (12, 3, side, side), dtype=torch.uint8, generator=torch.manual_seed(0)))
    kinds, names = ["good"] * 4 + ["dent"] * 8, [f"{i}.png" for i in range(12)]
    return Split(dataset, cls, test, test, labels, None, kinds, names, "")


def texts(figure):
    return {text.get_text() for text in figure.findobj(plt.Text)}


@pytest.mark.parametrize(("dataset", "words"), [("mvtec", ("normal", "anomalous")), ("folder", ("good", "bad"))])
def test_one_s_own_images_are_good_and_bad(dataset, words):
    shown = texts(figures.show_split(split(dataset)))
    assert {f"train,\n{words[0]}", *(f"test,\n{word}" for word in (*words, "unlabeled"))} <= shown
    scores = {"x": (np.arange(12.0), split().labels)}
    assert {*words, "unlabeled"} <= texts(figures.show_scores(scores, labels=figures.labels_of(dataset)))


def boxes(figure):
    """Of every picture that is drawn: left, bottom, right and top, in inches."""
    figure.draw_without_rendering()
    shown = [axes.get_window_extent() for axes in figure.axes if axes.images]
    return np.array([box.extents for box in shown]) / figure.dpi


def test_pictures_stand_close_to_each_other():
    found = boxes(figures.show_split(split(), columns=4))
    bottoms, tops = (sorted(set(found[:, side].round(3)), reverse=True) for side in (1, 3))
    assert len(bottoms) == 4 and all(below < above for below, above in zip(tops[1:], bottoms, strict=False))
    gaps = [above - below for below, above in zip(tops[1:], bottoms, strict=False)]
    assert max(gaps) < 0.35 and gaps[0] < 0.2, gaps  # a line of text goes into the lower ones only


def test_pictures_of_a_sheet_keep_their_shape_below_names_at_one_height():
    shapes = [(30, 40), (40, 30), (30, 40), (30, 40), (30, 40), (30, 40), (15, 40)]
    images = [np.full((*shape, 3), 9, np.uint8) for shape in shapes]
    names = [f"{i}.png" for i in range(7)]
    figure = figures.show_sheet(images, names, ["new"] * 7, np.arange(7.0), 3.0, "sheet")
    framed = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    for frame, shape in zip(framed, shapes, strict=True):
        rows, columns = np.nonzero((frame == 9).all(-1))
        assert (
            (np.ptp(rows) + 1, np.ptp(columns) + 1) == shape
            and rows.min() == 0
            and (frame == 9).all(-1).sum() == np.prod(shape)
        )
    tops = boxes(figure)[:6, 3]
    assert np.ptp(tops) < 0.01
    assert [axes.title.get_color() for axes in figure.axes if axes.images] == ["black"] * 4 + [figures.ANOMALOUS] * 3


def picture(figure):
    data, metadata = figures.picture_of(figure)
    return data, Image.open(io.BytesIO(data)), metadata


def as_it_is(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, bbox_inches="tight")
    return len(buffer.getvalue()), np.asarray(Image.open(buffer).convert("RGB"), int)


def test_a_kept_picture_is_small_and_shows_the_same():
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    maps = np.stack([np.exp(-((x - at) ** 2 + y**2) * 8) for at in np.linspace(-0.5, 0.5, 12)]).astype(np.float32)
    images = split(side=64)
    pictures = Pictures(figures.pixels(images.test, slice(None)), None, maps, images.kinds)
    figure = figures.show_methods([pictures], ["map"], one_scale=True)
    data, kept, _ = picture(figure)
    size, before = as_it_is(figure)
    after = np.asarray(kept.convert("RGB"), int)
    assert kept.mode == "P" and len(data) < 0.5 * size
    assert (after[(before == 255).all(-1)] == 255).all()  # the paper
    blurred = [
        np.asarray(Image.fromarray(one.astype(np.uint8)).resize((100, 60), Image.Resampling.BOX), int)
        for one in (before, after)
    ]
    assert np.abs(blurred[0] - blurred[1]).max() <= 16  # of 255
    assert figures.picture_of(figure)[0] == data


def test_letters_and_lines_keep_their_colours():
    figure = figures.show_scores({"x": (np.arange(12.0), split().labels)})
    _, kept, _ = picture(figure)
    assert np.abs(np.asarray(kept.convert("RGB"), int) - as_it_is(figure)[1]).max() <= 4


def test_the_words_are_the_title_or_what_takes_its_place():
    assert figures.words_of(figures.show_split(split(), title="smoke")) == "images of mvtec screw — smoke"
    figure, axes = plt.subplots()
    plt.close(figure)
    assert figures.words_of(figure) == "figure"
    axes.set_title("limits\nof a machine", loc="left")
    assert figures.words_of(figure) == "limits"
    figure.set_label("roofline")
    assert figures.words_of(figure) == "roofline"
