"""The table of docs/models.md: every form of a model, made small, opened, and held against what made it.

    python docs/models_table.py

prints it. ``Y``: the logits are those of the module that was saved. A test compares it with the page.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import timm
import torch
from safetensors.torch import save_file
from torch import nn

from sousvit.errors import UserError
from sousvit.inputs import model_input
from sousvit.models.load import load, save_checkpoint

NAME = "vit_tiny_patch16_224"
ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
CLASSES = ["cat", "dog", "owl"]
#: Of logits, from those of the module that was saved.
TOLERANCE = 1e-3
Model = Any


@dataclass(frozen=True)
class Form:
    """A form of a model.

    Attributes:
        what: it is.
        make: writes it into a folder; what a user hands over, and the module that was saved (None where it is refused).
    """

    what: str
    make: Callable[[Path], tuple[Model, nn.Module | None]]


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with weights so large that every one of them matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            random = torch.randn(tensor.shape, generator=generator)
            if "running_var" in name:
                tensor.copy_(0.5 + random.abs())
            elif tensor.ndim > 1:
                tensor.copy_(1.5 * random * tensor[0].numel() ** -0.5)
            else:
                tensor.copy_(0.2 * random + ("norm" in name and name.endswith("weight")))
    return module.eval()


def vit(**changes: Any) -> nn.Module:
    """A tiny ViT of timm."""
    return randomised(timm.create_model(NAME, **{**ARGS, **changes}))


def difference(made: nn.Module, saved: nn.Module, shape: tuple[int, ...]) -> float:
    """The largest difference of their logits."""
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = made(images), saved(images)
    theirs = getattr(theirs, "logits", theirs)
    return float((ours - theirs).abs().max())


def result(form: Form, folder: Path) -> str:
    """``Y`` and what it became, or the line that it gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given, saved = form.make(folder)
        try:
            spec, _ = model_input(given, folder / "inputs")
            base = load(spec)
        except UserError as error:
            assert saved is None, f"{form.what}: {error}"
            return re.sub(rf"{re.escape(str(folder))}/(?=\w)", "", str(error)).replace(str(folder), "FOLDER")
    assert saved is not None, f"{form.what} is opened"
    off = difference(base.module, saved, (base.channels, *base.size))
    assert off < TOLERANCE, f"{form.what} differs by {off}"
    noted = "; ".join(base.notes) or f"timm's {base.spec.name}"
    return f"**Y**: {noted}"


def written(folder: Path, name: str, content: Any) -> Path:
    """``content`` as ``torch.save`` writes it."""
    torch.save(content, folder / name)
    return folder / name


def _ours(folder: Path) -> tuple[Model, nn.Module]:
    module = vit()
    save_checkpoint(folder / "base.safetensors", module, {"name": NAME, "args": ARGS, "class_names": CLASSES})
    return folder / "base.safetensors", module


def _bare(folder: Path) -> tuple[Model, nn.Module]:
    module = vit()
    save_file(module.state_dict(), folder / "bare.safetensors")
    return {"from": str(folder / "bare.safetensors"), "name": NAME, "args": ARGS}, module


def _nameless(folder: Path) -> tuple[Model, None]:
    return _bare(folder)[0]["from"], None


def _described_beside(folder: Path) -> tuple[Model, nn.Module]:
    given, module = _bare(folder)
    (folder / "bare.json").write_text(json.dumps({"model_name": NAME, **ARGS, "val_top1": 0.8}))
    return given["from"], module


def _timm_training(folder: Path) -> tuple[Model, nn.Module]:
    averaged, live = vit(), vit()
    nn.init.zeros_(live.head.weight)
    kept = {key: ARGS[key] for key in ("patch_size", "embed_dim", "depth", "num_heads")}
    args = argparse.Namespace(model=NAME, num_classes=3, img_size=32, crop_pct=0.9, mean=None, model_kwargs=kept)
    weights = {"state_dict": live.state_dict(), "state_dict_ema": averaged.state_dict()}
    return written(folder, "model_best.pth.tar", {"arch": NAME, "args": args, "epoch": 3, **weights}), averaged


def _deit_training(folder: Path) -> tuple[Model, nn.Module]:
    module = randomised(timm.create_model("test_vit", num_classes=3, img_size=64))
    args = argparse.Namespace(model="test_vit", nb_classes=3, input_size=64, output_dir=Path("runs"))
    return written(folder, "checkpoint.pth", {"model": module.state_dict(), "args": args, "epoch": 3}), module


def _described(path: Path) -> Model:
    return {"from": str(path), "name": NAME, "args": ARGS}


def _state_dict(folder: Path) -> tuple[Model, nn.Module]:
    module = vit()
    return _described(written(folder, "weights.pt", module.state_dict())), module


def _wrapped(folder: Path) -> tuple[Model, nn.Module]:
    module = vit()
    weights = {f"module._orig_mod.{name}": tensor for name, tensor in module.state_dict().items()}
    return _described(written(folder, "ddp.pth", weights)), module


