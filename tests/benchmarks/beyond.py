"""What a map costs beside a forward, of models beyond the classifier of images, in multiplications.

    python tests/benchmarks/beyond.py              # published sizes, random weights: some minutes
    python tests/benchmarks/beyond.py --tiny       # to see that it runs
    python tests/benchmarks/beyond.py CLIP YOLOS   # some alone

Matrix products, convolutions and attention are counted as they are called, so that the figures do not depend on the
machine, nor on who else uses it. The first map of a model examines it; later ones are what a second image costs.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from captum_vit import explain, token_shares
from captum_vit.attr import METHODS
from captum_vit.errors import CaptumViTError
from captum_vit.targets import Contrast, Mask, Query, Text

KERNEL = {  # torch's own for CPUs, which its table leaves out: how many products of queries and keys it takes
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: 2,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: 5,  # its first argument is the gradient
}
ASKED = ("agcam", "daam", "rollout", "generic_relevance", "grad_eclip", "legrad", "attn_lrp")
WORDS, TEXTS = ("grad_eclip", "agcam", "generic_relevance", "attn_lrp"), "a text of CLIP, B/32"


@dataclass(frozen=True)
class Case:
    """A model, what it is called with, and what is asked of it."""

    model: nn.Module
    x: Tensor
    target: Any
    beside: Mapping[str, Any] = field(default_factory=dict)  # for a plain forward alone


class Counted(TorchDispatchMode):
    """Multiplications of matrix products, convolutions and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = getattr(func, "overloadpacket", None)
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        elif packet in KERNEL:
            q, k = args[KERNEL[packet] == 5 :][:2]
            self.total += KERNEL[packet] * 2 * q.numel() * k.shape[2]
        return out


