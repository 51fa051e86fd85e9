"""One file per technique; importing this package registers all of ours."""

from sousvit.spaces.techniques import attention  # noqa: F401 - importing registers
from sousvit.spaces.techniques.elastic import elastic  # noqa: F401
from sousvit.spaces.techniques.pruning import (  # noqa: F401
    depth,
    embed,
    head_dim,
    heads,
    low_rank,
    mlp,
    sparsify,
)
from sousvit.spaces.techniques.quantization import (  # noqa: F401
    bf16,
    fp16,
    int8_dynamic,
    litert_dynamic,
    ptq_int8,
    qat,
    static_int8,
    weight_only,
)
from sousvit.spaces.techniques.recovery import distill, distill_token  # noqa: F401
from sousvit.spaces.techniques.students import student  # noqa: F401
from sousvit.spaces.techniques.synthesis import synthesize  # noqa: F401
from sousvit.spaces.techniques.tokens import drop_patches, evit, patch_size, tome  # noqa: F401
