"""Base models: a timm name with arguments, weights from timm's hub or a checkpoint of any form."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from sousvit.errors import UnknownNameError, UserError
from sousvit.files import content_hash, write_atomic
from sousvit.models.arguments import require_memory
from sousvit.models.checkpoints.checkpoint import Tensors
from sousvit.models.checkpoints.forms import open_source
from sousvit.models.checkpoints.safetensors_file import CLASS_NAMES, METADATA_KEY
from sousvit.models.class_and_mean import CLASS_AND_MEAN, attach_class_and_mean
from sousvit.models.preprocess import DEFAULT_PREPROCESS, MODES, WHOLE_IMAGE, Preprocess
from sousvit.models.preprocess_config import of_timm
from sousvit.specs import MEMORY, DetectorSpec, ModelSpec


@dataclass(frozen=True)
class LoadedModel:
    """A loaded base: the module in eval mode, how to feed it, and its content hash.

    Attributes:
        size: (height, width) of its input.
        mean, std: per channel, of pixels in [0, 1].
        class_names: what each label means, where the checkpoint says so.
        preprocess: how images reach it.
        notes: what was assumed of it, or decided as its checkpoint was read, one line each.
    """

    module: nn.Module
    spec: ModelSpec
    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int
    fingerprint: str
    class_names: tuple[str, ...] = ()
    preprocess: Preprocess = DEFAULT_PREPROCESS
    notes: tuple[str, ...] = ()

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 ``[B, C, H, W]`` to float32, as the model expects it."""
        return normalise(images, self.mean, self.std)


def normalise(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """uint8 ``[B, C, H, W]`` in 0..255 to float32 ``(x / 255 - mean) / std``, one mean and std a channel."""
    scale = torch.tensor([255.0 * s for s in std], device=images.device).view(1, -1, 1, 1)
    offset = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=images.device).view(1, -1, 1, 1)
    return images.float() / scale - offset


def create(spec: ModelSpec) -> nn.Module:
    """``timm.create_model`` with our errors, and two arguments of our own.

    ``layer_norm_eps`` is the epsilon of the layer norms, which timm fixes by the model's name: a number, or numbers by
    the names of the modules that hold them (``""`` for all others). ``head: class_and_mean`` makes the classifier of
    DINOv2, see :mod:`sousvit.models.class_and_mean`.

    Raises:
        UnknownNameError: timm has no such model.
        UserError: timm rejects the arguments, or pretrained weights cannot be had.
    """
    import timm

    if spec.factory is not None:
        return _manufacture(spec, spec.factory)
    assert spec.name is not None
    if not timm.is_model(spec.name):
        raise UnknownNameError("timm model", spec.name, timm.list_models())
    args = dict(spec.args)
    if spec.detector is not None:
        return _create_detector(spec, spec.detector)
    require_memory(args)
    eps, head = args.pop("layer_norm_eps", None), args.pop("head", None)
    if head not in (None, CLASS_AND_MEAN):
        raise UnknownNameError("model.args.head", head, [CLASS_AND_MEAN])
    try:
        args |= {"global_pool": ""} if head else {}
        made = timm.create_model(spec.name, pretrained=spec.pretrained, **args)
        if head:
            attach_class_and_mean(made, made.num_classes)
        _set_eps(made, eps)
        return made.eval()
    except Exception as error:  # timm checks little: asserts, arithmetic and torch errors all mean wrong arguments
        if spec.pretrained and _builds(spec.name, args):
            raise UserError(
                f"pretrained weights of {spec.name} must be reachable and fit model.args",
                _brief(error),
                "use the network, a filled hub cache, or model.checkpoint with local weights",
            ) from error
        raise UserError(
            f"model.args must suit timm's {spec.name}", f"{args}: {_brief(error)}", "correct model.args"
        ) from error


def _set_eps(module: nn.Module, eps: Any) -> None:
    """See ``layer_norm_eps`` of :func:`create`."""
    if eps is None:
        return
    by_name = eps if isinstance(eps, dict) else {"": eps}
    for name, norm in module.named_modules():
        if isinstance(norm, nn.LayerNorm):
            held = next((part for part in by_name if part and part in name), "")
            norm.eps = float(by_name.get(held, norm.eps))


def _manufacture(spec: ModelSpec, factory: str) -> nn.Module:
    """The module that a user's function makes."""
    if factory == MEMORY:
        rule, action = "a model from memory is known to its own process only", "give the module again, or a factory"
        raise UserError(rule, spec.name, f"{action}='package.module:function'")
    place, _, function = factory.partition(":")
    try:
        module = getattr(importlib.import_module(place), function)(**spec.args)
    except Exception as error:  # a user's own code
        raise UserError(
            "a model's factory is package.module:function, called with model.args",
            f"{factory}: {_brief(error)}",
            "correct it; its package must be importable where trials run",
        ) from error
    if not isinstance(module, nn.Module):
        raise UserError("a factory returns an nn.Module", f"{type(module).__name__} from {factory}", "return one")
    return module.eval()


