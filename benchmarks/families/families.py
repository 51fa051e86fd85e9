"""Families of image classifiers at the smallest sizes that timm makes of them, with random weights that all matter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import nn

CLASSES = 5


@dataclass(frozen=True)
class Family:
    """One architecture: ``name`` and ``args`` for timm, and the side of the square images that it takes here."""

    name: str
    size: int
    args: dict[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Module:
        """In eval mode, alike at each call."""
        torch.manual_seed(0)
        model = telling(timm.create_model(self.name, num_classes=CLASSES, **self.args)).eval()
        norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.train().momentum = 1.0
        with torch.no_grad():
            model(torch.randn(4, 3, self.size, self.size))
        return model.eval()


def telling(model: nn.Module) -> nn.Module:
    """``model`` with weights that leave no branch without effect: fresh layer scales, norms and biases are often 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            last = name.rpartition(".")[2]
            if parameter.ndim > 1 and parameter[0].numel() > 1:
                parameter.normal_(0, 0.3 if "pos" in last or "token" in last else parameter[0].numel() ** -0.5)
            elif "bias" in last:
                parameter.normal_(0, 0.1)
            elif float(parameter.abs().max()) < 0.1:  # a layer scale, or a norm that begins closed
                parameter.uniform_(0.5, 1.0)
    return model


def _plain(size: int = 32, **args: Any) -> dict[str, Any]:
    return {"img_size": size, "embed_dim": 32, "depth": 2, "num_heads": 2, **args}


_WINDOWS = {"img_size": 32, "window_size": 4, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4)}
_STAGES = {"depths": (1, 1, 1, 1)}