def _lightning(folder: Path) -> tuple[Model, nn.Module]:
    module = vit()
    weights = {f"model.{name}": tensor for name, tensor in module.state_dict().items()}
    content = {"state_dict": {**weights, "criterion.weight": torch.ones(3)}, "hyper_parameters": {"lr": 0.1}}
    return _described(written(folder, "last.ckpt", content)), module


def _bfloat16(folder: Path) -> tuple[Model, nn.Module]:
    module = vit().bfloat16()
    return _described(written(folder, "half.pth", module.state_dict())), module.float()


def _not_finite(folder: Path) -> tuple[Model, None]:
    module = vit()
    module.blocks[1].mlp.fc1.weight.data[3, 4] = float("nan")
    return _described(written(folder, "nan.pth", module.state_dict())), None


def _pickled(folder: Path) -> tuple[Model, None]:
    return written(folder, "model.pth", vit()), None


def _torchscript(folder: Path) -> tuple[Model, None]:
    torch.jit.trace(vit(), torch.zeros(1, 3, 32, 32)).save(folder / "model.pt")
    return folder / "model.pt", None


def timm_folder(folder: Path, safe: bool = True) -> nn.Module:
    """A folder as timm writes it for the hub."""
    from timm.models import save_for_hf

    module = randomised(timm.create_model("test_vit", num_classes=3, img_size=64))
    save_for_hf(module, folder, model_config={"label_names": CLASSES}, safe_serialization=safe)
    return module


def _hub_folder(folder: Path) -> tuple[Model, nn.Module]:
    return folder, timm_folder(folder)


def _local_dir(folder: Path) -> tuple[Model, nn.Module]:
    return f"local-dir:{folder}", timm_folder(folder, safe=False)


def _cached(folder: Path) -> tuple[Model, nn.Module]:
    from huggingface_hub import constants

    commit = "0" * 40
    place = Path(constants.HF_HUB_CACHE) / "models--sousvit--tiny"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(commit)
    return "hf-hub:sousvit/tiny", timm_folder(place / "snapshots" / commit)


def _not_cached(folder: Path) -> tuple[Model, None]:
    return "hf-hub:sousvit/absent", None


def _timm_s_own(folder: Path) -> tuple[Model, nn.Module]:
    module = vit()
    return module, module


SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 3,
}
_WITHOUT_MLP = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
_TOWER = {key: value for key, value in SMALL.items() if key != "num_labels"}
_TEXT = {**_TOWER, "num_hidden_layers": 1, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
_TOWERS = {"vision_config": _TOWER, "text_config": _TEXT, "num_labels": 3}
_WINDOWS: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "num_labels": 3,
}
_STAGES = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32], "num_labels": 3, "image_size": 64}
_MOBILE = {"hidden_sizes": [64, 80, 96], "neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 320], "expand_ratio": 2.0}
#: Architectures of transformers with a classifier: the class, its configuration's class, and a small one.
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ViT": ("ViTForImageClassification", "ViTConfig", SMALL),
    "DeiT": ("DeiTForImageClassification", "DeiTConfig", SMALL),
    "DeiT, distilled": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", SMALL),
    "ViT-MSN": ("ViTMSNForImageClassification", "ViTMSNConfig", SMALL),
    "DINOv2": ("Dinov2ForImageClassification", "Dinov2Config", _WITHOUT_MLP),
    "DINOv2 with registers": (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        _WITHOUT_MLP,
    ),
    "CLIP": ("CLIPForImageClassification", "CLIPConfig", _TOWERS),
    "MetaCLIP 2": ("MetaClip2ForImageClassification", "MetaClip2Config", _TOWERS),
    "SigLIP": ("SiglipForImageClassification", "SiglipConfig", _TOWERS),
    "BEiT": ("BeitForImageClassification", "BeitConfig", {**SMALL, "use_relative_position_bias": True}),
    "Data2Vec": (
        "Data2VecVisionForImageClassification",
        "Data2VecVisionConfig",
        {**SMALL, "use_relative_position_bias": True},
    ),
    "Swin": ("SwinForImageClassification", "SwinConfig", _WINDOWS),
    "Swin V2": ("Swinv2ForImageClassification", "Swinv2Config", _WINDOWS),
    "ConvNeXt": ("ConvNextForImageClassification", "ConvNextConfig", _STAGES),
    "ConvNeXt V2": ("ConvNextV2ForImageClassification", "ConvNextV2Config", _STAGES),
    "MobileViT": ("MobileViTForImageClassification", "MobileViTConfig", {**_MOBILE, "num_labels": 3, "image_size": 64}),
}


