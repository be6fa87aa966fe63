"""ViT-CX: masks made of clusters of channels, and what the probability owes to what each keeps."""

import torch
from torch import Tensor

from ..capture import Run
from ..checking import check_number
from ..targets import Target
from .clusters import clusters
from .patches import enlarged, patch_of_pixels
from .perturbing import (
    AtOnePlace,
    Forwards,
    OfPixels,
    Score,
    average,
    between_0_and_1,
    drawing,
    shaped_images,
    working,
)
from .token_cam import patches


class ViTCX(OfPixels, AtOnePlace):
    """ViT-CX: how probable the target is with what a cluster of channels shows, less what noise alone does.

    >>> small = load_model("sample").model  # with 96 channels
    >>> ViTCX(small).attribute(torch.randn(2, 3, 64, 64), target=3, distance=0.5).shape
    torch.Size([2, 1, 8, 8])

    mean_k P_k M_k / sum_j M_j with P_k = p(x M_k + z_k) - p(x + z_k) + p(x), for the K masks M_k of one image and noise
    z_k = noise * N(0, 1) * (1 - M_k). Channels of what the last attention is given, see `TokenCAM` for other layers,
    are enlarged to the image and scaled to 0 to 1; those that are nearer to each other than `distance` are added up to
    one mask, scaled again. A channel or a mask that is the same everywhere is left out; a pixel that no mask keeps has
    the mean over the masks: the published program divides by 0 there. The map on the grid is the mean over each patch;
    with `output_shape="spatial"` it is the published map of the pixels. It takes 2 K + 1 forwards an image.

    Options of `attribute`:
        distance: of two channels, 1 less the cosine of their angle: clusters hold channels that are no farther apart,
            by default 0.1.
        noise: standard deviation of what is put where a mask hides the image, by default 0.1.
        score: "probability" (default), the softmax over the classes, or the sigmoid where the model says that each is
            scored for itself; "sigmoid"; or "logit", the target's own number, with which maps may be below 0.
        seed: of the noise, by default 0.
        batch: how many changed images go through the model at once, by default 64.
        progress: whether a bar is drawn on stderr, by default False.

    Source: Xie et al. 2023, "ViT-CX: Causal Explanation of Vision Transformers" (arXiv:2211.03064).
    """

    name, title = "vitcx", "ViT-CX"
    paper = "arXiv:2211.03064"
    costly = "two forwards for each cluster of channels, as 100 to 200"

    def _maps(
        self,
        run: Run,
        target: Target,
        *,
        flow: bool,
        distance: float = 0.1,
        noise: float = 0.1,
        score: Score = "probability",
        seed: int = 0,
        batch: int = 64,
        progress: bool = False,
    ) -> Tensor:
        check_number("distance", distance, 0, 2)
        check_number("noise", noise, 0, 1e6)
        images = shaped_images(run)
        (name,) = self.layers_given(run.readout, flow)
        given = run.given()[name]
        channels = patches(given, given.values)[0].mT.unflatten(2, given.layout.grid)
        seen = patch_of_pixels(run.layout, images.shape[2:]) >= 0
        found = []
        with Forwards(run, target, score, batch, total=len(images), progress=progress, title=self.title) as forwards:
            for i, (image, own) in enumerate(zip(images, channels, strict=True)):
                large = enlarged(own.to(working(images)), run.layout, images.shape[2:], corners=False)
                masks = over(cluster_masks(large[:, seen.to(large.device)], distance), seen)
                impacts = self._impacts(forwards, i, image, masks, drawn(seed, len(masks), image) * noise)
                pixels = average(impacts, masks.flatten(1)) / max(len(masks), 1)
                found.append(pixels.unflatten(1, images.shape[2:]))
        return self._placed(torch.stack(found, 1), run, target)

    def _impacts(self, forwards: Forwards, place: int, image: Tensor, masks: Tensor, noise: Tensor) -> Tensor:
        """What the targets' numbers owe to what each mask keeps, (masks, K)."""
        forwards.bar.total += 2 * len(masks)
        whole = forwards.of_images(image[None], place)
        impacts = [whole[:0]]
        for part in forwards.parts(len(masks)):
            soft = masks[part, None].to(image)
            hiding = noise[part].to(image) * (1 - soft)
            shown, noisy = (forwards.of_images(x + hiding, place) for x in (image * soft, image))
            impacts.append(shown - noisy + whole)
        return torch.cat(impacts)


def cluster_masks(channels: Tensor, distance: float) -> Tensor:
    """One mask of each cluster of channels (D, pixels), between 0 and 1, (K, pixels)."""
    masks = between_0_and_1(channels)
    groups = clusters(masks, distance).to(masks.device)
    if not len(groups):
        return masks
    sums = masks.new_zeros(int(groups.max()) + 1, masks.shape[1]).index_add_(0, groups, masks)
    return between_0_and_1(sums)


def over(masks: Tensor, seen: Tensor) -> Tensor:
    """Masks of the pixels that are seen, (K, pixels), on the whole image, (K, H, W), 0 where it is not."""
    whole = masks.new_zeros(len(masks), *seen.shape)
    whole[:, seen.to(masks.device)] = masks
    return whole


def drawn(seed: int, count: int, image: Tensor) -> Tensor:
    """Normal noise for so many masks of one image, (count, *image.shape), whatever there is after them."""
    draw = drawing(seed)
    return torch.stack([torch.randn(image.shape, generator=draw) for _ in range(count)] or [torch.empty(image.shape)])[
        :count
    ]
