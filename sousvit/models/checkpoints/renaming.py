"""What every converter of a Hugging Face model works with: its settings, and rules that rename its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sousvit.errors import UserError
from sousvit.models.checkpoints.checkpoint import Tensors

#: timm's names of activations by those of ``transformers``.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
#: Behind the name of a tensor that is one part of a larger one, in the order of the parts.
PARTS = ("#0", "#1", "#2")


@dataclass(frozen=True)
class Source:
    """A Hugging Face model as it is saved.

    Attributes:
        config: its ``config.json``.
        shapes: of its tensors.
        architecture: the class that saved it.
        preprocessed: (height, width) of what its preprocessor makes, where that is known.
        folder: where it lies, for messages.
    """

    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    architecture: str
    preprocessed: tuple[int, int] | None
    folder: Path

    def setting(self, name: str, usual: Any) -> Any:
        """A setting; ``usual`` is the default of ``transformers``, which older files leave out."""
        value = self.config.get(name)
        return usual if value is None else value

    def sides(self, name: str, usual: int) -> tuple[int, int]:
        """(height, width) of a setting that is one number for a square."""
        value = self.setting(name, usual)
        return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))

    def part(self, name: str) -> Source:
        """The same with the settings of a part, such as ``vision_config``."""
        own = self.config.get(name)
        return Source(dict(own or {}), self.shapes, self.architecture, self.preprocessed, self.folder)

    def num_classes(self, classifier: str = "classifier.weight") -> int:
        """Classes of the classifier, 0 where there is none: the tensor knows, whatever the settings say."""
        return self.shapes[classifier][0] if classifier in self.shapes else 0

    def activation(self, usual: str = "gelu") -> str:
        """Timm's name of the activation.

        Raises:
            UserError: timm has it under no name.
        """
        name = self.setting("hidden_act", usual)
        if name not in ACTIVATIONS:
            raise self.foreign(f"hidden_act: {name}", f"hidden_act is one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[name]

    def foreign(self, received: str, rule: str = "timm has the model's architecture") -> UserError:
        """The error of a setting that has no counterpart in timm."""
        action = "hand over an nn.Module that returns logits, in Python"
        return UserError(rule, f"{received} of {self.architecture} in {self.folder}", action)

    def require(self, **usual: Any) -> None:
        """Refuse settings that timm's architecture fixes to other values.

        Raises:
            UserError: one has another value.
        """
        for name, value in usual.items():
            if self.setting(name, value) != value:
                raise self.foreign(f"{name}: {self.config[name]}", f"timm's architecture has {name}: {value}")


@dataclass(frozen=True)
class Conversion:
    """What timm is to make of a model, and how its tensors come to their new names.

    Attributes:
        name: timm's model, which the arguments change to the right size.
        args: see :func:`sousvit.models.load.create`.
        size: (height, width) of its input.
        rename: a tensor's new name; None for one that plays no part in classification.
        finish: changes what no new name can (after parts were joined).
    """

    name: str
    args: dict[str, Any]
    size: tuple[int, int]
    rename: Callable[[str], str | None]
    finish: Callable[[Tensors], Tensors] = lambda tensors: tensors


def renaming(rules: Sequence[tuple[str, str | None]]) -> Callable[[str], str | None]:
    """A function from old to new names: each of the rules (pattern, replacement) is applied in turn.

    A rule without replacement drops the names that it matches.
    """
    compiled = [(re.compile(pattern), new) for pattern, new in rules]

    def rename(name: str) -> str | None:
        for pattern, new in compiled:
            if new is None:
                if pattern.search(name):
                    return None
            else:
                name = pattern.sub(new, name)
        return name

    return rename


def joined(tensors: Tensors) -> Tensors:
    """The tensors with parts (``qkv.weight#0``, ``#1``, ``#2``) put together along their rows.

    A missing part (keys without a bias) is zeros like the first one.
    """
    import torch

    whole = {name: tensor for name, tensor in tensors.items() if "#" not in name}
    for name in dict.fromkeys(name.partition("#")[0] for name in tensors if "#" in name):
        found = [tensors.get(name + part) for part in PARTS]
        like = next(part for part in found if part is not None)
        whole[name] = torch.cat([torch.zeros_like(like) if part is None else part for part in found])
    return whole


def ratio(hidden: int, width: int) -> float:
    """``mlp_ratio`` of which timm makes exactly ``hidden`` units: ``int(width * ratio)``."""
    found = hidden / width
    return found if int(width * found) == hidden else (hidden + 0.5) / width
