"""An ``nn.Module`` from Python as a base: as name, arguments and weights where timm can make it again.

So described, it travels to worker processes and other machines, and a run can be resumed from its folder alone. Any
other module needs a function that makes it, or stays in its process.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sousvit.errors import UserError
from sousvit.files import content_hash
from sousvit.models.class_and_mean import CLASS_AND_MEAN, ClassAndMean
from sousvit.models.detector import head_of
from sousvit.models.load import (
    LoadedModel,
    create,
    describe,
    input_size,
    load,
    loaded,
    preprocessing,
    save_checkpoint,
)
from sousvit.specs import MEMORY, ModelSpec

#: Of the outputs of a module and of the one that was made again, relative and absolute: other kernels sum otherwise.
RELATIVE, ABSOLUTE = 1e-3, 1e-4


def adopt(module: nn.Module, folder: Path, factory: str | None = None) -> tuple[ModelSpec, LoadedModel | None]:
    """The specification of ``module``, with its weights written into ``folder``; the module itself is not changed.

    Args:
        factory: ``package.module:function`` that makes such a module.

    Returns:
        The specification, and the loaded base where it describes nothing that another process could make.

    Raises:
        UserError: the factory makes another module, nothing says how images reach this one, or it is a detector.
    """
    if _of_hugging_face(module):
        return _converted(module, folder), None
    if head_of(module) is not None:
        rule = "a detector is given as its checkpoint"
        raise UserError(rule, type(module).__name__, "write it with sousvit train, and name the .safetensors file")
    module = copy.deepcopy(module).float().cpu().eval()
    if factory is not None:
        spec = ModelSpec(factory=factory)
        difference = _difference(module, create(spec), *_input_of(module))
        if difference:
            raise UserError("a factory makes the module that is given", f"{factory}: {difference}", "correct it")
        return _written(module, spec, folder), None
    with torch.random.fork_rng(devices=[]):  # what timm draws for a new model is not the caller's
        for spec in _candidates(module):
            try:
                made = create(spec)
            except UserError:
                continue
            if not _difference(module, made, *_input_of(module)):
                return _written(module, spec, folder), None
    kind = type(module)
    spec = ModelSpec(name=f"{kind.__module__}.{kind.__qualname__}", factory=MEMORY)
    return spec, loaded(module, spec)


def _of_hugging_face(module: nn.Module) -> bool:
    """Whether a module is one of ``transformers`` or derived from one, told without importing it."""
    return any(kind.__module__ == "transformers.modeling_utils" for kind in type(module).__mro__)


def _converted(module: Any, folder: Path) -> ModelSpec:
    """A model of ``transformers`` as timm's, see :mod:`sousvit.models.checkpoints.hugging_face`."""
    with tempfile.TemporaryDirectory(prefix="sousvit-inputs-") as place:
        module.save_pretrained(place)
        base = load(ModelSpec(checkpoint=place).resolved(Path()))
    path = folder / f"model-{base.fingerprint[:12]}.safetensors"
    if not path.is_file():
        save_checkpoint(path, base.module, describe(base))
    return ModelSpec(checkpoint=str(path.resolve())).resolved(Path())


def _written(module: nn.Module, spec: ModelSpec, folder: Path) -> ModelSpec:
    """``spec`` with the module's weights, in a file that is named by its content."""
    config = getattr(module, "pretrained_cfg", None) or {}
    how: dict[str, Any] = {
        key: tuple(map(float, config[key])) for key in ("mean", "std") if config.get(key) is not None
    }
    known = {**how, "name": spec.name, "args": spec.args} if spec.factory is None else dict(how)
    preprocess, _ = preprocessing(module, spec)
    if preprocess.geometry:
        known["preprocess"] = preprocess.steps
    weights = (part for name, value in module.state_dict().items() for part in (name, value.numpy().tobytes()))
    path = folder / f"model-{content_hash(known, *weights, length=12)}.safetensors"
    if not path.is_file():
        save_checkpoint(path, module, known)
    return ModelSpec(**{**spec.model_dump(), **how, "checkpoint": str(path.resolve())})


def _input_of(module: nn.Module) -> tuple[int, int, int]:
    (height, width), channels = input_size(module)
    return channels, height, width


def _difference(module: nn.Module, made: nn.Module, channels: int, height: int, width: int) -> str:
    """How ``made``, given the weights of ``module``, differs from it in a phrase; "" where it does not."""
    shapes, others = ({name: value.shape for name, value in one.state_dict().items()} for one in (module, made))
    if shapes != others:
        wrong = next(name for name in {**shapes, **others} if shapes.get(name) != others.get(name))
        return f"{wrong} is {_shape(others.get(wrong))} instead of {_shape(shapes.get(wrong))}"
    made.load_state_dict(module.state_dict())
    images = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = module(images), made(images)
    same = isinstance(theirs, torch.Tensor) and ours.shape == theirs.shape
    same = same and torch.allclose(ours, theirs, rtol=RELATIVE, atol=ABSOLUTE)
    return "" if same else "other outputs from the same weights"


def _shape(shape: torch.Size | None) -> str:
    return "missing" if shape is None else str(list(shape))


def _candidates(module: nn.Module) -> Iterator[ModelSpec]:
    """What timm may have been asked for, by the name that it left on the module."""
    import timm
    from timm.models.vision_transformer import VisionTransformer

    name = (getattr(module, "pretrained_cfg", None) or {}).get("architecture")
    if not isinstance(name, str) or not timm.is_model(name):
        return
    if isinstance(module, VisionTransformer) and len(module.blocks):
        usual, own = _vit_args(timm.create_model(name)), _vit_args(module)
        yield ModelSpec(name=name, args={key: value for key, value in own.items() if usual.get(key) != value})
        return
    channels, height, width = _input_of(module)
    args: dict[str, Any] = {"num_classes": getattr(module, "num_classes", 0), "in_chans": channels}
    yield ModelSpec(name=name, args=args)
    yield ModelSpec(name=name, args={**args, "img_size": [height, width]})


def _vit_args(module: Any) -> dict[str, Any]:
    """Arguments for timm of a VisionTransformer, read from its parts; what else it was given shows in its outputs."""
    embed, block = module.patch_embed, module.blocks[0]
    attention, mlp = block.attn, block.mlp

    def has(part: nn.Module | None) -> bool:
        return part is not None and not isinstance(part, nn.Identity)

    return {
        "img_size": None if embed.img_size is None else list(embed.img_size),
        "patch_size": list(embed.patch_size),
        "in_chans": embed.proj.in_channels,
        "num_classes": module.num_classes,
        "global_pool": module.global_pool,
        "embed_dim": module.embed_dim,
        "depth": len(module.blocks),
        "num_heads": attention.num_heads,
        "mlp_ratio": mlp.fc1.out_features / module.embed_dim,
        "qkv_bias": attention.qkv.bias is not None,
        "qk_norm": has(attention.q_norm),
        "proj_bias": attention.proj.bias is not None,
        "init_values": 1e-5 if has(block.ls1) else None,
        "class_token": module.has_class_token,
        "no_embed_class": module.no_embed_class,
        "reg_tokens": module.num_reg_tokens,
        "pre_norm": has(module.norm_pre),
        "final_norm": has(module.norm) or has(module.fc_norm),
        "fc_norm": has(module.fc_norm),
        "pool_include_prefix": module.pool_include_prefix,
        "dynamic_img_size": module.dynamic_img_size,
        "layer_norm_eps": block.norm1.eps,
        "head": CLASS_AND_MEAN if isinstance(module.head, ClassAndMean) else None,
    }
