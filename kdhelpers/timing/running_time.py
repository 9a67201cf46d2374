"""What `benchmark` has measured, as tables and a picture, and as the time for the whole article.

`measured` is {image size: what `benchmark.measure` found}, `machine` what `benchmark.machine` did.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field

from kdhelpers.experiments import artifacts, config
from kdhelpers.experiments.variants import ABLATIONS, AFTER_TRAINING, DATASETS, FEWER_SEEDS, Variant, variants_of
from kdhelpers.files import atomic_write
from kdhelpers.protocols import BATCH_SIZE, LAST_EPOCHS, METHOD_VERSION, SEEDS, SETTINGS, protocol_for
from kdhelpers.reporting.article_figures import in_style
from kdhelpers.reporting.published import NAMES
from kdhelpers.timing.benchmark import Case, device_name

Measured = Mapping[int, dict]
SCHEMA = 1
# Classes, test images and anomalous ones with a mask of a class; for estimates of time only.
_SETS = {
    "mnist": (10, 10000, 0),
    "fashion_mnist": (10, 10000, 0),
    "cifar10": (10, 10000, 0),
    "mvtec": (15, 115, 84),
    "retinal_oct": (2, 1000, 0),
    "head_ct": (1, 110, 0),
    "brain_mri": (1, 165, 0),
}
_TARGET_SIZE = 128  # pixels, of what follows
_TIMES_TRAINING, _OF_FLOOR, _TIMES_CATEGORY, _SECONDS_AUPRO = 10, 50, 30, 1


def speeds(measured: Measured) -> pd.DataFrame:
    """A row for each size and thing measured: ours, plain, and how many times faster ours is."""
    rows = []
    for size, found in measured.items():
        lines = [("training", "images/s", found["training"], max)]
        lines += [(f"detection, batch {b}", "ms an image", one, min) for b, one in found["detection"].items()]
        lines += [(f"map, {m.replace('_', ' ')}", "images/s", one, max) for m, one in found["localization"].items()]
        lines += [("maps and pixel AUROC of a category", "s", found["category"], min)]
        lines += [("AUPRO of a category", "s", found["aupro"], min)]
        for name, unit, one, best in lines:
            row = {"px": size, "what": name, "unit": unit, "ours": one["ours"], "plain": one.get("plain")}
            rows.append(row | {"times faster": _times(one, faster_is_more=best is max), "spread": _spread(one)})
        count = found["training"]["peak_memory_mb"]
        for place in ("host", "device"):
            if count["ours"][place] is not None:
                row = {"px": size, "what": f"peak memory of training, {place}", "unit": "MB"}
                rows.append(row | {"ours": count["ours"][place], "plain": count["plain"][place]})
    return pd.DataFrame(rows)


def _times(one: dict, *, faster_is_more: bool) -> float | None:
    if "plain" not in one:
        return None
    return one["ours"] / one["plain"] if faster_is_more else one["plain"] / one["ours"]


def _spread(one: dict) -> str:
    """How far apart the slowest and the fastest round of each were, in per cent of the fastest."""
    return ", ".join(f"{100 * (max(v) - min(v)) / max(v):.0f} %" for v in one["all"].values())


def targets(measured: Measured, machine: dict) -> pd.DataFrame:
    """What was aimed at on a CPU at 128 px, and what is reached; at the largest size, without an aim, where that is
    not measured."""
    size = _TARGET_SIZE if _TARGET_SIZE in measured else max(measured)
    found = measured[size]
    share = 100 * rates(found)["training", "ours"][1]
    rows = [
        ("training, times plain", _times(found["training"], faster_is_more=True), _TIMES_TRAINING, True),
        ("training, % of the matrix peak", share / machine["matrix_peak"]["float32"], _OF_FLOOR, True),
        ("training, % of the convolution peak", share / machine["convolution_peak"], None, True),
        ("maps and pixel AUROC, times plain", _times(found["category"], faster_is_more=False), _TIMES_CATEGORY, True),
        ("AUPRO, s", found["aupro"]["ours"], _SECONDS_AUPRO, False),
    ]
    table = []
    for name, value, aim, at_least in rows:
        row = {"px": size, "what": name, "reached": value}
        if size == _TARGET_SIZE:
            met = "" if aim is None else "yes" if (value >= aim if at_least else value < aim) else "no"
            row |= {"target": "" if aim is None else f"{'≥' if at_least else '<'} {aim}", "met": met}
        table.append(row)
    return pd.DataFrame(table)


def rates(found: dict) -> dict[tuple[str, str], tuple[float, float]]:
    """{(what, "ours" | "plain"): (FLOP a byte, FLOP/s)}, of the convolutions that each of them computes.

    Ours has S's activations when it trains and derives maps by the image alone. Plain trains through S, and its maps'
    backward pass makes the weights' gradients as well. Detection is at the batch size that is fastest.
    """
    points = {}
    for name in ("ours", "plain"):
        best = min(found["detection"], key=lambda batch: found["detection"][batch][name])
        together = max(found["traffic"]["cloner"], key=int)
        trained = {"cloner": 1, "source": 0 if name == "ours" else 1}
        for what, per_second, passes, batch in (
            ("training", found["training"][name], {n: {"training": count} for n, count in trained.items()}, together),
            ("detection", 1000 / found["detection"][best][name], _each({"forward": 1}), best),
            (
                "map",
                found["localization"]["gradients"][name],
                _each({"gradient": 1} if name == "ours" else {"gradient": 1, "forward": 1}),
                together if name == "ours" else "1",
            ),
        ):
            operations = _sum(found["operations"], passes)
            traffic = _sum({n: found["traffic"][n][batch] for n in passes}, passes)
            points[what, name] = 2 * operations / traffic, 2 * operations * per_second
    return points


def _each(passes: dict) -> dict:
    return {"source": passes, "cloner": passes}


def _sum(counts: dict, passes: dict) -> float:
    return sum(counts[n][kind] * times for n, kinds in passes.items() for kind, times in kinds.items())


@in_style
def roofline(measured: Measured, machine: dict, *, title: str = "") -> Figure:
    """FLOP/s reached over FLOP a byte, under what the machine's memory and the faster of matrix products and of a large
    convolution allow; log-log."""
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    matrix, convolution = machine["matrix_peak"]["float32"], machine["convolution_peak"]
    peak, bandwidth = max(matrix, convolution), machine["bandwidth"]
    points = {(size, *key): point for size, found in measured.items() for key, point in rates(found).items()}
    intensities = [x for x, _ in points.values()] + [peak / bandwidth]
    line = np.geomspace(min(intensities) / 2, max(intensities) * 2, 100)
    axes.plot(line, np.minimum(peak, line * bandwidth) / 1e9, color="0.2", linewidth=1)
    for limit, words in ((matrix, "matrix product"), (convolution, "large convolution")):
        if limit < peak:
            axes.axhline(limit / 1e9, color="0.6", linewidth=0.6, linestyle="--")
        axes.annotate(f"{words}, {limit / 1e9:,.0f} GFLOP/s", (line[-1], limit / 1e9), (0, 2), ha="right", **_ABOVE)
    slope = f"memory, {bandwidth / 1e9:,.0f} GB/s"
    axes.annotate(slope, (line[0], line[0] * bandwidth / 1e9), (14, 0), ha="left", **_ABOVE)
    colours = {what: f"C{i}" for i, what in enumerate(("training", "detection", "map"))}
    markers = dict(zip(measured, "osD^vP*X", strict=False))
    for (size, what, name), (x, y) in points.items():
        filled = colours[what] if name == "ours" else "white"
        marker = markers.get(size, "o")
        axes.plot(x, y / 1e9, marker, color=colours[what], markerfacecolor=filled, markersize=5, linestyle="none")
    for what, colour in colours.items():
        axes.plot([], [], "o", color=colour, label=what)
    for size, marker in markers.items():
        axes.plot([], [], marker, color="0.4", markerfacecolor="0.4", label=f"{size} px")
    axes.plot([], [], "o", color="0.4", markerfacecolor="white", label="plain (hollow)")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(xscale="log", yscale="log", xlabel="FLOP for each byte that must move", ylabel="GFLOP/s")
    heading = "Convolutions against the machine's limits" + (f" — {title}" if title else "")
    axes.set_title(f"{heading}\n{machine['name']}, {machine['threads']} threads, float32", loc="left", fontsize=7)
    plt.close(figure)
    return figure


_ABOVE = {"textcoords": "offset points", "va": "bottom", "color": "0.2"}


def whole_article(measured: Measured, machine: dict, protocol: str) -> pd.DataFrame:
    """Hours for every record of the article and the ablations: a row for each notebook and data set, and their sum.

    Ten seeds, or as ablations.FEWER_SEEDS has it. Speeds are those of the size that is nearest, times the ratio of
    their pixels; a row is "measured" when all its sizes, networks and methods are, "extrapolated" otherwise. Training,
    S on all images, the scores of the last ten epochs (plain: of every tenth), maps and their metrics; reading and
    resizing images is not in it. Where S's activations take more than half of the free memory it runs in every epoch.
    With `text` the epochs are the most there may be.
    """
    rows = []
    for notebook, datasets in DATASETS.items():
        for dataset in datasets if datasets != ("folder",) else ():
            variants = variants_of(notebook, dataset, protocol_for(protocol, dataset))[notebook in ABLATIONS :]
            count = _SETS[dataset][0] * FEWER_SEEDS.get(notebook, SEEDS)
            costs = [_cost(measured, machine, dataset, variant) for variant in variants]
            ours, other = (count * sum(cost[name] for cost in costs) / 3600 for name in ("ours", "plain"))
            notes = list(dict.fromkeys(note for cost in costs for note in cost["notes"]))
            rows.append(
                {"notebook": notebook, "data set": NAMES[dataset], "px": SETTINGS[dataset].image_size}
                | {"records": len(variants) * count, "ours (h)": ours, "plain (h)": other, "times faster": other / ours}
                | {"basis": "extrapolated" if notes else "measured", "from": "; ".join(notes)}
            )
    frame = pd.DataFrame(rows)
    total = frame[["records", "ours (h)", "plain (h)"]].sum()
    total = total.to_dict() | {"notebook": "all", "data set": "", "from": "", "basis": "extrapolated"}
    total["times faster"] = total["plain (h)"] / total["ours (h)"]
    return pd.concat([frame, pd.DataFrame([total])]).astype({"px": "Int64", "records": int}).reset_index(drop=True)


def _cost(measured: Measured, machine: dict, dataset: str, variant: Variant) -> dict:
    """Seconds of ours and plain for one class and seed, and what of it is no measurement."""
    setting, (_, tests, masked) = SETTINGS[dataset], _SETS[dataset]
    px = variant.run.get("image_size", setting.image_size)
    near = min(measured, key=lambda size: abs(np.log(size / px)))
    found, scale = measured[near], (px / near) ** 2
    notes = [] if px == near else [f"{px} px from {near} px"]
    images, epochs, case = setting.images, setting.epochs, found["case"]
    ours = other = 0.0
    after_training = set(variant.protocol) <= set(AFTER_TRAINING) and set(variant.run) <= {"method"}
    if variant.name is None or not after_training:
        wider = variant.protocol.get("width") == "equal"
        operations = found["operations"]
        factor = operations["source"]["training"] / operations["cloner"]["training"] if wider else 1
        notes += ["an equal cloner by its operations"] if wider else []
        notes += ["each variant as the main run"] if variant.name and not wider else []
        s_once = found["source_cache_seconds"] / case["images"]
        kept = images * found["source_cache_bytes"] * scale <= machine["free"] / 2 and not variant.run.get("augment")
        notes += [] if kept else ["S in every epoch, by its time on an image"]
        step = factor / found["training"]["ours"]
        # The scores of test images are a forward pass of C, a third of the work of a step.
        ours += tests * s_once + images * s_once * (1 if kept else epochs)
        ours += images * epochs * step + LAST_EPOCHS * tests * step / 3
        plain_step = 1 / found["training"]["plain"]
        if wider:
            plain_step *= 2 * operations["source"]["training"] / sum(operations[n]["training"] for n in operations)
        detection = min(one["plain"] for one in found["detection"].values()) / 1000
        other += images * epochs * plain_step + (epochs // 10 + 1) * tests * detection
    if masked:
        method, maps = variant.run.get("method", "gradients"), found["localization"]
        extra = masked / maps[method]["ours"] - masked / maps["gradients"]["ours"]
        ours += found["category"]["ours"] + max(extra, 0) + found["aupro"]["ours"]
        other += found["category"]["plain"]
        if method == "smoothgrad":
            other += 49 * masked / maps["gradients"]["plain"]
            notes += ["plain's SmoothGrad is fifty of its gradients"]
    return {"ours": ours * scale, "plain": other * scale, "notes": notes}


class Asked(config.WithSource):
    """Parameters of the notebook that measures the running time."""

    SEED: config.Seed
    SIZES: Annotated[list[config.ImageSize], Field(min_length=1)] | None
    DEVICE: str


def from_notebook(notebook: str, namespace: dict) -> tuple[list[Case], Path]:
    """A case to measure for each of SIZES, and the file for the results, from a notebook's globals."""
    return _cases(config.from_cell(Asked, notebook, namespace))


