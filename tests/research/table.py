"""What the library says of each layout, and how far its maps are from explicit attention.

`python -m tests.research.table` prints a table in Markdown; names of layouts may follow, for these alone.
"""

import importlib
import sys
import warnings

from captum_vit.attr import METHODS
from captum_vit.errors import CaptumViTError
from captum_vit.inspection import describe, inspect
from tests.helpers import explain, relative_error
from tests.research.checks import TARGET, case
from tests.research.explicit import MAPS
from tests.research.layout import Layout
from tests.research.layouts import LAYOUTS

HEAD = f"| code | tokens | readout | attention layers | {' | '.join(MAPS)} |\n|{' --- |' * (4 + len(MAPS))}\n"


def all_layouts() -> dict[str, Layout]:
    """Those of packages too, where the packages are installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            packages = importlib.import_module("tests.research.packages").LAYOUTS
    except ImportError:
        packages = []
    return LAYOUTS | {layout.name: layout for layout in packages}


def row(layout: Layout) -> str:
    """One line: what is seen, and the largest deviation of each method's map in units of its largest value."""
    if layout.refused is not None:
        return f"| {layout.name} | {refusal(layout)} |{' |' * (2 + len(MAPS))}\n"
    known = case(layout)
    try:
        view = inspect(known.model, layout.size)
        grid = " x ".join(map(str, view.layout.grid))
        seen = [
            f"{view.layout.prefix} + {grid}",
            describe(view.layout.readout, view.prefix_tokens),
            f"{len(view.layers)}, `{view.layers[0].name}` ...",
        ]
    except Exception as error:
        seen = [first_line(error), "", ""]
    errors = [deviation(layout, name) for name in MAPS]
    return f"| {layout.name} | {' | '.join(seen + errors)} |\n"


def deviation(layout: Layout, method: str) -> str:
    """How far a method's map is from the truth, or that there is none."""
    known = case(layout)
    try:
        found = explain(METHODS[method](known.model), known.x, TARGET)
    except Exception as error:
        return first_line(error).split(":")[0]
    expected = known.map(method)
    if found.shape != expected.shape:
        return f"{tuple(found.shape)} for {tuple(expected.shape)}"
    return f"{relative_error(found, expected):.0e}"


def refusal(layout: Layout) -> str:
    """Why there is no map."""
    try:
        explain(METHODS["agcam"](layout.build().double()), layout.images(), TARGET)
    except Exception as error:
        return f"refused: {first_line(error)}"
    return "explained, which is wrong"


def first_line(error: Exception) -> str:
    """The start of a message, for a cell; an error that nobody raised on purpose is marked."""
    mark = "" if isinstance(error, CaptumViTError) else "! "
    return f"{mark}{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}".replace("|", "/")


if __name__ == "__main__":
    layouts = all_layouts()
    print(HEAD, end="")
    for name in sys.argv[1:] or layouts:
        print(row(layouts[name]), end="", flush=True)
