"""The loss of an image (Sec. 3.1), used by training, score, map and every ablation.

The activations a_s and a_c are the lists that `networks.critical_points` returns for S and C: one float tensor
(n, channels, h, w) for each critical point.
"""

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import mse_loss

from kdhelpers.cache import SourceActivations
from kdhelpers.networks import critical_points
from kdhelpers.protocols import Protocol

_EPS = 1e-8  # the default of torch's cosine similarity; avoids a division by zero for a vector of zeros


def value_loss(a_s: list[Tensor], a_c: list[Tensor]) -> Tensor:
    """L_val, Eq. 1: the mean squared difference of the N_i activations, summed over critical points; float (n,)."""
    distances = [mse_loss(vec(c), vec(s), reduction="none").mean(1) for s, c in zip(a_s, a_c, strict=True)]
    return torch.stack(distances).sum(0)


def direction_loss(a_s: list[Tensor], a_c: list[Tensor]) -> Tensor:
    """L_dir, Eq. 3: 1 − cosine of the vectorised activations, summed over critical points; float (n,)."""
    pairs = [(vec(s), vec(c)) for s, c in zip(a_s, a_c, strict=True)]
    products = torch.stack([(s * c).sum(1) for s, c in pairs])  # in bfloat16, autocast would round `vecdot`
    of_s, of_c = (torch.stack([vector_norm(one, dim=1) for one in side]) for side in zip(*pairs, strict=True))
    return (1 - products / (of_s * of_c).clamp(min=_EPS)).sum(0)  # all points in one operation, for speed


def vec(a: Tensor) -> Tensor:
    """The activations of each image as one vector (n, N_i), in channels-last memory order, which avoids a copy.

    bfloat16 is converted to float32, because it cannot resolve a cosine near one.
    """
    vectors = a.movedim(1, -1).flatten(1)
    return vectors.float() if vectors.dtype == torch.bfloat16 else vectors


def total_loss(l_val: Tensor, l_dir: Tensor, protocol: Protocol) -> Tensor:
    """L_total, Eq. 4, in the protocol's order of terms, or the single term `protocol.terms`; float (n,)."""
    if protocol.terms != "total":
        return l_val if protocol.terms == "val" else l_dir
    if protocol.order == "val + lambda * dir":
        return l_val + protocol.lam * l_dir
    return l_dir + protocol.lam * l_val


def score(a_s: list[Tensor], a_c: list[Tensor], protocol: Protocol) -> Tensor:
    """The anomaly score of each image (Sec. 3.1, "Anomaly Detection"): its loss at the score points; float (n,)."""
    last = slice(-min(protocol.score_points, protocol.points), None)
    a_s, a_c = a_s[last], a_c[last]
    return total_loss(value_loss(a_s, a_c), direction_loss(a_s, a_c), protocol)


@torch.no_grad()
def scores(source: SourceActivations, cloner: nn.Sequential, protocol: Protocol) -> Tensor:
    """Score every image of a set from the source's activations on it; float (n,). Sets the cloner to eval mode."""
    cloner.eval()
    return torch.cat(source.by_chunks(lambda i: score(source[i], critical_points(cloner, source.images[i]), protocol)))


@torch.no_grad()
def calibrate(source: SourceActivations, cloner: nn.Sequential, protocol: Protocol) -> float:
    """The λ that brings both terms to one scale on the untrained cloner, over the training set (Sec. 3.1, Eq. 4)."""
    cloner.eval()

    def terms(index: slice) -> tuple[float, float]:
        a_s = source[index][-protocol.points :]
        a_c = critical_points(cloner, source.images[index], protocol.points)
        return value_loss(a_s, a_c).sum().item(), direction_loss(a_s, a_c).sum().item()

    l_val, l_dir = map(sum, zip(*source.by_chunks(terms), strict=True))
    return l_val / l_dir if protocol.order == "val + lambda * dir" else l_dir / l_val