def resolve(**given) -> tuple[list[Case], Path]:
    """The same with all parameters given."""
    return _cases(config.parse(Asked, "21_running_time", given))


def _cases(asked: Asked) -> tuple[list[Case], Path]:
    smoke, protocol, device = asked.is_smoke, protocol_for(asked.PROTOCOL, "mvtec"), config.device_of(asked.DEVICE)
    cases = [
        Case(
            source=asked.source,
            protocol=replace(protocol, lam=protocol.lam or 1.0),  # not calibrated: no time depends on it
            image_size=size,
            images=16 if smoke else max(2 * BATCH_SIZE, min(1024, 2**22 // size**2)),
            masked=4 if smoke else 84,  # the mean over MVTecAD's categories
            batch_size=8 if smoke else BATCH_SIZE,
            batch_sizes=(1, 4) if smoke else (1, 8, BATCH_SIZE),
            few=1 if smoke else 4,
            device=device,
            seed=asked.SEED,
        )
        for size in dict.fromkeys(asked.SIZES or ((32, 64) if smoke else (32, 128, 224)))
    ]
    name = re.sub(r"[^A-Za-z0-9.]+", "-", device_name(device)).strip("-")
    return cases, asked.results_dir / "running_time" / f"{name}-{asked.PROFILE}.json"


def write(path: Path, cases: list[Case], machine: dict, measured: Measured, agreement: dict, article) -> dict:
    """Writes all of it at once to `path`, with the environment it was measured in, and returns it."""
    record = {
        "schema": SCHEMA,
        "cases": [case.parameters() for case in cases],
        "machine": machine,
        "measured": {str(size): found for size, found in measured.items()},
        "loss_agreement": agreement,
        "whole_article": json.loads(article.to_json(orient="records")),
        "environment": artifacts.environment(cases[0].device),
    }
    text = json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return record


def is_current(path: Path, cases: list[Case]) -> bool:
    """True when this code has been measured with these cases on this machine."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        same = record["cases"] == json.loads(json.dumps([case.parameters() for case in cases]))
        return same and record["environment"]["method_version"] == METHOD_VERSION
    except (OSError, ValueError, KeyError, TypeError):  # none there, or not one of these: it is measured again
        return False
