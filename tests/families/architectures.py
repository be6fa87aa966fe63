"""The site's table of models that no adapter knows: `python -m tests.families.architectures` writes it.

Each is the smallest of its kind, with random weights in float64 of a size that all of it has a part in the scores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import timm
import torch
import torchvision
import transformers
from timm.models import mlp_mixer as mixers
from torch import Tensor, nn

from captum_vit.access.any_model import AnyModel
from captum_vit.attr import CPLRP, METHODS, AttnLRP, GradCAM, LibraGrad, ViTAttribution
from captum_vit.errors import CaptumViTError

PAGE = Path(__file__).parents[2] / "tutorials" / "how" / "any-model.md"
BEGIN, END = "<!-- architectures: begin -->\n", "<!-- architectures: end -->\n"
HEAD = "| library | model | cells | last grid | methods |\n| --- | --- | --- | --- | --- |\n"
RULED = (CPLRP, AttnLRP, LibraGrad)
SWIN = {"img_size": 64, "window_size": 4, "depths": (2, 2), "embed_dim": 24, "num_heads": (2, 4)}
NEXT = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
MIXER = {"img_size": (64, 64), "embed_dim": 32, "num_blocks": 1}
SMALL = {"img_size": 64, "depths": (1, 1, 1, 1), "num_heads": (2, 2, 2, 2)}
PYRAMID = {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 2, 4)}


SLOW = {
    *("mvitv2_tiny", "efficientvit_m0", "levit_128s", "crossvit_tiny_240", "mobilevit_xxs", "mobilevitv2_050"),
    *("seresnext26d_32x4d", "regnety_002", "ghostnet_050", "dla34", "googlenet", "resnet18"),
    *("shufflenet_v2_x0_5", "mnasnet0_5", "efficientnet_lite0", "efficientvit_b0", "mobilenetv3_small_050"),
}


@dataclass(frozen=True)
class Architecture:
    """One model: where it comes from, what it is called, how it is made, and (height, width) of its images.

    channels: of an image.
    """

    library: str
    name: str
    build: Callable[[], nn.Module]
    size: tuple[int, ...] = (64, 64)
    channels: int = 3

    @property
    def slow(self) -> bool:
        """Whether it takes more than a second or so, which the nightly profile has."""
        return self.name in SLOW

    def made(self) -> tuple[nn.Module, Tensor]:
        """The model, and one image."""
        torch.manual_seed(0)
        model = self.build().eval().double()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1 and weight[0].numel():
                    weight.normal_(0, 1.5 / weight[0].numel() ** 0.5)
                else:
                    weight.add_(0.1 * torch.randn_like(weight))
        return model, torch.randn(1, self.channels, *self.size, dtype=torch.float64)


def of_timm(name: str, size: tuple[int, int] = (64, 64), **options: Any) -> Architecture:
    return Architecture("timm", name, lambda: timm.create_model(name, num_classes=5, **options), size)


def of_class(kind: type[nn.Module], size: tuple[int, int] = (64, 64), name: str = "", **options: Any) -> Architecture:
    return Architecture("timm", name or kind.__name__, lambda: kind(num_classes=5, **options), size)


def of_torchvision(name: str, size: tuple[int, int] = (64, 64), **options: Any) -> Architecture:
    return Architecture("torchvision", name, lambda: getattr(torchvision.models, name)(num_classes=5, **options), size)


def of_hf(kind: str, size: tuple[int, int] = (64, 64), **options: Any) -> Architecture:
    def build() -> nn.Module:
        config = getattr(transformers, f"{kind}Config")(num_labels=5, **options)
        return getattr(transformers, f"{kind}ForImageClassification")(config)

    return Architecture("transformers", f"{kind}ForImageClassification", build, size)


def of_monai(name: str, size: tuple[int, ...], **options: Any) -> Architecture:
    def build() -> nn.Module:
        return getattr(monai.networks.nets, name)(**options)

    return Architecture("monai", name, build, size, 1)


HF_SWIN = {"image_size": 64, "embed_dim": 24, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4}
RESNET_3D = {
    "block": "basic",
    "layers": [1] * 4,
    "block_inplanes": [4, 8, 8, 8],
    "n_input_channels": 1,
    "num_classes": 5,
}
ARCHITECTURES = [
    of_timm("swin_tiny_patch4_window7_224", **SWIN),
    of_timm("swinv2_tiny_window8_256", **SWIN),
    of_timm("swinv2_cr_tiny_224", **SWIN),
    of_timm("pvt_v2_b0", (64, 96), **PYRAMID),
    of_timm("twins_pcpvt_small", (64, 96), **{**PYRAMID, "num_heads": (1, 2, 3, 4)}),
    of_timm("maxvit_rmlp_pico_rw_256", img_size=64, depths=(1, 1), embed_dim=(32, 32)),
    of_timm("coatnet_nano_rw_224", img_size=64, depths=(1, 1, 1, 1), embed_dim=(32, 32, 32, 32)),
    of_timm("hiera_tiny_224", img_size=64, embed_dim=16, stages=(1, 1, 1, 1)),
    of_timm("mvitv2_tiny", img_size=64),
    of_class(
        timm.models.gcvit.GlobalContextVit, img_size=64, depths=(1, 1, 1, 1), num_heads=(2, 2, 2, 2), embed_dim=16
    ),
    of_class(timm.models.nest.Nest, img_size=64, embed_dims=(16, 24, 32), num_heads=(2, 2, 2), depths=(1, 1, 1)),
    of_class(timm.models.davit.DaVit, depths=(1, 1), embed_dims=(16, 32), num_heads=(2, 2)),
    of_timm("efficientvit_b0", (64, 96), widths=(8, 8, 16, 16, 32)),
    of_timm("efficientvit_m0", img_size=64),
    of_timm("edgenext_xx_small", (64, 96), depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)),
    of_timm("mobilevit_xxs", (64, 96)),
    of_timm("mobilevitv2_050", (64, 96)),
    of_class(timm.models.metaformer.MetaFormer, (64, 96), depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)),
    of_timm("levit_128s", img_size=64),
    of_timm("crossvit_tiny_240"),
    of_timm("convnext_atto", (64, 96), **NEXT),
    of_timm("convnextv2_atto", (64, 96), **NEXT),
    of_timm("inception_next_atto", (64, 96), **NEXT),
    of_class(timm.models.focalnet.FocalNet, (64, 96), depths=(1, 1, 1, 1), embed_dim=8),
    of_class(mixers.MlpMixer, **MIXER),
    of_class(timm.models.convmixer.ConvMixer, (56, 84), dim=16, depth=1),
    of_timm("resnet10t", (64, 96)),
    of_timm("resnetv2_50", (64, 96), layers=(1, 1, 1, 1), channels=(16, 16, 32, 32)),
    of_timm("seresnext26d_32x4d", (64, 96), layers=(1, 1, 1, 1)),
    of_timm("regnety_002", (64, 96)),
    of_timm("efficientnet_lite0", (64, 96)),
    of_timm("mobilenetv3_small_050", (64, 96)),
    of_timm("ghostnet_050", (64, 96)),
    of_timm("dla34", (64, 96)),
    of_torchvision("resnet18", (64, 96)),
    of_torchvision("DenseNet", (64, 96), growth_rate=4, block_config=(1, 1, 1), num_init_features=8),
    of_torchvision("shufflenet_v2_x0_5", (64, 96)),
    of_torchvision("squeezenet1_1", (64, 96)),
    of_torchvision("mnasnet0_5", (64, 96)),
    of_torchvision("googlenet", (64, 96), aux_logits=False, init_weights=False),
    of_hf("Swin", **HF_SWIN),
    of_hf("Swinv2", **HF_SWIN),
    of_hf("ConvNext", (64, 96), depths=[1, 1], hidden_sizes=[8, 16], num_stages=2),
    of_hf("ResNet", (64, 96), embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
    of_hf("PoolFormer", (64, 96), depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32]),
    of_hf("Segformer", (64, 96), depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], decoder_hidden_size=16),
    of_monai(
        "DenseNet",
        (32, 32, 32),
        spatial_dims=3,
        in_channels=1,
        out_channels=5,
        init_features=4,
        growth_rate=2,
        block_config=(1, 1),
    ),
    of_monai("ResNet", (32, 32, 32), **RESNET_3D),
]


@dataclass(frozen=True)
class Seen:
    """What is found of a model.

    cells, last: grid and module of the stem's cells, and of the last grid; the refusal where there is none.
    errors: of each conserving method what its account leaves open, as a share of the score, or its refusal.
    """

    cells: str
    last: str
    errors: dict[str, float | str]

    @property
    def methods(self) -> str:
        """Those that apply, in words."""
        kept = [METHODS[name].title for name, error in self.errors.items() if not isinstance(error, str)]
        return ", ".join([*kept, *(["Grad-CAM and its kin"] if " at `" in self.last else [])]) or "none"


def seen(model: nn.Module, image: Tensor) -> Seen:
    """What the methods make of one image."""
    cells, errors = "", dict[str, float | str]()
    for kind in RULED:
        try:
            method = kind(model)
            (told,) = method.completeness(image, 1)
            errors[kind.name] = abs(told.error / told.score)
            cells = cells or where(method, image)
        except CaptumViTError as error:
            errors[kind.name] = str(error)
    try:
        last = where(GradCAM(model), image)
    except CaptumViTError as error:
        last = str(error)
    return Seen(cells, last, errors)


def where(method: ViTAttribution, image: Tensor) -> str:
    """Grid and module of a method's maps."""
    from captum_vit.attr import start
    from captum_vit.capture import Inputs
    from captum_vit.targets import Classes

    assert isinstance(method.adapter, AnyModel)
    with start([(method, {})], Inputs(image), once=True) as run:
        method._maps(run, Classes(1), flow=False)
        layout, (name,) = method.place_of(run)
    return f"{' x '.join(map(str, layout.grid))} at `{name}`"


def row_of(one: Architecture, found: Seen) -> str:
    """One line of the table."""
    cells, last = ("" if " at `" not in each else each for each in (found.cells, found.last))
    return f"| {one.library} | {one.name} | {cells or 'none'} | {last or 'none'} | {found.methods} |\n"


def row(one: Architecture) -> str:
    """The same, of what is seen of the model."""
    return row_of(one, seen(*one.made()))


def on_page(text: str) -> str:
    """What stands between the marks."""
    return text.split(BEGIN, 1)[1].split(END, 1)[0]


if __name__ == "__main__":
    old = PAGE.read_text()
    PAGE.write_text(old.replace(BEGIN + on_page(old) + END, BEGIN + HEAD + "".join(map(row, ARCHITECTURES)) + END))
