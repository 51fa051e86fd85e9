"""Plain forms of functions that exporters do not know, or not at every size: the same numbers from other operators.

Modules call PyTorch's functions, whichever library they come from; inside :class:`PlainFunctions` they get these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class PlainFunctions(TorchFunctionMode):
    """Inside its block, functions of :data:`PLAIN` are computed by their plain forms.

    A plain form returns NotImplemented for arguments that the exporters know.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See :class:`torch.overrides.TorchFunctionMode`."""
        kwargs = kwargs or {}
        if function in PLAIN:
            result = PLAIN[function](*args, **kwargs)
            if result is not NotImplemented:
                return result
        return function(*args, **kwargs)


def rms_norm(
    x: torch.Tensor, normalized_shape: Any, weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight``; ONNX Runtime fuses the pattern again (SimplifiedLayerNormalization)."""
    axes = list(range(-len(normalized_shape), 0))
    mean = torch.pow(x, 2.0).mean(axes, keepdim=True)
    normal = x / torch.sqrt(mean + (torch.finfo(x.dtype).eps if eps is None else eps))
    return normal if weight is None else normal * weight


def fold(
    x: torch.Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Any:
    """A transposed convolution with a kernel of its own for each value, which puts it into its place."""
    if x.ndim != 3:
        return NotImplemented
    size, kernel, spread, border, step = map(_pair, (output_size, kernel_size, dilation, padding, stride))
    reach = [spread[i] * (kernel[i] - 1) + 1 for i in range(2)]
    grid = [(size[i] + 2 * border[i] - reach[i]) // step[i] + 1 for i in range(2)]
    rest = [size[i] + 2 * border[i] - (grid[i] - 1) * step[i] - reach[i] for i in range(2)]
    values = kernel[0] * kernel[1]
    channels = int(x.shape[1]) // values
    places = torch.eye(values).reshape(values, 1, *kernel).repeat(channels, 1, 1, 1)
    images = x.reshape(-1, channels * values, *grid)
    return F.conv_transpose2d(images, places, None, step, border, rest, channels, spread)


def adaptive_avg_pool2d(x: torch.Tensor, output_size: Any) -> Any:
    """Averages over windows that are not alike, where the output's size does not divide the input's."""
    inputs = _sides(x)
    wanted = output_size if isinstance(output_size, list | tuple) else (output_size, output_size)
    sides = [side if want is None else int(want) for side, want in zip(inputs, wanted, strict=True)]
    if all(side % out == 0 for side, out in zip(inputs, sides, strict=True)):
        return NotImplemented
    return _resampled(x, sides, lambda part, size: F.adaptive_avg_pool2d(part, (size[0], size[1])))


def interpolate(
    x: torch.Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> Any:  # fmt: skip
    """Resizing with a filter that grows where the image shrinks."""
    if not antialias or size is None or x.ndim != 4:
        return NotImplemented

    def resized(images: torch.Tensor, sides: list[int]) -> torch.Tensor:
        return F.interpolate(images, sides, mode=mode, align_corners=align_corners, antialias=True)

    return _resampled(x, _pair(size), resized)


def _resampled(
    x: torch.Tensor, sides: list[int], resized: Callable[[torch.Tensor, list[int]], torch.Tensor]
) -> torch.Tensor:
    """What is linear in the rows and in the columns of ``x [B, C, H, W]``, as two matrices."""
    height, width = _sides(x)
    return _one_way(height, sides[0], resized).t().contiguous() @ x @ _one_way(width, sides[1], resized)


def _one_way(inputs: int, outputs: int, resized: Callable[[torch.Tensor, list[int]], torch.Tensor]) -> torch.Tensor:
    """``[inputs, outputs]``: what each input gives to each output, from images that are 1 in one row.

    They are two columns wide: antialiasing is wrong in one (torch 2.14).
    """
    images = torch.eye(inputs).reshape(inputs, 1, inputs, 1).repeat(1, 1, 1, 2)
    return resized(images, [outputs, 2])[:, 0, :, 0]


def _sides(x: torch.Tensor) -> list[int]:
    """Height and width: numbers also while PyTorch traces, as the size of the images is fixed."""
    return [int(x.shape[-2]), int(x.shape[-1])]


def _pair(value: Any) -> list[int]:
    first, second = value if isinstance(value, list | tuple | torch.Size) else (value, value)
    return [int(first), int(second)]


PLAIN: dict[Callable[..., Any], Callable[..., Any]] = {
    F.rms_norm: rms_norm,
    F.fold: fold,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d,
    F.interpolate: interpolate,
}
