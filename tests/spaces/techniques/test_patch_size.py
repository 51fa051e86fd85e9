from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sousvit.errors import UserError
from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import macs_of, vit_shape
from sousvit.spaces.techniques.tokens.patch_size import PatchSize, PatchSizeConfig

TECHNIQUE = PatchSize()


def test_an_upsampled_patch_keeps_its_embedding(make_vit: Callable[..., nn.Module], skeleton: Context) -> None:
    base = make_vit()
    changed = TECHNIQUE.apply(copy.deepcopy(base), PatchSizeConfig(patch=8), skeleton)
    patches = torch.randn(6, 3, 4, 4)
    upsampled = F.interpolate(patches, size=(8, 8), mode="bicubic", antialias=True)
    torch.testing.assert_close(
        changed.patch_embed.proj(upsampled), base.patch_embed.proj(patches), rtol=1e-4, atol=1e-4
    )


def test_the_model_runs_and_has_the_predicted_shape(
    make_vit: Callable[..., nn.Module], skeleton: Context, variant: str
) -> None:
    model = make_vit(variant)
    shape, config = vit_shape(model), PatchSizeConfig(patch=8)
    expected = TECHNIQUE.reshape(shape, config)
    changed = TECHNIQUE.apply(model, config, skeleton)
    assert vit_shape(changed) == expected
    assert expected.num_patches * 4 == shape.num_patches
    assert expected.macs() == macs_of(changed, (shape.channels, *shape.image))
    assert changed(torch.randn(2, shape.channels, *shape.image)).shape == (2, 5)
    assert changed.patch_embed.grid_size == expected.grid


def test_prefix_positions_stay_and_a_constant_position_map_stays_constant(
    make_vit: Callable[..., nn.Module], skeleton: Context
) -> None:
    model = make_vit()
    with torch.no_grad():
        model.pos_embed[:, 1:] = 0.7
    class_position = model.pos_embed[:, :1].clone()
    changed = TECHNIQUE.apply(model, PatchSizeConfig(patch=8), skeleton)
    torch.testing.assert_close(changed.pos_embed[:, :1], class_position)
    torch.testing.assert_close(changed.pos_embed[:, 1:], torch.full((1, 4, 32), 0.7))


def test_choices_are_the_base_and_larger_divisors(make_vit: Callable[..., nn.Module]) -> None:
    shape = vit_shape(make_vit(img_size=48, patch_size=4))
    assert TECHNIQUE.choices(shape)["patch"] == (4, 6, 8, 12, 16)
    assert TECHNIQUE.choices(vit_shape(make_vit()))["patch"] == (4, 8)
    assert TECHNIQUE.is_identity(PatchSizeConfig(patch=4), shape)
    assert not TECHNIQUE.is_identity(PatchSizeConfig(patch=8), shape)


def test_the_base_patch_changes_nothing(make_vit: Callable[..., nn.Module], skeleton: Context) -> None:
    base = make_vit()
    changed = TECHNIQUE.apply(copy.deepcopy(base), PatchSizeConfig(patch=4), skeleton)
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(changed(image), base(image))


def test_a_patch_that_does_not_tile_is_refused(make_vit: Callable[..., nn.Module], skeleton: Context) -> None:
    model = make_vit()
    with pytest.raises(UserError, match="tile the image"):
        TECHNIQUE.apply(model, PatchSizeConfig(patch=5), skeleton)
    assert TECHNIQUE.unmet_need(vit_shape(make_vit(patch_size=(4, 8)))) == "patches that are not square"
