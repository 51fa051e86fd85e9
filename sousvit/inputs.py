"""Models, data and targets that a Python user hands over, as the parts of a budget.

A budget is plain values, which worker processes and a later session can read. What lies in memory is written once
into the run folder, under ``inputs/``, in files named by their content; what cannot be written stays in this process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.checked import validated
from sousvit.data.formats.format import format_of
from sousvit.data.layout import PART_NAMES, expand, parts_below, resolve_data
from sousvit.errors import UserError
from sousvit.models.preprocess import WHOLE_IMAGE, Preprocess
from sousvit.specs import NO_DATA, DataSpec, ModelSpec
from sousvit.text.paths import resolved

if TYPE_CHECKING:
    from sousvit.models.load import LoadedModel

#: Beside the run's other files: what lay in memory.
INPUTS = "inputs"


def model_input(model: Any, folder: Path, factory: str | None = None) -> tuple[ModelSpec, LoadedModel | None]:
    """A model as a specification; its weights are written into ``folder`` where it is a module.

    Args:
        model: an ``nn.Module`` of timm, of ``transformers`` or any other, a timm name, a checkpoint of any form, a
            :class:`ModelSpec` or its values.
        factory: ``package.module:function`` that makes such a module.

    Returns:
        The specification, and the base itself where no other process could make it.

    Raises:
        UserError: none of these, or wrong.
    """
    if isinstance(model, str | os.PathLike | Mapping | ModelSpec):
        if factory is not None:
            raise UserError("a factory makes the module that is given", f"{factory} and no module", "remove factory")
        given = Path(model) if isinstance(model, os.PathLike) else model
        return validated(ModelSpec, given, "model").resolved(Path()), None
    from torch import nn

    if not isinstance(model, nn.Module):
        action = "give an nn.Module, timm's name, a checkpoint's path or sousvit.Model(...)"
        raise UserError("a model is a module, or names one", type(model).__name__, action)
    from sousvit.models.module import adopt

    return adopt(model, folder, factory)


def data_input(train: Any, validation: Any, test: Any, folder: Path) -> DataSpec:
    """Data as a specification; data sets in memory are written into ``folder``.

    Args:
        train: a path or several, a data set (of torch or Hugging Face), a ``DatasetDict`` or :class:`DataSpec` (or its
            values) that holds all parts, or None.
        validation: a path or several, a data set, a share or count of the training images, or None for the usual share.
        test: a path or several, a data set or None.

    Raises:
        UserError: none of these.
    """
    if isinstance(train, DataSpec | Mapping):
        parts = _parts_of_dictionary(train)
        if test is not None or (validation is not None and (not parts or "validation" in parts)):
            raise UserError(
                "train as a description names all parts of the data", "validation or test beside it", "name it there"
            )
        if not parts:
            return resolve_data(validated(DataSpec, train, "data"), Path())
        train, test, validation = parts["train"], parts.get("test"), parts.get("validation", validation)
    values: dict[str, Any] = {}
    formats: set[str | None] = set()
    for part, given in (("train", train), ("validation", validation), ("test", test)):
        if part == "validation" and isinstance(given, int | float | Mapping):
            values[part] = given
        elif given is not None:
            values[part], found = _part(given, part, folder)
            formats |= found
    values["format"] = NO_DATA if not formats else formats.pop() if len(formats) == 1 else None
    if values["format"] != NO_DATA and "train" not in values:
        values["train"] = NO_DATA
    return resolve_data(validated(DataSpec, values, "data"), Path())


def _parts_of_dictionary(given: Any) -> dict[str, Any]:
    """The parts of a ``datasets.DatasetDict`` by our names; nothing of any other mapping.

    Raises:
        UserError: it has no part for training.
    """
    from sousvit.data.hugging_face import is_hugging_face

    if not isinstance(given, Mapping) or not given or not all(map(is_hugging_face, given.values())):
        return {}
    found = {part: given[name] for part, names in PART_NAMES.items() for name in reversed(names) if name in given}
    if "train" not in found:
        rule = "a dictionary of data sets holds one called train"
        raise UserError(rule, ", ".join(map(str, given)), "give the parts as train=, validation=, test=")
    return found


def _part(given: Any, part: str, folder: Path) -> tuple[str | tuple[str, ...], set[str | None]]:
    """Where a part lies now, and in which formats; None where its parts only tell."""
    if isinstance(given, str | os.PathLike):
        path = str(resolved(given, Path()))
        return path, _formats_of(path)
    if isinstance(given, list | tuple) and given and all(isinstance(one, str | os.PathLike) for one in given):
        paths = tuple(str(resolved(one, Path())) for one in given)
        return paths, {name for path in paths for name in _formats_of(path)}
    from sousvit.data.dataset import is_dataset, write_dataset
    from sousvit.data.hugging_face import is_hugging_face, write_hugging_face

    if is_hugging_face(given):
        return str(write_hugging_face(given, folder, part)), {"parquet"}
    if not is_dataset(given):
        action = "give a path, a torch Dataset, a datasets.Dataset, or a description {format: ...}"
        raise UserError(f"{part} data is a path or a data set", type(given).__name__, action)
    return str(write_dataset(given, folder, part)), {"parquet"}


def _formats_of(path: str) -> set[str | None]:
    """The formats of what a path stands for; of a folder that holds parts, its parts tell."""
    found = expand(path)
    if len(found) == 1 and len(parts_below(found[0], alone=True)) > 1:
        return {None}
    return {format_of(one).name for one in found}


def preprocess_input(
    preprocess: Any, model: ModelSpec, data: DataSpec, base: LoadedModel | None, folder: Path
) -> tuple[ModelSpec, DataSpec, LoadedModel | None]:
    """Model, data and base, when images reach the model by ``preprocess``.

    Args:
        preprocess: ``"auto"``, a :class:`.Preprocess` or its values, or a transform, whose images are written.
        base: the model itself, where no file holds it.

    Raises:
        UserError: none of these, or wrong.
    """
    if preprocess == "auto":
        return model, data, base
    if isinstance(preprocess, Preprocess | Mapping):
        given = validated(Preprocess, preprocess, "preprocess")
    elif callable(preprocess):
        from sousvit.data.transformed import write_transformed

        data, given = write_transformed(data, preprocess, folder)
        given = given.over(WHOLE_IMAGE)
    else:
        action = "give 'auto', sousvit.Preprocess(...) or a function of a PIL image"
        raise UserError("preprocess says how images reach the model", repr(preprocess)[:60], action)
    model = model.model_copy(update={"preprocess": given.over(model.preprocess)})
    if base is not None:
        from sousvit.models.load import loaded

        base = loaded(base.module, model, base.class_names)
    return model, data, base


def target_input(target: Any) -> list[Any]:
    """One target or several, as a budget takes them."""
    entries = target if isinstance(target, list | tuple) else [target]
    return [str(entry) if isinstance(entry, Path) else entry for entry in entries]
