"""The article's figures against numbers computed by hand, and what they say where there is nothing to show."""

import json
import shutil
from io import BytesIO
from itertools import product

import numpy as np
import pytest
from matplotlib.text import Text
from safetensors.numpy import save_file
from torch import nn

from kdhelpers import networks
from kdhelpers.experiments import records as results
from kdhelpers.experiments.records import Kind
from kdhelpers.files import to_json, write_json
from kdhelpers.protocols import MVTEC
from kdhelpers.reporting import article_figures, figures, heat_maps, paper_style
from kdhelpers.reporting.framework import IMAGE_SIZE, show_framework

SMOKE = "smoke run: the numbers mean nothing"
LAYERS = {"last": "last", "last_two": "last two", None: "last four"}


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def heading_of(figure):
    return next(text for text in texts_of(figure) if text.startswith("Figure "))


def ticks_of(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


def bars_of(axes):
    """From left to right; seaborn adds empty ones for the legend."""
    return sorted((bar for bar in axes.patches if bar.get_height() > 0), key=lambda bar: bar.get_x())


def errors_of(axes):
    """Half the length of each error bar, from left to right."""
    lines = [xy[~np.isnan(xy).any(1)] for xy in (line.get_xydata() for line in axes.lines)]
    lines = sorted((xy for xy in lines if len(xy) > 2), key=lambda xy: xy[:, 0].min())
    return [np.ptp(xy[:, 1]) / 2 for xy in lines]


def keep(folder, record, kinds=("good", "one_kind", "another_kind", "one_kind"), of=None):
    """The record's file, and a side file of random pictures as `artifacts.save` writes it, of another record `of` if
    one is given; returns the record."""
    rng = np.random.default_rng([record["seed"], len(record["class"])])
    tensors = {
        "shown.pixels": rng.integers(0, 256, (len(kinds), 8, 8, 3), dtype=np.uint8),
        "shown.maps": rng.random((len(kinds), 8, 8)).astype(np.float16),
    }
    if record["dataset"] == "mvtec":
        tensors["shown.masks"] = rng.integers(0, 2, (len(kinds), 8, 8), dtype=np.uint8) * np.uint8(255)
    path = results.path_of(folder, "cloners", record, ".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"kinds": json.dumps(kinds), "record": to_json(of or record)})
    write_json(results.path_of(folder, "records", record, ".json"), record)
    return record


def digits(record, values):
    """Records of Figure 3 on MNIST; values: {(variant, class, seed): AUROC}."""
    return [
        record("11_critical_layers" if variant else "01_mnist", cls=cls, variant=variant, seed=seed, auroc=value)
        for (variant, cls, seed), value in values.items()
    ]


@pytest.fixture
def three_seeds(record):
    rng = np.random.default_rng(3)
    values = {key: rng.normal(80, 4) for key in product(LAYERS, "03", range(3))}
    return digits(record, values), values


def test_bars_are_means_over_seeds_of_means_over_classes_in_the_article_s_order(three_seeds):
    records, values = three_seeds
    figure = article_figures.figure_3(list(reversed(records)))
    axes = figure.axes[0]
    by_hand = [[np.mean([values[variant, cls, seed] for cls in "03"]) for seed in range(3)] for variant in LAYERS]
    assert [bar.get_height() for bar in bars_of(axes)] == pytest.approx([np.mean(seeds) for seeds in by_hand])
    assert errors_of(axes) == pytest.approx([np.std(seeds, ddof=1) for seeds in by_hand])
    dots = np.concatenate([dots.get_offsets() for dots in axes.collections])
    assert sorted(dots[:, 1]) == pytest.approx(sorted(np.ravel(by_hand)))
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == list(LAYERS.values())
    assert [bar.get_facecolor() for bar in bars_of(axes)] == [one.get_facecolor() for one in legend.legend_handles]
    assert ticks_of(axes) == ["MNIST\nmean of 2 of 10 classes", "MVTecAD"]
    assert "over 3 seeds" in heading_of(figure) and texts_of(figure).count("no record") == 1


def test_one_seed_has_no_error_bar_and_a_variant_without_record_says_so(record):
    figure = article_figures.figure_3(digits(record, {(None, "3", 0): 99.0, ("last", "3", 0): 90.0}))
    axes = figure.axes[0]
    assert errors_of(axes) == [] and [bar.get_height() for bar in bars_of(axes)] == [90, 99]
    assert bars_of(axes)[1].get_x() - bars_of(axes)[0].get_x() > 0.5  # the place between them stays free
    assert "one seed" in heading_of(figure) and texts_of(figure).count("no record") == 2  # last two; MVTecAD


def test_figure_2_says_what_the_networks_are(source, protocol):
    cloner = networks.make_cloner(protocol, 0)
    texts = [text.get_text() for text in show_framework(protocol).axes[0].texts]
    convolutions = [layer for network in (source, cloner) for layer in network if isinstance(layer, nn.Conv2d)]
    assert [int(text) for text in texts if text.isdigit()] == [layer.out_channels for layer in convolutions]
    for row in networks.describe(source, cloner, IMAGE_SIZE):
        shape = " × ".join(map(str, row["channels, height, width"]))
        assert any(text.startswith(f"{row['critical point']}\n{shape}") for text in texts)
    for name, network in (("S", source), ("C", cloner)):
        count = sum(p.numel() for p in network.parameters())
        assert row[f"parameters of {name}"] == count  # up to the last critical point: all
        assert any(f"\n{count:,} parameters" in text for text in texts)


def test_figure_4_has_the_categories_in_order_and_their_mean(record):
    keys = list(product(MVTEC, (None, "equal"), (0, 1)))
    records = [
        record("12_cloner_size" if variant else "04_mvtec", "mvtec", cls, variant, seed, 30.0 + i)
        for i, (cls, variant, seed) in reversed(list(enumerate(keys)))
    ]
    axes = article_figures.figure_4(records).axes[0]
    assert ticks_of(axes) == [cls.replace("_", " ") for cls in MVTEC] + ["mean of 15"]
    by_hand = np.arange(30.0, 30 + len(keys)).reshape(-1, 2, 2).mean(2)  # over two seeds: categories, variants
    expected = [*by_hand.ravel(), *by_hand.mean(0)]
    assert [bar.get_height() for bar in bars_of(axes)] == pytest.approx(expected)


@pytest.mark.parametrize("value, low, chance", [(99.0, 90, False), (52.0, 45, True), (20.0, 15, True), (1.0, 0, True)])
def test_an_axis_says_where_it_begins_and_what_is_made_otherwise_is_left_out(record, value, low, chance):
    odd = record("11_critical_layers", cls="3", variant="last", auroc=1.0, parameters={"epochs": 5})
    figure = article_figures.figure_3([*digits(record, {(None, "3", 0): value}), odd])
    assert "records left out for other settings or data: 1" in heading_of(figure)
    axes = figure.axes[0]
    assert axes.get_ylim()[0] == low and axes.get_ylim()[1] > value
    assert axes.get_ylabel() == "AUROC (%)" + (f", axis from {low}" if low else "")
    assert ("chance" in [text.get_text() for text in axes.texts]) == chance


def test_without_records_every_figure_says_so_and_what_it_is(tmp_path):
    made = article_figures.write_all([], tmp_path, tmp_path / "figures", title=SMOKE)
    for number, count in {1: 3, 3: 1, 4: 1, 5: 1, 6: 1}.items():
        figure = made[f"figure_{number}"]
        assert texts_of(figure).count("no pictures" if number in (1, 6) else "no record") == count
        assert SMOKE in heading_of(figure) and heading_of(figure).startswith(f"Figure {number}")
    assert texts_of(made["epochs"]) == ["no record", f"AUROC by epoch, MVTecAD, screw — {SMOKE}"]
    assert len(list((tmp_path / "figures").iterdir())) == 14


def test_heat_maps_are_of_the_lowest_seed_and_of_nothing_else(record, tmp_path):
    lowest = keep(tmp_path, record(cls="3", seed=2, deviations=["epochs 5 instead of 51"]), ("good", "7", "0"))
    records = [keep(tmp_path, record(cls="3", seed=5), ("good", "1")), lowest]
    # Of 4, the lowest has no side file, and the next one has that of another run.
    records += [record(cls="4"), keep(tmp_path, record(cls="4", seed=1), of=record(cls="4", seed=1, auroc=1))]
    records += [keep(tmp_path, record(cls="4", seed=3), ("good",))]
    records += [keep(tmp_path, record("11_critical_layers", cls="5", variant="last"))]
    figure = heat_maps.figure_1(records, tmp_path)
    texts = texts_of(figure)
    assert texts.count("no pictures") == 2  # MVTecAD and CIFAR-10
    assert [text for text in texts if "normal" in text] == ["3\nnormal", "7\nnormal: 3", "0\nnormal: 3", "4\nnormal"]
    assert "lowest seed with pictures: 2, 3" in heading_of(figure) and "epochs 5 instead of 51" in heading_of(figure)
    pictures = results.load_pictures(heat_maps.pictures_of(lowest, tmp_path)[0])
    for i in range(3):
        image, heat = figure.axes[1 + 2 * i : 3 + 2 * i]  # after MVTecAD's empty frame
        assert np.array_equal(image.images[0].get_array(), pictures.pixels[i])
        hidden = heat.images[1].get_array().mask
        assert np.array_equal(hidden, pictures.maps[i] < figures.LOW * pictures.maps.max())
        assert heat.images[1].get_clim() == (0, pictures.maps.max())


def test_figure_6_has_image_mask_and_map_by_category_also_from_committed_pictures(record, tmp_path):
    records = [keep(tmp_path, record("04_mvtec", "mvtec", cls)) for cls in ("zipper", "metal_nut")]
    figure = heat_maps.figure_6(records, tmp_path, title=SMOKE)
    captions = [text for text in texts_of(figure) if text.split("\n")[0] in ("zipper", "metal nut")]
    kinds = ["one kind", "another kind", "one kind"]
    assert captions == [f"{cls}\n{kind}" for cls in ("metal nut", "zipper") for kind in kinds]
    assert sum(bool(axes.images) for axes in figure.axes) == 3 * len(captions) and SMOKE in heading_of(figure)
    zipper = results.load_pictures(heat_maps.pictures_of(records[0], tmp_path)[0])
    drawn = [axes.images[-1].get_array().data for axes in figure.axes if axes.images]
    for i in (1, 2, 3):  # the good picture, 0, is not drawn; metal nut's nine come first
        image, mask, heat = drawn[6 + 3 * i : 9 + 3 * i]
        assert np.array_equal(image, zipper.pixels[i]) and np.array_equal(mask, zipper.masks[i])
        assert np.array_equal(heat, zipper.maps[i])
    medical = keep(tmp_path, record("06_head_ct", "head_ct", "normal"))
    heat_maps.commit_pictures([*records, medical], tmp_path)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "pictures").rglob("*.safetensors")}
    assert len(written) == 2  # none of a medical set
    heat_maps.commit_pictures(records, tmp_path)  # safetensors does not always write the same bytes
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())
    shutil.rmtree(tmp_path / "cloners")
    assert texts_of(heat_maps.figure_6(records, tmp_path, title=SMOKE)) == texts_of(figure)
    again = record("04_mvtec", "mvtec", "zipper", auroc=91.0)  # committed pictures are of the run before
    write_json(results.path_of(tmp_path, "records", again, ".json"), again)
    left = texts_of(heat_maps.figure_6([again, records[1]], tmp_path, title=SMOKE))
    assert "metal nut\none kind" in left and "zipper\none kind" not in left