def vit(tiny: bool, width: int = 768, **options: Any) -> dict[str, Any]:
    heads = {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 96, "num_hidden_layers": 4}
    return {
        **(heads if tiny else dict(zip(heads, (width, width // 64, 4 * width, 12), strict=True))),
        **options,
    }


def yolos(tiny: bool) -> Case:
    side = 64 if tiny else 512
    config = hf.YolosConfig(**vit(tiny, 192), image_size=[side, side], num_detection_tokens=100, num_labels=91)
    model = hf.YolosForObjectDetection(config)
    return Case(
        model,
        torch.randn(1, 3, side, side),
        Query(17, int(model(torch.zeros(1, 3, side, side)).logits[0, 17, :-1].argmax())),
    )


def dpt(tiny: bool) -> Case:
    side, neck = (64, [16] * 4) if tiny else (384, [96, 192, 384, 768])
    depths = [0, 1, 2, 3] if tiny else [2, 5, 8, 11]
    options = {"backbone_out_indices": depths, "neck_hidden_sizes": neck, "fusion_hidden_size": 16 if tiny else 256}
    config = hf.DPTConfig(**vit(tiny), image_size=side, patch_size=16, is_hybrid=False, num_labels=150, **options)
    return Case(hf.DPTForSemanticSegmentation(config), torch.randn(1, 3, side, side), Mask(1, "peak"))


def depth_anything(tiny: bool) -> Case:
    side = 56 if tiny else 518
    of_backbone = {k: v for k, v in vit(tiny, 384).items() if k != "intermediate_size"}
    out = [1, 2, 3, 4] if tiny else [3, 6, 9, 12]
    of_backbone |= {"image_size": side, "patch_size": 14, "out_indices": out, "reshape_hidden_states": False}
    backbone = hf.Dinov2Config(**of_backbone)
    neck = [16] * 4 if tiny else [48, 96, 192, 384]
    options = {"neck_hidden_sizes": neck, "fusion_hidden_size": 16 if tiny else 64, "head_hidden_size": 16}
    config = hf.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=backbone.hidden_size, patch_size=14, **options
    )
    return Case(hf.DepthAnythingForDepthEstimation(config), torch.randn(1, 3, side, side), Mask(None))


def clip(tiny: bool) -> Case:
    side, words = (64, 12) if tiny else (224, 77)
    text = vit(tiny, 512, vocab_size=49408, max_position_embeddings=words, eos_token_id=49407, bos_token_id=49406)
    config = hf.CLIPConfig(text_config=text, vision_config=vit(tiny, image_size=side, patch_size=32), projection_dim=64)
    ids = torch.tensor([[49406, 320, 2368, 525, 320, 10357, 49407]])
    beside = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Case(hf.CLIPModel(config), torch.randn(1, 3, side, side), Text(ids=ids), beside)


def videomae(tiny: bool) -> Case:
    side, frames = (32, 4) if tiny else (224, 16)
    config = hf.VideoMAEConfig(**vit(tiny), image_size=side, num_frames=frames, num_labels=400)
    return Case(hf.VideoMAEForVideoClassification(config), torch.randn(1, frames, 3, side, side), 1)


def volume(tiny: bool) -> Case:
    from monai.networks.nets import ViT

    side = 32 if tiny else 96
    of = vit(tiny)
    model = ViT(
        *(1, (side,) * 3, (16,) * 3, of["hidden_size"], of["intermediate_size"], of["num_hidden_layers"]),
        of["num_attention_heads"],
        classification=True,
        num_classes=14,
    )
    return Case(model, torch.randn(1, 1, side, side, side), 1)


def swin(tiny: bool) -> Case:
    sizes = {"image_size": 64, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4} if tiny else {}
    config = hf.SwinConfig(**sizes, num_labels=1000)
    return Case(hf.SwinForImageClassification(config), torch.randn(1, 3, config.image_size, config.image_size), 1)


CASES: dict[str, Callable[[bool], Case]] = {
    "YOLOS-tiny, 512 px": yolos,
    "DPT, ViT-B, 384 px": dpt,
    "Depth Anything, ViT-S, 518 px": depth_anything,
    "CLIP, B/32 with a text": clip,
    "VideoMAE-B, 16 frames": videomae,
    "MONAI ViT-B, 96^3": volume,
    "Swin-T": swin,
}


def counted(act: Callable[[], object]) -> int:
    with Counted() as seen:
        act()
    return seen.total


def measured(case: Case) -> dict[str, str]:
    """By method the first map and a later one, in forwards."""
    model = case.model.eval()
    with torch.no_grad():
        whole = counted(lambda: model(pixel_values=case.x, **case.beside) if case.beside else model(case.x))
    told = {}
    for name in ASKED:
        try:
            ask = partial(METHODS[name](model).attribute, case.x, case.target)
            first, later = (counted(ask) / whole for _ in range(2))
            told[name] = f"{first:.1f}, {later:.2f}"
        except CaptumViTError as error:
            told[name] = f"- ({str(error)[:60]})"
    return told


def of_texts(tiny: bool) -> dict[str, str]:
    """What a text costs in all, map, words and a second text, in forwards of both towers."""
    case = clip(tiny)
    model, text, photo = case.model.eval(), case.target, case.x[0]
    other = Text(ids=torch.tensor([49406, 320, 1929, 49407]))
    with torch.no_grad():
        whole = counted(lambda: model(pixel_values=case.x, **case.beside))
        feature = model.get_image_features(case.x).pooler_output[0]
    told = {}
    for name in WORDS:
        map_of, page = METHODS[name](model).attribute, partial(explain, photo, model, method=name)
        jobs: dict[str, Callable[[], object]] = {
            "map": partial(map_of, case.x, text),
            "words": partial(token_shares, model, text, feature, name),
            "explain, map and words": partial(page, target=text),
            "of two texts": partial(page, target=[text, other]),
            "a contrast, map alone": partial(page, target=Contrast(text, other)),
        }
        for job in jobs.values():
            job()  # the first examines the model
        told[name] = "; ".join(f"{what} {counted(job) / whole:.2f}" for what, job in jobs.items())
    several = partial(explain, photo, model, target=text, method=list(WORDS))
    told["all of these at once"] = f"{counted(several) / whole:.2f}"
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of cases")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    torch.manual_seed(0)
    figures = {name: partial(lambda make, tiny: measured(make(tiny)), make) for name, make in CASES.items()}
    for name, figure in {**figures, TEXTS: of_texts}.items():
        if not asked.names or name.startswith(tuple(asked.names)):
            print(name, flush=True)
            for method, told in figure(asked.tiny).items():
                print(f"    {method:18} {told}", flush=True)


if __name__ == "__main__":
    main()
