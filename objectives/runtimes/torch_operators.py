"""Operators that a program of PyTorch's may consist of: arithmetic on tensors, as exported Vision Transformers use it.

A list of what is allowed, because PyTorch has operators that read and write files, load libraries, or trust indices
that they do not check. Those here look at their arguments. A model with another operator is told which one it is.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

_LIST = """
_upsample_bicubic2d_aa.vec _upsample_bilinear2d_aa.vec abs.default adaptive_avg_pool1d.default
adaptive_avg_pool2d.default adaptive_max_pool2d.default add.Scalar add.Tensor add_.Tensor addmm.default alias.default
amax.default amin.default arange.default arange.start argmax.default argsort.default avg_pool1d.default
avg_pool2d.default baddbmm.default batch_norm.default bitwise_not.default bmm.default cat.default ceil.default
chunk.default clamp.default clamp_.default clamp_max.default clamp_min.default clone.default col2im.default
contiguous.default conv1d.default conv1d.padding conv2d.default conv2d.padding conv_transpose2d.input copy_.default
cos.default cumsum.default detach.default div.Scalar div.Tensor div.Tensor_mode div_.Tensor dropout.default
dropout_.default einsum.default elu.default elu_.default embedding.default eq.Scalar eq.Tensor erf.default exp.default
expand.default expand_as.default flatten.using_ints flip.default floor.default floor_divide.default fmod.Scalar
full.default full_like.default gather.default ge.Scalar ge.Tensor gelu.default gelu_.default group_norm.default
gt.Scalar gt.Tensor hardsigmoid.default hardsigmoid_.default hardswish.default hardswish_.default hardtanh.default
hardtanh_.default im2col.default index.Tensor index_add.default index_put.default index_select.default
instance_norm.default layer_norm.default le.Scalar le.Tensor leaky_relu.default leaky_relu_.default
linalg_vector_norm.default linear.default linspace.default log.default log_softmax.int logical_and.default
logical_not.default logical_or.default lt.Scalar lt.Tensor mT.default masked_fill.Scalar matmul.default max.default
max.dim max_pool2d.default maximum.default mean.default mean.dim meshgrid.indexing min.dim minimum.default
mish.default mish_.default mm.default movedim.int mul.Scalar mul.Tensor mul_.Tensor ne.Scalar ne.Tensor neg.default
new_full.default new_ones.default new_zeros.default one_hot.default ones.default ones_like.default outer.default
pad.default permute.default pixel_shuffle.default pixel_unshuffle.default pow.Scalar pow.Tensor_Scalar
reciprocal.default relu.default relu6.default relu6_.default relu_.default remainder.Scalar repeat.default
repeat_interleave.self_int reshape.default reshape_as.default rms_norm.default roll.default round.default
rsqrt.default rsub.Scalar rsub.Tensor scaled_dot_product_attention.default scatter.src scatter.value
scatter_add.default select.int sigmoid.default sigmoid_.default silu.default silu_.default sin.default slice.Tensor
softmax.int softplus.default sort.default split.Tensor split_with_sizes.default sqrt.default square.default
squeeze.dim squeeze.dims stack.default std.correction sub.Scalar sub.Tensor sub_.Tensor sum.default sum.dim_IntList
swapaxes.default sym_size.int t.default tanh.default tanh_.default tile.default to.device to.dtype topk.default
transpose.int tril.default triu.default type_as.default unbind.int unflatten.int unfold.default unsqueeze.default
upsample_bicubic2d.default upsample_bicubic2d.vec upsample_bilinear2d.default upsample_bilinear2d.vec
upsample_nearest2d.default upsample_nearest2d.vec var.correction view.default view_as.default where.ScalarOther
where.self zeros.default zeros_like.default
"""
#: ``torch.ops.aten.NAME.OVERLOAD``, without its beginning.
OPERATORS = frozenset(_LIST.split())
#: Assertions about shapes and types, which compute nothing.
CHECKS = frozenset(
    {
        "torch.ops.aten._assert_scalar.default",
        "torch.ops.aten._assert_tensor_metadata.default",
        "torch.ops.aten.sym_constrain_range_for_size.default",
    }
)
#: Arithmetic on sizes; no powers and shifts, which make numbers of any length at once.
SIZES: dict[str, Callable[..., Any]] = {
    f"_operator.{function.__name__}": function
    for function in (operator.add, operator.floordiv, operator.mod, operator.mul, operator.neg, operator.sub)
}
#: Arguments that are texts, and what they may be.
TEXTS = {
    "approximate": re.compile("none|tanh"),
    "equation": re.compile(r"[A-Za-z,.> -]{1,80}"),
    "indexing": re.compile("ij|xy"),
    "mode": re.compile("constant|reflect|replicate|circular"),
    "padding": re.compile("same|valid"),
    "rounding_mode": re.compile("floor|trunc"),
}
#: A part of a program in another precision; read where it switches that off.
AUTOCAST = "torch.ops.higher_order.wrap_with_autocast"
