"""By which weights tokens are read, from the gradients at tokens that are all alike."""

import torch
from torch import Tensor

Sizes = dict[str, Tensor]  # by attention layer, of each token after it, (prefix + patches,)
PARALLEL = 0.999  # cosine from which two tokens count as read by the same map
BY_CONTENT = "the head weighs tokens by what they hold, as attention or max pooling does"
BY_PLACE = "the head reads each patch by weights of its own, as one linear layer over all of them does"
BY_SIGN = "the head takes some tokens from others"


def shares_at(prefix: int, read: Sizes, gradients: dict[str, Tensor]) -> tuple[Sizes, str | None]:
    """The weight of each token, from gradients (N, D) at equal tokens; and why there is none.

    Tokens with parallel gradients are read by one map, and weighed within; maps side by side weigh the same, as a class
    token and the mean of the patches.
    """
    shares = {name: rows.double() for name, rows in read.items()}
    groups: list[tuple[Tensor, list[tuple[str, int, float]], bool]] = []
    for name, rows in read.items():
        for index in rows.nonzero().flatten().tolist():
            gradient, patch = gradients[name][index].double(), index >= prefix
            size = float(gradient.norm())
            if not size or not torch.isfinite(gradient).all():
                return shares, BY_CONTENT
            for direction, members, _ in groups:
                cosine = float(direction @ gradient) / size
                if abs(cosine) > PARALLEL:
                    if cosine < 0:
                        return shares, BY_SIGN
                    members.append((name, index, size))
                    break
            else:
                if patch and any(of_patches for *_, of_patches in groups):
                    return shares, BY_PLACE
                groups.append((gradient / size, [(name, index, size)], patch))
    for _, members, _ in groups:
        total = sum(size for *_, size in members) * len(groups)
        for name, index, size in members:
            shares[name][index] = size / total
    return shares, None
