"""Natural image statistics as coordinates: images are smooth random fields, and stay smooth while they are optimised.

An image is ``x = q(Phi(z))``: ``z`` is a Gaussian field with a falling spectrum, given by its Fourier coefficients,
``Phi`` makes it uniform, and ``q`` gives its pixels the mean and deviation with which the base was normalised (those of
its training images). Natural images have amplitude spectra near ``1 / f`` (Field, JOSA A 4, 1987), and networks learn
much from images that share only such statistics (Baradad et al., arXiv 2106.05963). A step in coefficients that are
divided by frequency is a smooth change of the image (feature visualisation, Olah et al., Distill 2017), where one in
pixels ends in noise of high frequency.
"""

from __future__ import annotations

import scipy.stats
import torch

#: Exponents of the amplitude spectrum, drawn for each image.
SPECTRUM = (1.5, 3.0)
#: Share of the variance that colour channels have in common.
SHARED_COLOUR = 0.9
#: The least ``a + b`` of the Beta distribution of pixels: below it they are only black or white.
LEAST_CONCENTRATION = 0.4
_QUANTILES = 256


class Fields:
    """Differentiable images ``[B, C, H, W]`` in [0, 1] from coefficients.

    Args:
        size: (height, width) in pixels.
        mean: of the pixels, one value a channel.
        std: of the pixels, one value a channel.
    """

    def __init__(self, size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.size, self.channels = size, len(mean)
        self._quantiles = torch.stack([_beta_quantiles(m, s) for m, s in zip(mean, std, strict=True)])
        height, width = size
        rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :]
        self._twice = torch.full((width // 2 + 1,), 2.0)  # a real field's spectrum is half stored: most entries stand
        self._twice[0] = 1.0  # for two
        if width % 2 == 0:
            self._twice[-1] = 1.0
        self._frequency = (rows**2 + columns**2).sqrt().clamp_min(1 / max(size))

    def draw(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Random coefficients ``[count, C + 1, H, W / 2 + 1, 2]`` and exponents ``[count]``."""
        white = torch.randn(count, self.channels + 1, *self.size, generator=generator)
        low, high = SPECTRUM
        exponents = low + (high - low) * torch.rand(count, generator=generator)
        return torch.view_as_real(torch.fft.rfft2(white, norm="ortho")).clone(), exponents

    def images(self, coefficients: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
        """The images ``[B, C, H, W]`` of what :meth:`draw` gives; channel 0 is common to all colours."""
        falling = self._frequency[None, None] ** -exponents[:, None, None, None]
        height, width = self.size
        falling = falling / ((falling.square() * self._twice).sum((2, 3), keepdim=True) / (height * width)).sqrt()
        fields = torch.fft.irfft2(torch.view_as_complex(coefficients) * falling, s=self.size, norm="ortho")
        common, own = fields[:, :1], fields[:, 1:]
        mixed = common if self.channels == 1 else SHARED_COLOUR**0.5 * common + (1 - SHARED_COLOUR) ** 0.5 * own
        return self.pixels(mixed)

    def pixels(self, fields: torch.Tensor) -> torch.Tensor:
        """Standard Gaussian fields ``[B, C, H, W]`` to pixels, by each channel's piecewise linear quantile function."""
        place = 0.5 * (1 + torch.erf(fields / 2**0.5)) * (_QUANTILES - 1)
        below = place.detach().floor().clamp(0, _QUANTILES - 2).long()
        channel = torch.arange(self.channels)[None, :, None, None]
        low, high = self._quantiles[channel, below], self._quantiles[channel, below + 1]
        return low + (place - below) * (high - low)


def _beta_quantiles(mean: float, std: float) -> torch.Tensor:
    """Increasing quantiles ``[256]`` of the Beta distribution with this mean and (where one has it) deviation."""
    mean = min(max(mean, 0.02), 0.98)
    concentration = max(mean * (1 - mean) / std**2 - 1, LEAST_CONCENTRATION)
    middles = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
    table = scipy.stats.beta.ppf(middles.numpy(), mean * concentration, (1 - mean) * concentration)
    return torch.from_numpy(table).float()
