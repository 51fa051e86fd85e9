"""The weights of a compressed model before quantization, with what rebuilds its structure: to fine-tune it elsewhere.

A folder of two files: ``model.safetensors``, and ``structure.json``, which names the base's architecture and the
recipe's steps. Neither holds code, and the base's own weights and data are not needed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.checked import validated
from sousvit.errors import TrialError, UserError, one_line
from sousvit.files import read_text, write_atomic
from sousvit.specs import ModelSpec

if TYPE_CHECKING:
    from torch import nn

    from sousvit.models.load import LoadedModel
    from sousvit.spaces.recipe import Recipe

#: Beside an artifact: the folder of the weights before quantization.
WEIGHTS = "pytorch"
FILE, STRUCTURE = "model.safetensors", "structure.json"
#: Of a model specification, what its structure depends on, and how images reach it.
_KEPT = {"name", "args", "mean", "std", "preprocess", "detector"}


def save_weights(folder: Path, model: nn.Module, base: LoadedModel, recipe: Recipe, decisions: dict[str, Any]) -> bool:
    """Write the compressed ``model`` into ``folder``.

    False, and nothing is written, where a user's own code makes the base: no other process could rebuild it.

    Args:
        decisions: that its build took from data, see :meth:`.ModelBuilder.build`.
    """
    from safetensors.torch import save

    if base.spec.factory is not None:
        return False
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    structure = {
        "model": base.spec.model_dump(mode="json", include=_KEPT, exclude_defaults=True),
        "recipe": recipe.to_dict(),
        "decisions": decisions,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / FILE, save(tensors))
    write_atomic(folder / STRUCTURE, json.dumps(structure, indent=1))
    return True


def load_weights(folder: Path) -> nn.Module:
    """The module of such a folder, in eval mode: normalised images to logits (or a detector's dense predictions).

    Raises:
        UserError: no such folder, or its files do not go together; code that they name is not run.
    """
    from sousvit.models.checkpoints.weights import stored_safetensors
    from sousvit.models.load import create, loaded
    from sousvit.spaces.builder import changing_steps, rebuilt
    from sousvit.spaces.recipe import Recipe

    spec, plain, decisions = _structure(folder / STRUCTURE)
    base = loaded(create(spec), spec)
    recipe = Recipe.from_dict(plain)
    try:
        tensors = stored_safetensors(folder / FILE).read()
        return rebuilt(base, changing_steps(recipe), decisions, tensors).eval()
    except (RuntimeError, TrialError, OSError) as error:
        raise _broken(folder, one_line(error)) from error


def _structure(path: Path) -> tuple[ModelSpec, dict[str, Any], dict[str, Any]]:
    if not path.is_file():
        rule = f"a model to load is a folder with {STRUCTURE}, or a bundle with {WEIGHTS}/{STRUCTURE}"
        raise UserError(rule, path.parent, "name a bundle whose README speaks of its PyTorch weights")
    try:
        found = json.loads(read_text(path, "a structure"))
        model, recipe, decisions = found["model"], found["recipe"], found["decisions"]
        if not all(isinstance(part, dict) for part in (model, recipe, decisions)):
            raise TypeError("not names with values")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _broken(path, one_line(error)) from error
    return architecture(model, path), recipe, decisions


def architecture(model: dict[str, Any], path: Path) -> ModelSpec:
    """The specification of a network that a stranger's file names, and nothing that it could be loaded from.

    Raises:
        UserError: other keys, or arguments by which timm reads files.
    """
    foreign = sorted(set(model) - _KEPT)
    if foreign:
        raise _broken(path, f"model holds {', '.join(map(str, foreign))[:200]}")
    return validated(ModelSpec, model, str(path))


def _broken(where: Path, problem: str) -> UserError:
    return UserError("a bundle's PyTorch weights are as they were written", f"{where}: {problem}", "copy it again")
