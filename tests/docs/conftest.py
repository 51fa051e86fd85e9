"""What the pages and notebooks for users begin with: their files, small, under the names that the pages give them."""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

ROOT = Path(__file__).parents[2]
CLASSES = ("checks", "columns", "rows")
PARTS = {"train": (1200, 1), "val": (200, 2), "test": (200, 3)}


def noisy(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images ``[N, 16, 16, 3]`` of :data:`CLASSES`, and labels ``[N]``."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    row, column = np.mgrid[0:16, 0:16]
    phase = rng.integers(0, 4, (2, count, 1, 1))
    rows, columns = ((row + phase[0]) // 2) % 2, ((column + phase[1]) // 2) % 2
    clean = np.choose(labels[:, None, None], [rows ^ columns, columns, rows])
    images = 64 + 128 * clean[..., None] + rng.normal(0, 60, (count, 16, 16, 3))
    return images.clip(0, 255).astype(np.uint8), labels


def taught(module: nn.Module, epochs: int = 8) -> nn.Module:
    """A module that learned the training images, normalised by 0.5 and 0.25, to clearly more than chance."""
    images, labels = noisy(*PARTS["train"])
    inputs = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    targets = torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)

    def logits(batch: torch.Tensor) -> torch.Tensor:
        out = module(batch)
        return out if isinstance(out, torch.Tensor) else out.logits

    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(50):
                optimizer.zero_grad()
                nn.functional.cross_entropy(logits(inputs[rows]), targets[rows]).backward()
                optimizer.step()
    with torch.no_grad():
        assert (logits(inputs).argmax(1) == targets).float().mean() > 0.8
    return module.eval()


def write_photos(root: Path) -> None:
    """``pets/{train,val,test}/CLASS/N.png``, of the training images the first 500: a student learns from them."""
    for part, (count, seed) in PARTS.items():
        images, labels = (values[:500] for values in noisy(count, seed))
        for label, name in enumerate(CLASSES):
            (root / "pets" / part / name).mkdir(parents=True)
            for number, image in enumerate(images[labels == label]):
                Image.fromarray(image).save(root / "pets" / part / name / f"{number}.png")


def write_dataset(root: Path) -> None:
    """``pets``, a ``DatasetDict`` as ``save_to_disk`` writes it."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    parts = {}
    for part in ("train", "test"):
        images, labels = noisy(*PARTS[part])
        rows = {"image": [Image.fromarray(image) for image in images], "label": labels.tolist()}
        parts[part] = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(parts).save_to_disk(str(root / "pets"))


def write_hugging_face(root: Path) -> None:
    """``my-vit``, as ``save_pretrained`` writes model and processor."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    names = dict(enumerate(CLASSES))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ViTConfig(image_size=16, patch_size=4, id2label=names, hidden_dropout_prob=0.0, **sizes)
        model = taught(ViTForImageClassification(config))
    model.save_pretrained(root / "my-vit")
    statistics = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    ViTImageProcessor(size={"height": 16, "width": 16}, **statistics).save_pretrained(root / "my-vit")


def write_timm(root: Path) -> None:
    """``model_best.pth.tar``, as timm's training script leaves it."""
    import timm

    name, kept = "vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = taught(timm.create_model(name, num_classes=3, img_size=16, **kept))
    args = argparse.Namespace(
        model=name, num_classes=3, img_size=16, crop_pct=1.0, mean=[0.5] * 3, std=[0.25] * 3, model_kwargs=kept
    )
    state = {"arch": name, "args": args, "epoch": 3, "state_dict": model.state_dict()}
    torch.save(state, root / "model_best.pth.tar")


def write_weights(root: Path) -> None:
    """``weights.pt`` of the network in ``my_model.py``, which lies there."""
    spec = importlib.util.spec_from_file_location("made_to_learn", root / "my_model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(taught(module.Network()).state_dict(), root / "weights.pt")


WRITERS: dict[str, Callable[[Path], None]] = {
    "photos": write_photos,
    "dataset": write_dataset,
    "hugging-face": write_hugging_face,
    "timm": write_timm,
    "weights": write_weights,
}


#: A block of a page: what stands behind its backticks, and its text.
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.S | re.M)


@pytest.fixture
def quickstart_blocks() -> Callable[[str], list[tuple[str, str]]]:
    """The blocks of a quickstart, by its name."""
    return lambda name: BLOCK.findall((ROOT / "docs" / "quickstart" / f"{name}.md").read_text())


@pytest.fixture
def quickstart_file(quickstart_blocks: Callable[[str], list[tuple[str, str]]], tmp_path: Path) -> Callable[..., None]:
    """Writes the files that a quickstart shows into the test's folder."""

    def written(name: str) -> None:
        for kind, text in quickstart_blocks(name):
            if "file=" in kind:
                (tmp_path / kind.partition("file=")[2]).write_text(text)

    return written


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes what a page needs, by :data:`WRITERS`, into a folder of the test, and returns that."""

    def written(*names: str) -> Path:
        for name in names:
            WRITERS[name](tmp_path)
        return tmp_path

    return written