def _create_detector(spec: ModelSpec, detector: DetectorSpec) -> nn.Module:
    """A plain ViT that returns all its tokens, under a detection head."""
    from sousvit.models.detector import attach_head

    args = dict(spec.args)
    classes = args.pop("num_classes", 0)
    if not isinstance(classes, int) or classes < 1:
        raise UserError("a detector needs classes", f"num_classes {classes}", "set model.args.num_classes")
    if args.pop("global_pool", ""):
        raise UserError("a detector reads all tokens", "global_pool", "remove it from model.args")
    bare = {"args": {**args, "num_classes": 0, "global_pool": ""}, "detector": None}
    return attach_head(create(spec.model_copy(update=bare)), classes, detector).eval()


def _builds(name: str, args: dict[str, Any]) -> bool:
    """Whether timm builds the model without weights; then a failure with weights is theirs."""
    import timm

    try:
        timm.create_model(name, pretrained=False, **args)
    except Exception:
        return False
    return True


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}{'...' if len(text) > 160 else ''}"


def load(spec: ModelSpec) -> LoadedModel:
    """Build a resolved spec and load its weights.

    Raises:
        UserError: see :func:`create`; or the checkpoint does not fit the model.
    """
    if spec.checkpoint is None:
        return loaded(create(spec), spec)
    found = open_source(spec.checkpoint)
    module = create(spec)
    tensors, notes = found.tensors(), found.notes
    if not found.classifier and spec.args.get("num_classes"):
        tensors |= _new_classifier(module, tensors)
        notes += ("its classifier is new: all zeros, to be trained",)
    fill(module, tensors, Path(spec.checkpoint).name)
    if spec.preprocess is None and found.is_ours:  # "sousvit train" fed it whole images
        spec = spec.model_copy(update={"preprocess": WHOLE_IMAGE})
    return loaded(module, spec, found.class_names, notes)


def _new_classifier(module: nn.Module, tensors: Tensors) -> Tensors:
    """Zeros for the weights of the classifier: the same in every process, unlike what timm draws."""
    own = {id(weight) for weight in module.get_classifier().parameters()}  # type: ignore[operator]
    named = module.named_parameters()
    return {name: torch.zeros_like(weight) for name, weight in named if id(weight) in own and name not in tensors}


def loaded(
    module: nn.Module, spec: ModelSpec, class_names: tuple[str, ...] = (), notes: tuple[str, ...] = ()
) -> LoadedModel:
    """``module`` as the base that ``spec`` describes.

    Args:
        module: in eval mode on the CPU.
        class_names: what each label means, where that is known.
        notes: what reading its checkpoint decided, a sentence each.

    Raises:
        UserError: nothing says how images reach it.
    """
    if spec.factory is not None:
        _require_described(module, spec)
    size, channels = input_size(module)
    preprocess, assumed = preprocessing(module, spec)
    size = _require_size(module, preprocess, size)
    if channels not in MODES:
        rule = f"images have {', '.join(map(str, MODES))} channels"
        raise UserError(rule, f"a model that takes {channels}", "take a model for such images")
    mean, std = preprocess.in_pixels(channels)
    classes = getattr(module, "num_classes", None)
    if classes is None:
        classes = _num_outputs(module, (1, channels, *size))
    weights = (
        part for name, value in module.state_dict().items() for part in (name, value.cpu().float().numpy().tobytes())
    )
    head = () if spec.detector is None else (spec.detector.model_dump(mode="json"),)
    fingerprint = content_hash(spec.name, spec.args, mean, std, *head, *weights)
    known = (class_names, preprocess, tuple(dict.fromkeys((*notes, *assumed))))
    return LoadedModel(module, spec, size, channels, mean, std, int(classes), fingerprint, *known)


