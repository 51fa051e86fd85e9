"""Random scenes: the start of all synthesis, and by themselves a cheap stand-in for images of objects.

A scene is a figure, often mirror-symmetric, with one or two parts, on a mostly plain ground; both are smooth random
textures whose power falls with frequency as that of natural images does (Field, JOSA A 4, 1987). Layers that hide each
other are the dead-leaves model of images (Lee, Mumford and Huang, IJCV 41, 2001); networks learn much from such images
(Baradad et al., arXiv 2106.05963). Pixels are Gaussian, clipped to [0, 1], with the mean and deviation that the base is
normalised by, usually those of its training data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.optimize
import scipy.stats
import torch

if TYPE_CHECKING:
    from sousvit.models.load import LoadedModel

#: Share of the variance that colour channels have in common.
SHARED_COLOUR = 0.9
#: Exponents of the amplitude spectrum, of textures and of outlines.
TEXTURE, OUTLINE = (1.0, 3.0), (1.5, 3.0)
#: Share of scenes with a plain ground.
PLAIN = 0.85
#: Share of further parts that show the ground, like holes in the figure.
HOLE = 0.25
#: Largest spread of a ground's level, and of a texture, as shares of the pixels' deviation.
GROUND_SPREAD, TEXTURE_SPREAD = 0.7, 0.5
ROUGHNESS, SHARPNESS = 0.3, 14.0
_POINTS = 512
#: Pixels in [0, 1] of mean m have a variance of at most m (1 - m), which only black and white ones reach. From this
#: share of it on, a base is normalised by convention (such as 0.5 and 0.5 for [-1, 1]), not by its pixels' moments.
CONVENTION = 0.9
#: Mean and deviation of natural images' pixels (ImageNet's, over its channels), for a base normalised by convention.
NATURAL = 0.45, 0.23


@dataclass(frozen=True)
class Layout:
    """Number, size and place of the parts of a scene.

    Attributes:
        first: (scale, offset) of the figure that every scene has; see :func:`_mask`.
        other: the same of further parts.
        parts: how many of these there may be.
        chance: that each of them is there.
        mirrored: share of scenes with mirror symmetry.
    """

    first: tuple[float, float]
    other: tuple[float, float]
    parts: int
    chance: float
    mirrored: float


#: A figure in the middle with two parts, as a classifier sees its object; many figures anywhere, as a detector does.
ONE = Layout((0.75, 0.12), (0.45, 0.4), 2, 0.5, 0.75)
SCATTERED = Layout((0.25, 0.6), (0.25, 0.6), 9, 0.6, 0.0)


class PixelLaw:
    """The distribution of pixels: a clipped Gaussian with given moments for each channel.

    Args:
        mean: of pixels in [0, 1].
        std: of pixels; met as nearly as a clipped Gaussian can.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        solved = [_unclipped(m, s) for m, s in zip(mean, std, strict=True)]
        self.centre = torch.tensor([m for m, _ in solved]).view(1, -1, 1, 1)
        self.spread = torch.tensor([s for _, s in solved]).view(1, -1, 1, 1)

    @classmethod
    def of(cls, base: LoadedModel) -> PixelLaw:
        """The law with the moments that ``base`` is normalised by, or natural images' where these are a convention."""
        told = all(s * s < CONVENTION * m * (1 - m) for m, s in zip(base.mean, base.std, strict=True))
        return cls(base.mean, base.std) if told else cls(*((value,) * base.channels for value in NATURAL))

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.centre.shape[1]

    @property
    def clipped(self) -> tuple[float, float]:
        """Shares of pixels that are 0 and that are 1, over all channels."""
        normal = torch.distributions.Normal(self.centre, self.spread)
        return float(normal.cdf(torch.zeros(())).mean()), float(1 - normal.cdf(torch.ones(())).mean())

    def pixels(self, standard: torch.Tensor) -> torch.Tensor:
        """Standard Gaussian values ``[B, C, H, W]`` to pixels in [0, 1]."""
        return (self.centre + self.spread * standard).clamp(0, 1)

    def coloured(self, common: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Values shared by all channels ``[B, 1, ...]`` mixed with ones of each ``[B, C, ...]``; variance 1 stays 1."""
        if self.channels == 1:
            return common
        return SHARED_COLOUR**0.5 * common + (1 - SHARED_COLOUR) ** 0.5 * own


def _unclipped(mean: float, std: float) -> tuple[float, float]:
    """Mean and deviation that a Gaussian needs, so that clipped to [0, 1] it has these."""
    quantiles = scipy.stats.norm.ppf((np.arange(_POINTS) + 0.5) / _POINTS)

    def error(parameters: np.ndarray) -> np.ndarray:
        pixels = np.clip(parameters[0] + parameters[1] * quantiles, 0, 1)
        return np.array([pixels.mean() - mean, pixels.std() - std])

    found = scipy.optimize.least_squares(error, [mean, std], bounds=([-2, 1e-3], [3, 3]), diff_step=1e-4)
    return float(found.x[0]), float(found.x[1])


def smooth_fields(
    count: int, channels: int, size: tuple[int, int], exponents: tuple[float, float], generator: torch.Generator
) -> torch.Tensor:
    """Gaussian fields ``[count, channels, H, W]`` of mean square 1 each, with amplitudes that fall as ``f^-a``.

    Args:
        exponents: range of ``a``, drawn for each image.
    """
    rows, columns = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])[None, :]
    frequency = (rows**2 + columns**2).sqrt().clamp_min(1 / max(size))
    white = torch.randn(count, channels, *size, generator=generator)
    falling = frequency ** -(exponents[0] + (exponents[1] - exponents[0]) * _uniform(count, generator))
    fields = torch.fft.irfft2(torch.fft.rfft2(white) * falling, s=size)
    return fields / fields.square().mean((1, 2, 3), keepdim=True).sqrt()


def draw_scenes(
    count: int, size: tuple[int, int], law: PixelLaw, generator: torch.Generator, layout: Layout = ONE
) -> torch.Tensor:
    """Random scenes ``[count, C, H, W]`` in [0, 1]; the same for the same generator state."""
    ground, plain = _ground(count, law, generator)
    textured = law.pixels(_level(count, law, generator) + _texture(count, size, law, generator))
    scene = torch.where(plain, ground.expand(-1, -1, *size), textured)
    for part in range(1 + layout.parts):
        main = part == 0
        own = _apart(ground, generator)
        if not main:
            own = torch.where(_uniform(count, generator) < HOLE, ground, own)
        relief = TEXTURE_SPREAD * law.spread * _texture(count, size, law, generator)
        mask = _mask(count, size, *(layout.first if main else layout.other), generator)
        if not main:
            mask = mask * (_uniform(count, generator) < layout.chance)
        scene = mask * (own + relief).clamp(0, 1) + (1 - mask) * scene
    half = size[1] // 2
    mirrored = torch.cat([scene[..., : size[1] - half], scene[..., :half].flip(3)], 3)
    return torch.where(_uniform(count, generator) < layout.mirrored, mirrored, scene)


def _ground(count: int, law: PixelLaw, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels ``[count, C, 1, 1]`` of the ground, and whether it is plain ``[count, 1, 1, 1]``.

    A ground is black (or white) twice as often as a pixel is: where many pixels are, they belong to the ground.
    """
    black, white = law.clipped
    scale = 2 / max(1.0, 2 * (black + white))
    chance = _uniform(count, generator)
    is_black, is_white = chance < scale * black, chance > 1 - scale * white
    other = law.pixels(GROUND_SPREAD * _uniform(count, generator) * _level(count, law, generator))
    level = torch.where(is_white, torch.ones(()), torch.where(is_black, torch.zeros(()), other))
    return level, is_black | is_white | (_uniform(count, generator) < PLAIN)


def _uniform(count: int, generator: torch.Generator) -> torch.Tensor:
    """``[count, 1, 1, 1]`` in [0, 1)."""
    return torch.rand(count, 1, 1, 1, generator=generator)


def _normal(count: int, generator: torch.Generator) -> torch.Tensor:
    """Standard Gaussian ``[count, 1, 1, 1]``."""
    return torch.randn(count, 1, 1, 1, generator=generator)


def _level(count: int, law: PixelLaw, generator: torch.Generator) -> torch.Tensor:
    """Standard Gaussian levels ``[count, C, 1, 1]``."""
    common = _normal(count, generator)
    return law.coloured(common, torch.randn(count, law.channels, 1, 1, generator=generator))


def _texture(count: int, size: tuple[int, int], law: PixelLaw, generator: torch.Generator) -> torch.Tensor:
    """Standard Gaussian textures ``[count, C, H, W]`` of random strength up to 1."""
    fields = smooth_fields(count, law.channels + (law.channels > 1), size, TEXTURE, generator)
    mixed = law.coloured(fields[:, :1], fields[:, -law.channels :])
    return _uniform(count, generator) * mixed


def _apart(ground: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Levels ``[B, C, 1, 1]`` that differ from the ground's, brighter or darker by the room there is."""
    brighter = _uniform(len(ground), generator) < 1 - ground.mean(1, keepdim=True)
    share = torch.rand(ground.shape, generator=generator)
    return torch.where(brighter, ground + (1 - ground) * (0.15 + 0.85 * share), 0.85 * share * ground)


def _mask(count: int, size: tuple[int, int], scale: float, offset: float, generator: torch.Generator) -> torch.Tensor:
    """Soft masks ``[count, 1, H, W]`` of rough superellipses, from diamonds to boxes, half of them turned.

    Args:
        scale: middle of their size, where 1 fills the image.
        offset: deviation of their centres from the image's.
    """
    rows = torch.linspace(-1, 1, size[0]).view(1, 1, -1, 1) - offset * _normal(count, generator)
    columns = torch.linspace(-1, 1, size[1]).view(1, 1, 1, -1) - offset * _normal(count, generator)
    turned = _uniform(count, generator) < 0.5
    angle = torch.where(turned, math.pi * _uniform(count, generator), torch.zeros(()))
    extent, aspect = scale * (0.5 + _uniform(count, generator)), torch.exp(0.25 * _normal(count, generator))
    across = (columns * angle.cos() + rows * angle.sin()) / (extent * aspect)
    down = (rows * angle.cos() - columns * angle.sin()) / (extent / aspect)
    power = torch.exp(0.2 + 2.2 * _uniform(count, generator))
    distance = (across.abs() ** power + down.abs() ** power + 1e-9) ** (1 / power)
    rough = ROUGHNESS * _uniform(count, generator) * smooth_fields(count, 1, size, OUTLINE, generator)
    return torch.sigmoid(SHARPNESS * (0.5 + _uniform(count, generator)) * (1 - distance + rough))
