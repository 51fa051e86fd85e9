"""Models, data and targets that a Python user hands over, as the parts of a budget.

A budget is plain values, which worker processes and a later session can read. What lies in memory is written once
into the run folder, under ``inputs/``, in files named by their content; what cannot be written stays in this process.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sousvit.errors import UserError
from sousvit.models.preprocess import WHOLE_IMAGE, Preprocess
from sousvit.schema import validated
from sousvit.specs import NO_DATA, DataSpec, ModelSpec

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
    """Data as a specification; torch data sets are written into ``folder``.

    Args:
        train: a path, a torch Dataset, a :class:`DataSpec` (or its values) that describes all parts, or None.
        validation: a path, a Dataset, a share or count of the training images, or None for the usual share.
        test: a path, a Dataset or None.

    Raises:
        UserError: none of these, or parts in different formats.
    """
    if isinstance(train, DataSpec | Mapping):
        if validation is not None or test is not None:
            raise UserError(
                "train as a description names all parts of the data", "validation or test beside it", "name it there"
            )
        return validated(DataSpec, train, "data").resolved(Path())
    values: dict[str, Any] = {}
    formats: dict[str, str] = {}
    for part, given in (("train", train), ("validation", validation), ("test", test)):
        if part == "validation" and isinstance(given, int | float | Mapping):
            values[part] = given
        elif given is not None:
            path, formats[part] = _part(given, part, folder)
            values[part] = str(path)
    if len(set(formats.values())) > 1:
        found = ", ".join(f"{part} {kind}" for part, kind in formats.items())
        raise UserError("all parts of the data have one format", found, "give all as files, or all as data sets")
    values["format"] = next(iter(formats.values()), NO_DATA)
    if formats and "train" not in formats:
        values["train"] = NO_DATA
    return validated(DataSpec, values, "data").resolved(Path())


def _part(given: Any, part: str, folder: Path) -> tuple[Path, str]:
    """Where a part lies now, and in which format."""
    if isinstance(given, str | os.PathLike):
        path = Path(given).expanduser().resolve()
        return path, _format_of(path)
    from sousvit.data.dataset import is_dataset, write_dataset

    if not is_dataset(given):
        action = "give a folder, a parquet or IDX file, a torch Dataset, or a description {format: ...}"
        raise UserError(f"{part} data is a path or a data set", type(given).__name__, action)
    return write_dataset(given, folder, part), "parquet"


def _format_of(path: Path) -> str:
    if not path.exists():
        raise UserError("data must exist", path, "correct the path")
    if path.is_dir():
        return "parquet" if next(path.glob("*.parquet"), None) is not None else "folder"
    if path.suffix == ".parquet":
        return "parquet"
    if ".idx" in path.name or "-idx" in path.name:
        return "idx"
    action = "describe it, for instance train={'format': 'coco', 'train': 'train.json', 'test': 'test.json'}"
    raise UserError("data by its path alone is a folder, parquet or IDX", path.name, action)


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
