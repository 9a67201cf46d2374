"""The data sets of each notebook, and the variants of the ablations (Sec. 3.3).

A variant only changes fields of `protocols.Protocol` or of `runs.Run`. The variant named None changes nothing: it is
the main run, whose records belong to the data set's own notebook.
"""

from dataclasses import asdict, dataclass, field

from kdhelpers.protocols import PROTOCOLS, SETTINGS, Protocol, protocol_for

DATASETS = {
    "00_quickstart": ("folder",),
    "01_mnist": ("mnist",),
    "02_fashion_mnist": ("fashion_mnist",),
    "03_cifar10": ("cifar10",),
    "04_mvtec": ("mvtec",),
    "05_retinal_oct": ("retinal_oct",),
    "06_head_ct": ("head_ct",),
    "07_brain_mri": ("brain_mri",),
    "11_critical_layers": ("mnist", "mvtec"),
    "12_cloner_size": ("mvtec",),
    "13_loss_terms": ("mnist", "fashion_mnist", "cifar10", "mvtec"),
    "14_interpretability": ("mvtec",),
    "15_unstated_details": ("mnist", "mvtec", "head_ct", "brain_mri"),
}
"""The data sets of each notebook that trains."""
EDGES = "edges of the image (no network)"  # a trivial map
ABLATIONS = tuple(name for name in DATASETS if name[0] == "1")
FEWER_SEEDS = {"15_unstated_details": 3}  # it has about a dozen variants, for what the article leaves open
# Fields of Protocol that affect neither the training nor the scores of test images; variants that differ only in these
# share one cloner.
AFTER_TRAINING = ("gradient", "renormalise", "soft_masks")


@dataclass(frozen=True)
class Variant:
    """One row of an ablation."""

    name: str | None  # in file names; None: the main run
    label: str  # in tables and figures
    protocol: dict = field(default_factory=dict)  # changed fields of the Protocol
    run: dict = field(default_factory=dict)  # changed fields of the Run

    @property
    def trains(self) -> bool:
        """False for a variant that reuses the trained cloner of its main run."""
        return self.name is None or not (self.protocol.keys() <= set(AFTER_TRAINING) and self.run.keys() <= {"method"})


def main_notebook(dataset: str) -> str:
    """The notebook of this data set alone; its records are the main runs."""
    return next(name for name, datasets in DATASETS.items() if datasets == (dataset,) and name not in ABLATIONS)


def variants_of(notebook: str, dataset: str, protocol: Protocol, image_size: int | None = None) -> list[Variant]:
    """The variants of a notebook on a data set, the main run first.

    protocol, image_size: those of the main run; with None, the variants for every size that a main run may have.
    """
    if notebook == "15_unstated_details":
        return _unstated(dataset, protocol, image_size)
    return _VARIANTS.get(notebook, [Variant(None, "")])


_VARIANTS = {
    "06_head_ct": [Variant(None, "plain"), Variant("augmented", "augmented", run={"augment": True})],
    "11_critical_layers": [
        Variant(None, "last four"),
        Variant("last_two", "last two", {"points": 2}),
        Variant("last", "last", {"points": 1}),
    ],
    "12_cloner_size": [Variant(None, "compact"), Variant("equal", "equal size", {"width": "equal"})],
    "13_loss_terms": [
        Variant(None, "L_total"),
        Variant("dir", "L_dir", {"terms": "dir"}),
        Variant("val", "L_val", {"terms": "val"}),
    ],
    "14_interpretability": [
        Variant(None, "Gradients"),
        Variant("smoothgrad", "SmoothGrad", run={"method": "smoothgrad"}),
        Variant("guided_backprop", "GBP", run={"method": "guided_backprop"}),
        Variant("disagreement", "disagreement (not in the article)", run={"method": "disagreement"}),
        Variant("edges", EDGES, run={"method": "edges"}),
    ],
}
_IN_WORDS = {
    "order": {"val + lambda * dir": "L_val + λ·L_dir", "dir + lambda * val": "L_dir + λ·L_val"},
    "lam": {None: "λ calibrated", 0.01: "λ = 0.01", 0.5: "λ = 0.5"},
    "score_points": {3: "three CPs in the score", 4: "four CPs in the score"},
    "batch_norm": {True: "BatchNorm in the cloner", False: "no BatchNorm"},
    "gradient": {"cloner": "gradient through C only", "both": "gradient through S and C"},
    "soft_masks": {True: "soft masks", False: "binary masks"},
    "stop": {"converged": "until converged", "epochs": "fixed epochs"},
}


def _unstated(dataset: str, protocol: Protocol, image_size: int | None) -> list[Variant]:
    """Variants for what the article leaves out (Sec. 3.1, 3.2): changes of `protocol` towards the other one."""
    other = next(protocol_for(name, dataset) for name in PROTOCOLS if name != protocol.name)
    here, there = asdict(protocol), asdict(other)
    measured = dataset == "mvtec"  # has masks to evaluate maps
    differs = [name for name in _IN_WORDS if here[name] != there[name] and (measured or name not in AFTER_TRAINING)]
    variants = [Variant(None, f"{protocol.name}, as it is")]
    variants += [Variant(name, _IN_WORDS[name][there[name]], {name: there[name]}) for name in differs]
    variants += [
        Variant("order_lam", "order and λ", {"order": other.order, "lam": other.lam}),
        Variant("bias", "bias", {"bias": True}),
    ]
    if protocol.batch_norm:  # BatchNorm's shift is a bias too, but Sec. 3.2 describes a cloner without any
        variants.append(Variant("bias_no_batch_norm", "bias, no BatchNorm", {"bias": True, "batch_norm": False}))
    if protocol.lam is not None:
        lam = 0.01 if protocol.lam == 0.5 else 0.5
        variants.append(Variant("lam_other", _IN_WORDS["lam"][lam], {"lam": lam}))
    changed = {name: there[name] for name in there if name != "name"}
    variants.append(Variant("all", f"all of {other.name}", changed))
    if dataset in ("head_ct", "brain_mri"):  # varied in other attempts to reproduce Table 6
        variants.append(Variant("normal_test_20", "20 normal test images", run={"normal_test": 20}))
        article, other = SETTINGS[dataset].image_size, {"head_ct": 256, "brain_mri": 128}[dataset]
        for size in (other, article) if image_size is None else (article if image_size == other else other,):
            variants.append(Variant(f"size_{size}", f"{size} px", run={"image_size": size}))
    variants.append(Variant("untrained", "untrained source", run={"source": "untrained"}))
    return variants
