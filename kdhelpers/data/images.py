"""Images: from files to uint8 tensors, and from these to float batches for the networks."""

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
GREY = (128, 128, 128)  # the colour of ignored regions
Size = int | tuple[int, int]  # pixels: the side of a square, or (height, width)
MaskOf = Callable[[Path], Image.Image | None]  # from a picture's path to the mask of what is ignored: `ignore.reader`
_FEW = 16  # maximum number of values in a mask that numbers defects; soft edges have more
_ORIENTATION = 0x0112  # EXIF tag
_MOST_PIXELS = 89_478_485  # above this, Pillow warns of a decompression bomb; here it is an error
with contextlib.suppress(ImportError):
    importlib.import_module("pillow_heif").register_heif_opener()
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Images:
    """A set of images stored as bytes; indexing returns a float batch for the networks.

    pixels: uint8 (n, 1 or 3, h, w). normalise: whether to use ImageNet's mean and standard deviation (CIFAR-10);
    otherwise RGB stays in [0, 1].
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
        """The images at `index` as a new set."""
        return replace(self, pixels=self.pixels[index])

    def to(self, device: str | torch.device) -> "Images":
        """The same images on `device`."""
        return replace(self, pixels=self.pixels.to(device))


def _imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    return tuple(torch.tensor(v, device=device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))


_on_gpu = cache(_imagenet)  # each copy would wait for the GPU; on a CPU, an export's traced tensors must not be cached


def read_picture(path: Path | str) -> Image.Image:
    """Read a picture upright, in RGB and in full size. Raises InputError as `read_images` does."""
    return _decode(path, "RGB")


def read_images(
    paths: Sequence[Path], size: Size, *, lanczos: bool = False, ignored: MaskOf = lambda _: None, title: str = "images"
) -> Tensor:
    """Read pictures in several threads and resize them with `fit`: uint8 (n, 3, h, w).

    EXIF orientation is applied, transparency is dropped, and 16-bit pictures are scaled to 8 bits. title: of the
    progress bar. Raises InputError naming a file that is unreadable, empty, truncated or not a picture, that holds
    several pictures, or that has more than 89 million pixels.
    """
    return _stacked(lambda path: blanked(read_picture(path), ignored(path)), paths, 3, size, lanczos, title)


def read_masks(
    pairs: Sequence[tuple[Path, Path]], size: Size, *, own: bool = False, title: str = "masks"
) -> np.ndarray:
    """Read ground-truth masks: float32 (n, h, w) in [0, 1], resized bilinearly and left soft.

    pairs: each mask and its picture. In a mask with two values, 0 and another, the other one becomes 1 (it may be 1,
    255 or a palette's colour); in other masks, 255 becomes 1. own: masks of your own images; with up to _FEW values,
    all but 0 become 1, since they number kinds of defects (VisA) or parts of one (MVTec LOCO). Raises InputError naming
    the mask as `read_images` does, and when its size differs from the picture's, or it marks nothing.
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
        if image.format == "TIFF":
            image.load()  # Pillow turns these itself, and its size means different things before
        turned = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)  # by 90°: width and height are swapped
        return image.size[::-1] if turned else image.size


def resize_arrays(arrays: np.ndarray, size: int, *, lanczos: bool = False, title: str = "images") -> Tensor:
    """Resize decoded pictures, uint8 (n, h, w) or (n, h, w, 3), with `fit`: uint8 (n, 1 or 3, size, size)."""
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
    """The size as text: "128 px", or "64×512 px" with the height first."""
    return f"{size} px" if isinstance(size, int) else f"{size[0]}×{size[1]} px"


def blanked(picture: Image.Image, mask: Image.Image | None) -> Image.Image:
    """Paint the picture grey, in place, where the resized mask is not black, so that nothing there counts."""
    if mask is not None:
        picture.paste(GREY, mask=mask.resize(picture.size, Image.Resampling.NEAREST))
    return picture


def fit(image: Image.Image, size: Size, *, lanczos: bool = False) -> np.ndarray:
    """Resize a picture to `size` with Pillow's antialiased bilinear filter, as torchvision's Resize does; uint8.

    lanczos: as the released code does for CIFAR-10, resize with Lanczos to size·256/224 and crop the centre to `size`.
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
    """Decode a picture upright and convert it to `mode`; None keeps 16-bit grey and converts the rest to "L"."""
    with reading(path):
        data = Path(path).read_bytes()
    if not data:
        raise InputError(f"{path}: the file is empty (0 bytes); fetch it again or remove it")
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > _MOST_PIXELS:
            raise Image.DecompressionBombError
        # A phone's MPO file also contains a preview; in any other format, several frames are several pictures.
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
            if values.max() < 2**14:
                warnings.warn("almost black 16-bit picture: if the values have 12 bits, multiply by 16", stacklevel=2)
            # convert() would clip values above 255 instead of scaling them.
            image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")  # avoids a warning of Pillow
        return image.convert(mode or "L")
    except InputError:
        raise
    except Image.DecompressionBombError:
        reason = f"too large, more than {_MOST_PIXELS // 10**6} million pixels; scale it down"
    except Image.UnidentifiedImageError:
        packages = "HEIC requires pip install 'pillow-heif', AVIF 'pillow>=11.3'"
        reason = f"is not a picture that can be read ({packages}); replace it or remove it"
    except Exception as error:  # Pillow's decoders raise many types of errors for a broken file
        reason = f"damaged or truncated ({' '.join(str(error).split())}); fetch it again or remove it"
    raise InputError(f"{path}: {reason}")


def _two_valued(path: Path, mask: Image.Image, most: int) -> Image.Image:
    """The mask in 8 bits, with 255 for all values but 0 if it has at most `most`; InputError if it marks nothing."""
    values = np.asarray(mask)
    top = values.max()
    if top == 0:
        fix = "draw it, or move the image to test/good"
        raise InputError(f"{path}: the mask of an anomalous image marks nothing; {fix}")
    if len(np.unique(values)) <= most and values.min() == 0 or values.min() == top:
        values = np.where(values > 0, 255, 0)
    elif mask.mode != "L":
        values = np.rint(values / 257)
    elif top < 128:
        raise InputError(f"{path}: the mask's values end at {top}, but 255 marks an anomaly; save it with 0 and 255")
    return Image.fromarray(values.astype(np.uint8))


def in_threads(function: Callable, items: Sequence, title: str) -> list:
    """Apply the function to each item in threads; results in order. Pillow releases the GIL to decode and resize."""
    bar = {"desc": title, "unit": "image", "delay": 1, "mininterval": 1, "tqdm_class": tqdm}
    return thread_map(function, items, max_workers=os.cpu_count(), **bar)
