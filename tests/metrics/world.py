"""The sample's scenes, its model, and AGCAM's maps of it, that the tests of the metrics share."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_vit import AGCAM, sample
from captum_vit.adapters import sample_vit
from captum_vit.metrics import Case

SCENES = 20


class World:
    """Twenty scenes of two objects, each asked about one of them: the first half about what the model predicts."""

    def __init__(self) -> None:
        scenes = [sample.draw_scene(seed, objects=2) for seed in range(SCENES)]
        self.raw = torch.stack([torch.from_numpy(s.image).permute(2, 0, 1).float() / 255 for s in scenes])
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (sample.MEAN, sample.STD))
        self.images = (self.raw - mean) / std
        self.model = sample_vit.build()
        with torch.no_grad():
            self.logits = self.model(self.images)
        self.predicted = self.logits.argmax(1)
        self.targets = torch.tensor([s.labels[n % 2] for n, s in enumerate(scenes)])
        self.masks = torch.stack([torch.from_numpy(s.masks[n % 2]) for n, s in enumerate(scenes)])
        self.method = AGCAM(self.model)
        self.maps = self.method.attribute(self.images, self.targets)[:, 0]

    def heat(self, n: int) -> Tensor:
        """A map enlarged to its image, (64, 64): each on its own."""
        return F.interpolate(self.maps[n][None, None], (64, 64), mode="bilinear", align_corners=False)[0, 0]

    def case(self, **changes) -> Case:
        given = {
            "images": self.images,
            "targets": self.targets,
            "maps": self.maps,
            "masks": self.masks,
            "logits": self.logits,
            "model": self.model,
            "mean": sample.MEAN,
            "std": sample.STD,
            "method": self.method,
        }
        return Case(**(given | changes))


@cache
def world() -> World:
    return World()


def assert_equal(ours: Tensor, theirs: list[float] | Tensor, tolerance: float = 1e-6) -> None:
    """Equal up to a tolerance, NaN where NaN is, and not NaN throughout."""
    theirs = torch.as_tensor(theirs, dtype=torch.float64)
    assert ours.dtype == torch.float64
    assert ours.shape == theirs.shape
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert not theirs.isnan().all()
    assert (ours - theirs).abs().nan_to_num().max() <= tolerance
