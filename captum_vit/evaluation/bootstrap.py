"""What would another draw of the same images have given?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.float64]
Index = NDArray[np.int64]
AT_ONCE = 1 << 24  # numbers that are held at once, 128 MiB


def resampled_sums(
    values: Array, columns: Index, groups: Index, shape: tuple[int, int], *, draws: int, seed: int
) -> Array:
    """Sums over drawn groups: each draw takes as many groups as there are, with replacement.

    The same seed draws the same groups, whatever is summed: what is compared was drawn alike.

    Args:
        values: (n,), what is summed.
        columns: (n,), which sum it belongs to.
        groups: (n,), which group it belongs to; what is in one group is drawn together.
        shape: how many columns and groups there are.
        draws: how often.
    Returns:
        (draws + 1, columns): the sums over all groups as they are, then those of each draw.
    """
    width, count = shape
    parts: Any = sparse.csr_matrix((values, (columns, groups)), shape)  # adds what falls together
    random = np.random.default_rng(seed)
    found = np.empty((draws + 1, width))
    found[0] = parts @ np.ones(count)
    step = max(1, AT_ONCE // (count + width))
    for start in range(1, draws + 1, step):
        stop = min(start + step, draws + 1)
        times = np.stack([np.bincount(random.integers(0, count, count), minlength=count) for _ in range(start, stop)])
        found[start:stop] = (parts @ times.T.astype(float)).T
    return found
