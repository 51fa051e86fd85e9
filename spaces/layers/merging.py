"""Parallel branches and norms that only training needs, folded into the layers that stay."""

from __future__ import annotations

from torch import nn

#: Set on a model that is merged already: timm's rules do not all bear a second time.
_MERGED = "is_merged"


def merged(model: nn.Module) -> nn.Module:
    """A copy that computes the same with fewer layers (RepViT, LeViT...), by timm's rules; other models as they are."""
    if hasattr(model, _MERGED):
        return model
    if not any(hasattr(part, name) for part in model.modules() for name in ("fuse", "reparameterize")):
        return model
    from timm.utils.model import reparameterize_model

    found: nn.Module = reparameterize_model(model.eval())
    setattr(found, _MERGED, True)
    return found
