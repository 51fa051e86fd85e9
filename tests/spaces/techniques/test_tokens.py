from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sousvit.errors import UserError
from sousvit.spaces.context import Context
from sousvit.spaces.export.onnx import export_onnx
from sousvit.spaces.layers.token_blocks import MergingBlocks
from sousvit.spaces.layers.token_math import (
    Match,
    bipartite_soft_matching,
    keep_and_fuse,
    merge_tokens,
    take_tokens,
)
from sousvit.spaces.module_shape import macs_of, vit_shape
from sousvit.spaces.recipe import Recipe, Step
from sousvit.spaces.technique import ModelTechnique, get_technique
from sousvit.spaces.techniques.tokens.evit import patches_kept
from sousvit.spaces.techniques.tokens.tome import patches_left

Make = Callable[..., nn.Module]

REDUCTIONS = [
    ("tome", {"keep": 0.4}),
    ("tome", {"keep": 0.6, "schedule": "decreasing"}),
    ("evit", {"keep": 0.5}),
    ("evit", {"keep": 0.7, "schedule": "early"}),
]


def reduced(model: nn.Module, context: Context, technique: str, /, **parameters: object) -> nn.Module:
    step = Step.make(technique, **parameters)
    assert isinstance(step.handler, ModelTechnique)
    return step.handler.apply(copy.deepcopy(model), step.config, context)


# The mathematics.


def test_matching_takes_the_most_similar_pairs() -> None:
    metric = torch.randn(3, 11, 5, generator=torch.Generator().manual_seed(0))
    match = bipartite_soft_matching(metric, 2)
    unit = (metric / metric.norm(dim=-1, keepdim=True)).numpy()
    for image in range(3):
        similarity = unit[image, ::2] @ unit[image, 1::2].T  # [6, 5]
        strongest = np.argsort(-similarity.max(1))[:2]
        assert match.source[image].tolist() == strongest.tolist()
        assert match.target[image].tolist() == similarity.argmax(1)[strongest].tolist()
        assert sorted([*match.source[image].tolist(), *match.unmerged[image].tolist()]) == list(range(6))


def test_merged_tokens_are_means_weighted_by_size() -> None:
    x = torch.tensor([[[1.0], [2.0], [3.0], [4.0], [5.0]]])  # A: 1, 3, 5; B: 2, 4
    sizes = torch.tensor([[[1.0], [2.0], [1.0], [1.0], [3.0]]])
    match = Match(torch.tensor([[1]]), torch.tensor([[0, 2]]), torch.tensor([[0, 0]]))
    merged, new_sizes = merge_tokens(x, sizes, match)
    torch.testing.assert_close(merged, torch.tensor([[[3.0], [(1 * 1 + 2 * 2 + 5 * 3) / 6], [4.0]]]))
    assert new_sizes.flatten().tolist() == [1.0, 6.0, 1.0]


