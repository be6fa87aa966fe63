"""How alike one patch is to all others, in its own image and in others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from ..colours import LOOK, Look, Scale
from ..errors import InputError, OptionError, brief
from ..figures.panels import Bar
from ..visualization import overlay
from .drawing import Row, figure, outlined
from .patches import PatchTokens, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def cosine(token: Tensor, others: Tensor) -> Tensor:
    """The cosine of the angle between a token (D,) and others (..., D), float64 (...) in -1..1.

    >>> from captum_vit.features import cosine
    >>> cosine(torch.tensor([1.0, 0.0]), torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
    tensor([ 1.,  0., -1.], dtype=torch.float64)

    Raises:
        InputError: a token of zeros, which has no direction, or one that is not finite.
    """
    token, others = token.double(), others.double()
    lengths = others.norm(dim=-1) * token.norm()
    if not bool((lengths > 0).all() and lengths.isfinite().all()):
        raise InputError("a token is 0 everywhere, or holds NaN or infinite values: it has no direction to compare")
    return ((others @ token) / lengths).clamp(-1, 1)


@dataclass(frozen=True, eq=False)
class Similarity:
    """How alike a chosen patch is to all patches of all images.

    block: after which the tokens stand.  image, patch: which patch is compared, by the number of its image and its
    (row, column).
    maps: of each image (*grid), float64, the cosine of each patch's token with the chosen one's; 1 at the patch itself.
    """

    photos: Sequence[PatchTokens]
    block: str
    image: int
    patch: tuple[int, ...]
    maps: tuple[Tensor, ...]

    @classmethod
    def of(
        cls,
        photos: Sequence[PatchTokens],
        block: str,
        patch: Sequence[int] | None,
        pixel: Sequence[float] | None,
        image: int,
    ) -> "Similarity":
        """See `Tokens.similarity`."""
        if isinstance(image, bool) or not isinstance(image, int) or not 0 <= image < len(photos):
            raise OptionError(f"image must be a number from 0 to {len(photos) - 1}, got {brief(image)}")
        chosen = chosen_patch(photos[image], block, patch, pixel)
        token = photos[image].features[block][chosen]
        return cls(photos, block, image, chosen, tuple(cosine(token, photo.features[block]) for photo in photos))

    def scale(self, look: Look = LOOK) -> Scale:
        """What the colours stand for in all images: by default from the least cosine to the greatest, which is 1."""
        return Scale.between(*look.scale) if isinstance(look.scale, tuple) else Scale.of(self.maps, False)

    def pictures(self, *, look: Look = LOOK) -> list[Image.Image]:
        """The cosines on each photograph in one scale of colours, RGB in its size; the chosen patch is outlined."""
        drawn = []
        for i, (photo, found) in enumerate(zip(self.photos, self.maps, strict=True)):
            picture = overlay(photo.image, found, photo.view, look, scale=self.scale(look))
            marked = [self.patch] if i == self.image else []
            drawn.append(outlined(picture, photo.view, found.shape, marked))
        return drawn

    def plot(self, ax: "Axes | None" = None, *, look: Look = LOOK) -> "Figure":
        """The pictures side by side, with their colour bar."""
        where = ", ".join(map(str, self.patch))
        title = "Similarity to the outlined patch", f" ({where}), {named(self.block)}"
        row = Row("", self.pictures(look=look), [photo.source for photo in self.photos])
        return figure([row], title, ax, Bar(("cosine", ""), self.scale(look)), look)


def chosen_patch(
    photo: PatchTokens, block: str, patch: Sequence[int] | None, pixel: Sequence[float] | None
) -> tuple[int, ...]:
    """The place of a patch that is named by itself or by a pixel of the photograph.

    Raises:
        OptionError: both or neither are given, or there is no such patch.
        InputError: the model sees nothing at that pixel, or the images are videos.
    """
    grid = tuple(photo.features[block].shape[:-1])
    if (patch is None) == (pixel is None):
        raise OptionError("name one patch: by patch=(row, column), or by pixel=(x, y) of the photograph")
    if pixel is None:
        assert patch is not None
        place = tuple(patch) if isinstance(patch, Sequence) and not isinstance(patch, str) else ()
        whole = all(isinstance(i, int) and not isinstance(i, bool) for i in place)
        if len(place) != len(grid) or not whole or not all(0 <= i < n for i, n in zip(place, grid, strict=True)):
            raise OptionError(f"patch must lie on the grid of {'x'.join(map(str, grid))} patches, got {brief(patch)}")
        return place
    if len(grid) != 2:
        raise InputError("a pixel of a video or a volume names no patch: pass patch=(frame, row, column)")
    try:
        x, y = map(float, pixel)
    except (TypeError, ValueError) as error:
        raise OptionError(f"pixel must be (x, y) of the photograph, got {brief(pixel)}") from error
    found = photo.view.cell_at(x, y, (grid[0], grid[1]))
    if found is None:
        width, height = photo.image.size
        left, top, right, bottom = (round(edge) for edge in photo.view.window)
        raise InputError(
            f"the model sees nothing at pixel ({x:g}, {y:g}): of the {width}x{height} photograph it sees x from {left} "
            f"to {right - 1} and y from {top} to {bottom - 1}"
        )
    return found
