"""Perturbation methods against the published programs, and against their equations one changed image at a time."""

from collections.abc import Callable
from math import ceil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from captum_vit import RISE, TIS, ScoreCAM, TokenOcclusion, ViTCX
from captum_vit.attr import rise, tis, vit_cx
from captum_vit.attr.clusters import centres
from tests.helpers import assert_close, relative_error
from tests.reference.published import arrays, vit
from tests.reference.test_formulas import DIFFERENT, GRID, SIZE, TARGET, World, plain, world  # noqa: F401

NEAR = 1e-6
Equation = Callable[..., Tensor]


# the published programs


@pytest.fixture
def published() -> tuple[nn.Module, Tensor, Tensor, dict[str, Tensor]]:
    found = arrays("expected")
    return vit(torch.float64), found["images"].double(), found["targets"], arrays("perturbation")


def of_patches(pixels: Tensor) -> Tensor:
    """The mean over patches of 8 pixels, (N, 1, 8, 8)."""
    return F.avg_pool2d(pixels[:, None], 8)


def test_rise(published, monkeypatch):
    """Given the cells and shifts of its masks."""
    model, x, targets, found = published
    cells, shifts = found["rise_cells"], found["rise_shifts"]
    assert_close(rise.soft_masks(cells[:2], shifts[:2], (64, 64)), found["rise_masks"].double(), NEAR)
    monkeypatch.setattr(rise, "drawn", lambda *_: (cells, shifts))
    spatial, grid = (RISE(model).attribute(x, targets, masks=24, cells=5, output_shape=s) for s in ("spatial", "grid"))
    assert_close(spatial[:, 0], found["rise"], NEAR)
    assert_close(grid, of_patches(found["rise"]), NEAR)


def test_tis(published, monkeypatch):
    """Given the centres of its clusters; where it divides 0 by 0, the mean over all masks."""
    model, x, targets, found = published
    raw = iter(found["tis_raw"])
    monkeypatch.setattr(tis, "centres", lambda *_: next(raw))
    ours = TIS(model).attribute(x, targets, masks=10)[:, 0]
    missing = found["tis_map"].isnan()
    assert missing.sum() == 1
    assert_close(ours[~missing], found["tis_map"][~missing], NEAR)
    assert_close(ours[missing], found["tis_scores"].mean(1)[missing.flatten(1).any(1)], NEAR)


def test_vitcx(published, monkeypatch):
    """Given its noise; the clusters are ours, and have to be the same."""
    model, x, targets, found = published
    theirs, noise = found["vitcx_cluster_labels"], found["vitcx_noise_times_8"].double() / 8
    ours, clusters = [], vit_cx.clusters

    def noted(rows: Tensor, distance: float) -> Tensor:
        ours.append(clusters(rows, distance))
        return ours[-1]

    def drawn(seed: int, count: int, image: Tensor) -> Tensor:
        i = len(ours) - 1
        order = [int(theirs[i][ours[i] == k][0]) for k in range(count)]
        assert all(torch.equal(ours[i] == k, theirs[i] == order[k]) for k in range(count))
        return noise[i][order]

    monkeypatch.setattr(vit_cx, "clusters", noted)
    monkeypatch.setattr(vit_cx, "drawn", drawn)
    spatial = ViTCX(model).attribute(x[:2], targets[:2], output_shape="spatial")
    assert_close(spatial[:, 0], found["vitcx"], NEAR)
    ours.clear()
    assert_close(ViTCX(model).attribute(x[:2], targets[:2]), of_patches(found["vitcx"]), NEAR)


def test_scorecam(published):
    model, x, targets, found = published
    assert_close(ScoreCAM(model).attribute(x, targets)[:, 0], found["scorecam_raw"].relu(), NEAR)


# the equations, image by image


def each(w: World, equation: Callable[[Tensor, int, int], Tensor]) -> Tensor:
    """The map of every image, (N, 1, *GRID): of its number and class."""
    return torch.stack([equation(w.images[i], i, int(TARGET[i])).reshape(1, *GRID) for i in range(2)])


def probability(w: World, image: Tensor, target: int) -> float:
    with torch.no_grad():
        return float(w.model(image[None]).softmax(1)[0, target])


def logit(w: World, image: Tensor, target: int) -> float:
    with torch.no_grad():
        return float(w.model(image[None])[0, target])


def patch_means(pixels: Tensor) -> Tensor:
    return pixels.unflatten(0, (GRID[0], -1)).unflatten(2, (GRID[1], -1)).mean((1, 3))


MASKS, CELLS, KEEP = 5, 4, 0.6


