"""A contact sheet: a few dozen images of a set on one PNG."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from sousvit.data import ImageSet

COLUMNS, ROWS, LEAST_PIXELS, MOST_PIXELS, GAP = 12, 4, 56, 96, 2


def contact_sheet(images: ImageSet) -> bytes:
    """At most 48 images as a model sees them, spread over the set, as PNG.

    Small ones are enlarged by whole factors, large ones shrunk.
    """
    few, shrunk = images.spread(COLUMNS * ROWS), min(1.0, MOST_PIXELS / max(images.size))
    size = max(1, round(images.size[0] * shrunk)), max(1, round(images.size[1] * shrunk))
    pixels = few.images()[:, :3]  # without alpha
    if size != few.size:
        pixels = F.interpolate(pixels.float(), size, mode="area").round().to(torch.uint8)
    shown = pixels.permute(0, 2, 3, 1).numpy()
    factor = max(1, round(LEAST_PIXELS / max(size)))
    shown = shown.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = shown.shape[1] + GAP, shown.shape[2] + GAP
    rows = -(-len(shown) // COLUMNS)
    sheet = np.full((rows * height - GAP, min(len(shown), COLUMNS) * width - GAP, 3), 255, np.uint8)
    for place, image in enumerate(shown):
        top, left = place // COLUMNS * height, place % COLUMNS * width
        sheet[top : top + height - GAP, left : left + width - GAP] = image  # grey spreads over the three channels
    out = io.BytesIO()
    Image.fromarray(sheet).save(out, "PNG")
    return out.getvalue()
