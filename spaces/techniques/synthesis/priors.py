"""Image priors: figures that tell images a Vision Transformer takes for real from noise, as pure tensor functions.

* Patch-similarity entropy (PSAQ-ViT, Li et al., arXiv 2203.02250): attention outputs of the patches of a real image
  resemble each other to many different degrees, those of noise all alike; so the entropy of their similarities is
  maximised.
* Attention consistency (after arXiv 2408.05952, whose generator keeps attention consistent; the formula here is our
  interpretation): neighbouring blocks are active at the same places of the image.
* Disagreement of two models (Adaptive DeepInversion, Yin et al., arXiv 1912.08795): images that a student gets wrong
  teach it most.
* Total variation: neighbouring pixels are alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F

#: Support points of a density on [-1, 1], and the width of its Gaussian kernel.
GRID_POINTS, BANDWIDTH = 64, 0.05


def patch_similarities(patches: torch.Tensor, pairs: torch.Tensor | None = None) -> torch.Tensor:
    """Cosine similarities between the patches of each image.

    Args:
        patches: ``[B, N, D]``, without prefix tokens.
        pairs: which pairs, int64 ``[2, P]``; all pairs of different patches by default.

    Returns:
        ``[B, P]`` in [-1, 1].
    """
    unit = F.normalize(patches, dim=-1)
    if pairs is None:
        count = patches.shape[1]
        pairs = torch.triu_indices(count, count, offset=1, device=patches.device)
    return (unit[:, pairs[0]] * unit[:, pairs[1]]).sum(-1)


def differential_entropy(values: torch.Tensor, bandwidth: float = BANDWIDTH, points: int = GRID_POINTS) -> torch.Tensor:
    """Entropy in nats of a Gaussian kernel density estimate of ``values`` ``[B, P]`` in [-1, 1]; ``[B]``.

    ``H = - integral f log f`` with ``f(x) = mean_p N(x; values_p, bandwidth^2)``, by the trapezoidal rule on
    [-1 - 3 h, 1 + 3 h].
    """
    reach = 1 + 3 * bandwidth
    grid = torch.linspace(-reach, reach, points, device=values.device, dtype=values.dtype)
    kernels = torch.exp(-0.5 * ((grid[:, None] - values[:, None, :]) / bandwidth) ** 2)
    density = kernels.mean(-1) / (bandwidth * math.sqrt(2 * math.pi))
    return torch.trapezoid(-torch.xlogy(density, density.clamp_min(1e-12)), grid, dim=-1)


def similarity_entropy(patches: torch.Tensor, pairs: torch.Tensor | None = None) -> torch.Tensor:
    """Patch-similarity entropy of every image ``[B]`` from one block's attention output ``[B, N, D]``."""
    return differential_entropy(patch_similarities(patches, pairs))


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of neighbouring pixels of ``[B, C, H, W]``; a scalar."""
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean()
    across = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean()
    return down + across


def strength_map(patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Where the network is active: mean squared activation of each patch, of unit norm; ``[B, rows, columns]``."""
    return F.normalize(patches.square().mean(-1), dim=-1).unflatten(1, grid)


def neighbour_consistency(patches: Sequence[torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
    """Mean squared distance of the maps of neighbouring blocks, from attention outputs ``[B, N, D]``; a scalar."""
    maps = [strength_map(each, grid) for each in patches]
    distances = [(one - other).square().sum((1, 2)).mean() for one, other in pairwise(maps)]
    return torch.stack(distances).mean()


def disagreement(logits: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence, in [0, log 2], between two models' predictions ``[B, classes]``; a scalar."""
    one, other = logits.log_softmax(1), others.log_softmax(1)
    middle = torch.logaddexp(one, other) - math.log(2)
    parts = [F.kl_div(middle, each, reduction="batchmean", log_target=True) for each in (one, other)]
    return 0.5 * (parts[0] + parts[1])


def random_pairs(count: int, pairs: int, generator: torch.Generator) -> torch.Tensor:
    """``[2, pairs]`` random pairs of different positions below ``count``."""
    first = torch.randint(0, count, (pairs,), generator=generator)
    step = torch.randint(1, max(count, 2), (pairs,), generator=generator)
    return torch.stack([first, (first + step) % count])
