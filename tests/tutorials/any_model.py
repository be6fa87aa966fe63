"""The picture of the page on models of any architecture: `python -m tests.tutorials.any_model` draws it.

A small convolutional network learns the shapes of the sample's scenes in a few minutes on one core, and is explained.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from captum_vit import explain
from captum_vit.cli.explain import pictures
from captum_vit.explained import Explained
from captum_vit.sample import CLASSES, draw_batch
from tests.tutorials.pictures import PICTURES

SEED = 2**32 + 3  # of the scene that is shown, beyond those of the training
METHODS = ("attn_lrp", "gradcam", "hirescam")


class Shapes(nn.Sequential):
    """Four stages of convolutions, and a mean over the image."""

    def __init__(self, width: int = 24) -> None:
        sizes = [width, 2 * width, 3 * width, 4 * width]
        stages: list[nn.Module] = [stage(before, after) for before, after in zip([3, *sizes], sizes, strict=False)]
        super().__init__(*stages, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(sizes[-1], len(CLASSES)))


def stage(before: int, after: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()),
        *(nn.Conv2d(after, after, 3, 1, 1), nn.BatchNorm2d(after), nn.ReLU()),
    )


def prepared(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def trained(steps: int) -> nn.Module:
    """The network after so many steps, each of 64 scenes that it sees once."""
    torch.manual_seed(0)
    model = Shapes().train()
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.05)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, steps)
    for step in range(steps):
        images, labels, _ = draw_batch(step, 64)
        loss = F.binary_cross_entropy_with_logits(model(prepared(torch.from_numpy(images))), torch.from_numpy(labels))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        plan.step()
    return model.eval()


def explained(model: nn.Module) -> Explained:
    images, labels, _ = draw_batch(SEED, 1, objects=2)
    targets = [int(index) for index in labels[0].nonzero()[0]]

    def prepare(image: Image.Image) -> Tensor:
        return prepared(torch.from_numpy(np.array(image))[None])[0]

    options = {"preprocess": prepare, "class_names": list(CLASSES), "multi_label": True}
    return explain(Image.fromarray(images[0]), model, method=list(METHODS), target=targets, **options)


def main(steps: int) -> None:
    model = trained(steps)
    images, labels, _ = draw_batch(SEED + 1, 256)
    with torch.no_grad():
        right = ((model(prepared(torch.from_numpy(images))) > 0).float() == torch.from_numpy(labels)).float().mean()
    print(f"{100 * right:.1f} % of the answers are right")
    found = explained(model)
    print(found)
    pictures(found)["overview.png"].save(PICTURES / "any-model.webp", quality=80, method=6)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
