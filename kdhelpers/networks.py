"""Source S and cloner C (Fig. 2), and their activations at the critical points."""

import hashlib
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn
from torchvision.models import VGG16_Weights
from torchvision.models.vgg import cfgs, make_layers

from kdhelpers.cache import in_chunks
from kdhelpers.data.fetching import alone, differs, download, in_one_line
from kdhelpers.data.images import file_sha256, reading
from kdhelpers.errors import InputError
from kdhelpers.protocols import Protocol

# The layers of Fig. 2; "M" is 2×2 max-pooling, a number a 3×3 convolution of that many channels and a ReLU. The last
# convolution before a pool is as wide as the source's, so that the two can be compared after the pool.
WIDTHS = {
    "compact": [16, 16, "M", 16, 128, "M", 16, 16, 256, "M", 16, 16, 512, "M", 16, 16, 512, "M"],
    "equal": cfgs["D"],
}
IMAGENET = VGG16_Weights.IMAGENET1K_V1
_IMAGENET_SHA256 = Path(IMAGENET.url).stem.rpartition("-")[2]  # its first digits; torchvision names the file so
CACHES = ("auto", "device", "host", "none")  # where S's activations are kept


def make_cloner(protocol: Protocol, seed: int) -> nn.Sequential:
    """The untrained cloner C of Fig. 2, Xavier-uniform from `seed`; `protocol.width` "equal" is the one of Sec. 3.3.2.

    Compact, 343,984 parameters with BatchNorm (official) and 343,728 without (text).
    """
    layers: list[nn.Module] = []
    channels = 3
    widths = WIDTHS[protocol.width]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for this, following in zip(widths, [*widths[1:], None], strict=True):
            if this == "M":
                # The maximum and the ReLU commute: after the pool the ReLU has a quarter of the values to look at.
                layers.insert(-1, nn.MaxPool2d(2))
                continue
            conv = nn.Conv2d(channels, this, kernel_size=3, padding=1, bias=protocol.bias)
            nn.init.xavier_uniform_(conv.weight)
            layers.append(conv)
            if protocol.batch_norm and following != "M":
                layers.append(nn.BatchNorm2d(this))
            layers.append(nn.ReLU(inplace=True))
            channels = this
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def critical_points(
    network: nn.Sequential, x: Tensor, points: int = 4, relu: Callable[[Tensor], Tensor] | None = None
) -> list[Tensor]:
    """Activations a^CP of the last `points` of CP1..CP4, the outputs of max-pools 2 to 5 (Sec. 3.2).

    x: float (n, 3, h, w), h and w at least 32. Returns tensors (n, channels, h', w'), shallowest first.
    `relu` stands in for the network's ReLUs; guided backprop passes its own.
    """
    pooled: list[Tensor] = []
    for before, layer in pairwise([None, *network]):
        x = relu(x) if relu is not None and isinstance(layer, nn.ReLU) else layer(x)
        if isinstance(layer, nn.MaxPool2d):
            pooled.append(x)
        elif isinstance(layer, nn.ReLU) and isinstance(before, nn.MaxPool2d):  # in the cloner it follows the pool
            pooled[-1] = x
    return pooled[-points:]


@torch.no_grad()
def describe(source: nn.Sequential, cloner: nn.Sequential, image_size: int) -> list[dict[str, object]]:
    """What Fig. 2 shows: a row for each critical point, the shape of its activations, and parameters up to there."""
    device = next(source.parameters()).device
    a_c = critical_points(cloner, torch.zeros(1, 3, image_size, image_size, device=device))
    rows = []
    for name, activation, pool in zip(("CP1", "CP2", "CP3", "CP4"), a_c, (2, 3, 4, 5), strict=True):
        rows.append({"critical point": name, "max-pool": pool, "channels, height, width": tuple(activation.shape[1:])})
        for network, title in ((source, "S"), (cloner, "C")):
            pools = [i for i, layer in enumerate(network) if isinstance(layer, nn.MaxPool2d)]
            rows[-1][f"parameters of {title}"] = sum(p.numel() for p in network[: pools[pool - 1]].parameters())
    return rows


