"""Pictures: from files to uint8 tensors, and from these to the float batches that the networks see."""

import contextlib
import importlib
import io
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from kdhelpers.errors import InputError
from kdhelpers.files import reading

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY = (128, 128, 128)  # what the networks see where a picture is ignored
Size = int | tuple[int, int]  # pixels: of a square's side, or (height, width)
_FEW = 16  # values of a mask that numbers defects; soft edges have more
_ORIENTATION = 0x0112  # EXIF tag
_MOST_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb; here it is an error from there on
_PACKAGES = dict.fromkeys((".heic", ".heif"), "pillow-heif") | {".avif": "pillow>=11.3"}
with contextlib.suppress(ImportError):
    importlib.import_module("pillow_heif").register_heif_opener()
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Images:
    """A set of images, kept as bytes; indexing gives the float batch that the networks see.

    pixels: uint8 (n, 1 or 3, h, w). normalise: True for ImageNet's mean and standard deviation (CIFAR-10), otherwise
    RGB stays in [0, 1].
    """

    pixels: Tensor
    normalise: bool = False

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """The batch at `index` (long tensor or slice): float32 (k, 3, h, w), grey repeated to three channels."""
        x = self.pixels[index].float() / 255
        x = x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        if self.normalise:
            mean, std = (_on_gpu if x.is_cuda else _imagenet)(x.device)
            x = (x - mean) / std
        return x

    def subset(self, index: Tensor | np.ndarray | slice) -> "Images":
        """The images at `index`, as a set of their own."""
        return replace(self, pixels=self.pixels[index])

    def to(self, device: str | torch.device) -> "Images":
        """The same images on `device`."""
        return replace(self, pixels=self.pixels.to(device))


