"""The boxes of a detector's program are those of the head that a search judges by, to the last of a hundred."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sousvit.models.detector import head_of
from sousvit.models.load import create
from sousvit.search.bundle.program import predict_program
from sousvit.spaces.export.artifact import Artifact
from sousvit.specs import ModelSpec
from tests.conftest import TINY_DETECTOR


@pytest.mark.parametrize(
    ("patch", "strides", "size"), [(8, [8, 16], (48, 64)), (14, [7, 14], (56, 84)), (16, [8, 16, 32], (96, 64))]
)
def test_boxes_are_those_of_the_head(patch, strides, size, tmp_path):
    args = {**TINY_DETECTOR["args"], "patch_size": patch, "img_size": list(size), "num_classes": 3}
    spec = ModelSpec(**{**TINY_DETECTOR, "args": args, "detector": {"channels": 32, "strides": strides, "convs": 1}})
    head = head_of(create(spec))
    artifact = Artifact(tmp_path, "torch", "model.pt2", (1, 3, *size), (0.5,) * 3, (0.3,) * 3, {})
    text = predict_program(artifact, spec.detector, None)
    generator = torch.Generator().manual_seed(0)
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((2 * size[0], 3 * size[1], 3), np.uint8)).save(picture)
    for spread in (0.5, 1.5, 3.0):
        dense = torch.randn(1, len(head.anchors), 3 + 5, generator=generator) * spread
        dense[..., 3:7] = dense[..., 3:7].abs()
        dense[0, ::7, 3:7] = 0  # boxes without an area
        lines = [line for line in text.splitlines() if not line.startswith(("MODEL", "LABELS", "HERE", "import torch"))]
        space: dict = {"__name__": "predict", "LABELS": ["0", "1", "2"]}
        exec("\n".join(line if "output =" not in line else "    output = OUTPUT" for line in lines), space)
        space["OUTPUT"] = dense[0].numpy()
        rows = space["predict"](picture)
        [wanted] = head.detections(dense)
        assert [int(row[0]) for row in rows] == wanted["labels"].tolist() and len(rows) > 20
        np.testing.assert_allclose([row[1] for row in rows], wanted["scores"], rtol=1e-5)
        scale = np.array([3, 2, 3, 2])
        np.testing.assert_allclose([row[2:] for row in rows], wanted["boxes"].numpy() * scale, atol=1e-3)
