"""Principal components of tokens that come image by image, of which none has to be kept."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError

CHANNELS = 3
Features = Callable[[], Iterable[Tensor]]  # goes once more through the tokens of all images, (*grid, D) of each


@dataclass(frozen=True)
class Basis:
    """Orthogonal directions in which vectors differ most.

    mean: (D,).  components: (count, D), of length 1, the most important first.  explained: (count,), the share of the
    variance that each has.
    """

    mean: Tensor
    components: Tensor
    explained: Tensor

    def project(self, vectors: Tensor) -> Tensor:
        """(..., D) -> (..., count), float64."""
        return (vectors.double() - self.mean) @ self.components.mT


class Moments:
    """The mean of vectors that come in parts, and how they scatter about it, in float64; the vectors are not kept.

    >>> from captum_vit.features.components import Moments
    >>> moments = Moments()
    >>> for part in (torch.tensor([[3.0, 0.0], [-3.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, -1.0]])):
    ...     moments.add(part)
    >>> moments.basis(1).components
    tensor([[1., 0.]], dtype=torch.float64)

    Source: Chan, Golub & LeVeque 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances",
        equations 2.1, of vectors.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = self._scatter = torch.empty(0)

    def add(self, vectors: Tensor) -> None:
        """Take in more of them, (M, D).

        Raises:
            InputError: NaN or infinite values among them.
        """
        check_finite(vectors)
        if not len(vectors):
            return
        vectors, count = vectors.double(), len(vectors)
        mean = vectors.mean(0)
        centred = vectors - mean
        scatter = centred.mT @ centred
        if self.count:
            step = mean - self._mean
            scatter += self._scatter + step.outer(step) * (self.count * count / (self.count + count))
            mean = self._mean + step * (count / (self.count + count))
        self.count, self._mean, self._scatter = self.count + count, mean, scatter

    def basis(self, count: int = CHANNELS) -> Basis:
        """Their first principal components; see `principal_components`.

        Raises:
            InputError: fewer vectors or channels than components.
        """
        shape = self.count, *self._mean.shape
        if self.count <= count or shape[1] < count:
            raise InputError(
                f"{count} principal components need more than {count} tokens of at least {count} channels, got {shape}"
            )
        found, directions = torch.linalg.eigh(self._scatter)  # in ascending order
        components = directions.flip(1).mT[:count]
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        spread = found.flip(0).clamp(min=0)
        shares = spread[:count] / spread.sum().where(spread.sum() > 0, 1)
        return Basis(self._mean, components * largest.sign(), shares)


def check_finite(tokens: Tensor) -> None:
    """Raise InputError for NaN or infinite values."""
    if not tokens.isfinite().all():
        raise InputError("the tokens hold NaN or infinite values: the model's weights or its input do")


def principal_components(vectors: Tensor, count: int = CHANNELS) -> Basis:
    """The first principal components of vectors (M, D), in float64.

    >>> from captum_vit.features import principal_components
    >>> points = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> basis = principal_components(points, count=1)
    >>> basis.components, basis.explained
    (tensor([[1., 0.]], dtype=torch.float64), tensor([0.9000], dtype=torch.float64))

    The sign of a component is nothing that the data say: the entry with the largest absolute value is made positive,
    as scikit-learn has it, so that the same tokens get the same colours everywhere.

    Raises:
        InputError: fewer vectors or channels than components, or NaN or infinite values among them.
    """
    moments = Moments()
    moments.add(vectors)
    return moments.basis(count)


@dataclass(frozen=True)
class Foreground:
    """The patches on one side of the first component of all patches.

    Which side that is no component says: it is the one that has fewer of the patches at the edges of the images.

    first: the component.  above: whether it is the side above 0.

    Source: Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision" (arXiv:2304.07193), figure
        1: the first component at a threshold, then a PCA of what is left, over all images.
    """

    first: Basis
    above: bool

    def mask(self, features: Tensor) -> Tensor:
        """Which patches are of it, (*grid, D) -> bool (*grid)."""
        return (self.first.project(features)[..., 0] > 0) == self.above

    @classmethod
    def of(cls, features: Features, first: Basis) -> tuple["Foreground", Moments]:
        """The foreground of images, and the moments of its tokens.

        Raises:
            InputError: fewer than four patches are left, or no grid has an inner part.
        """
        sides = {above: (cls(first, above), Moments()) for above in (True, False)}
        above_at, count_at = [0, 0], [0, 0]  # in the inner parts, and at the edges
        for each in features():
            above, edge = sides[True][0].mask(each), edge_of(each[..., 0])
            for place in (0, 1):
                above_at[place] += int(above[edge == bool(place)].sum())
                count_at[place] += int((edge == bool(place)).sum())
            for side, moments in sides.values():
                moments.add(each[above == side.above])
        if not count_at[0]:
            raise InputError("a foreground needs patches that lie at no edge: the grid of these images has none")
        inner, edges = (above / count for above, count in zip(above_at, count_at, strict=True))
        found, kept = sides[edges / max(inner, 1e-12) <= (1 - edges) / max(1 - inner, 1e-12)]
        if kept.count <= CHANNELS:
            raise InputError(
                "the first component leaves hardly a patch for the foreground: look at all patches instead"
            )
        return found, kept


@dataclass(frozen=True)
class Shared:
    """What all images share in their PCA.

    basis: the components.  span: (2, 3), the least and the greatest value along each.  foreground: which patches are
    looked at; None for all.
    """

    basis: Basis
    span: Tensor
    foreground: Foreground | None = None

    @classmethod
    def of(cls, features: Features, *, foreground: bool = False) -> "Shared":
        """In two passes over the tokens of all images, or three: without the background.

        Raises:
            InputError: hardly a token is left, or some hold NaN or infinite values.
        """
        moments, side = Moments(), None
        for each in features():
            moments.add(each.flatten(0, -2))
        if foreground:
            side, moments = Foreground.of(features, moments.basis(1))
        basis = moments.basis()
        found = cls(basis, torch.empty(0), side)
        shown = (basis.project(each[found.mask(each)]) for each in features())
        ends = torch.stack([torch.stack([part.amin(0), part.amax(0)]) for part in shown if len(part)])
        return cls(basis, torch.stack([ends[:, 0].amin(0), ends[:, 1].amax(0)]), side)

    def mask(self, features: Tensor) -> Tensor:
        """Which patches are looked at, (*grid, D) -> bool (*grid)."""
        if self.foreground is None:
            return torch.ones(features.shape[:-1], dtype=torch.bool)
        return self.foreground.mask(features)


def edge_of(grid: Tensor) -> Tensor:
    """The cells of a grid that lie at its rim, bool of its shape; of videos and volumes in each frame or slice."""
    found = torch.ones_like(grid, dtype=torch.bool)
    found[..., 1:-1, 1:-1] = False
    return found