def _imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and standard deviation on a device."""
    return tuple(torch.tensor(v, device=device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))


_on_gpu = cache(_imagenet)  # each copy would wait for the GPU; on a CPU, what an export traces must not stay


def read_picture(path: Path | str) -> Image.Image:
    """One picture upright and in RGB, as large as it is. Raises InputError as `read_images` does."""
    return _decode(path, "RGB")


def read_images(
    paths: Sequence[Path],
    size: Size,
    *,
    lanczos: bool = False,
    ignored: Callable[[Path], Image.Image | None] = lambda path: None,
    title: str = "images",
) -> Tensor:
    """Pictures, decoded in a few threads and resized as by `fit`: uint8 (n, 3, h, w).

    EXIF orientation is applied; transparency is dropped; 16-bit pictures are scaled to 8 bit. ignored: as
    `ignore.reader` returns it. title: of the progress bar. Raises InputError naming the file when it is unreadable,
    empty, truncated, not a picture, several pictures in one, or of more than 89 million pixels.
    """
    return _stacked(lambda path: blanked(read_picture(path), ignored(path)), paths, 3, size, lanczos, title)


def read_masks(
    pairs: Sequence[tuple[Path, Path]], size: Size, *, own: bool = False, title: str = "masks"
) -> np.ndarray:
    """Ground-truth masks: float32 (n, h, w) in [0, 1], resized bilinearly and left soft.

    pairs: each mask and its picture. In a mask of two values, 0 and another one, the other one is 1 whatever it is
    (1, 255, a palette's colour); otherwise 255 is 1. own: of your own images; in a mask of up to _FEW values all but 0
    are 1, since they number kinds of defects (VisA) or parts of one (MVTec LOCO). Raises InputError naming the mask as
    `read_images` does, when its size is not the picture's, or when it marks nothing.
    """

    def read(pair: tuple[Path, Path]) -> np.ndarray:
        path, picture = pair
        mask = _decode(path, None)
        if mask.size != (expected := upright_size(picture)):
            has, needs = (f"{w}x{h}" for w, h in (mask.size, expected))
            raise InputError(f"{path}: the mask is {has} pixels, its picture {picture.name} {needs}; resize it")
        return fit(_two_valued(path, mask, _FEW if own else 2), size).astype(np.float32) / 255

    return np.stack(in_threads(read, pairs, title))


def upright_size(path: Path | str) -> tuple[int, int]:
    """(width, height) of a picture after its EXIF rotation, without decoding it."""
    with Image.open(path) as image:
        turned = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)  # by a quarter: width and height change places
        return image.size[::-1] if turned else image.size


def resize_arrays(arrays: np.ndarray, size: int, *, lanczos: bool = False, title: str = "images") -> Tensor:
    """Decoded pictures, uint8 (n, h, w) or (n, h, w, 3), resized as by `fit`: uint8 (n, 1 or 3, size, size)."""
    channels = arrays.shape[3] if arrays.ndim == 4 else 1
    return _stacked(Image.fromarray, arrays, channels, size, lanczos, title)


def _stacked(picture_of: Callable, items: Sequence, channels: int, size: Size, lanczos: bool, title: str) -> Tensor:
    pixels = torch.empty((len(items), channels, *sides(size)), dtype=torch.uint8)
    out = pixels.numpy()  # shares memory

    def resize(i: int) -> None:
        out[i] = np.atleast_3d(fit(picture_of(items[i]), size, lanczos=lanczos)).transpose(2, 0, 1)

    in_threads(resize, range(len(items)), title)
    return pixels


def sides(size: Size) -> tuple[int, int]:
    """(height, width) in pixels."""
    return (size, size) if isinstance(size, int) else tuple(size)


def in_words(size: Size) -> str:
    """The size for people: "128 px", or "64×512 px", height first."""
    return f"{size} px" if isinstance(size, int) else f"{size[0]}×{size[1]} px"


def blanked(picture: Image.Image, mask: Image.Image | None) -> Image.Image:
    """The picture, grey where the mask, stretched to it, is not black: nothing in there can count."""
    if mask is not None:
        picture.paste(GREY, mask=mask.resize(picture.size, Image.Resampling.NEAREST))
    return picture


def fit(image: Image.Image, size: Size, *, lanczos: bool = False) -> np.ndarray:
    """A picture resized to `size` with Pillow's antialiased bilinear filter, as torchvision's Resize; uint8.

    lanczos: as the released code does with CIFAR-10, Lanczos to size·256/224, then the centre of (size, size).
    """
    if lanczos:
        larger = round(size * 256 / 224)
        margin = round((larger - size) / 2)
        image = image.resize((larger, larger), Image.Resampling.LANCZOS)
        image = image.crop((margin, margin, margin + size, margin + size))
    elif image.size != (shape := sides(size)[::-1]):
        image = image.resize(shape, Image.Resampling.BILINEAR)
    return np.asarray(image)


def _decode(path: Path | str, mode: str | None) -> Image.Image:
    """The picture upright, converted to `mode`; None leaves 16-bit grey as it is and makes "L" of the rest."""
    with reading(path):
        data = Path(path).read_bytes()
    if not data:
        raise InputError(f"{path}: the file is empty (0 bytes); fetch it again or remove it")
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > _MOST_PIXELS:
            raise Image.DecompressionBombError
        # A phone's MPO holds a preview beside the picture; in every other format more frames are more pictures.
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            raise InputError(f"{path}: holds {image.n_frames} pictures in one file; save them as one file each")
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "F" or image.mode.startswith("I"):
            values = np.asarray(image)
            if image.mode == "F" or values.min() < 0 or values.max() > 65535:
                fix = "save it as 8 or 16 bit"
                raise InputError(f"{path}: its values do not fit 16 bits (Pillow's mode {image.mode}); {fix}")
            if mode is None:
                return Image.fromarray(values.astype(np.uint16))
            # Scaled, where convert() would clip everything above 255 to white.
            image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")  # spares Pillow's warning
        return image.convert(mode or "L")
    except InputError:
        raise
    except Image.DecompressionBombError:
        reason = f"too large, more than {_MOST_PIXELS // 10**6} million pixels; scale it down"
    except Image.UnidentifiedImageError:
        reason = "is not a picture that can be read; replace it or remove it"
        if (suffix := Path(path).suffix.lower()) in _PACKAGES.keys() - Image.registered_extensions().keys():
            reason = f"cannot be read without pip install '{_PACKAGES[suffix]}'; or convert it"
    except Exception as error:  # Pillow's decoders raise a dozen kinds for a broken file
        reason = f"damaged or truncated ({' '.join(str(error).split())}); fetch it again or remove it"
    raise InputError(f"{path}: {reason}")


def _two_valued(path: Path, mask: Image.Image, most: int) -> Image.Image:
    """The mask with 255 for whatever is not 0, if it has no more than `most` values; otherwise as it is."""
    values = np.asarray(mask)
    top = values.max()
    if top == 0:
        raise InputError(
            f"{path}: the mask of an anomalous image marks nothing; draw it, or move the image to test/good"
        )
    if len(np.unique(values)) <= most and values.min() == 0 or values.min() == top:
        values = np.where(values > 0, 255, 0)
    elif mask.mode != "L":
        values = np.rint(values / 257)
    elif top < 128:
        raise InputError(f"{path}: the mask's values end at {top}, but 255 marks an anomaly; save it with 0 and 255")
    return Image.fromarray(values.astype(np.uint8))


def in_threads(function: Callable, items: Sequence, title: str) -> list:
    """The function of each item, in order. Pillow lets go of the interpreter's lock while it decodes and resizes."""
    bar = {"desc": title, "unit": "image", "delay": 1, "mininterval": 1, "tqdm_class": tqdm}
    return thread_map(function, items, max_workers=os.cpu_count(), **bar)