class SourceActivations:
    """a_S of every image of a set: computed once and kept, or at each call; the same numbers either way.

    `activations[index]` is the list of `critical_points` of those `images`, without gradient, on their device.
    cache: where they are kept: "device", where the images are; "host", in main memory; "none"; or "auto", the first of
    these that leaves half of the free memory free.
    """

    def __init__(self, source: nn.Sequential, images, *, cache: str = "auto"):
        self.source, self.images, self.kept = source, images, None
        one = self._compute(slice(0, 1))
        self.cache = _room_for(len(images) * sum(a.nbytes for a in one), one[0].device) if cache == "auto" else cache
        if self.cache != "none":
            place = "cpu" if self.cache == "host" else one[0].device
            pinned = self.cache == "host" and one[0].is_cuda  # so that copies to the GPU need not wait for each other
            # Channels last, as the networks compute: an image's activations lie in one piece.
            self.kept = [
                torch.empty(len(images), *a.shape[2:], a.shape[1], dtype=a.dtype, device=place, pin_memory=pinned)
                for a in one
            ]
            self.by_chunks(self._keep)

    @torch.no_grad()
    def _compute(self, index) -> list[Tensor]:
        return critical_points(self.source, self.images[index])

    def _keep(self, index: slice) -> None:
        for whole, part in zip(self.kept, self._compute(index), strict=True):
            whole[index] = part.permute(0, 2, 3, 1)

    def __getitem__(self, index) -> list[Tensor]:
        if self.kept is None:
            return self._compute(index)
        device = self.images.pixels.device
        there = index.to(self.kept[0].device) if isinstance(index, Tensor) else index
        return [a[there].to(device, non_blocking=True).permute(0, 3, 1, 2) for a in self.kept]

    def __len__(self) -> int:
        return len(self.images)

    def by_chunks(self, function: Callable, pixels: int = 2**19) -> list:
        """`function` of slices that walk through the set with about `pixels` pixels of each channel in each."""
        return in_chunks(function, len(self), max(1, pixels // self.images.pixels[0, 0].numel()))


def _room_for(size: int, device: torch.device) -> str:
    """The cache for `size` bytes that leaves half of what is free: on the device, in main memory, or none."""
    if device.type == "cuda" and size <= torch.cuda.mem_get_info(device)[0] / 2:
        return "device"
    if size <= psutil.virtual_memory().available / 2:
        return "host" if device.type == "cuda" else "device"
    return "none"


def load_source(source: str, device: torch.device | str = "cpu") -> tuple[nn.Sequential, dict[str, str]]:
    """The source S: VGG-16's `features` by torchvision, frozen, in eval mode, on `device`.

    source: "imagenet" (torchvision's weights, downloaded once), "untrained" (Xavier-uniform from a fixed seed, as the
    released code's ablation), or the path of a state dict, full or of the features only, of any float type.
    Returns the network and {"name", "sha256"}: for a file its stem and the checksum of its bytes.
    Raises InputError for a missing or damaged file and for weights of another network.
    """
    features = make_layers(cfgs["D"])
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
        path = _imagenet_file() if source == "imagenet" else Path(source)
        identity = identify_source(str(path))
        if source == "imagenet" and identity["name"] != "imagenet":
            wrong = differs("sha256", identity["sha256"], _IMAGENET_SHA256)
            raise InputError(f"{path} is damaged: {wrong}; remove it to have it downloaded again")
        _load_weights(features, path)
    return features.eval().requires_grad_(False).to(device, memory_format=torch.channels_last), identity


def identify_source(source: str) -> dict[str, str]:
    """{"name", "sha256"} of a weights file; its name is "imagenet" when the file is torchvision's own.

    Raises InputError when there is no such file.
    """
    path = Path(source).expanduser()
    with reading(path):
        if not path.is_file():
            raise InputError(f"SOURCE {source!r} is neither imagenet, nor untrained, nor an existing weights file")
        sha256 = file_sha256(path)
    return {"name": "imagenet" if sha256.startswith(_IMAGENET_SHA256) else path.stem, "sha256": sha256}


def source_folder(source: str) -> str:
    """The name under which records of this source are kept: "imagenet", "untrained", or stem-<8 digits>."""
    if source in ("imagenet", "untrained"):
        return source
    identity = identify_source(source)
    return identity["name"] if identity["name"] == "imagenet" else f"{identity['name']}-{identity['sha256'][:8]}"


def imagenet_path() -> Path:
    """Where torchvision keeps its ImageNet weights on this machine, once they are downloaded."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(IMAGENET.url).name)


def _imagenet_file() -> Path:
    path = imagenet_path()
    way_out = f"fetch {IMAGENET.url} and put it at {path}, or give its path as SOURCE"
    if not path.is_file():
        try:
            with alone(path):
                if not path.is_file():  # another process may have been faster
                    download([IMAGENET.url], path, "sha256", _IMAGENET_SHA256, way_out)
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror or error}): {way_out}") from None
    return path


def _load_weights(features: nn.Sequential, path: Path) -> None:
    way_out = "give a VGG-16 state dict in torchvision's layout (features.0.weight … features.28.bias) as SOURCE"
    try:
        state = torch.load(path.expanduser(), map_location="cpu", weights_only=True)
    except Exception as error:  # what is no pickle, or a damaged one, ends in any of a dozen kinds; torch's own words
        raise InputError(f"{path} is not a file of weights: {way_out}") from error  # tell people to turn its guard off
    if not isinstance(state, dict):
        raise InputError(f"{path} holds a {type(state).__name__}, not a state dict: {way_out}")
    wanted = features.state_dict()
    found = {str(name).removeprefix("features."): value for name, value in state.items()}
    found = {name: value for name, value in found.items() if not name.startswith("classifier.")}
    for name in sorted(wanted.keys() ^ found.keys()):
        raise InputError(f"{path} is not VGG-16: {name!r} is {'missing' if name in wanted else 'too much'}; {way_out}")
    for name, value in wanted.items():
        if not isinstance(found[name], Tensor) or found[name].shape != value.shape:
            shape = tuple(getattr(found[name], "shape", ()))
            raise InputError(f"{path} is not VGG-16: {name} is {shape}, not {tuple(value.shape)}; {way_out}")
        if not found[name].is_floating_point():
            raise InputError(f"{path} is not VGG-16: {name} is of {found[name].dtype}, no float type; {way_out}")
        if not torch.isfinite(found[name].float()).all():
            raise InputError(f"{path} is damaged: {name} is not finite; {way_out}")
    features.load_state_dict({name: value.float() for name, value in found.items()})


if __name__ == "__main__":  # fetches and checks a source, before many runs need it
    if len(sys.argv) != 2:
        sys.exit("usage: python -m kdhelpers.networks SOURCE")
    in_one_line(load_source, sys.argv[1])
