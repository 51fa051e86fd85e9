"""One file per technique; importing this package registers all of ours."""

from sousvit.spaces.techniques import (  # noqa: F401 - importing registers
    attention,
    bf16,
    distill,
    evit,
    fp16,
    int8_dynamic,
    low_rank,
    patch_size,
    prune_depth,
    prune_head_dim,
    prune_heads,
    prune_mlp,
    ptq_int8,
    qat,
    static_int8,
    tome,
    weight_only,
)
