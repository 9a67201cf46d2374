"""The notebooks' parameters as pydantic models, and one-line errors for wrong values."""

import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kdhelpers import paths
from kdhelpers.errors import InputError, did_you_mean
from kdhelpers.protocols import FALSE_ALARMS, PRECISIONS

Seed = Annotated[int, Field(ge=0)]
Epochs = Annotated[int, Field(ge=1)]
ImageSize = Annotated[int, Field(ge=32)]  # VGG-16 halves an image five times
Classes = Annotated[list[str | int], Field(min_length=1)]
Label = Literal["good", "bad", "unknown"]
Folder = Annotated[str | Path, AfterValidator(lambda path: Path(path).expanduser().absolute() if path else None)]


class Common(BaseModel):
    """Parameters of all notebooks."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    PROFILE: Literal["smoke", "full"]
    RESULTS_DIR: Folder | None = None
    PROTOCOL: Literal["official", "text"]
    SOURCE: Annotated[str, Field(min_length=1)]

    @property
    def is_smoke(self) -> bool:
        return self.PROFILE == "smoke"

    @property
    def results_dir(self) -> Path:
        return self.RESULTS_DIR or paths.RESULTS_DIR

    @property
    def source(self) -> str:
        """The source in force; smoke replaces ImageNet's by an untrained one, which needs no download."""
        return "untrained" if self.is_smoke and self.SOURCE == "imagenet" else self.SOURCE


class Tables(Common):
    """Parameters of the notebook of tables and figures."""

    PRECISION: Literal[PRECISIONS] = PRECISIONS[0]


class Training(Tables):
    """Parameters of a notebook that trains; comments in the notebooks explain them."""

    SEED: Seed
    CLASSES: Classes | Annotated[dict[str, Classes], Field(min_length=1)] | None = None
    EPOCHS: Epochs | dict[str, Epochs] | None
    IMAGE_SIZE: ImageSize | dict[str, ImageSize] | None
    BATCH_SIZE: Annotated[int, Field(ge=1)] | None
    DEVICE: str
    CACHE: Literal["auto", "device", "host", "none"]
    DATA_DIR: Folder | None
    VARIANTS: Annotated[list[str], Field(min_length=1)] | None = None


class OwnImages(Training):
    """Parameters of the notebook of your own images."""

    IMAGE_SIZE: ImageSize | Annotated[list[ImageSize], Field(min_length=2, max_length=2)] | None
    PRECISION: Literal[("auto", *PRECISIONS)] = PRECISIONS[0]
    TILE: ImageSize | None = None
    IGNORE: Folder | None = None
    TEST_DIR: Folder | None = None
    TEST_LABEL: Label | Annotated[dict[str, Label], Field(min_length=1)] | None = None
    MAP: Literal["disagreement", "gradients"] = "disagreement"
    SCORE: Literal["loss", "maximum", "top"] = "loss"
    FALSE_ALARMS: Annotated[float, Field(gt=0, le=0.5)] = FALSE_ALARMS


class BesideAnomalib(Training):
    """Parameters of the notebook that compares anomalib's methods with ours."""

    METHODS: list[Literal["stfpm", "patchcore"]] | None
    STFPM_EPOCHS: Epochs
    CORESET: Annotated[float, Field(gt=0, le=1)]  # the share of patches that PatchCore stores
    BACKBONES: Literal["imagenet", "source", "untrained"]


Model = TypeVar("Model", bound=Common)


def parse(model: type[Model], notebook: str, given: dict) -> Model:
    """The parameters as a `model`; raises a one-line InputError with the first wrong one and the allowed values."""
    try:
        return model(**given)
    except ValidationError as invalid:
        wrong = sorted(invalid.errors(), key=lambda one: one["type"] != "extra_forbidden")  # unknown names first
    kind, name, names = wrong[0]["type"], str(wrong[0]["loc"][0]), list(model.model_fields)
    if kind in ("extra_forbidden", "missing"):
        what = "missing parameter" if kind == "missing" else "unknown parameter"
        hint = "" if kind == "missing" else did_you_mean(name, names)
        raise InputError(f"{what} {name}{hint}; {notebook} has {', '.join(names)}")
    reasons = dict.fromkeys(one["msg"][0].lower() + one["msg"][1:] for one in wrong if one["loc"][0] == name)
    hint = did_you_mean(wrong[0]["input"], re.findall("'(.+?)'", wrong[0]["msg"]))
    raise InputError(f"{name} is {given[name]!r}: {' or '.join(reasons)}{hint}")


def from_cell(namespace: dict) -> dict:
    """A notebook's parameters, from its globals after the parameters cell: all names in capitals, and all names that
    papermill's injected cell assigned."""
    cells = [cell for cell in namespace.get("In", []) if cell.startswith("# Parameters\n")]
    names = {name for cell in cells for name in re.findall(r"^(\w+) = ", cell, re.MULTILINE)}
    names |= {name for name in namespace if name.isupper() and not name.startswith("_")}
    return {name: namespace[name] for name in sorted(names)}
