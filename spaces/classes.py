"""Whether data and base mean the same by a label: as many classes, and each name at the label where it was learned."""

from __future__ import annotations

import json

from sousvit.common.data import ImageSet
from sousvit.common.errors import UserError
from sousvit.common.model import LoadedModel


def require_classes(base: LoadedModel, data: ImageSet) -> None:
    """Check the labels of ``data``; their order is checked for a detector whose checkpoint names its classes.

    Raises:
        UserError: there are more classes than the base has, or one has another label than the base learned for it.
    """
    require_room(base, data)
    # Classification sets name the same classes in several ways (airplane, plane).
    learned, names = base.class_names if base.spec.task == "detection" else (), data.class_names
    if not learned or tuple(names) == learned[: len(names)]:
        return
    label = next(label for label, name in enumerate(names) if learned[label : label + 1] != (name,))
    there = learned[label] if label < len(learned) else "none"
    raise UserError(
        "the data's classes are those that the base learned, in its order",
        f"{names[label]} as class {label} in {data.source.name}, where the base learned {there}",
        f"write data.classes: {json.dumps(learned)}" if knows_all(base, data) else "use a base for these classes",
    )


def require_room(base: LoadedModel, data: ImageSet) -> None:
    """Check that the base has an output for every class.

    Raises:
        UserError: it has not.
    """
    if data.num_classes > base.num_classes:
        raise UserError(
            "the model needs a class for every label",
            f"{base.num_classes} classes for {data.num_classes} labels in {data.source.name}",
            "set model.args.num_classes, or correct the data",
        )


def knows_all(base: LoadedModel, data: ImageSet) -> bool:
    """Whether the base learned every class of ``data``, whatever their order."""
    return set(data.class_names) <= set(base.class_names)
