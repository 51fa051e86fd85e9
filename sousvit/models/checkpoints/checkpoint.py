"""The contract of checkpoints: whatever form a model comes in, what timm is to make of it and what belongs to it.

A form is recognised and read by one file of this folder; :mod:`sousvit.models.checkpoints.forms` lists them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.errors import UserError
from sousvit.files import MOST_DESCRIPTION, read_text

if TYPE_CHECKING:
    import torch

    from sousvit.models.preprocess import Preprocess

#: Tensors by name, as they lie in a file.
Tensors = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class Imported:
    """A checkpoint, understood.

    Attributes:
        name: the timm model, where the checkpoint says so.
        args: what ``timm.create_model`` is called with; see :func:`sousvit.models.load.create` for two of our own.
        tensors: reads the weights, in float32 under timm's names. What comes before costs no more than a file's header.
        class_names: what each label means, in their order.
        preprocess: how images reach the model, as far as the checkpoint says so.
        classifier: False where only features were saved: a classifier would be new, and all zeros.
        is_ours: whether ``sousvit train`` or ``sousvit import`` wrote it.
        detector: the head of a detector, see :class:`sousvit.specs.DetectorSpec`.
        notes: what was decided on the way, a sentence each: for the user's eyes.
    """

    name: str | None
    args: dict[str, Any]
    tensors: Callable[[], Tensors]
    class_names: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    detector: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    classifier: bool = True
    is_ours: bool = False


def names_of(labels: Any, count: int | None = None) -> tuple[str, ...]:
    """Class names from a list or from a mapping of labels (numbers, or numbers as text) to names.

    Names that only repeat the number (``LABEL_3``) name nothing, and neither do those of another count than ``count``.
    """
    if isinstance(labels, Mapping):
        try:
            numbered = {int(label): name for label, name in labels.items()}
        except (TypeError, ValueError):
            return ()
        if sorted(numbered) != list(range(len(numbered))):
            return ()
        labels = [numbered[label] for label in range(len(numbered))]
    if not isinstance(labels, list | tuple) or count not in (None, len(labels)):
        return ()
    if all(str(name) == f"LABEL_{label}" for label, name in enumerate(labels)):
        return ()
    return tuple(map(str, labels))


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: not readable, not JSON, or another value; ``what`` it should be is named.
    """
    return parse_json(read_text(path, what, MOST_DESCRIPTION), path, what)


def parse_json(text: str, path: Path, what: str) -> dict[str, Any]:
    """The JSON object in ``text``, which stands in ``path``.

    Raises:
        UserError: not JSON, or another value.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} must be JSON", f"{path}: {error}", "repair or remove it") from error
    if not isinstance(values, dict):
        raise UserError(f"{what} must be a JSON object", f"{path}: {type(values).__name__}", "repair it")
    return values