FAMILIES: dict[str, Family] = {
    "ViT": Family("vit_tiny_patch16_224", 32, _plain(patch_size=8)),
    "DeiT, distilled": Family("deit_tiny_distilled_patch16_224", 32, _plain(patch_size=8)),
    "DeiT III": Family("deit3_small_patch16_224", 32, _plain(patch_size=8)),
    "DINOv2, registers": Family("vit_small_patch14_reg4_dinov2", 28, _plain(28)),
    "DINOv3": Family("vit_small_patch16_dinov3", 32, _plain()),
    "DINOv3+": Family("vit_small_plus_patch16_dinov3", 32, _plain()),
    "SigLIP so400m": Family("vit_so400m_patch14_siglip_224", 28, _plain(28)),
    "AIMv2": Family("aimv2_large_patch14_224", 28, _plain(28)),
    "EVA": Family("eva_giant_patch14_224", 28, _plain(28)),
    "EVA-02": Family("eva02_tiny_patch14_224", 28, _plain(28)),
    "EVA-02, base": Family("eva02_base_patch14_224", 28, _plain(28)),
    "Perception Encoder": Family("vit_pe_core_tiny_patch16_384", 32, _plain()),
    "BEiT": Family("beit_base_patch16_224", 32, _plain(patch_size=8)),
    "BEiT v2": Family("beitv2_base_patch16_224", 32, _plain(patch_size=8)),
    "BEiT-3": Family("beit3_base_patch16_224", 32, _plain(patch_size=8)),
    "NaFlexViT": Family("naflexvit_base_patch16_gap", 32, _plain()),
    "NaFlexViT, SigLIP 2": Family("naflexvit_base_patch16_siglip", 32, _plain()),
    "ViT, relative positions": Family("vit_relpos_small_patch16_224", 32, _plain(patch_size=8)),
    "ViT, shared positions": Family("vit_srelpos_small_patch16_224", 32, _plain(patch_size=8)),
    "ViT of SAM": Family("samvit_base_patch16_224", 32, _plain(patch_size=8, global_attn_indexes=(1,), window_size=2)),
    "ViT, ResNet stem": Family("vit_tiny_r_s16_p8_224", 64, _plain(64)),
    "Qwen3-ViT": Family("qwen3_vit_88m", 32, _plain()),
    "CaiT": Family("cait_xxs24_224", 32, _plain(patch_size=8)),
    "XCiT": Family("xcit_nano_12_p16_224", 32, _plain()),
    "ConViT": Family("convit_tiny", 32, _plain(patch_size=8, local_up_to_layer=1)),
    "CrossViT": Family(
        "crossvit_9_dagger_240",
        240,
        {"embed_dim": (32, 64), "depth": ((1, 1, 0),), "num_heads": (2, 2), "mlp_ratio": (3, 3, 1)},
    ),
    "TNT": Family("tnt_s_patch16_224", 32, {"img_size": 32, "depth": 2}),
    "PiT": Family(
        "pit_ti_224", 64, {"img_size": 64, "base_dims": (16, 16, 16), "depth": (1, 1, 1), "heads": (1, 2, 4)}
    ),
    "Swin": Family("swin_tiny_patch4_window7_224", 32, _WINDOWS),
    "Swin v2": Family("swinv2_tiny_window8_256", 32, _WINDOWS),
    "Swin v2, CR": Family("swinv2_cr_tiny_ns_224", 32, _WINDOWS),
    "PVT v2": Family("pvt_v2_b0", 64, _STAGES),
    "PVT v2, linear": Family(
        "pvt_v2_b2_li", 64, {**_STAGES, "embed_dims": (32, 32, 64, 64), "num_heads": (1, 2, 2, 2)}
    ),
    "Twins-PCPVT": Family(
        "twins_pcpvt_small", 64, {"img_size": 64, **_STAGES, "embed_dims": (16, 32, 32, 64), "num_heads": (1, 2, 2, 2)}
    ),
    "Twins-SVT": Family(
        "twins_svt_small",
        64,
        {
            "img_size": 64,
            "depths": (2, 2, 2, 2),
            "embed_dims": (16, 32, 32, 64),
            "num_heads": (1, 2, 2, 2),
            "wss": (2, 2, 2, 2),
        },
    ),
    "NesT": Family("nest_tiny", 64, {"img_size": 64}),
    "DaViT": Family(
        "davit_tiny", 64, {**_STAGES, "embed_dims": (16, 32, 32, 64), "num_heads": (1, 2, 2, 4), "window_size": 2}
    ),
    "Hiera": Family("hiera_tiny_224", 64, {"img_size": 64, "embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)}),
    "MViTv2": Family("mvitv2_tiny", 64, {"img_size": 64}),
    "GC ViT": Family("gcvit_xxtiny", 224),
    "MaxViT": Family("maxvit_tiny_tf_224", 64, {"img_size": 64, "depths": (1, 1), "embed_dim": (32, 64)}),
    "CoAtNet": Family("coatnet_0_rw_224", 64, {"img_size": 64, **_STAGES, "embed_dim": (16, 32, 64, 64)}),
    "CoAtNet, MLP positions": Family(
        "coatnet_rmlp_nano_rw_224", 64, {"img_size": 64, **_STAGES, "embed_dim": (16, 32, 64, 64)}
    ),
    "CoaT lite": Family("coat_lite_tiny", 64, {"img_size": 64}),
    "VOLO": Family("volo_d1_224", 64, {"img_size": 64}),
    "TinyViT": Family("tiny_vit_5m_224", 224),
    "LeViT": Family(
        "levit_128s", 64, {"img_size": 64, "embed_dim": (32, 48, 64), "depth": (1, 1, 1), "num_heads": (2, 3, 4)}
    ),
    "Visformer": Family("visformer_tiny", 64, {"img_size": 64}),
    "EfficientFormer": Family("efficientformer_l1", 224, {"depths": (1, 1, 1, 2), "embed_dims": (16, 32, 32, 64)}),
    "EfficientFormer v2": Family("efficientformerv2_s0", 64, {"img_size": 64}),
    "MobileViT": Family("mobilevit_xxs", 64),
    "MobileViT v2": Family("mobilevitv2_050", 64),
    "EdgeNeXt": Family("edgenext_xx_small", 64),
    "FastViT": Family("fastvit_sa12", 64, {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 64)}),
    "NextViT": Family("nextvit_small", 64),
    "SwiftFormer": Family("swiftformer_xs", 64),
    "EfficientViT (MIT)": Family("efficientvit_b0", 64),
    "EfficientViT (MSRA)": Family("efficientvit_m0", 224),
    "SHViT": Family("shvit_s1", 64),
    "RepViT": Family("repvit_m0_9", 64),
    "CAFormer": Family("caformer_s18", 64),
    "PoolFormer": Family("poolformer_s12", 64),
    "FocalNet": Family("focalnet_tiny_srf", 64),
    "ViTamin": Family("vitamin_small_224", 64, {"img_size": 64}),
    "MLP-Mixer": Family("mixer_s16_224", 32, {"img_size": 32}),
    "ConvNeXt": Family("convnext_atto", 64, {**_STAGES, "dims": (16, 32, 32, 64)}),
    "ConvNeXt, RMSNorm": Family("convnext_atto_rms", 64, {**_STAGES, "dims": (16, 32, 32, 64)}),
    "MambaOut": Family("mambaout_femto", 64, {**_STAGES, "dims": (16, 32, 32, 64)}),
    "EfficientViM": Family("efficientvim_m1", 64),
}
