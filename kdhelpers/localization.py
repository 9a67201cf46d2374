"""Localization: gradients of the loss with respect to the input, and the map from them (Sec. 3.1, Eq. 5 and 6)."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from kdhelpers.cache import in_chunks
from kdhelpers.losses import score, total_loss
from kdhelpers.networks import critical_points
from kdhelpers.protocols import METHODS, NOT_SCALED, Protocol

SIGMA = 4  # pixels, the Gaussian of Eq. 6 (Sec. 4.2.2)
ELEMENT = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))  # B of Eq. 6 (Sec. 4.2.2)
SMOOTHGRAD_SAMPLES = 50
SMOOTHGRAD_SIGMA = 0.05  # the noise's standard deviation is (SMOOTHGRAD_SIGMA / (max − min of the image))²
PIXELS, _PIXELS_ON_GPU = 2**18, 2**21  # pixels per channel in one backward pass: 16 and 128 images of 128 px


def gradients(
    source: nn.Sequential, cloner: nn.Sequential, x: Tensor, protocol: Protocol, relu: Callable | None = None
) -> Tensor:
    """Λ of Eq. 5: the gradient of each image's score with respect to its pixels; float (n, 3, h, w), as `x`.

    `protocol.gradient` selects the backward pass: through C only, or through both S and C. relu: replaces C's ReLUs.
    """
    x = x.detach().requires_grad_()
    with torch.set_grad_enabled(protocol.gradient == "both"):
        a_s = critical_points(source, x)
    a_c = critical_points(cloner, x, relu=relu)
    return torch.autograd.grad(score(a_s, a_c, protocol).sum(), x)[0]


@torch.no_grad()
def disagreement(source: nn.Sequential, cloner: nn.Sequential, x: Tensor, protocol: Protocol) -> Tensor:
    """Disagreement of S and C, without a gradient: Eq. 1 and 3 over the channels at each position; float (n, h, w).

    Both are combined as in Eq. 4, resized to the image and summed over the score's critical points. Not in the article.
    """
    points = min(protocol.score_points, protocol.points)
    total = torch.zeros_like(x[:, 0])
    for s, c in zip(critical_points(source, x, points), critical_points(cloner, x, points), strict=True):
        s, c = s.float(), c.float()  # bfloat16 cannot resolve a cosine near one
        each = total_loss((c - s).square().mean(1), 1 - cosine_similarity(s, c, dim=1), protocol)
        total += interpolate(each.unsqueeze(1), x.shape[2:], mode="bilinear").squeeze(1)
    return total


def edges(x: Tensor) -> Tensor:
    """Edges of the images, a trivial map without networks: how fast the mean of the channels changes; float (n, h, w).

    A map that is no better may have found the object rather than its defect. Not in the article.
    """
    return torch.hypot(*torch.gradient(x.mean(1), dim=(1, 2)))


def guided_relu(x: Tensor) -> Tensor:
    """A ReLU whose backward pass propagates only positive gradients (guided backprop, Sec. 2)."""
    y = x.relu()
    y.register_hook(lambda gradient: gradient.clamp(min=0))
    return y


def one_channel(gradient: Tensor) -> Tensor:
    """Reduce gradients to one channel: Σ of absolute values over channels, minimum to 0, 99th percentile to 1, clipped.

    gradient: float (n, 3, h, w). Returns float (n, h, w) in [0, 1]; zeros where an image's gradient is flat.
    """
    total = gradient.abs().sum(1)
    return _stretch(total, torch.quantile(total.flatten(1), 0.99, dim=1))


def _stretch(maps: Tensor, top: Tensor) -> Tensor:
    bottom = maps.flatten(1).amin(1)
    span = (top - bottom).view(-1, 1, 1)
    stretched = ((maps - bottom.view(-1, 1, 1)) / span).clamp(0, 1)
    return torch.where(span > 0, stretched, torch.zeros_like(stretched))


def smoothgrad(
    source: nn.Sequential, cloner: nn.Sequential, x: Tensor, protocol: Protocol, generators: list[torch.Generator]
) -> Tensor:
    """SmoothGrad (Sec. 3.3.4): the mean of the one-channel maps of 50 noisy copies of each image; float (n, h, w).

    As in the released code, the maps are averaged, not the gradients. Each image has its own noise generator, so that
    its map does not depend on the other images of the batch.
    """
    flat = x.flatten(1)
    deviation = (SMOOTHGRAD_SIGMA / (flat.amax(1) - flat.amin(1)).clamp(min=1e-3)).square().view(-1, 1, 1, 1)
    total = torch.zeros_like(x[:, 0])
    for _ in range(SMOOTHGRAD_SAMPLES):
        noise = [torch.randn(x.shape[1:], generator=g, dtype=x.dtype, device=g.device) for g in generators]
        noisy = x + deviation * torch.stack(noise).to(x.device)
        total += one_channel(gradients(source, cloner, noisy, protocol))
    return total / SMOOTHGRAD_SAMPLES


def attribution(
    method: str, source: nn.Sequential, cloner: nn.Sequential, images, protocol: Protocol, *, seed: int = 0
) -> np.ndarray:
    """One-channel attribution of every image, before the filters of Eq. 6; float32 (n, h, w).

    method: one of METHODS (Sec. 3.3.4), with values in [0, 1]; or of NOT_SCALED, with values ≥ 0, not in the article.
    images: `data.images.Images`. Raises ValueError for another method.
    """
    if method not in (known := METHODS + NOT_SCALED):
        raise ValueError(f"method {method!r}; there are {', '.join(known)}")
    cloner.eval()

    def attribute(index: slice) -> Tensor:
        x = images[index]
        if method == "disagreement":
            return disagreement(source, cloner, x, protocol)
        if method == "edges":
            return edges(x)
        if method == "smoothgrad":
            # 10,000 seeds for each seed of a run: no data set has more images with masks.
            seeds = range(10_000 * seed + index.start, 10_000 * seed + index.stop)
            generators = [torch.Generator(x.device).manual_seed(one) for one in seeds]
            grey = smoothgrad(source, cloner, x, protocol, generators)
        else:
            relu = guided_relu if method == "guided_backprop" else None
            grey = one_channel(gradients(source, cloner, x, protocol, relu=relu))
        once_more = protocol.renormalise and method != "gradients"
        return _stretch(grey, grey.flatten(1).amax(1)) if once_more else grey

    chunk = max(1, (_PIXELS_ON_GPU if images.pixels.is_cuda else PIXELS) // images.pixels[0, 0].numel())
    return torch.cat(in_chunks(attribute, len(images), chunk, progress=method)).float().cpu().numpy()


def localization_map(attributions: np.ndarray, *, gaussian: bool = True) -> np.ndarray:
    """L_map of Eq. 6: an optional Gaussian of σ = 4 pixels, then an opening with a 3×3 ellipse; float32 (n, h, w).

    The released code opens a thousand thresholded maps instead; by threshold decomposition, opening the grey map is
    equivalent.
    """
    smooth = gaussian_filter(attributions, sigma=SIGMA, axes=(1, 2)) if gaussian else attributions
    return np.stack([cv2.morphologyEx(one, cv2.MORPH_OPEN, ELEMENT) for one in smooth])


def maps(method: str, source: nn.Sequential, cloner: nn.Sequential, images, protocol: Protocol, *, seed: int) -> dict:
    """The localization maps {"raw", "gaussian"}: without and with the Gaussian, the two rows of Table 1."""
    attributions = attribution(method, source, cloner, images, protocol, seed=seed)
    return {name: localization_map(attributions, gaussian=name == "gaussian") for name in ("raw", "gaussian")}
