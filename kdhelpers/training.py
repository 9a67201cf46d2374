"""Distillation: train the cloner on normal images to reproduce the source's activations (Sec. 3.1)."""

import math
import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import RandomAffine
from tqdm import tqdm

from kdhelpers import graphs
from kdhelpers.cache import SourceActivations
from kdhelpers.losses import calibrate, direction_loss, scores, total_loss, value_loss
from kdhelpers.networks import critical_points
from kdhelpers.protocols import LAST_EPOCHS, SCORED_EVERY, Protocol

_EXPLODED = 1000  # times the loss of the first step; no training recovers from a higher loss


@dataclass(frozen=True)
class Fit:
    """The results of a training besides the cloner: its loss curves and the scores of the test images."""

    protocol: Protocol  # with the resolved λ
    loss: list[float]  # the objective, mean over each epoch
    loss_val: list[float]  # L_val, mean over each epoch
    loss_dir: list[float]  # L_dir, mean over each epoch
    seconds: dict[str, float]  # wall time of "train" and "detect" (scoring the test images)
    scored: list[int]  # epochs after which the test images were scored
    scores: np.ndarray  # float32 (len(scored), number of test images)


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the wall time of the block, in seconds, to `seconds[name]`."""
    start = time.perf_counter()
    yield
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # or the block that next waits for the GPU would take this one's time
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def use_precision(precision: str, device: torch.device) -> None:
    """Set the precision of S and C on `device`, one of PRECISIONS; losses and weights stay in float32.

    float32 disables TF32, cuDNN's default. With bfloat16, S's activations are also stored in bfloat16. Also requests
    deterministic convolutions.
    """
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.set_autocast_dtype(device.type, torch.bfloat16)
    torch.set_autocast_enabled(device.type, precision == "bfloat16")
    torch.set_autocast_cache_enabled(precision != "bfloat16")  # it would reuse the weights of the first step


def has_converged(loss: list[float]) -> bool:
    """True when the last ten epochs lowered the mean loss by less than one per cent against the ten before.

    The article trains until it "fully converges" and does not define this; the criterion is ours.
    """
    before, after = loss[-2 * LAST_EPOCHS : -LAST_EPOCHS], loss[-LAST_EPOCHS:]
    return len(before) == LAST_EPOCHS and bool(np.mean(after) > 0.99 * np.mean(before))


def random_affine(degrees: float, scale: tuple[float, float]) -> Callable[[Tensor], Tensor]:
    """An augmentation for `fit`: rotate each image of a batch by up to ±`degrees`, scale it by a factor in `scale`."""
    change = RandomAffine(degrees=degrees, scale=scale)

    def augment(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # in bfloat16, pixels would be rounded to 0 and 1
            return torch.stack([change(image) for image in x])

    return augment


def make_optimiser(cloner: nn.Module, protocol: Protocol) -> torch.optim.Adam:
    """Adam (Sec. 3.2) on all parameters of the cloner; on a GPU, a CUDA graph can capture it."""
    on_gpu = next(cloner.parameters()).is_cuda
    warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")  # of steps before the graph
    return torch.optim.Adam(cloner.parameters(), lr=protocol.learning_rate, fused=True, capturable=on_gpu)


def train_step(
    source: SourceActivations, cloner: nn.Sequential, protocol: Protocol, optimiser, augment, batch: Tensor
) -> Tensor:
    """One step on the normal training images at `batch`, long (k,) (Sec. 3.1).

    augment: None, or a function of a float batch (k, 3, h, w), whose result S sees too. Returns the means of L_total,
    L_val and L_dir over the batch: (3,) on the device of the images. Nothing here waits for the GPU.
    """
    x = source.images[batch]
    if augment is None:
        a_s = source[batch][-protocol.points :]
    else:
        x = augment(x)
        a_s = critical_points(source.source, x, protocol.points)
    a_c = critical_points(cloner, x, protocol.points)

    l_val = value_loss(a_s, a_c)  # Eq. 1
    l_dir = direction_loss(a_s, a_c)  # Eq. 3
    loss = total_loss(l_val, l_dir, protocol).mean()  # Eq. 4

    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return torch.stack([loss.detach(), l_val.detach().mean(), l_dir.detach().mean()])


def make_step(
    source: SourceActivations, cloner: nn.Sequential, protocol: Protocol, optimiser, augment, batch_size: int
) -> Callable[[Tensor], Tensor]:
    """`train_step` as a function of `batch` alone; on a GPU, full batches run as a CUDA graph."""
    step = partial(train_step, source, cloner, protocol, optimiser, augment)
    # A graph excludes work on the CPU: random numbers for an augmentation, activations cached in main memory.
    if graphs.usable(source.images.pixels.device) and augment is None and source.cache != "host":
        return graphs.GraphedStep(step, min(batch_size, len(source)))
    return step


def train_one_epoch(step: Callable[[Tensor], Tensor], cloner: nn.Module, order: Tensor, batch_size: int) -> Tensor:
    """Run `step` on batches of the images in `order`, long (n,); return its results, float (steps, 3)."""
    cloner.train()
    return torch.stack([step(batch) for batch in order.split(batch_size)])


def fit(
    source: SourceActivations,
    cloner: nn.Sequential,
    protocol: Protocol,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    test: SourceActivations | None = None,
    scored_every: int = SCORED_EVERY,
    augment: Callable[[Tensor], Tensor] | None = None,
    checkpoint=None,
    title: str = "training",
) -> Fit:
    """Train `cloner` in place with Adam (Sec. 3.2), epoch by epoch, and return the `Fit`.

    test: S's activations on the test images, which are scored after every `scored_every`-th epoch and each of the last
    ten.
    checkpoint: an `experiments.checkpoints.Checkpoint` to resume from and save to. Resuming gives the same result, bit
    for bit on a CPU. Raises FloatingPointError naming the epoch and step where the loss explodes or is not finite.
    """
    seed_everything(seed)
    optimiser = make_optimiser(cloner, protocol)
    generator = torch.Generator().manual_seed(seed)  # of the order of images
    # L_total, L_val and L_dir of each epoch; test scores by epoch; λ; the last epoch; the largest loss allowed; times.
    course = {"curves": [], "scores": {}, "lam": protocol.lam, "last": epochs, "highest": math.inf, "seconds": {}}
    if saved := checkpoint and checkpoint.restore():
        state, course = saved["state"], saved["course"]
        cloner.load_state_dict(state["cloner"])
        optimiser.load_state_dict(state["optimiser"])
        generator.set_state(state["order"])
        torch.set_rng_state(state["torch"])
    elif protocol.lam is None:
        course["lam"] = calibrate(source, cloner, protocol)
    protocol = replace(protocol, lam=course["lam"])
    step = make_step(source, cloner, protocol, optimiser, augment, batch_size)
    curves, seconds = course["curves"], course["seconds"]
    with tqdm(total=course["last"], initial=len(curves), desc=title, unit="epoch", mininterval=1) as progress:
        while (epoch := len(curves) + 1) <= course["last"]:
            order = torch.randperm(len(source), generator=generator).to(source.images.pixels.device)
            with timed(seconds, "train"):
                steps = train_one_epoch(step, cloner, order, batch_size).cpu().double().numpy()
            if epoch == 1:
                course["highest"] = _EXPLODED * float(steps[0, 0])
            for number, (loss, *_) in enumerate(steps, start=1):
                if not (math.isfinite(loss) and loss <= course["highest"]):
                    where = f"{title}: epoch {epoch}, step {number}"
                    raise FloatingPointError(f"{where}: the loss is {loss:.3g}; the training has diverged")
            sizes = [len(batch) for batch in order.split(batch_size)]
            curves.append(np.average(steps, axis=0, weights=sizes).tolist())
            if protocol.stop == "converged" and course["last"] == epochs and has_converged([c[0] for c in curves]):
                course["last"] = progress.total = min(epochs, epoch + LAST_EPOCHS)  # ten more epochs, to report on
            if test is not None and (epoch > course["last"] - LAST_EPOCHS or epoch % scored_every == 0):
                with timed(seconds, "detect"):
                    course["scores"][epoch] = scores(test, cloner, protocol).cpu()
            progress.set_postfix(loss=f"{curves[-1][0]:.4g}", refresh=False)
            progress.update()
            if checkpoint and checkpoint.is_due():
                # The next step depends on C, Adam's moments, and the random states of order and augmentation.
                state = {"cloner": cloner.state_dict(), "optimiser": optimiser.state_dict()}
                state |= {"order": generator.get_state(), "torch": torch.get_rng_state()}
                checkpoint.save({"state": state, "course": course})
    cloner.eval()
    loss, loss_val, loss_dir = (list(curve) for curve in zip(*curves, strict=True))
    scored = np.array([each.numpy() for each in course["scores"].values()], dtype=np.float32)
    return Fit(protocol, loss, loss_val, loss_dir, seconds, list(course["scores"]), scored)
