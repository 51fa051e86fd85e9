"""The techniques that ship with sousvit, one file each: a new one is a file and a line in this table.

A technique's file loads no torch, so that names, parameters and needs are read in milliseconds; what it does to
tensors is imported when it acts, from a file beside it or from layers/ and calibration/.
"""

from __future__ import annotations

#: Name in recipes -> its class, imported at first look-up.
BUILTIN = {
    "attention": "sousvit.spaces.techniques.attention:EfficientAttentionTechnique",
    "bf16": "sousvit.spaces.techniques.quantization.bf16:Bf16",
    "distill": "sousvit.spaces.techniques.recovery.distill:Distill",
    "distill_token": "sousvit.spaces.techniques.recovery.distill_token:DistillToken",
    "drop_patches": "sousvit.spaces.techniques.tokens.drop_patches:DropPatches",
    "elastic": "sousvit.spaces.techniques.elastic.elastic:Elastic",
    "evit": "sousvit.spaces.techniques.tokens.evit:Evit",
    "fp16": "sousvit.spaces.techniques.quantization.fp16:Fp16",
    "int8_dynamic": "sousvit.spaces.techniques.quantization.int8_dynamic:Int8Dynamic",
    "litert_dynamic": "sousvit.spaces.techniques.quantization.litert_dynamic:LitertDynamic",
    "low_rank": "sousvit.spaces.techniques.pruning.low_rank:LowRank",
    "patch_size": "sousvit.spaces.techniques.tokens.patch_size:PatchSize",
    "prune_depth": "sousvit.spaces.techniques.pruning.depth:PruneDepth",
    "prune_embed": "sousvit.spaces.techniques.pruning.embed:PruneEmbed",
    "prune_head_dim": "sousvit.spaces.techniques.pruning.head_dim:PruneHeadDim",
    "prune_heads": "sousvit.spaces.techniques.pruning.heads:PruneHeads",
    "prune_mlp": "sousvit.spaces.techniques.pruning.mlp:PruneMlp",
    "ptq_int8": "sousvit.spaces.techniques.quantization.ptq_int8:PtqInt8",
    "qat": "sousvit.spaces.techniques.quantization.qat:Qat",
    "sparsify": "sousvit.spaces.techniques.pruning.sparsify:Sparsify",
    "static_int8": "sousvit.spaces.techniques.quantization.static_int8:StaticInt8",
    "student": "sousvit.spaces.techniques.students.student:Student",
    "synthesize": "sousvit.spaces.techniques.synthesis.synthesize:Synthesize",
    "tome": "sousvit.spaces.techniques.tokens.tome:Tome",
    "weight_only": "sousvit.spaces.techniques.quantization.weight_only:WeightOnly",
}
