"""The source's weights: torchvision's ImageNet file, an untrained network, or a state dict of your own."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import VGG16_Weights

from kdhelpers.data.downloads import downloading
from kdhelpers.errors import InputError
from kdhelpers.files import file_sha256, reading
from kdhelpers.networks import make_source

IMAGENET = VGG16_Weights.IMAGENET1K_V1
_IMAGENET_SHA256 = Path(IMAGENET.url).stem.rpartition("-")[2]  # its first digits, from torchvision's file name
BUILTIN = ("imagenet", "untrained")
_LAYOUT = "give a VGG-16 state dict in torchvision's layout (features.0.weight … features.28.bias) as SOURCE"


def load_source(source: str, device: torch.device | str = "cpu") -> tuple[nn.Sequential, dict[str, str]]:
    """Load the source S: torchvision's VGG-16 `features`, frozen, in eval mode, on `device`.

    source: "imagenet" (torchvision's weights, downloaded once), "untrained" (Xavier-uniform from a fixed seed, as in
    the released code's ablation), or the path of a state dict, full or features only, of any floating-point type.
    Returns the network and {"name", "sha256"}; for a file its stem and the checksum of its bytes.
    Raises InputError for a missing or damaged file and for weights of another network.
    """
    features = make_source()
    if source == "untrained":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for layer in features:
                if isinstance(layer, nn.Conv2d):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)
        digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in features.parameters()))
        identity = {"name": "untrained", "sha256": digest.hexdigest()}
    else:
        path = imagenet_path() if source == "imagenet" else Path(source)
        if source == "imagenet" and not path.is_file():
            _download(path)
        identity = identify_source(str(path))
        if source == "imagenet" and identity["name"] != "imagenet":
            found = f"{identity['sha256'][:8]}… instead of {_IMAGENET_SHA256}…"
            raise InputError(f"{path} is damaged: its SHA-256 is {found}; remove it to download it again")
        features.load_state_dict(_read_weights(path.expanduser(), features.state_dict()))
    return features.eval().requires_grad_(False).to(device, memory_format=torch.channels_last), identity


def load_recorded(given: str, wanted: dict[str, str], path: Path | str, device: torch.device | str) -> nn.Sequential:
    """Load the source `given`, a value of SOURCE, if the cloner at `path` was trained with it.

    wanted: {"name", "sha256"} of the cloner's source. Raises InputError for another source, if possible before loading.
    """
    new_path = "; give the weights' path as --source, or source= in Python"
    found = {"sha256": ""} if given in BUILTIN else identify_source(given, new_path)
    if given == wanted["name"] or found["sha256"] == wanted["sha256"]:
        network, found = load_source(given, device)
        if found["sha256"] == wanted["sha256"]:
            return network
    fix = wanted["name"] if wanted["name"] in BUILTIN else "the path of that file"
    of = f" ({found['sha256'][:8]}…)" if found["sha256"] else ""
    trained = f"the source {wanted['name']} (SHA-256 {wanted['sha256'][:8]}…)"
    raise InputError(f"{path} was trained with {trained}, and {given}{of} is another one: give {fix} as source")


def identify_source(source: str, fix: str = "") -> dict[str, str]:
    """{"name", "sha256"} of a weights file; the name is "imagenet" for torchvision's file, else the file's stem.

    Raises InputError, whose message ends with `fix`, when there is no such file.
    """
    path = Path(source).expanduser()
    with reading(path):
        if not path.is_file():
            made = f" (python -m kdhelpers.data.original_weights {path} makes it)" * (path.name == "vgg16_imagenet.pt")
            known = "neither imagenet, nor untrained, nor an existing weights file"
            raise InputError(f"SOURCE {source!r} is {known}{made}{fix}")
        sha256 = file_sha256(path)
    return {"name": "imagenet" if sha256.startswith(_IMAGENET_SHA256) else path.stem, "sha256": sha256}


def source_name(source: str) -> str:
    """The source's name in paths of records: "imagenet", "untrained", or stem-<first 8 digits of its SHA-256>."""
    if source in BUILTIN:
        return source
    identity = identify_source(source)
    return identity["name"] if identity["name"] == "imagenet" else f"{identity['name']}-{identity['sha256'][:8]}"


def imagenet_path() -> Path:
    """Where torch.hub stores torchvision's ImageNet weights on this machine."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(IMAGENET.url).name)


def _download(path: Path) -> None:
    fix = f"fetch {IMAGENET.url} and put it at {path}, or give its path as SOURCE"
    with downloading("the ImageNet weights", path.parent, fix):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(IMAGENET.url, str(path), hash_prefix=_IMAGENET_SHA256)


def _read_weights(path: Path, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read the tensors of `wanted` as float32 from a state dict on disk; InputError when names or shapes differ."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # many types for a damaged pickle; torch's text suggests disabling its safeguard
        raise InputError(f"{path} is not a file of weights: {_LAYOUT}") from error
    if not isinstance(state, dict):
        raise InputError(f"{path} holds a {type(state).__name__}, not a state dict: {_LAYOUT}")
    found = {str(name).removeprefix("features."): value for name, value in state.items()}
    found = {name: value for name, value in found.items() if not name.startswith("classifier.")}
    for name in sorted(wanted.keys() ^ found.keys()):
        raise InputError(f"{path} is not VGG-16: {name!r} is {'missing' if name in wanted else 'too much'}; {_LAYOUT}")
    for name, value in wanted.items():
        shape = tuple(getattr(found[name], "shape", ()))
        if shape != tuple(value.shape):
            raise InputError(f"{path} is not VGG-16: {name} is {shape}, not {tuple(value.shape)}; {_LAYOUT}")
        if not found[name].is_floating_point():
            raise InputError(f"{path} is not VGG-16: {name} is of {found[name].dtype}, not a float type; {_LAYOUT}")
        if not torch.isfinite(found[name].float()).all():
            raise InputError(f"{path} is damaged: {name} is not finite; {_LAYOUT}")
    return {name: found[name].float() for name in wanted}
