"""The released code's procedure, reimplemented only as the reference for our speed in notebook 21.

It follows rohban-lab/Knowledge_Distillation_AD, protocol "official": S runs in every training step and is
differentiated down to its first layer, maps are computed image by image, and the AUROC takes a thousand openings. It is
faster than that code in three places: where the time there grows with the square of the number of images (a gradient is
of one image, not of the whole set, and opened maps are stacked only once), and because ReLUs follow the pools. Decoding
images is left out.
"""

from copy import deepcopy

import cv2
import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import auc
from torch import Tensor, nn

from kdhelpers.localization import ELEMENT
from kdhelpers.networks import critical_points


def as_there(network: nn.Sequential) -> nn.Sequential:
    """A copy of S or C as in that code: channels first in memory, and gradients for every weight."""
    return deepcopy(network).to(memory_format=torch.contiguous_format).requires_grad_()


def _loss(c: list[Tensor], s: list[Tensor], lam: float) -> Tensor:
    """The loss of that code, for training and for maps: the mean over a batch."""
    mse, cosine = nn.MSELoss(), nn.CosineSimilarity()
    l_dir = sum(torch.mean(1 - cosine(b.flatten(1), a.flatten(1))) for a, b in zip(s, c, strict=True))
    return l_dir + lam * sum(mse(b, a) for a, b in zip(s, c, strict=True))


def train_step(source: nn.Sequential, cloner: nn.Sequential, optimiser, x: Tensor, lam: float) -> float:
    """Train one step on a float batch (n, 3, h, w) and return the loss before it. Cloner in training mode."""
    predicted, real = critical_points(cloner, x), critical_points(source, x)
    loss = _loss(predicted, real, lam)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def scores(source: nn.Sequential, cloner: nn.Sequential, images: Tensor, lam: float, batch_size: int = 1) -> np.ndarray:
    """The score of each image at the last three critical points: float64 (n,). Cloner in eval mode."""
    cosine, found = nn.CosineSimilarity(), []
    for x in images.split(batch_size):
        total = 0.0
        for c, s in zip(critical_points(cloner, x, 3), critical_points(source, x, 3), strict=True):
            total = total + 1 - cosine(c.flatten(1), s.flatten(1)) + lam * torch.mean((c - s) ** 2, dim=(1, 2, 3))
        found += total.cpu().data.numpy().tolist()
    return np.array(found)


def maps(source: nn.Sequential, cloner: nn.Sequential, images: Tensor, lam: float) -> np.ndarray:
    """The blurred map of each image, before the opening: float64 (n, h, w). Cloner in eval mode."""
    found = np.zeros((len(images), *images.shape[2:]))
    for i in range(len(images)):
        x = images[i : i + 1].clone().requires_grad_()
        loss = _loss(critical_points(cloner, x, 3), critical_points(source, x, 3), lam)
        cloner.zero_grad()
        loss.backward()
        grey = np.sum(np.abs(x.grad[0].cpu().numpy()), axis=0)
        top, bottom = np.percentile(grey, 99), np.min(grey)
        found[i] = gaussian_filter(np.clip((grey - bottom) / (top - bottom), 0, 1), sigma=4)
    return found


def pixel_auroc(maps: np.ndarray, masks: np.ndarray) -> float:
    """The area, in [0, 1], under the ROC curve of a thousand thresholds, with every binary map opened."""
    tpr, fpr = [], []
    for threshold in [0.001 * i for i in range(1000)]:
        above = (1.0 * (maps >= threshold)).astype(np.uint8)
        opened = np.stack([cv2.morphologyEx(one, cv2.MORPH_OPEN, ELEMENT) for one in above])
        tpr.append(np.sum(np.multiply(opened, masks)) / np.sum(masks))
        false = np.multiply(opened, 1 - masks)
        true_negative = np.multiply(1 - opened, 1 - masks)
        fpr.append(np.sum(false) / (np.sum(false) + np.sum(true_negative)))
    return auc(fpr, tpr)
