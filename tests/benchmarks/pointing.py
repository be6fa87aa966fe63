"""How often each method's maximum falls inside the target's mask, on two-object scenes of the embedded model.

    python tests/benchmarks/pointing.py [--scenes 500]

A map is enlarged bilinearly to the scene; a hit is a maximum inside the mask of the object of the target's class. Both
objects of a scene are targets in turn. "Any" and "centre" are what a pixel drawn at random, or always the middle one,
would reach.
"""

import argparse

import torch
from torch import Tensor

from captum_vit import sample
from captum_vit.attr import METHODS
from captum_vit.models import load_model

SEED = 1_000_000  # no scene of the training


def hits(maps: Tensor, masks: Tensor) -> Tensor:
    """(N,) booleans for maps (N, 1, H, W) and masks (N, H, W)."""
    return masks.flatten(1).gather(1, maps.flatten(1).argmax(1, keepdim=True))[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=500)
    count = parser.parse_args().scenes
    images, _, masks = sample.draw_batch(SEED, count, objects=2)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (sample.MEAN, sample.STD))
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std
    masks = torch.from_numpy(masks)  # (N, classes, H, W)
    present = masks.flatten(2).any(2).nonzero()[:, 1].view(count, 2)  # the two classes of each scene, in order
    model = load_model("sample").model
    each = torch.arange(count)
    print("| method | lower class | higher class | both |\n| --- | --- | --- | --- |")
    for name, method in METHODS.items():
        rates = []
        for side in range(2):
            target = present[:, side]
            maps = method(model).attribute(x, target, output_shape="spatial")
            rates.append(hits(maps, masks[each, target]).float().mean().item())
        print(f"| {method.get_name()} ({name}) | {rates[0]:.1%} | {rates[1]:.1%} | {sum(rates) / 2:.1%} |", flush=True)
    target_masks = masks[each[:, None], present]  # (N, 2, H, W)
    height, width = target_masks.shape[2:]
    print(f"| any pixel | | | {target_masks.float().mean():.1%} |")
    print(f"| centre pixel | | | {target_masks[:, :, height // 2, width // 2].float().mean():.1%} |")


if __name__ == "__main__":
    main()
