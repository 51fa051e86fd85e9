"""Arguments of models: their sizes, bounded by arithmetic before timm allocates anything, and no other weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sousvit.errors import UserError
from sousvit.models.preprocess import MOST_SIDE

#: What single arguments are at most; other numbers may be a million.
MOST = {
    "img_size": MOST_SIDE,
    "depth": 1024,
    "depths": 1024,
    "num_heads": 1024,
    "embed_dim": 65_536,
    "mlp_ratio": 1024,
    "in_chans": 1024,
    "reg_tokens": 65_536,
}
MOST_OF_OTHERS = 1_000_000
#: The largest Vision Transformer that is known has 22 billion.
MOST_PARAMETERS = 2**35
#: Attention is a matrix of their square.
MOST_PATCHES = 2**16
#: Of models that do not say it here: most patches are as large, or larger.
USUAL_PATCH = 16

#: Arguments of timm, and entries of its ``pretrained_cfg``, that name files or addresses: weights come from
#: ``checkpoint`` alone, which is opened as foreign files are.
NAMES_WEIGHTS = frozenset({"checkpoint_path", "pretrained", "cache_dir"})
CONFIG_NAMES_WEIGHTS = frozenset({"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load"})


def refuse_other_weights(args: Mapping[str, Any]) -> None:
    """Check that arguments name no weights of their own.

    Raises:
        UserError: one of them does.
    """
    found = sorted(NAMES_WEIGHTS & args.keys())
    for name in ("pretrained_cfg", "pretrained_cfg_overlay"):
        config = args.get(name)
        if config is not None and not isinstance(config, Mapping):
            found.append(name)
        elif config is not None:
            found += [f"{name}.{entry}" for entry in sorted(CONFIG_NAMES_WEIGHTS & config.keys())]
    if found:
        rule = "a model's weights come from checkpoint, or from timm with pretrained: true"
        raise UserError(rule, f"model.args.{found[0]}", "write model: {checkpoint: FILE}")


def refuse_giants(args: Mapping[str, Any]) -> None:
    """Check that arguments ask for a model of a size that machines can hold.

    Raises:
        UserError: a number is not finite or beyond its bound, or together they make more than any known model.
    """
    for name, value in args.items():
        bound = MOST.get(name, MOST_OF_OTHERS)
        for number in _numbers(value):
            if not abs(number) <= bound:  # true of what is no number, too
                raise UserError(f"model.args.{name} is at most {bound}", number, "correct model.args")
    if _patches(args) > MOST_PATCHES:
        given = f"img_size {args.get('img_size')}, patch_size {args.get('patch_size', 'as it is')}"
        raise UserError(f"a model reads at most {MOST_PATCHES} patches", given, "correct model.args")
    _require_at_most(args, MOST_PARAMETERS, f"a model has at most {MOST_PARAMETERS / 1e9:.0f} billion parameters")


def require_memory(args: Mapping[str, Any]) -> None:
    """Check that the weights fit into this machine's memory.

    Raises:
        UserError: they do not.
    """
    import psutil

    total = psutil.virtual_memory().total
    _require_at_most(args, total / 4, f"a model's weights fit into the {total / 1e9:.0f} GB of this machine")


def _require_at_most(args: Mapping[str, Any], most: float, rule: str) -> None:
    count = _parameters(args)
    if count > most:
        sizes = ", ".join(f"{name} {args[name]}" for name in (*MOST, "num_classes") if name in args)
        raise UserError(rule, f"{count / 1e9:.0f} billion parameters by {sizes}", "correct model.args")


def _parameters(args: Mapping[str, Any]) -> float:
    """Of a plain Vision Transformer, at least; what is not said counts as little."""
    width, depth = _largest(args, "embed_dim", 64), _largest(args, "depth", 1)
    blocks = depth * (4 + 2 * _largest(args, "mlp_ratio", 1)) * width**2
    return blocks + (_patches(args) + _largest(args, "num_classes", 1)) * width


def _patches(args: Mapping[str, Any]) -> float:
    sides = list(_numbers(args.get("img_size"))) or [1]
    patch = max(1, min(_numbers(args.get("patch_size")), default=USUAL_PATCH))
    return float(sides[0] * sides[-1] / patch**2)


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in a value, switches left out."""
    if isinstance(value, Mapping | list | tuple):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(entry)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _largest(args: Mapping[str, Any], name: str, default: float) -> float:
    return max(_numbers(args.get(name)), default=default)
