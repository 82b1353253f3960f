"""timm's networks without their weights: a factory for each name, `benchmarks/timm_nets.py:NAME`.

timm is for this benchmark alone: pip install timm
"""

from __future__ import annotations

from collections.abc import Callable

import timm
from torch import nn

SIDES = {
    "cs3darknet_focus_s": 64, "skresnet18": 64, "resnest14d": 64, "rexnet_100": 64, "coatnet_pico_rw_224": 224,
    "xcit_nano_12_p16_224": 224, "tresnet_m": 64, "vit_tiny_patch16_224": 224, "mobilevit_xxs": 64, "levit_128s":
    224, "swin_tiny_patch4_window7_224": 224, "pvt_v2_b0": 64, "efficientvit_b0": 64, "poolformer_s12": 64,
    "fastvit_t8": 64, "repvgg_a0": 64, "mobileone_s0": 64, "convnext_atto": 64, "ghostnetv2_100": 64, "resnet10t":
    64, "mobilenetv2_050": 64, "mobilenetv3_small_050": 64, "mobilenetv4_conv_small": 64, "lcnet_050": 64,
    "dla46_c": 64, "ese_vovnet19b_slim_dw": 64, "starnet_s1": 64, "hgnetv2_b0": 64, "regnety_002": 64, "mixnet_s":
    64, "fbnetc_100": 64, "efficientnet_b0": 64, "tf_efficientnetv2_b0": 64, "nf_regnet_b0": 64, "convnextv2_atto":
    64, "inception_next_atto": 64, "edgenext_xx_small": 64, "repvit_m1": 64, "mambaout_femto": 64, "ecaresnet26t":
    64, "hrnet_w18_small": 64, "mixer_s32_224": 224, "botnet26t_256": 256,
}  # fmt: skip
"""Name → side of its images in pixels, small ones where it takes them; attention, splits and squeezes first."""


def _factory(name: str) -> Callable[..., nn.Module]:
    def build(classes: int = 10, channels: int = 3) -> nn.Module:
        made: nn.Module = timm.create_model(name, num_classes=classes, in_chans=channels)
        return made

    build.__name__ = build.__qualname__ = name
    return build


globals().update({name: _factory(name) for name in SIDES})