def hugging_face(kind: str, config: str, values: dict[str, Any]) -> nn.Module:
    """A model of ``transformers`` with random weights."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    named = {} if "num_labels" not in values else {"id2label": dict(enumerate(CLASSES))}
    values = {key: value for key, value in values.items() if key != "num_labels"}
    return randomised(getattr(transformers, kind)(getattr(transformers, config)(**values, **named)))


def _architecture(name: str) -> Callable[[Path], tuple[Model, nn.Module]]:
    def make(folder: Path) -> tuple[Model, nn.Module]:
        module = hugging_face(*ARCHITECTURES[name])
        module.save_pretrained(folder)
        _feed(folder)
        return folder, module

    return make


def _feed(folder: Path) -> None:
    """How images reach the model in the folder."""
    side = json.loads((folder / "config.json").read_text()).get("image_size", SMALL["image_size"])
    values = {"image_processor_type": "ViTImageProcessor", "size": {"height": side, "width": side}}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


def _sharded(folder: Path) -> tuple[Model, nn.Module]:
    module = hugging_face(*ARCHITECTURES["ViT"])
    module.save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").is_file()
    _feed(folder)
    return folder, module


def _in_a_bin(folder: Path) -> tuple[Model, nn.Module]:
    from safetensors.torch import load_file

    _, module = _architecture("ViT")(folder)
    written(folder, "pytorch_model.bin", load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    return folder, module


def _file_in_a_folder(folder: Path) -> tuple[Model, nn.Module]:
    _, module = _architecture("ViT")(folder)
    return folder / "model.safetensors", module


def _in_memory(folder: Path) -> tuple[Model, nn.Module]:
    module = hugging_face(*ARCHITECTURES["ViT"])
    return module, module


def _refused(kind: str, config: str, values: dict[str, Any]) -> Callable[[Path], tuple[Model, None]]:
    def make(folder: Path) -> tuple[Model, None]:
        hugging_face(kind, config, values).save_pretrained(folder)
        return folder, None

    return make


_DINOV3 = ("DINOv3ViTModel", "DINOv3ViTConfig", {**_TOWER, "num_register_tokens": 4})
_LEVIT = {"hidden_sizes": [16, 16, 16], "num_attention_heads": [1, 1, 1], "key_dim": [8, 8, 8], "depths": [1, 1, 1]}
_MAE = {**_TOWER, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 32}
FORMS: tuple[tuple[str, tuple[Form, ...]], ...] = (
    (
        "safetensors",
        (
            Form("of `sousvit train` or `sousvit import`", _ours),
            Form("bare, with `name` and `args`", _bare),
            Form("with a `.json` beside it", _described_beside),
            Form("bare, and nothing names the model", _nameless),
        ),
    ),
    (
        "PyTorch",
        (
            Form("timm's `model_best.pth.tar`, with EMA", _timm_training),
            Form("`.pth` of a training like DeiT's: `{model, args}`", _deit_training),
            Form("a state dict, with `name` and `args`", _state_dict),
            Form("the same of a `DistributedDataParallel` of a compiled model", _wrapped),
            Form("Lightning's `.ckpt`, with `name` and `args`", _lightning),
            Form("bf16 weights", _bfloat16),
            Form("weights that are not finite", _not_finite),
            Form("a pickled module", _pickled),
            Form("TorchScript", _torchscript),
        ),
    ),
    (
        "timm",
        (
            Form("a folder of the hub", _hub_folder),
            Form("`local-dir:FOLDER`, with `pytorch_model.bin`", _local_dir),
            Form("`hf-hub:owner/model`", _cached),
            Form("`hf-hub:owner/model` that is out of reach", _not_cached),
            Form("a module, from Python", _timm_s_own),
        ),
    ),
    (
        "Hugging Face",
        (
            *(Form(f"{name}: `{kind[0]}`", _architecture(name)) for name, kind in ARCHITECTURES.items()),
            Form("shards of safetensors", _sharded),
            Form("`pytorch_model.bin`", _in_a_bin),
            Form("`model.safetensors` in its folder", _file_in_a_folder),
            Form("a module, from Python", _in_memory),
            Form("features without a classifier: `DINOv3ViTModel`", _refused(*_DINOV3)),
            Form("another architecture: `LevitForImageClassification`", _refused(
                "LevitForImageClassification", "LevitConfig", {**_LEVIT, "image_size": 64, "num_labels": 3})),
            Form("pretraining: `ViTMAEForPreTraining`", _refused("ViTMAEForPreTraining", "ViTMAEConfig", _MAE)),
        ),
    ),
)  # fmt: skip


def rows(folder: Path) -> list[str]:
    """The lines of the table."""
    lines = ["| form | goes in |", "|---|---|"]
    for group, forms in FORMS:
        lines.append(f"| **{group}** | |")
        for number, form in enumerate(forms):
            own = folder / f"{group}-{number}".lower().replace(" ", "-")
            own.mkdir()
            lines.append(f"| {form.what} | {result(form, own)} |")
    return lines


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        from huggingface_hub import constants

        constants.HF_HUB_CACHE = str(Path(folder) / "cache")
        sys.stdout.write("\n".join(rows(Path(folder))) + "\n")


if __name__ == "__main__":
    main()
