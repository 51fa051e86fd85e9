"""A distillation token: the teacher gets a token and a classifier of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from sousvit.spaces.context import Context
from sousvit.spaces.module_shape import vit_shape
from sousvit.spaces.needs import Needs
from sousvit.spaces.shape import VitShape
from sousvit.spaces.technique import Choices, ModelTechnique, Role, Stage, StepConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn


class DistillTokenConfig(StepConfig):
    """``use``: whether to add the token."""

    use: bool = True


class DistillToken(ModelTechnique):
    """A ViT with a class token as timm's distilled DeiT; the new token and classifier begin as copies.

    It costs one token. In recovery the class token learns from true labels, the new one from the teacher
    (``hard_weight`` of ``distill`` for DeiT's hard distillation); at inference both are averaged.
    """

    name: ClassVar[str] = "distill_token"
    stage: ClassVar[Stage] = Stage.INPUT
    role: ClassVar[Role] = Role.ASSIST
    config: ClassVar[type[StepConfig]] = DistillTokenConfig
    needs: ClassVar[Needs] = Needs(images=False)
    summary: ClassVar[str] = (
        "a token and a classifier that learn from the teacher alone (helps recovery, costs a token)"
    )
    source: ClassVar[str] = "DeiT (arXiv 2012.12877)"

    def choices(self, shape: VitShape) -> Choices:
        return {"use": (False, True)}

    def unmet_need(self, shape: VitShape) -> str | None:
        if shape.dropped:
            return "patches left out already"
        if shape.pool != "token" or shape.num_prefix_tokens != 1:
            return "no class token alone in front of the patches"
        if shape.num_classifiers != 1:
            return "no single classifier"
        return None if shape.num_position_tokens is not None else "no position embedding"

    def is_identity(self, config: Any, shape: VitShape) -> bool:
        return not config.use

    def reshape(self, shape: VitShape, config: Any) -> VitShape:
        if not config.use:
            return shape
        wider = replace(
            shape,
            num_prefix_tokens=2,
            num_position_tokens=2 if shape.num_position_tokens else 0,
            num_classifiers=2,
            width_params=shape.width_params + 1,
            other_params=shape.other_params + shape.num_classes,
        )
        tokens = wider.num_tokens
        return wider.with_blocks(replace(block, tokens_in=tokens, tokens_mlp=tokens) for block in wider.blocks)

    def apply(self, model: VisionTransformer, config: Any, context: Context) -> nn.Module:
        import torch
        from timm.models.deit import VisionTransformerDistilled
        from torch import nn

        self_shape = vit_shape(model)
        model.eval()
        if not config.use:
            return model
        # The subclass adds a token and a head and overrides two methods; building it anew would need the
        # constructor's arguments, which pruned models no longer have.
        model.__class__ = VisionTransformerDistilled
        model.num_prefix_tokens, model.distilled_training = 2, False
        model.dist_token = nn.Parameter(model.cls_token.detach().clone())
        if self_shape.num_position_tokens:
            position = model.pos_embed.detach()
            model.pos_embed = nn.Parameter(torch.cat([position[:, :1], position], dim=1))
        model.head_dist = nn.Linear(model.head.in_features, model.head.out_features)
        model.head_dist.load_state_dict(model.head.state_dict())
        return model.eval()