def preprocessing(module: nn.Module, spec: ModelSpec) -> tuple[Preprocess, tuple[str, ...]]:
    """How images reach ``module``, and what of it was assumed.

    What the user and the checkpoint say comes first. Then timm's configuration of the model, where it is of the weights
    or at least of the input's size; a model of another size was trained otherwise, and gets the whole image.
    """
    config = getattr(module, "pretrained_cfg", None) or {}
    size, _ = input_size(module)
    norm = {name: getattr(spec, name) or config.get(name) for name in ("mean", "std")}
    usual = Preprocess(**{name: tuple(map(float, values)) for name, values in norm.items() if values is not None})
    suits = spec.detector is None and "crop_pct" in config and tuple(config.get("input_size", ()))[1:] == size
    given = spec.preprocess
    said = given is not None and bool(given.model_fields_set - {"mean", "std", "size"})
    if suits or (spec.pretrained and spec.detector is None):
        usual = usual.over(of_timm({**config, "input_size": None}))
    notes: tuple[str, ...] = ()
    if usual.geometry and not (said or spec.pretrained or spec.factory):
        notes = (
            f"nothing says how images reached the model in training: as timm's {spec.name} gets them is assumed "
            f"({usual.resize}, crop_pct {usual.crop_pct:g}, {usual.interpolation}); model.preprocess says otherwise",
        )
    if spec.detector is not None and given is not None and given.geometry:
        raise UserError("a detector sees whole images, squashed", given.model_dump(), "give mean and std alone")
    return (usual if given is None else given.over(usual)), notes


def _require_size(module: nn.Module, preprocess: Preprocess, own: tuple[int, int]) -> tuple[int, int]:
    """The size of the input: that of ``preprocess``, where the module takes several."""
    size = preprocess.size or own
    embed = getattr(module, "patch_embed", None)
    fixed = getattr(embed, "img_size", None) is not None and getattr(embed, "strict_img_size", True)
    if size != own and fixed:
        raise UserError(
            "images have the size that the model takes",
            f"preprocessing to {list(size)} for a model of {list(own)}",
            "correct model.preprocess.size, or set model.args.img_size",
        )
    return size


def _require_described(module: nn.Module, spec: ModelSpec) -> None:
    """A module that timm did not make says itself what it takes; a guess would feed it wrong images in silence."""
    known = {key for key, value in (getattr(module, "pretrained_cfg", None) or {}).items() if value is not None}
    known |= {key for key in ("mean", "std") if getattr(spec, key) is not None}
    missing = [key for key in ("input_size", "mean", "std") if key not in known]
    if missing:
        raise UserError(
            "a module that timm did not make says how images reach it",
            f"{spec.name or type(module).__name__} without {', '.join(missing)}",
            "set its pretrained_cfg = {'input_size': (3, 224, 224), 'mean': (0.5,), 'std': (0.5,)}, as it was trained",
        )


def _num_outputs(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Classes of a network that does not name their number."""
    with torch.no_grad():
        output = module(torch.zeros(shape))
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        what = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise UserError("a classifier returns logits [images, classes]", what, "wrap the module so that it does")
    return output.shape[1]


def input_size(module: nn.Module) -> tuple[tuple[int, int], int]:
    """((height, width), channels) that a timm model takes."""
    embed = getattr(module, "patch_embed", None)
    config = getattr(module, "pretrained_cfg", {})
    size = getattr(embed, "img_size", None) or config.get("input_size", (3, 224, 224))[1:]
    projection = getattr(embed, "proj", None)
    channels = getattr(module, "in_chans", None)
    if channels is None:
        channels = projection.in_channels if isinstance(projection, nn.Conv2d) else config.get("input_size", (3,))[0]
    return (int(size[0]), int(size[1])), int(channels)


def fill(module: nn.Module, tensors: Tensors, where: str) -> None:
    """Load ``tensors`` of the file ``where`` into ``module``, all of them and nothing else.

    Raises:
        UserError: missing, unexpected or mis-shaped tensors; the message names the first ones.
    """
    own = module.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in tensors]
    wrong += [f"{name} is not in the model" for name in tensors if name not in own]
    wrong += [
        f"{name} is {list(tensors[name].shape)}, the model has {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    wrong += [
        f"{name} holds {str(tensors[name].dtype).removeprefix('torch.')} in place of floats"
        for name, value in own.items()
        if name in tensors and value.is_floating_point() and not tensors[name].is_floating_point()
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            "a checkpoint must fit the model",
            f"{where}: {', '.join(wrong[:3])}{more}",
            "correct model.name or model.args",
        )
    module.load_state_dict(tensors)


def describe(base: LoadedModel) -> dict[str, Any]:
    """What a checkpoint of ``base`` says of itself, see :mod:`sousvit.models.checkpoints.safetensors_file`."""
    described: dict[str, Any] = {"name": base.spec.name, "args": base.spec.args, "mean": base.mean, "std": base.std}
    if base.spec.detector is not None:
        described["detector"] = base.spec.detector.model_dump(mode="json")
    described["preprocess"] = base.preprocess.steps
    return {**described, **({CLASS_NAMES: list(base.class_names)} if base.class_names else {}), "notes": base.notes}


def save_checkpoint(path: Path, module: nn.Module, description: dict[str, Any]) -> None:
    """Write weights and their description (name, args, mean, std, figures) as safetensors."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    write_atomic(path, save(tensors, metadata={METADATA_KEY: json.dumps(description, default=str)}))
