"""Whether a model looks as if it had never been trained, by its weights alone."""

import torch
from torch import Tensor, nn

EDGE = 1.05  # of the largest singular value that random numbers have: up to it a matrix looks like them
SMALLEST = 32  # rows and columns; of fewer the largest singular value varies too much
FEWEST, MOST = 4, 12  # matrices that are looked at
VECTORS, STEPS = 8, 4


def looks_untrained(model: nn.Module) -> bool:
    """Whether the weights of linear layers are like independent random numbers.

    >>> import timm
    >>> from captum_vit.untrained import looks_untrained
    >>> looks_untrained(timm.create_model("vit_tiny_patch16_224")), looks_untrained(load_model("sample").model)
    (True, False)

    Of an (m, n) matrix of independent numbers with deviation s the largest singular value is s (sqrt(m) + sqrt(n)),
    whatever their distribution (Bai & Yin 1988). Training moves weights along few directions, and soon one of them
    sticks out: of the embedded sample's matrices all lie above 1.10 times that, half of them above 1.25; of large
    models most lie above it several times. Twelve of them are looked at, evenly spaced; a model looks untrained where
    half are within 1.05 times. Of fewer than four such matrices nothing is said: False.
    """
    found = [weight for module in model.modules() for weight in _weights(module)]
    if len(found) < FEWEST:
        return False
    places = torch.linspace(0, len(found) - 1, min(MOST, len(found))).round().int().tolist()
    ratios = [_over_the_edge(found[place]) for place in places]
    return sorted(ratios)[len(ratios) // 2] <= EDGE


def _weights(module: nn.Module) -> list[Tensor]:
    """The matrices of a linear layer or an attention that may be looked at."""
    names = ("weight",) if isinstance(module, nn.Linear) else ("in_proj_weight",)
    if not isinstance(module, (nn.Linear, nn.MultiheadAttention)):
        return []
    found = [getattr(module, name, None) for name in names]
    return [
        weight.detach()
        for weight in found
        if isinstance(weight, Tensor)
        and weight.is_floating_point()
        and not weight.is_meta
        and weight.dim() == 2
        and min(weight.shape) >= SMALLEST
        and bool(weight.any())  # of zeros, as an adapter begins with, nothing can be said
    ]


def _over_the_edge(weight: Tensor) -> float:
    """The largest singular value, as far as a few steps of subspace iteration find it, over that of random numbers."""
    centred = weight.float() - weight.float().mean()
    rows, columns = centred.shape
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(columns, VECTORS, generator=draw).to(centred)
    for _ in range(STEPS):
        vectors = torch.linalg.qr(centred.mT @ (centred @ vectors)).Q
    largest = float(torch.linalg.matrix_norm(centred @ vectors, 2))
    edge = float(centred.square().mean().sqrt()) * (rows**0.5 + columns**0.5)
    return largest / edge if edge > 0 else 0.0
