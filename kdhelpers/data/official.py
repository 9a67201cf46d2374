"""The official numbers of images in each data set: what `check` counts, and what a record says if a set has others."""

_MVTEC = """
    bottle 209 20 63, cable 224 58 92, capsule 219 23 109, carpet 280 28 89, grid 264 21 57, hazelnut 391 40 70,
    leather 245 32 92, metal_nut 220 22 93, pill 267 26 141, screw 320 41 119, tile 230 33 84, toothbrush 60 12 30,
    transistor 213 60 40, wood 247 19 60, zipper 240 32 119
"""  # numbers of images in train/good, in test/good, and of defects, each with a mask
COUNTS = {  # numbers of images (and masks) in the folders that the notebooks read; *: all but good
    "mnist": {"train": 60_000, "test": 10_000},
    "fashion_mnist": {"train": 60_000, "test": 10_000},
    "cifar10": {"train/*": 50_000, "test/*": 10_000},
    "mvtec": {
        f"{category}/{place}": int(count)
        for category, train, good, bad in map(str.split, _MVTEC.split(","))
        for place, count in {"train/good": train, "test/good": good, "test/*": bad, "ground_truth/*": bad}.items()
    },
    "oct2017": {"train/NORMAL": 26_315} | {f"test/{kind}": 250 for kind in ("NORMAL", "CNV", "DME", "DRUSEN")},
    "head_ct": {"head_ct": 200},
    "brain_mri": {"no": 98, "yes": 155},
}


def deviations(dataset: str, cls: str, found: int) -> tuple[str, ...]:
    """How a class read from image folders deviates: folders for CIFAR-10, or another number than `found` images."""
    if dataset == "cifar10":
        return ("image folders instead of CIFAR-10's own files",)
    places = COUNTS.get(cls if dataset == "retinal_oct" else dataset, {})
    inside = f"{cls}/" if dataset == "mvtec" else ""
    numbers = [n for place, n in places.items() if place.startswith(inside) and "ground_truth" not in place]
    return (f"{found} images instead of {sum(numbers)}",) if numbers and found != sum(numbers) else ()