def test_merging_preserves_the_weighted_sum() -> None:
    torch.manual_seed(0)
    x, sizes = torch.randn(4, 12, 7), torch.randint(1, 5, (4, 12, 1)).float()
    merged, new_sizes = merge_tokens(x, sizes, bipartite_soft_matching(x, 6))
    assert merged.shape == (4, 6, 7)
    torch.testing.assert_close((merged * new_sizes).sum(1), (x * sizes).sum(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(new_sizes.sum(1), sizes.sum(1))


def test_equal_tokens_merge_without_loss() -> None:
    x = torch.randn(2, 3, 4).repeat_interleave(2, dim=1)  # neighbours are equal: every A has its twin in B
    merged, sizes = merge_tokens(x, torch.ones(2, 6, 1), bipartite_soft_matching(x, 3))
    torch.testing.assert_close(merged, x[:, ::2])
    assert (sizes == 2).all()


def test_keeping_and_fusing() -> None:
    x = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    out = keep_and_fuse(x, torch.tensor([[0.1, 0.4, 0.3, 0.2]]), kept=2)
    torch.testing.assert_close(out.flatten(), torch.tensor([2.0, 3.0, (1 * 0.1 + 4 * 0.2) / 0.3]))


def test_take_tokens() -> None:
    x = torch.arange(12.0).reshape(2, 3, 2)
    assert torch.equal(take_tokens(x, torch.tensor([[2, 0], [1, 1]])), torch.stack([x[0, [2, 0]], x[1, [1, 1]]]))


def test_merge_schedules() -> None:
    assert patches_left(64, 4, 0.5, "constant") == (56, 48, 40, 32)
    assert patches_left(64, 4, 0.5, "decreasing") == (50, 40, 34, 32)
    assert patches_left(16, 4, 0.125, "decreasing") == (10, 6, 3, 2)
    assert patches_left(64, 2, 0.25, "decreasing") == (32, 16)  # the first block may merge only half
    with pytest.raises(UserError, match="at most half"):
        patches_left(64, 2, 0.2, "constant")


def test_evit_reduces_at_three_depths() -> None:
    assert patches_kept(196, 12, 0.7) == (*(196,) * 3, *(139,) * 3, *(99,) * 3, *(71,) * 3)
    assert patches_kept(196, 12, 0.7, "early") == (*(196,) * 2, *(139,) * 2, *(99,) * 2, *(71,) * 6)
    assert patches_kept(196, 12, 0.7, "late") == (*(196,) * 6, *(139,) * 2, *(99,) * 2, *(71,) * 2)
    assert patches_kept(16, 4, 1.0) == (16,) * 4
    assert patches_kept(4, 1, 0.5) == (3,)


# What the techniques do to a model.


@pytest.mark.parametrize(("technique", "parameters"), REDUCTIONS)
def test_every_variant_runs_trains_and_has_the_predicted_shape(
    make_vit: Make, skeleton: Context, variant: str, technique: str, parameters: dict
) -> None:
    base = make_vit(variant)
    shape, step = vit_shape(base), Step.make(technique, **parameters)
    model = reduced(base, skeleton, technique, **parameters)
    expected = step.handler.reshape(shape, step.config)
    assert vit_shape(model) == expected != shape
    assert expected.params() == shape.params() == sum(parameter.numel() for parameter in model.parameters())
    assert expected.macs() == macs_of(model, (shape.channels, *shape.image)) < shape.macs()
    image = torch.randn(2, shape.channels, *shape.image)
    logits = model(image)
    torch.testing.assert_close(logits[1:], model(image[1:]), rtol=1e-4, atol=1e-4)  # images do not mix
    again = reduced(make_vit(variant, seed=5), skeleton, technique, **parameters)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(image), logits)
    trained = copy.deepcopy(model).train()
    trained(image).sum().backward()
    assert all(parameter.grad is not None for parameter in trained.parameters())


@pytest.mark.parametrize("kind", ["average", "average_before_norm", "average_with_prefix", "class_token"])
def test_merging_equal_tokens_changes_nothing(make_vit: Make, kind: str) -> None:
    # Neighbouring patches are equal in pairs, positions included. The first block merges all pairs; proportional
    # attention in the other two and size-weighted pooling make that exact.
    base = make_vit(kind, depth=3)
    with torch.no_grad():
        prefix = base.pos_embed.shape[1] - 16
        base.pos_embed[:, prefix + 1 :: 2] = base.pos_embed[:, prefix::2]
    image = _paired_image(base.patch_embed.proj.in_channels)
    merged = copy.deepcopy(base)
    merged.blocks = MergingBlocks(merged, (8, 8, 8))
    torch.testing.assert_close(merged(image), base(image), rtol=1e-4, atol=1e-4)


def test_unequal_sizes_count_in_attention_and_average(make_vit: Make) -> None:
    # Five of the eight pairs merge, so sizes 1 and 2 stand side by side in what follows.
    base = make_vit("average", depth=3)
    with torch.no_grad():
        base.pos_embed[:, 1::2] = base.pos_embed[:, ::2]
    image = _paired_image(1)
    merged = copy.deepcopy(base)
    merged.blocks = MergingBlocks(merged, (11, 11, 11))
    torch.testing.assert_close(merged(image), base(image), rtol=1e-4, atol=1e-4)
    merged.blocks.norm, merged.norm = None, merged.blocks.norm  # a plain mean is another answer
    assert (merged(image) - base(image)).abs().max() > 1e-2


def _paired_image(channels: int) -> torch.Tensor:
    """Images ``[3, channels, 16, 16]`` whose 4x4 patches 2i and 2i+1 are equal."""
    columns = torch.randn(3, channels, 16, 2, 4, generator=torch.Generator().manual_seed(0))
    return columns.repeat_interleave(2, dim=3).flatten(3)


def test_reduction_to_one_patch_keeps_the_class_token_apart(make_vit: Make) -> None:
    model = make_vit()
    model.blocks = MergingBlocks(model, (8, 4, 2, 1))
    seen: list[torch.Tensor] = []
    model.blocks.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(torch.randn(2, 3, 16, 16))
    assert seen[0].shape == (2, 2, 32)


def test_evit_follows_the_class_token(make_vit: Make, skeleton: Context) -> None:
    base = make_vit(depth=1)
    model = reduced(base, skeleton, "evit", keep=0.25)
    image = torch.randn(1, 3, 16, 16)
    tokens = base._pos_embed(base.patch_embed(image))
    block = base.blocks[0]
    q, k, _ = block.attn.qkv(block.norm1(tokens)).reshape(1, 17, 3, 4, 8).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1)[0, :, 0, 1:].mean(0)
    best = scores.argsort(descending=True)[:4]
    full, short = block(tokens), model.blocks(tokens)
    torch.testing.assert_close(short[:, 1:5], full[:, 1 + best], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(short[:, 0], full[:, 0], rtol=1e-4, atol=1e-4)


def test_gradient_checkpointing_cannot_bypass_the_reduction(make_vit: Make, skeleton: Context) -> None:
    base = make_vit()
    base.set_grad_checkpointing(True)
    model = reduced(base, skeleton, "tome", keep=0.5).train()
    torch.testing.assert_close(model(torch.ones(1, 3, 16, 16)), model.eval()(torch.ones(1, 3, 16, 16)))
    assert not model.grad_checkpointing


def test_needs_choices_and_identities(make_vit: Make, skeleton: Context) -> None:
    shape, tome, evit = vit_shape(make_vit()), get_technique("tome"), get_technique("evit")
    assert tome.choices(shape)["keep"][-1] == evit.choices(shape)["keep"][-1] == 1.0
    assert tome.choices(vit_shape(make_vit(depth=1)))["keep"] == (0.55, 0.7, 0.85, 1.0)
    for technique in (tome, evit):
        config = technique.config(keep=1.0)
        assert technique.is_identity(config, shape)
        assert vit_shape(technique.apply(make_vit(), config, skeleton)) == shape
        assert technique.unmet_need(vit_shape(make_vit(global_pool="avgmax"))) == "avgmax pooling"
        assert technique.unmet_need(vit_shape(make_vit(patch_size=16))) == "fewer than four patches"
        assert technique.unmet_need(shape) is None
    with pytest.raises(UserError, match="exclude each other"):
        Recipe((Step.make("tome"), Step.make("evit")))


# Exported graphs.


@pytest.mark.parametrize(
    ("kind", "technique", "parameters"),
    [
        ("class_token", *REDUCTIONS[0]),
        ("average", *REDUCTIONS[1]),
        ("average_before_norm", *REDUCTIONS[0]),
        ("average", *REDUCTIONS[2]),
        ("distilled", *REDUCTIONS[2]),
    ],
)
def test_exports_agree_for_any_batch(
    make_vit: Make, skeleton: Context, tmp_path: Path, kind: str, technique: str, parameters: dict
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = reduced(make_vit(kind), skeleton, technique, **parameters)
    size = (model.patch_embed.proj.in_channels, 16, 16)
    path = export_onnx(model, (1, *size), tmp_path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        image = torch.randn(batch, *size, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = model(image).numpy()
        np.testing.assert_allclose(session.run(None, {"input": image.numpy()})[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("technique", "parameters"), REDUCTIONS)
def test_openvino_agrees_for_any_batch(
    make_vit: Make, skeleton: Context, tmp_path: Path, technique: str, parameters: dict
) -> None:
    openvino = pytest.importorskip("openvino")
    model = reduced(make_vit("average"), skeleton, technique, **parameters)
    path = export_onnx(model, (1, 1, 16, 16), tmp_path)
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch in (1, 3):
        image = torch.randn(batch, 1, 16, 16, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = model(image).numpy()
        np.testing.assert_allclose(compiled(image.numpy())[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("technique", "parameters"), REDUCTIONS[1:])
def test_torch_export_agrees_for_any_batch(make_vit: Make, skeleton: Context, technique: str, parameters: dict) -> None:
    model = reduced(make_vit(), skeleton, technique, **parameters)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.zeros(2, 3, 16, 16),), dynamic_shapes=({0: batch},))
    image = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(program.module()(image), model(image), rtol=1e-4, atol=1e-4)
