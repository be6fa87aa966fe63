"""What a library says of its models, also of those whose attention nobody reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .modules import Switch
from .tokens import Grid


@dataclass(frozen=True)
class Described:
    """What is known of a model by the library that made it.

    >>> Described(image_size=(224, 224), class_names={0: "tabby"}).headless
    False

    image_size: (height, width) of the images that it was built for; None if it does not say.
    headless: whether it gives features, and no classes.
    class_names: index -> name.
    batch_dims: dimensions of a batch, where the first convolution does not show them, as of videos frame by frame.
    switches: what has to be switched while it runs, see `Adapter.capturing`.
    """

    image_size: Grid | None = None
    headless: bool = False
    class_names: Mapping[int, str] = field(default_factory=dict)
    switches: tuple[Switch, ...] = ()
    batch_dims: int | None = None