def rise_mask(kept: Tensor, shift: Tensor, *, clamped: bool = False) -> Tensor:
    """Pixel by pixel along both axes."""
    for axis in (0, 1):
        length = (CELLS + 1) * ceil(SIZE[axis] / CELLS)
        centre = (np.arange(length) + 0.5) * CELLS / length - 0.5
        if not clamped:
            centre = np.where(centre < 0, -centre, centre)
            centre = np.where(centre > CELLS - 1, 2 * (CELLS - 1) - centre, centre)
        rows = np.array([np.interp(centre, np.arange(CELLS), line) for line in np.moveaxis(np.asarray(kept), axis, 1)])
        kept = np.moveaxis(rows[:, int(shift[axis]) : int(shift[axis]) + SIZE[axis]], 1, axis)
    return torch.as_tensor(kept)


def by_rise(w: World, score: Callable = probability, *, clamped: bool = False, keep: float = KEEP) -> Tensor:
    kept, shifts = rise.drawn(MASKS, CELLS, KEEP, SIZE, seed=3)

    def of_image(x: Tensor, _: int, target: int) -> Tensor:
        masks = [rise_mask(k.double().numpy(), s, clamped=clamped) for k, s in zip(kept, shifts, strict=True)]
        return patch_means(sum(score(w, x * m, target) * m for m in masks) / MASKS / keep)

    return each(w, of_image)


def on_subset(w: World, image: Tensor, patches: Tensor) -> Tensor:
    """Scores (C,) of timm's model with the prefix tokens and some patches alone."""
    model = w.model
    with torch.no_grad():
        stream = model._pos_embed(model.patch_embed(image[None]))
        stream = torch.cat([stream[:, : w.prefix], stream[:, w.prefix :][:, patches]], 1)
        return model.forward_head(model.norm(model.blocks(model.norm_pre(stream))))[0]


def by_tis(w: World, *, grey: bool = False, lowest: bool = False, summed: bool = False) -> Tensor:
    def of_image(x: Tensor, _: int, target: int) -> Tensor:
        channels, stream = [], w.model.norm_pre(w.model._pos_embed(w.model.patch_embed(x[None])))
        with torch.no_grad():
            for block in w.model.blocks:
                stream = block(stream)
                channels += list(stream[0, w.prefix :].T)
        total, counts, scores = torch.zeros(15).double(), torch.zeros(15).double(), []
        for centre in centres(torch.stack(channels), 6, 3):
            ranked = centre.sort(descending=not lowest).indices[:7]  # int(0.5 * 15)
            kept = torch.zeros(15, dtype=torch.bool)
            kept[ranked] = True
            shown = x * kept.view(GRID).repeat_interleave(8, 0).repeat_interleave(8, 1)
            found = w.model(shown[None])[0] if grey else on_subset(w, x, kept)
            scores.append(found.softmax(0)[target].detach())
            total, counts = total + scores[-1] * kept, counts + kept
        mean = torch.stack(scores).mean()
        return total if summed else torch.where(counts > 0, total / counts.clamp(min=1), mean)

    return each(w, of_image)


def channels_of(w: World, image: int) -> Tensor:
    """What the last attention is given, (D, *GRID)."""
    return w.blocks[-1].n[image, w.prefix :].detach().T.unflatten(1, GRID)


def by_vitcx(
    w: World, *, linkage: str = "complete", everywhere: bool = False, bare: bool = False, fold: bool = False
) -> Tensor:
    def of_image(x: Tensor, i: int, target: int) -> Tensor:
        large = resize(channels_of(w, i), list(SIZE), InterpolationMode.BILINEAR, antialias=True)
        small = [(u - u.min()) / (u.max() - u.min()) for u in large]
        rows = torch.stack(small).flatten(1).numpy()
        labels = AgglomerativeClustering(
            n_clusters=None, distance_threshold=0.3, metric="cosine", linkage=linkage
        ).fit_predict(rows)
        order = list(dict.fromkeys(labels.tolist()))
        sums = [sum(u for u, label in zip(small, labels, strict=True) if label == k) for k in order]
        masks = [(m - m.min()) / (m - m.min()).max() for m in sums]
        noise = torch.stack(list(vit_cx.drawn(3, len(masks), x))) * 0.2
        total, whole = torch.zeros(SIZE).double(), probability(w, x, target)
        for m, z in zip(masks, noise, strict=True):
            hiding = z if everywhere else z * (1 - m)
            impact = probability(w, x * m + hiding, target)
            if not bare:
                impact += whole - probability(w, x + hiding, target)
            total += impact * m / (1 if fold else sum(masks))
        return patch_means(total / len(masks))

    return each(w, of_image)


