"""Calibration reads what it needs, computes a block once, and keeps what all trials share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sousvit.cache import TensorCache
from sousvit.machine import cpu_has_bf16
from sousvit.spaces.calibration import stream as stream_module
from sousvit.spaces.calibration.halfway import Halfway
from sousvit.spaces.calibration.kept import KeptStatistics
from sousvit.spaces.calibration.stream import TokenStream, enough_images
from sousvit.spaces.techniques.pruning.blocks import least_needed
from sousvit.spaces.techniques.pruning.units import Heads, MlpUnits

#: Of values of about 1, as bf16 rounds the factors of products.
TOLERANCE = 0.05 if cpu_has_bf16() else 1e-5


@pytest.mark.parametrize(("part", "units"), [("attn", Heads()), ("mlp", MlpUnits())])
def test_tokens_that_leave_halfway_are_those_of_the_changed_block(part, units, make_vit, make_context):
    model = make_vit().eval()
    context = make_context(model)
    stream, block = TokenStream(model, context, 64), model.blocks[0]
    entering = [tokens.clone() for tokens in stream.batches]
    halfway = Halfway(stream, block, part)
    whole = TokenStream(model, context, 64).moments(block, [units.reader(block)])[0]
    torch.testing.assert_close(halfway.moments().xx, whole.xx, rtol=TOLERANCE, atol=TOLERANCE)
    units.keep_first(model, [1 if part == "attn" else 8, *(units.count(shape) for shape in shapes(model)[1:])])
    halfway.leave(torch.arange(units.reader(block).in_features))
    with torch.no_grad():
        expected = [block(tokens) for tokens in entering]
    for found, wanted in zip(stream.batches, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)
    assert type(block.attn).__name__ == "Attention" and type(block.mlp).__name__ == "Mlp", "everything is back in place"


def shapes(model):
    from sousvit.spaces.module_shape import vit_shape

    return vit_shape(model).blocks


def test_a_block_is_computed_once_for_statistics_and_tokens(make_vit, make_context):
    model = make_vit().eval()
    context, calls = make_context(model), []
    for block in model.blocks:
        block.mlp.act.register_forward_hook(lambda *_: calls.append(1))
    batches = len(TokenStream(model, context, 64).batches)
    MlpUnits().keep_best(model, [8] * len(model.blocks), None, "activation", True, context)
    assert len(calls) == batches * len(model.blocks)


@pytest.mark.parametrize(("side", "count"), [(32, 256), (64, 256), (128, 64), (224, 64), (512, 64)])
def test_large_images_are_read_in_smaller_numbers(side, count):
    class Images:
        size = (side, side)

        def __len__(self):
            return 512

        def spread(self, count, seed):
            return count

    context = replace(stream_module_context(), calibration=Images())
    assert enough_images(context, 256, 64) == count


def stream_module_context():
    from sousvit.spaces.context import Context

    return Context(normalise=lambda images: images)


def test_rows_follow_from_the_inputs_that_are_fitted(make_vit, make_context):
    model = make_vit().eval()
    context = make_context(model, 400)
    rows = stream_module.rows_of(model)
    few = sum(len(batch) for batch in TokenStream(model, context, 8).batches)
    many = sum(len(batch) for batch in TokenStream(model, context, 4096).batches)
    assert few == min(400, -(-stream_module.LEAST_ROWS // rows)) and few <= many <= 400


def test_what_trials_share_is_computed_once(make_vit, make_context, tmp_path, monkeypatch):
    model = make_vit().eval()
    plain = make_context(model)
    context = replace(plain, statistics=KeptStatistics(TensorCache(tmp_path)))
    three = least_needed(model, 3, context)
    assert three == least_needed(model, 3, plain)
    monkeypatch.setattr(stream_module, "embed", None)  # nothing is computed any more
    monkeypatch.setattr("sousvit.spaces.techniques.pruning.blocks.embed", None)
    assert least_needed(model, 2, context) == three[:2]
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight.add_(0.1)
    with pytest.raises(TypeError):  # another model has statistics of its own
        least_needed(model, 2, context)


def test_a_longer_order_goes_on_from_a_shorter_one(make_vit, make_context, tmp_path):
    model = make_vit().eval()
    context = replace(make_context(model), statistics=KeptStatistics(TensorCache(tmp_path)))
    one = least_needed(model, 1, context)
    assert least_needed(model, 3, context)[:1] == one
