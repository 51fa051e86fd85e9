"""Tiny Vision Transformers and random images for the technique tests."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sousvit.data import ImageSet
from sousvit.models.load import create
from sousvit.spaces.context import Context
from sousvit.spaces.export.exporter import get_exporter
from sousvit.specs import ModelSpec

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 4, "num_classes": 5}

#: Variants that every model technique must handle: (timm name, arguments besides TINY and of our own).
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "class_token": ("vit_tiny_patch16_224", {}),
    "average": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg", "in_chans": 1}),
    "average_before_norm": ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False, "reg_tokens": 2}),
    "average_with_prefix": ("vit_tiny_patch16_224", {"global_pool": "avg", "pool_include_prefix": True}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "layer_scale": ("deit3_small_patch16_224", {"init_values": 0.1, "drop_path_rate": 0.1}),
    "qk_norm_no_bias": ("vit_tiny_patch16_224", {"qk_norm": True, "qkv_bias": False, "proj_bias": False}),
    "class_and_mean": ("vit_small_patch14_reg4_dinov2", {"head": "class_and_mean", "init_values": 0.5}),
    "clip": ("vit_base_patch16_clip_224", {"img_size": (16, 24)}),
}


class MemorySource:
    """Random images with random labels."""

    name, fingerprint, class_names = "memory", "memory", list[str]()

    def __init__(self, count: int, size: tuple[int, int], channels: int, classes: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        shape = (count, *size) if channels == 1 else (count, *size, 3)
        self.pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        self.labels = rng.integers(0, classes, count)

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 ``[B, C, H, W]`` to about [-2, 2]."""
    return images.float() / 64 - 2


def tiny_vit(variant: str = "class_token", seed: int = 0, **changes: Any) -> nn.Module:
    """A tiny model whose random weights are large enough for every part to matter."""
    name, arguments = VARIANTS[variant]
    torch.manual_seed(seed)
    model = create(ModelSpec(name=name, args={**TINY, **arguments, **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.5 if "token" in name or "pos" in name else parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.2)
    return model


def calibrated_context(
    model: nn.Module, count: int = 64, size: tuple[int, int] | None = None, **changes: Any
) -> Context:
    """A context with random calibration images for ``model``: a plain ViT, or one that takes RGB images of ``size``."""
    size, channels = (size, 3) if size else (model.patch_embed.img_size, model.patch_embed.proj.in_channels)
    images = ImageSet(MemorySource(count, size, channels, 5, seed=1), np.arange(count), size, channels)
    return Context(to_float, calibration=images, **changes)


@pytest.fixture
def make_vit() -> Callable[..., nn.Module]:
    """See :func:`tiny_vit`."""
    return tiny_vit


@pytest.fixture
def make_context() -> Callable[..., Context]:
    """See :func:`calibrated_context`."""
    return calibrated_context


@pytest.fixture
def skeleton() -> Context:
    """A context without data: shapes only."""
    return Context(to_float)


@pytest.fixture(params=sorted(VARIANTS))
def variant(request: pytest.FixtureRequest) -> str:
    """Every kind of model in turn."""
    return str(request.param)


class ContentPickler(pickle.Pickler):
    """Writes a model alike wherever its tensors lie in memory."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return bytes, (f"{value.dtype}{list(value.shape)}".encode() + value.detach().double().numpy().tobytes(),)
        return NotImplemented


def content(model: nn.Module, shape: tuple[int, ...]) -> str | None:
    """What an exported graph depends on; None of a model with parts that cannot be pickled."""
    written = BytesIO()
    try:
        ContentPickler(written).dump((model, shape))
    except (pickle.PicklingError, AttributeError, TypeError):
        return None
    return hashlib.sha256(written.getvalue()).hexdigest()


@pytest.fixture(scope="session")
def known_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where exported graphs lie, by what they were made from."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def shared_graphs(known_graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One export for equal models: ten deployments of one model begin with the same graph."""

    def sharing(export: Any, form: str) -> Any:
        def graph(exporter: Any, model: nn.Module, shape: Any, folder: Path) -> Path:
            key = content(model, shape)
            if key is None:
                return export(exporter, model, shape, folder)
            known = known_graphs / f"{key}.{form}"
            if not known.exists():
                shutil.copy(export(exporter, model, shape, folder), known)
            return Path(shutil.copy(known, folder / f"model.{form}"))

        return graph

    for runtime, form in (("onnxruntime", "onnx"), ("openvino", "onnx"), ("litert", "tflite")):
        kind = type(get_exporter(runtime))
        monkeypatch.setattr(kind, "graph", sharing(kind.graph, form))
