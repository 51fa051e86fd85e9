"""A smaller student of the base, made without data: the opponent of adversarial synthesis."""

from __future__ import annotations

import copy

from torch import nn

from sousvit.models.load import LoadedModel


def stand_in(base: LoadedModel) -> nn.Module:
    """A copy of the base without every second block (the last one stays); a full copy where it has no blocks.

    It errs like the models that recipes compress from the base, and is the same for all of them, so that images made
    against it can be shared.
    """
    student = copy.deepcopy(base.module).eval()
    blocks = getattr(student, "blocks", None)
    if isinstance(blocks, nn.Sequential) and len(blocks) > 2:
        kept = [block for place, block in enumerate(blocks) if place % 2 == 0 or place == len(blocks) - 1]
        student.blocks = nn.Sequential(*kept)
    return student.requires_grad_(False)
