"""What a recipe cut of the network: heads, widths, tokens and bits of the base beside the answer's, a block a row."""

from __future__ import annotations

from typing import Any

from sousvit.errors import UserError
from sousvit.search.report.page.content import WHOLE, Cut
from sousvit.spaces.recipe import Recipe
from sousvit.spaces.shape import BlockShape, ModelShape, NetworkShape, VitShape, read_shape

FULL_BITS = 32.0


def find_cuts(base: dict[str, Any], recipe: dict[str, Any], measured: dict[str, Any] | None) -> tuple[list[Cut], str]:
    """The rows, and what must be said of them.

    Args:
        base: plain values of the base's shape.
        recipe: plain values of the recipe.
        measured: of the shape of the answer's own model, where it was kept; else the recipe says what it should be.
    """
    before = read_shape(base)
    try:
        parsed = Recipe.from_dict(recipe)
        after: ModelShape = parsed.reshape(before) if measured is None else read_shape(measured)
    except (UserError, ValueError):  # a technique that is not known here, or a shape that is none
        return [], ""
    if not isinstance(after, NetworkShape):
        return [], ""
    bits = 8 * parsed.bytes_per_weight
    cuts = _whole(before, after, bits)
    if not isinstance(before, VitShape) or not isinstance(after, VitShape):
        return cuts, "The answer is another kind of network than the base, so blocks cannot be paired."
    for number, block in enumerate(before.blocks):
        left = after.blocks[number] if number < len(after.blocks) else None
        cuts += _of_block(f"block {number + 1}", block, left, bits)
    gone = len(before.blocks) - len(after.blocks)
    note = "Blocks that are left are counted anew, so they need not be the base's first ones." if gone > 0 else ""
    return cuts, note


def _whole(before: NetworkShape, after: NetworkShape, bits: float) -> list[Cut]:
    rows = [
        _cut(WHOLE, "parameters, M", before.params() / 1e6, after.params() / 1e6),
        _cut(WHOLE, "MACs, M", before.macs() / 1e6, after.macs() / 1e6),
        _cut(WHOLE, "bits of a weight", FULL_BITS, bits),
    ]
    if isinstance(before, VitShape) and isinstance(after, VitShape):
        patch, new_patch = (f"{shape.patch[0]} x {shape.patch[1]}" for shape in (before, after))
        rows += [
            _cut(WHOLE, "blocks", before.depth, after.depth),
            _cut(WHOLE, "embedding width", before.embed_dim, after.embed_dim),
            Cut(WHOLE, "patch, px", patch, new_patch, None),
            _cut(WHOLE, "tokens at the start", before.num_tokens, after.num_tokens),
        ]
    return rows


def _of_block(part: str, before: BlockShape, after: BlockShape | None, bits: float) -> list[Cut]:
    if after is None:
        return [Cut(part, what, _text(value), "none", 0.0) for what, value in _figures(before).items()]
    rows = [_cut(part, what, value, _figures(after)[what]) for what, value in _figures(before).items()]
    if before.attention != after.attention:
        rows.append(Cut(part, "attention", before.attention, after.attention, None))
    return [*rows, _cut(part, "bits", FULL_BITS, bits)]


def _figures(block: BlockShape) -> dict[str, float]:
    return {
        "heads": block.heads,
        "head width": block.head_dim,
        "MLP width": block.mlp,
        "tokens": block.tokens_in,
        "tokens in the MLP": block.tokens_mlp,
    }


def _cut(part: str, what: str, before: float, after: float) -> Cut:
    return Cut(part, what, _text(before), _text(after), after / before if before else None)


def _text(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"
