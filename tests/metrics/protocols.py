"""The published protocols, written image by image in loops from their programs, and each with flaws to catch.

Nothing here knows captum_vit. Maps come enlarged to the image, (H, W); `flaw` names one thing that is done wrong.
"""

import numpy as np
import torch
from scipy.ndimage import convolve, gaussian_filter
from sklearn.metrics import average_precision_score

NEIGHBOURS = {8: [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)], 4: [(0, 1), (1, 0), (0, -1), (-1, 0)]}


def bilinear(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """`align_corners=False`: pixel centres to cell centres, the edges held."""
    rows, cols = grid.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
            x = min(max((j + 0.5) * cols / width - 0.5, 0), cols - 1)
            t, u = int(y), int(x)
            b, r = min(t + 1, rows - 1), min(u + 1, cols - 1)
            above = grid[t, u] * (1 - (x - u)) + grid[t, r] * (x - u)
            below = grid[b, u] * (1 - (x - u)) + grid[b, r] * (x - u)
            out[i, j] = above * (1 - (y - t)) + below * (y - t)
    return out


def scaled(heat: np.ndarray) -> np.ndarray:
    heat = heat.astype(np.float64)
    low, high = heat.min(), heat.max()
    return (heat - low) / (high - low) if high > low else np.zeros_like(heat)


def components(binary: np.ndarray, neighbours: int = 8) -> list[tuple[int, int, int, int]]:
    """(x, y, x + w, y + h) of each connected component, by flooding."""
    left, boxes = set(zip(*np.nonzero(binary), strict=True)), []
    while left:
        todo = [left.pop()]
        ys, xs = [], []
        while todo:
            y, x = todo.pop()
            ys.append(int(y))
            xs.append(int(x))
            for i, j in NEIGHBOURS[neighbours]:
                if (y + i, x + j) in left:
                    left.remove((y + i, x + j))
                    todo.append((y + i, x + j))
        boxes.append((min(xs), min(ys), max(xs) + 1, max(ys) + 1))
    return sorted(boxes)


def filled(boxes: list, height: int, width: int, extra: int = 1) -> np.ndarray:
    out = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes:
        out[int(top) : int(bottom) + extra, int(left) : int(right) + extra] = True
    return out


def agcam_localization(heat, boxes, predicted, label, flaw=None) -> dict[str, float]:
    """Leem & Seo: the figures of one image, NaN where it is skipped."""
    names = ("pixel_accuracy", "iou", "dice", "precision", "recall")
    if predicted != label and flaw != "keeps wrong predictions":
        return dict.fromkeys(names, np.nan)
    threshold = {"threshold at the mean": scaled(heat).mean(), "threshold 0.4": 0.4}.get(flaw, 0.5)
    region = scaled(heat) > threshold
    extra = 0 if flaw == "exclusive boxes" else 1
    output = region if flaw == "no boxes" else filled(components(region), *heat.shape, extra)
    target = filled(boxes, *heat.shape, extra)
    tp = fp = fn = tn = 0
    for o, t in zip(output.ravel(), target.ravel(), strict=True):
        tp, fp, fn, tn = tp + (o and t), fp + (o and not t), fn + (t and not o), tn + (not o and not t)
    eps = 0 if flaw == "no eps" else 1e-5
    shares = (
        (tp + tn, tp + fp + fn + tn),
        (tp, tp + fp + fn),
        (2 * tp, 2 * tp + fp + fn),
        (tp, tp + fp),
        (tp, tp + fn),
    )
    return {
        name: (part + eps) / (whole + eps) if whole + eps else 0.0
        for name, (part, whole) in zip(names, shares, strict=True)
    }


def chefer_segmentation(heats, masks, flaw=None) -> dict[str, float]:
    """Chefer et al.: pixel accuracy, mIoU and mAP of a whole data set."""
    correct = labelled = 0
    inter, union, precisions, per_image = np.zeros(2), np.zeros(2), [], []
    for heat, mask in zip(heats, masks, strict=True):
        r = scaled(heat)
        region = r > (0.5 if flaw == "threshold 0.5" else r.mean())
        own_inter, own_union = np.zeros(2), np.zeros(2)
        for c in (0, 1):
            own_inter[c] = np.sum((region == c) & (mask == c))
            own_union[c] = np.sum((region == c) | (mask == c))
        inter, union = inter + own_inter, union + own_union
        per_image.append((own_inter / own_union).mean())
        correct, labelled = correct + np.sum(region == mask), labelled + mask.size
        both = np.stack([1 - r, r]).ravel()
        onehot = np.stack([~mask, mask]).ravel()
        one = flaw == "precision of the object alone"
        precisions.append(
            average_precision_score(mask.ravel(), r.ravel()) if one else average_precision_score(onehot, both)
        )
    miou = np.mean(per_image) if flaw == "mean over images" else np.mean(inter / union)
    return {"pixel_accuracy": correct / labelled, "miou": miou, "average_precision": np.mean(precisions)}


def softmax_of(model, image: np.ndarray, label: int) -> float:
    with torch.no_grad():
        logits = model(torch.tensor(image, dtype=torch.float32)[None])[0].double().numpy()
    shares = np.exp(logits - logits.max())
    return float(shares[label] / shares.sum())


def order_of(heat: np.ndarray, most_first: bool) -> np.ndarray:
    flat = heat.ravel()
    return np.argsort(-flat if most_first else flat, kind="stable")


def agcam_perturbation(model, image, heat, label, flaw=None) -> dict[str, float]:
    """Leem & Seo: MoRF, LeRF and the area between them of one normalised image (C, H, W)."""
    found = {}
    levels = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    for name, most_first in (("morf", True), ("lerf", False)):
        sequence = order_of(heat, most_first != (flaw == "orders swapped"))
        curve = []
        for level in levels[1:] if flaw == "first level left out" else levels:
            k = int(heat.size * level) + (flaw == "one pixel more" and level < 1)
            gone = np.zeros(heat.size, bool)
            for index in sequence[:k]:
                gone[index] = True
            keep = 1 - gone.reshape(heat.shape)
            colour = -1.0 if flaw == "towards black" else 0.0
            curve.append(softmax_of(model, image * keep + colour * (1 - keep), label))
        found[name] = np.trapezoid(curve, levels) if flaw == "trapezoid" else sum(curve) / len(curve)
    found["abpc"] = found["lerf"] - found["morf"]
    return found


def chefer_perturbation(model, raw, mean, std, heat, label, flaw=None) -> dict[str, float]:
    """Chefer et al.: top-1 accuracy of an image (C, H, W) in [0, 1], pixels set to 0 before it is normalised."""
    found = {}
    mean, std = (np.array(v)[:, None, None] for v in (mean, std))
    for name, most_first in (("positive", True), ("negative", False)):
        sequence = order_of(heat, most_first != (flaw == "orders swapped"))
        hits = []
        for level in [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9] + [1.0] * (flaw == "ten levels"):
            picture = raw.reshape(len(raw), -1).copy()
            picture[:, sequence[: int(heat.size * level)]] = 0.5 if flaw == "towards grey" else 0.0
            x = torch.tensor((picture.reshape(raw.shape) - mean) / std, dtype=torch.float32)[None]
            with torch.no_grad():
                logits = model(x)[0]
            hits.append(
                softmax_of(model, x[0].numpy(), label) if flaw == "softmax" else float(logits.argmax() == label)
            )
        found[name] = sum(hits) / len(hits)
    return found


def rise(model, image, heat, label, flaw=None) -> dict[str, float]:
    """Petsiuk et al.: deletion and insertion, exchanging 224 pixels more at each step."""
    point = np.zeros((11, 11))
    point[5, 5] = 1
    kernel = gaussian_filter(point, 2 if flaw == "sigma 2" else 5)
    blurred = np.stack([convolve(c.astype(np.float64), kernel, mode="constant") for c in image])
    grey = np.zeros_like(image)
    pairs = {"deletion": (image, grey), "insertion": (grey if flaw == "insertion into grey" else blurred, image)}
    found = {}
    step = 448 if flaw == "steps of 448" else 224
    for name, (start, finish) in pairs.items():
        now = start.reshape(len(image), -1).astype(np.float64).copy()
        sequence = order_of(heat, flaw != "least relevant first")
        done, scores, share = 0, [], []
        while True:
            scores.append(softmax_of(model, now.reshape(image.shape), label))
            share.append(done / heat.size)
            if done >= heat.size:
                break
            coords = sequence[done : done + step]
            now[:, coords] = finish.reshape(len(image), -1)[:, coords]
            done = min(done + step, heat.size)
        if flaw == "plain mean":
            found[name] = np.mean(scores)
        else:
            found[name] = sum(
                (b - a) * (s + t) / 2 for a, b, s, t in zip(share, share[1:], scores, scores[1:], strict=False)
            )
    return found


def pointing(heat, mask, tolerance=15, flaw=None) -> float:
    """Share of the map's maxima with a pixel of the object within the tolerance."""
    peaks = np.argwhere(heat == heat.max())
    if flaw == "minimum":
        peaks = np.argwhere(heat == heat.min())
    if flaw == "first maximum":
        peaks = peaks[:1]
    pixels = np.argwhere(mask)
    hits = []
    for peak in peaks:
        apart = np.abs(pixels - peak)
        distance = apart.max(1) if flaw == "square" else np.sqrt((apart**2).sum(1))
        hits.append(distance.min() < tolerance if flaw == "open disc" else distance.min() <= tolerance)
    return float(np.mean(hits))