def test_auroc_by_epoch_says_what_choosing_the_epoch_on_the_test_set_adds(record):
    """Two seeds of screw; the last ten epochs' mean is 75, the best is epoch 20 with 90 and 95."""
    records = [record("04_mvtec", "mvtec", "pill")]
    for seed in (1, 0):
        curve = [[10, 60.0], [20, 90.0 + 5 * seed], *([591 + i, 75.0 + (i - 4.5)] for i in range(10))]
        records.append(record("04_mvtec", "mvtec", "screw", seed=seed))
        records[-1]["detection"]["auroc_by_epoch"] = curve
    records[-1]["environment"] |= {"method_version": 0}
    figure = article_figures.show_epochs(records)
    axes = figure.axes[0]
    words = "(black) 75.00, last epoch (dot) 79.50, best on the test set (star) 92.50: choosing it adds 17.50"
    assert f"{words}\nsource imagenet, protocol official\n† 1 record of another method" in figure.get_suptitle()
    stars = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "*"]
    assert stars == [[[20, 90]], [[20, 95]]]
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (69.19, 81.31)


def test_the_same_figure_twice_is_the_same_file(three_seeds, record, tmp_path):
    records = [*three_seeds[0], keep(tmp_path, record("04_mvtec", "mvtec", "screw"))]
    for folder in ("a", "b"):
        paper_style.save(article_figures.figure_3(records), "figure_3", tmp_path / folder)
        figure = heat_maps.figure_1(records, tmp_path)
        paper_style.save(figure, "figure_1", tmp_path / folder)
        records.reverse()
        figures.use_style()  # what a session has set changes nothing
    figure.savefig(BytesIO(), dpi=50, bbox_inches="tight")  # shown by a notebook, then saved again
    paper_style.save(figure, "figure_1", tmp_path / "b")
    for path in (tmp_path / "b").iterdir():
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes(), path


