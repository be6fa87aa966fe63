"""Each preset against its protocol written image by image, and against the protocol with one thing done wrong."""

import numpy as np
import pytest
import torch

from captum_vit import sample
from captum_vit.metrics import Localization, Perturbation, blur, dataset_scores, enlarge
from tests.metrics import protocols
from tests.metrics.world import SCENES, assert_equal, world
from tests.properties.broken import caught

FEW = 3  # scenes for the broken protocols
PERTURBATIONS = {
    "agcam": ["orders swapped", "towards black", "trapezoid", "first level left out", "one pixel more"],
    "chefer": ["orders swapped", "towards grey", "ten levels", "softmax"],
    "rise": ["sigma 2", "insertion into grey", "steps of 448", "least relevant first", "plain mean"],
}


def flaws(found: dict[str, list[str]]) -> list:
    sound = [pytest.param(preset, None, id=preset) for preset in found]
    return sound + [pytest.param(p, flaw, marks=caught, id=f"{p}: {flaw}") for p in found for flaw in found[p]]


def rows(dicts: list[dict[str, float]], name: str) -> list[float]:
    return [found[name] for found in dicts]


def test_enlarging_is_bilinear():
    ours = enlarge(world().maps, (64, 64))
    theirs = np.stack([protocols.bilinear(grid.double().numpy(), 64, 64) for grid in world().maps])
    assert (ours - torch.from_numpy(theirs)).abs().max() <= 1e-6 * theirs.max()
    uneven = torch.rand(1, 3, 5)
    theirs = protocols.bilinear(uneven[0].double().numpy(), 20, 31)
    assert (enlarge(uneven, (20, 31))[0] - torch.from_numpy(theirs)).abs().max() <= 1e-6


@pytest.mark.parametrize(("preset", "flaw"), flaws(PERTURBATIONS))
def test_perturbation(preset, flaw):
    w, count = world(), SCENES if flaw is None else FEW
    targets = w.predicted if preset == "rise" else w.targets
    case = w.case(
        images=w.images[:count], maps=w.maps[:count], targets=targets[:count], masks=None, logits=None, method=None
    )
    ours = Perturbation(preset, batch_size=37)(case)
    theirs = []
    for n in range(count):
        heat, label = w.heat(n).numpy(), int(targets[n])
        if preset == "chefer":
            raw = w.raw[n].double().numpy()
            found = protocols.chefer_perturbation(w.model, raw, sample.MEAN, sample.STD, heat, label, flaw)
        else:
            program = {"agcam": protocols.agcam_perturbation, "rise": protocols.rise}[preset]
            found = program(w.model, w.images[n].numpy(), heat, label, flaw)
        theirs.append(found)
    figures = {name: values for name, values in ours.items() if values.dim() == 1}
    assert list(figures) == list(theirs[0])
    for name, values in figures.items():
        assert_equal(values, rows(theirs, name))


def test_the_blur_is_that_of_the_program():
    x = torch.randn(2, 3, 20, 30, dtype=torch.float64)
    point = np.zeros((11, 11))
    point[5, 5] = 1
    kernel = protocols.gaussian_filter(point, 5)
    theirs = np.stack([[protocols.convolve(c, kernel, mode="constant") for c in image.numpy()] for image in x])
    assert (blur(x) - torch.from_numpy(theirs)).abs().max() < 1e-12


LOCALIZATION = [
    "exclusive boxes",
    "no eps",
    "no boxes",
    "keeps wrong predictions",
    "threshold at the mean",
    "threshold 0.4",
]


def agcam_case():
    """The scenes, one map being constant: nothing is above its threshold, and eps decides."""
    w = world()
    kept = int((w.predicted == w.targets).nonzero()[0])
    maps = w.maps.clone()
    maps[kept] = 1
    return w.case(maps=maps, method=None, model=None), kept


@pytest.mark.parametrize("boxes", [False, True], ids=["mask", "boxes"])
@pytest.mark.parametrize("flaw", [None, *(pytest.param(flaw, marks=caught) for flaw in LOCALIZATION)])
def test_agcam_localization(flaw, boxes):
    w, (case, constant) = world(), agcam_case()
    given = [torch.rand(n % 3 + 1, 2, generator=torch.Generator().manual_seed(n)) * 30 for n in range(SCENES)]
    given = [torch.cat([corner, corner + 20.7], 1) for corner in given]
    case = w.case(maps=case.maps, boxes=given, masks=None) if boxes else case
    theirs = []
    for n in range(SCENES):
        heat = np.ones((64, 64)) if n == constant else w.heat(n).numpy()
        truth = given[n].tolist() if boxes else protocols.components(w.masks[n].numpy())
        theirs.append(protocols.agcam_localization(heat, truth, int(w.predicted[n]), int(w.targets[n]), flaw))
    ours = Localization("agcam")(case)
    assert ours.keys() == {f"agcam_{name}" for name in theirs[0]}
    for name in theirs[0]:
        assert_equal(ours[f"agcam_{name}"], rows(theirs, name))
    assert 5 <= ours["agcam_iou"].isfinite().sum() < SCENES


@pytest.mark.parametrize("by", ["image", pytest.param("class", marks=caught)])
def test_agcam_figure_is_the_mean_of_the_kept_images(by):
    w = world()
    case = w.case()
    total, number, classes = 0.0, 0, {}
    for n in range(SCENES):
        if w.predicted[n] == w.targets[n]:
            truth = protocols.components(w.masks[n].numpy())
            found = protocols.agcam_localization(w.heat(n).numpy(), truth, 0, 0)["iou"]
            total, number = total + found, number + 1
            classes.setdefault(int(w.targets[n]), []).append(found)
    theirs = total / number if by == "image" else np.mean([np.mean(found) for found in classes.values()])
    assert abs(Localization("agcam")(case)["agcam_iou"].nanmean().item() - theirs) <= 1e-6


@pytest.mark.parametrize(
    "flaw",
    [
        None,
        *(
            pytest.param(f, marks=caught)
            for f in ("threshold 0.5", "mean over images", "precision of the object alone")
        ),
    ],
)
def test_chefer_segmentation(flaw):
    w = world()
    ours = Localization("chefer")(w.case(method=None, model=None, logits=None))
    summed = torch.stack([ours[f"chefer_{name}"].sum() for name in ("tp", "fp", "fn", "tn")])
    found = dataset_scores(summed) | {"average_precision": ours["chefer_average_precision"].mean()}
    theirs = protocols.chefer_segmentation([w.heat(n).numpy() for n in range(SCENES)], w.masks.numpy(), flaw)
    assert found.keys() == theirs.keys()
    for name in theirs:
        assert abs(found[name].item() - theirs[name]) <= 1e-6
