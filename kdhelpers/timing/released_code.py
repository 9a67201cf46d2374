"""The released code's procedure as it is written there: what notebook 21 measures our speed against, and nothing else.

After rohban-lab/Knowledge_Distillation_AD, protocol "official": S inside every training step and differentiated to its
first layer, C's layers in the article's order, images one by one in the maps, a thousand openings in the AUROC. Kinder
than that code in two places, where its time grows with the square of the number of images: the gradient is taken of one
image and not of the whole set for each, and opened maps are stacked at once. Decoding images is not part of it.
"""

import cv2
import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import auc
from torch import Tensor, nn

from kdhelpers.networks import WIDTHS

_ELEMENT = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))


def source_of(source: nn.Module) -> nn.Sequential:
    """S in the plain layout with the weights of `weights.load_source`'s, which take gradients, as in that code."""
    return _network(WIDTHS["equal"], source, bias=True, batch_norm=False).eval()


def cloner_of(cloner: nn.Module) -> nn.Sequential:
    """C in the article's order of layers with the weights of `networks.make_cloner`'s."""
    return _network(WIDTHS["compact"], cloner, bias=False, batch_norm=True)


def _network(widths: list, trained: nn.Module, *, bias: bool, batch_norm: bool) -> nn.Sequential:
    layers, channels = [], 3
    for width, following in zip(widths, [*widths[1:], None], strict=True):
        if width == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=bias))
        if batch_norm and following != "M":
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU(inplace=True))
        channels = width
    network = nn.Sequential(*layers)
    # By their order: the names count layers without weights too, which may lie elsewhere.
    network.load_state_dict(dict(zip(network.state_dict(), trained.state_dict().values(), strict=True)))
    return network.to(next(trained.parameters()).device)


def _pools(network: nn.Sequential, x: Tensor) -> list[Tensor]:
    """The outputs of max-pools 2 to 5."""
    found = []
    for layer in network:
        x = layer(x)
        if isinstance(layer, nn.MaxPool2d):
            found.append(x)
    return found[1:]


def _loss(c: list[Tensor], s: list[Tensor], lam: float) -> Tensor:
    """The mean over a batch, as the code trains and differentiates it."""
    mse, cosine = nn.MSELoss(), nn.CosineSimilarity()
    l_dir = sum(torch.mean(1 - cosine(b.flatten(1), a.flatten(1))) for a, b in zip(s, c, strict=True))
    return l_dir + lam * sum(mse(b, a) for a, b in zip(s, c, strict=True))


def optimiser_of(cloner: nn.Sequential) -> torch.optim.Adam:
    return torch.optim.Adam(cloner.parameters(), lr=1e-3)


def train_step(source: nn.Sequential, cloner: nn.Sequential, optimiser, x: Tensor, lam: float) -> float:
    """One step on a float batch (n, 3, h, w); the loss before it. Cloner in training mode."""
    predicted, real = _pools(cloner, x), _pools(source, x)
    loss = _loss(predicted, real, lam)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def scores(source: nn.Sequential, cloner: nn.Sequential, images: Tensor, lam: float, batch_size: int = 1) -> np.ndarray:
    """The score of each image, of the last three critical points; (n,). Cloner in eval mode."""
    cosine, found = nn.CosineSimilarity(), []
    for x in images.split(batch_size):
        total = 0.0
        for c, s in zip(_pools(cloner, x)[1:], _pools(source, x)[1:], strict=True):
            total = total + 1 - cosine(c.flatten(1), s.flatten(1)) + lam * torch.mean((c - s) ** 2, dim=(1, 2, 3))
        found += total.cpu().data.numpy().tolist()
    return np.array(found)


def maps(source: nn.Sequential, cloner: nn.Sequential, images: Tensor, lam: float) -> np.ndarray:
    """The blurred map of each image, before the opening; float64 (n, h, w). Cloner in eval mode."""
    found = np.zeros((len(images), *images.shape[2:]))
    for i in range(len(images)):
        x = images[i : i + 1].clone().requires_grad_()
        loss = _loss(_pools(cloner, x)[1:], _pools(source, x)[1:], lam)
        cloner.zero_grad()
        loss.backward()
        grey = np.sum(np.abs(x.grad[0].cpu().numpy()), axis=0)
        top, bottom = np.percentile(grey, 99), np.min(grey)
        found[i] = gaussian_filter(np.clip((grey - bottom) / (top - bottom), 0, 1), sigma=4)
    return found


def pixel_auroc(maps: np.ndarray, masks: np.ndarray) -> float:
    """The area under the ROC curve through a thousand thresholds, at each of which every map is opened; in [0, 1]."""
    tpr, fpr = [], []
    for threshold in [0.001 * i for i in range(1000)]:
        above = (1.0 * (maps >= threshold)).astype(np.uint8)
        opened = np.stack([cv2.morphologyEx(one, cv2.MORPH_OPEN, _ELEMENT) for one in above])
        tpr.append(np.sum(np.multiply(opened, masks)) / np.sum(masks))
        false = np.multiply(opened, 1 - masks)
        true_negative = np.multiply(1 - opened, 1 - masks)
        fpr.append(np.sum(false) / (np.sum(false) + np.sum(true_negative)))
    return auc(fpr, tpr)
