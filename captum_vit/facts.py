"""What there is to say of a method beside its maps."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """What a reader of a method's maps has to know, wherever they are drawn.

    title: the name as papers write it.
    unit: what the numbers of a map count, per patch: "evidence" for a score, or "attention".
    class_specific: whether the map depends on the target.
    signed: whether a map holds evidence against the target too, below 0.
    accumulates: whether the slices of a flow build up to the map; otherwise each shows its layer alone.
    """

    title: str = ""
    unit: str = "evidence"
    class_specific: bool = True
    signed: bool = False
    accumulates: bool = True
