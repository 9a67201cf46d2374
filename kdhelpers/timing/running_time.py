"""The results of `benchmark` as a table and a figure, and the time they predict for the whole article.

`measured` is {image size: result of `benchmark.measure`}; `machine` is the result of `benchmark.machine`.
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
import seaborn as sns
import torch
from matplotlib.figure import Figure
from pydantic import Field

from kdhelpers.experiments import artifacts, config, parameters, records
from kdhelpers.experiments.variants import ABLATIONS, DATASETS, FEWER_SEEDS, Variant, variants_of
from kdhelpers.files import write_json
from kdhelpers.protocols import BATCH_SIZE, LAST_EPOCHS, METHODS, SCORED_EVERY, SEEDS, SETTINGS, Setting, protocol_for
from kdhelpers.reporting.paper_style import in_style
from kdhelpers.reporting.published import NAMES
from kdhelpers.timing.benchmark import Case

Measured = Mapping[int, dict]
SCHEMA = 2


def speeds(measured: Measured, machine: dict) -> pd.DataFrame:
    """Training, detection and localization at each size: ours, the released code's procedure, and the floor.

    In milliseconds per image. The floor is the time of the convolutions' operations alone at the machine's peak.
    """
    rows = []
    for size, found in measured.items():
        detection = f"detection {found['case']['batch_size']}"
        for task, count in (("training", "training"), (detection, "detection"), ("localization gradients", "map")):
            ours, released = 1000 * found[task]["ours"], 1000 * found[task]["released"]
            rows.append((size, task.split()[0], ours, released, released / ours, found["operations"][count]))
    columns = ["px", "what", "ours (ms)", "released code (ms)", "times faster", "floor (ms)"]
    frame = pd.DataFrame(rows, columns=columns)
    # No row of the table can be above the peak.
    peak = max(machine["peak"] / 1000, (frame["floor (ms)"] / frame["ours (ms)"]).max())
    frame["floor (ms)"] /= peak
    frame["% of the floor's speed"] = 100 * frame["floor (ms)"] / frame["ours (ms)"]
    return frame


@in_style
def picture(measured: Measured, machine: dict, *, title: str = "") -> Figure:
    """Images per second by task and size, on a log scale: the released code, ours, and the machine's peak."""
    sides = {"released code (ms)": "released code", "ours (ms)": "ours", "floor (ms)": "at the machine's peak"}
    frame = speeds(measured, machine).rename(columns=sides).melt(["px", "what"], [*sides.values()], "")
    frame = frame.assign(size=frame["px"].map("{} px".format), **{"images a second": 1000 / frame["value"]})
    figure, panels = plt.subplots(1, 3, figsize=(7, 2.4), sharey=True, layout="constrained")
    for axes, (panel, part) in zip(panels, frame.groupby("what", sort=False), strict=True):
        colours = ["0.75", "C0", "0.9"]
        sns.barplot(part, x="size", y="images a second", hue="", palette=colours, ax=axes, legend=axes is panels[-1])
        axes.set(yscale="log", xlabel="", title=panel)
    panels[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    name = f"{machine['name']}, {machine['threads']} threads, float32"
    figure.suptitle(f"{title}: {name}" if title else name, fontsize=7)
    plt.close(figure)
    return figure


def whole_article(measured: Measured, machine: dict, protocol: str) -> pd.DataFrame:
    """Hours for the records of the article and the ablations: one row per notebook and data set, and their sum.

    Maps that are not the article's and the maps of good images are left out, and so is reading and resizing images.
    The seeds are ten, or `variants.FEWER_SEEDS`. Times are of the nearest size, scaled by the ratio of pixels. The
    column "from" is "measured" or names the extrapolations, as by size or by a variant's operations. S runs in
    every epoch for augmented images, and where its activations take more than half of the free memory. With
    protocol `text`, the number of epochs is the maximum.
    """
    rows = []
    for notebook, datasets in DATASETS.items():
        for dataset in datasets if datasets != ("folder",) else ():
            main = protocol_for(protocol, dataset), SETTINGS[dataset].image_size
            variants = variants_of(notebook, dataset, *main)[notebook in ABLATIONS :]
            variants = [one for one in variants if one.run.get("method", METHODS[0]) in METHODS]  # the article's
            seeds = FEWER_SEEDS.get(notebook, SEEDS)
            costs = [_cost(measured, machine, one, variant) for one in _classes(dataset) for variant in variants]
            *seconds, notes = zip(*costs, strict=True)
            ours, released = (seeds * sum(side) / 3600 for side in seconds)
            words = "; ".join(dict.fromkeys(note for some in notes for note in some))
            extrapolated = f"extrapolated: {words}" if words else "measured"
            rows.append((notebook, NAMES[dataset], len(costs) * seeds, ours, released, extrapolated))
    columns = ["notebook", "data set", "records", "ours (h)", "released code (h)", "from"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.loc[len(frame)] = ["all", "", *frame[columns[2:5]].sum(), "extrapolated where a row above is"]
    frame.insert(5, "times faster", frame["released code (h)"] / frame["ours (h)"])
    return frame.astype({"records": int})


def _classes(dataset: str) -> list[Setting]:
    setting = SETTINGS[dataset]
    if dataset == "retinal_oct":
        return [setting, replace(setting, images=4297, tests=1805)]  # OCT2017, and RESC as BMAD arranges it
    return [setting] * setting.classes


def _cost(measured: Measured, machine: dict, setting: Setting, variant: Variant) -> tuple[float, float, list[str]]:
    """Seconds of ours and of the released code for one class and seed, and the extrapolations in words."""
    px = variant.run.get("image_size", setting.image_size)
    near = min(measured, key=lambda size: abs(np.log(size / px)))
    found, scale, images, epochs = measured[near], (px / near) ** 2, setting.images, setting.epochs
    notes = [] if px == near else [f"{px} px from {near} px"]
    ours = released = 0.0
    detection = found[f"detection {found['case']['batch_size']}"]["released"]
    step, released_step = found["training"]["ours"], found["training"]["released"]
    if variant.trains:
        if variant.protocol.get("width") == "equal":
            c = found["operations"]["training"] / 3  # about one forward pass of C
            s = found["operations"]["detection"] - c
            step, released_step = step * s / c, released_step * 2 * s / (s + c)  # the latter includes S
            notes += ["an equal cloner by its operations"]
        elif variant.name:
            notes += ["each variant as the main run"]
        scorings = LAST_EPOCHS + (epochs - LAST_EPOCHS) // SCORED_EVERY
        most = machine["free"] / 2 / (found["source"]["bytes"] * scale)  # images whose activations are cached
        cached = images <= most and not variant.run.get("augment")
        notes += [] if cached and setting.tests <= most else ["S in every epoch, by its time on an image"]
        passes = images * (1 if cached else epochs) + setting.tests * (1 if setting.tests <= most else scorings)
        ours += found["source"]["seconds"] * passes
        # Scoring a test image is a forward pass of C, a third of the work of a training step.
        ours += step * (images * epochs + scorings * setting.tests / 3)
        released += images * epochs * released_step + (epochs // 10 + 1) * setting.tests * detection
    if setting.masked:
        maps, method = found["localization gradients"], variant.run.get("method", "gradients")
        extra = setting.masked * (found[f"localization {method}"]["ours"] - maps["ours"])
        ours += found["category"]["ours"] + max(extra, 0)
        released += found["category"]["released"]
        if method == "smoothgrad":
            released += 49 * setting.masked * maps["released"]
            notes += ["the released code's SmoothGrad as fifty of its gradients"]
    return ours * scale, released * scale, notes


class Asked(parameters.Common):
    """Parameters of the notebook that measures the running time."""

    SEED: parameters.Seed
    SIZES: Annotated[list[parameters.ImageSize], Field(min_length=1)] | None
    DEVICE: str


def from_notebook(notebook: str, namespace: dict) -> tuple[list[Case], Path]:
    """`resolve` from a notebook's globals."""
    return resolve(notebook, **parameters.from_cell(namespace))


def resolve(notebook: str, **given) -> tuple[list[Case], Path]:
    """A case for each of SIZES, and the path for the results, from all parameters by name."""
    asked = parameters.parse(Asked, notebook, given)
    smoke, protocol, device = asked.is_smoke, protocol_for(asked.PROTOCOL, "mvtec"), config.device_of(asked.DEVICE)
    cases = [
        Case(
            source=asked.source,
            protocol=replace(protocol, lam=protocol.lam or 1.0),  # not calibrated: no time depends on it
            image_size=size,
            images=16 if smoke else max(2 * BATCH_SIZE, min(1024, 2**22 // size**2)),
            masked=4 if smoke else 84,  # the mean over MVTecAD's categories
            batch_size=8 if smoke else BATCH_SIZE,
            few=1 if smoke else 4,
            device=device,
            seed=asked.SEED,
        )
        for size in dict.fromkeys(asked.SIZES or ((32,) if smoke else (32, 128, 224)))
    ]
    words = [artifacts.device_name(device), *([asked.PROTOCOL] if asked.PROTOCOL != "official" else [])]
    name = re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(words)).strip("-")
    return cases, asked.results_dir / "running_time" / f"{name}-{asked.PROFILE}.json"


def write_figures(path: Path, measured: Measured, machine: dict, protocol: str, title: str) -> None:
    """Write the notebook's figure (.png) and both of its tables (.md) beside the results at `path`."""
    picture(measured, machine, title=title).savefig(path.with_suffix(".png"), dpi=200)
    tables = speeds(measured, machine), whole_article(measured, machine, protocol)
    text = [title, *(frame.to_markdown(index=False, floatfmt=".3g") for frame in tables)]
    path.with_suffix(".md").write_text("\n\n".join(filter(None, text)) + "\n", encoding="utf-8")


def write(path: Path, cases: list[Case], machine: dict, measured: Measured, agreement: dict) -> None:
    """Atomically write all results to `path`, with the environment of the measurements."""
    record = {
        "schema": SCHEMA,
        "cases": [case.parameters() for case in cases],
        "machine": machine,
        "measured": {str(size): found for size, found in measured.items()},
        "loss_agreement": agreement,
        "environment": artifacts.environment(cases[0].device),
    }
    write_json(path, record)


def is_current(path: Path, cases: list[Case]) -> bool:
    """True when `path` has results of this method version and number of threads for these cases, with any source."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        asked = json.loads(json.dumps([case.parameters() for case in cases]))
        same = [one | {"source": ""} for one in record["cases"]] == [one | {"source": ""} for one in asked]
        return same and not records.is_stale(record) and record["environment"]["threads"] == torch.get_num_threads()
    except (OSError, ValueError, KeyError, TypeError):  # missing or not such a file: measure again
        return False
