"""All layouts but those of other packages."""

from tests.research import changed, classic, decoys, dino, modern, orders, plain, refused, scores, stems, torchs
from tests.research.layout import Layout

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for module in (dino, classic, modern, plain, torchs, orders, scores, stems, changed, decoys, refused)
    for layout in module.LAYOUTS
}
EXPLAINED = {name: layout for name, layout in LAYOUTS.items() if layout.refused is None}
REFUSED = {name: layout for name, layout in LAYOUTS.items() if layout.refused is not None}