def test_the_readme_s_picture_has_the_maps_of_both_protocols_with_the_same_seed(record, tmp_path, monkeypatch):
    drawn, official, text = [], Kind("imagenet", "full", "official"), Kind("imagenet", "full", "text")
    monkeypatch.setattr(figures, "picture_of", lambda figure: drawn.append(figure) or (b"picture", 1))
    found = {
        kind: [keep(tmp_path, record("04_mvtec", "mvtec", "screw", seed=s, protocol=kind.protocol)) for s in seeds]
        for kind, seeds in {official: (2, 1), text: (0, 2, 1)}.items()
    }
    for of in (found, {official: found[official]}):
        heat_maps.readme_picture(of, official, tmp_path, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes() == b"picture"
    rows = [[axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] for figure in drawn]
    assert rows == [["image", "mask", "map, official", "map, text"], ["image", "mask", "map, official"]]
    heat = [axes.images[1].get_array().data for axes in drawn[0].axes if len(axes.images) == 2]
    for kind, maps in ((official, heat[:4]), (text, heat[4:])):
        path = results.path_of(tmp_path, "pictures", found[kind][-1], ".safetensors")  # committed, too
        assert np.array_equal(maps, results.load_pictures(path).maps)
    heat_maps.readme_picture({}, official, tmp_path, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