def by_scorecam(w: World, *, corners: bool = True, even: bool = False, score: Callable = logit) -> Tensor:
    def of_image(x: Tensor, i: int, target: int) -> Tensor:
        a, scores = channels_of(w, i), []
        for k in range(len(a)):
            u = F.interpolate(a[k][None, None], SIZE, mode="bilinear", align_corners=corners)[0, 0]
            scores.append(score(w, x * (u - u.min()) / (u.max() - u.min() + 1e-8), target))
        found = torch.tensor(scores, dtype=torch.float64)
        weights = found if even else found.softmax(0)
        return sum(weight * channel for weight, channel in zip(weights, a, strict=True)).clamp(min=0)

    return each(w, of_image)


def by_occlusion(w: World, side: int = 2, *, grey: bool = False, summed: bool = False) -> Tensor:
    def of_image(x: Tensor, _: int, target: int) -> Tensor:
        total, counts, whole = torch.zeros(GRID).double(), torch.zeros(GRID), logit(w, x, target)
        for row in range(GRID[0] - side + 1):
            for column in range(GRID[1] - side + 1):
                hidden = torch.zeros(GRID, dtype=torch.bool)
                hidden[row : row + side, column : column + side] = True
                covered = x.clone()
                covered[:, 8 * row : 8 * (row + side), 8 * column : 8 * (column + side)] = 0
                left = logit(w, covered, target) if grey else float(on_subset(w, x, ~hidden.flatten())[target])
                total += (whole - left) * hidden.double()
                counts += hidden
        return total if summed else total / counts

    return each(w, of_image)


CASES: dict[str, tuple[type, dict, Equation]] = {
    "rise": (RISE, {"masks": MASKS, "cells": CELLS, "keep": KEEP, "seed": 3}, by_rise),
    "rise by logit": (
        RISE,
        {"masks": MASKS, "cells": CELLS, "keep": KEEP, "seed": 3, "score": "logit"},
        lambda w: by_rise(w, logit),
    ),
    "tis": (TIS, {"masks": 6, "seed": 3}, by_tis),
    "vitcx": (ViTCX, {"distance": 0.3, "noise": 0.2, "seed": 3}, by_vitcx),
    "scorecam": (ScoreCAM, {}, by_scorecam),
    "scorecam by probability": (ScoreCAM, {"score": "probability"}, lambda w: by_scorecam(w, score=probability)),
    "single patches": (TokenOcclusion, {}, lambda w: by_occlusion(w, 1)),
    "windows": (TokenOcclusion, {"window": 2}, by_occlusion),
    "grey": (TokenOcclusion, {"window": 2, "occluder": "grey"}, lambda w: by_occlusion(w, grey=True)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_equation(world, case):  # noqa: F811
    method, options, equation = CASES[case]
    found = method(world.model).attribute(world.images, TARGET, batch=4, **options)
    assert_close(found, equation(world), 1e-9)


TWINS: dict[str, tuple[str, Equation]] = {
    "cells clamped at the border": ("rise", lambda w: by_rise(w, clamped=True)),
    "not divided by the probability": ("rise", lambda w: by_rise(w, keep=1)),
    "another number": ("rise", lambda w: by_rise(w, logit)),
    "grey in the place of patches": ("tis", lambda w: by_tis(w, grey=True)),
    "the lowest patches": ("tis", lambda w: by_tis(w, lowest=True)),
    "a sum over masks": ("tis", lambda w: by_tis(w, summed=True)),
    "average linkage": ("vitcx", lambda w: by_vitcx(w, linkage="average").nan_to_num()),
    "noise over all": ("vitcx", lambda w: by_vitcx(w, everywhere=True)),
    "what noise does left in": ("vitcx", lambda w: by_vitcx(w, bare=True)),
    "not divided by the masks": ("vitcx", lambda w: by_vitcx(w, fold=True)),
    "half a pixel off": ("scorecam", lambda w: by_scorecam(w, corners=False)),
    "without the softmax": ("scorecam", lambda w: by_scorecam(w, even=True)),
    "grey for left out": ("windows", lambda w: by_occlusion(w, grey=True)),
    "left out for grey": ("grey", by_occlusion),
    "a sum over windows": ("windows", lambda w: by_occlusion(w, summed=True)),
    "the gain": ("windows", lambda w: -by_occlusion(w)),
}


@pytest.mark.parametrize("twin", TWINS)
def test_near_misses_differ(plain, twin):  # noqa: F811
    case, wrong = TWINS[twin]
    method, options, _ = CASES[case]
    assert relative_error(method(plain.model).attribute(plain.images, TARGET, **options), wrong(plain)) > DIFFERENT


def test_the_explicit_subset_of_all_tokens_is_the_model(world):  # noqa: F811
    every = torch.ones(15, dtype=torch.bool)
    assert_close(on_subset(world, world.images[0], every), world.scores[0].detach(), 1e-10)
    assert relative_error(on_subset(world, world.images[0], every ^ (torch.arange(15) < 5)), world.scores[0]) > 1e-3
