"""A folder as ``transformers`` saves it: ``config.json`` with a ``model_type``, weights, ``preprocessor_config.json``.

The model becomes timm's of the same architecture: its tensors are renamed, and nothing of ``transformers`` is imported.
:data:`FAMILIES` lists the architectures; their files say how each becomes timm's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sousvit.errors import UserError
from sousvit.models.checkpoints import (
    hugging_face_beit,
    hugging_face_convnext,
    hugging_face_dinov3,
    hugging_face_mobilevit,
    hugging_face_swin,
    hugging_face_vit,
)
from sousvit.models.checkpoints.checkpoint import Imported, Tensors, names_of, read_json
from sousvit.models.checkpoints.renaming import Source, joined
from sousvit.models.checkpoints.weights import in_float32, precision_notes, stored_in_folder
from sousvit.models.preprocess import Preprocess
from sousvit.models.preprocess_config import of_hugging_face

#: Converters by ``model_type``.
FAMILIES = {
    "beit": hugging_face_beit.beit,
    "clip": hugging_face_vit.clip,
    "convnext": hugging_face_convnext.convnext,
    "convnextv2": hugging_face_convnext.convnext,
    "data2vec-vision": hugging_face_beit.beit,
    "deit": hugging_face_vit.deit,
    "dinov2": hugging_face_vit.dinov2,
    "dinov2_with_registers": hugging_face_vit.dinov2,
    "dinov3_convnext": hugging_face_convnext.dinov3_convnext,
    "dinov3_vit": hugging_face_dinov3.dinov3,
    "metaclip_2": hugging_face_vit.clip,
    "mobilevit": hugging_face_mobilevit.mobilevit,
    "siglip": hugging_face_vit.siglip,
    "swin": hugging_face_swin.swin,
    "swinv2": hugging_face_swin.swin_v2,
    "vit": hugging_face_vit.vit,
    "vit_msn": hugging_face_vit.vit,
}


def open_folder(folder: Path, config: Mapping[str, Any]) -> Imported:
    """The checkpoint in ``folder``, described by ``config``, the object in its ``config.json``.

    Raises:
        UserError: an architecture or a setting that timm has not, or no weights.
    """
    kind, architecture = config.get("model_type"), ", ".join(map(str, config.get("architectures") or ())) or "no name"
    if kind not in FAMILIES:
        rule = f"a Hugging Face model is of a kind that becomes timm's: {', '.join(FAMILIES)}"
        action = "hand over an nn.Module that returns logits, in Python"
        raise UserError(rule, f"{kind} ({architecture}) in {folder}", action)
    if config.get("problem_type") in ("regression", "multi_label_classification"):
        raise UserError("a classifier gives an image one class", f"{config['problem_type']} in {folder}", "use another")
    stored = stored_in_folder(folder)
    preprocess = _preprocess(folder)
    source = Source(dict(config), stored.shapes, architecture, None if preprocess is None else preprocess.size, folder)
    conversion = FAMILIES[kind](source)
    if preprocess is None:
        notes: tuple[str, ...] = ("no preprocessor_config.json lies beside it",)
    else:
        notes = ()
        if preprocess.size not in (None, conversion.size):
            preprocess = preprocess.over(None).model_copy(update={"size": conversion.size})
            notes = (f"its preprocessor makes other images than the model takes: {conversion.size} is used",)

    def tensors() -> Tensors:
        found = in_float32(stored.read(), stored.where)
        renamed = ((conversion.rename(name), tensor) for name, tensor in found.items())
        return conversion.finish(joined({name: tensor for name, tensor in renamed if name is not None}))

    return Imported(
        conversion.name,
        conversion.args,
        tensors,
        names_of(config.get("id2label"), conversion.args["num_classes"]),
        preprocess,
        None,
        (f"{architecture} is converted to timm's {conversion.name}", *precision_notes(stored.kinds), *notes),
        conversion.args["num_classes"] > 0,
    )


def _preprocess(folder: Path) -> Preprocess | None:
    path = folder / "preprocessor_config.json"
    return of_hugging_face(read_json(path, path.name)) if path.is_file() else None
