"""How the house stands: imports run one way, files and classes are small enough to read, and names say who may come in.

Each rule is a function over sources, so that next to it stands a small house that breaks it.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import captum_vit
from tests.house.imports import Sources, arrows, by_room, circles, sources

CORE = Path(captum_vit.__file__).parent
ADAPTERS = CORE.parent / "adapters"
FILE_LINES, CLASS_LINES = 300, 200
OURS = sources(CORE, without=["adapters"])
ALL = OURS | ({f"adapters/{path}": text for path, text in sources(ADAPTERS).items()} if ADAPTERS.exists() else {})
HIDDEN = {"_version.py"}  # setuptools reads it, and whatever prints a version


def long(tree: Sources) -> dict[str, int]:
    """Files and classes that are too long, with their lines."""
    found = {path: len(text.splitlines()) for path, text in tree.items()}
    return {path: lines for path, lines in found.items() if lines > FILE_LINES} | {
        f"{path} {name}": lines for path, text in tree.items() for name, lines in _classes(text) if lines > CLASS_LINES
    }


def _classes(source: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield node.name, (node.end_lineno or first) - first + 1


def hidden(files: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Modules with an underscore before their name, and who imports them all the same."""
    found: dict[str, list[str]] = {}
    for path, imported in files.items():
        for other in imported - HIDDEN:
            if any(part[0] == "_" and not part.startswith("__") for part in other.split("/")):
                found.setdefault(other, []).append(path)
    return found


def test_no_circle_between_files():
    assert circles(arrows(OURS, "captum_vit")) == []


def test_no_circle_between_rooms():
    assert circles(by_room(arrows(OURS, "captum_vit"))) == []


def test_files_and_classes_can_be_read_at_once():
    assert long(ALL) == {}


def test_what_others_import_has_no_underscore():
    assert hidden(arrows(OURS, "captum_vit")) == {}


def test_the_sources_and_arrows_are_those_of_the_house():
    """What is read here is all there is, and the arrows are found."""
    files = arrows(OURS, "captum_vit")
    assert "attr/agcam.py" in files
    assert {"attr/base.py", "ops.py", "access/__init__.py", "capture/__init__.py"} <= files["attr/agcam.py"]
    assert {"files.py", "cli/explain.py"} <= files["cli/app.py"], "of functions and type checkers too"
    assert "captum_vit/adapters" not in " ".join(files)
    assert by_room(files)["cli"] >= {"explanation", "evaluation"}


TWO_FILES: dict[str, Sources] = {
    "relative": {"a.py": "from .b import f", "b.py": "from .a import g"},
    "absolute": {"a.py": "import house.b", "b.py": "from house.a import g"},
    "modules by name": {"a.py": "from . import b", "b.py": "from . import a"},
    "in a function": {"a.py": "from .b import f", "b.py": "def f():\n    from .a import g"},
    "for the type checker": {"a.py": "from .b import f", "b.py": "if TYPE_CHECKING:\n    from .a import G"},
    "by import_module": {"a.py": "from .b import f", "b.py": "import_module('house.a')"},
    "through a third": {"a.py": "from .b import f", "b.py": "from .c import g", "c.py": "from .a import h"},
    "deeper": {"rooms/__init__.py": "", "rooms/a.py": "from ..b import f", "b.py": "from .rooms.a import g"},
    "of a folder and its file": {"rooms/__init__.py": "from .a import f", "rooms/a.py": "from . import g"},
}


@pytest.mark.parametrize("tree", TWO_FILES.values(), ids=TWO_FILES)
def test_a_circle_of_files_would_be_seen(tree: Sources):
    assert circles(arrows({"__init__.py": "", **tree}, "house")) == [sorted(p for p in tree if tree[p])]


def test_a_straight_house_has_no_circle():
    tree = {"a.py": "from .rooms.b import f", "rooms/b.py": "from ..c import g\nimport torch", "c.py": "import a"}
    assert circles(arrows({"__init__.py": "", "rooms/__init__.py": "", **tree}, "house")) == []


def test_a_circle_of_rooms_would_be_seen(tmp_path: Path):
    """Though no file imports itself round any corner."""
    texts = {
        "__init__.py": "from .kitchen import cook",
        "kitchen/__init__.py": "",
        "kitchen/cook.py": "from ..cellar.wine import pour",
        "kitchen/knife.py": "",
        "cellar/__init__.py": "",
        "cellar/wine.py": "",
        "cellar/cheese.py": "def cut():\n    from ..kitchen import knife",
    }
    for path, text in texts.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    files = arrows(sources(tmp_path), "house")
    assert circles(files) == []
    assert circles(by_room(files)) == [["cellar", "kitchen"]]


def test_what_is_nobodys_may_import_all_rooms():
    tree = {"__init__.py": "from .a import f", "a.py": "from . import __version__", "__main__.py": "from .a import f"}
    assert circles(by_room(arrows(tree, "house"))) == []


def test_a_long_file_and_a_long_class_would_be_seen():
    body = "    x = 1\n"
    tree = {
        "file.py": "x = 1\n" * 301,
        "fits.py": "x = 1\n" * 300,
        "class.py": "class A:\n" + body * 200,
        "short.py": "class A:\n" + body * 199,
        "decorated.py": "@one\nclass A:\n" + body * 199,
        "inside.py": "def f():\n    class B:\n" + "        x = 1\n" * 200,
    }
    assert long(tree) == {"file.py": 301, "class.py A": 201, "decorated.py A": 201, "inside.py B": 201}


def test_an_underscore_would_be_seen():
    tree = {
        "__init__.py": "from ._version import v",
        "_version.py": "",
        "_alone.py": "",
        "_plan.py": "",
        "a.py": "from ._plan import draw",
        "b.py": "def f():\n    from . import _plan\n    from ._rooms.c import g",
        "_rooms/__init__.py": "",
        "_rooms/c.py": "from .. import __version__",
    }
    found = hidden(arrows(tree, "house"))
    assert {path: sorted(others) for path, others in found.items()} == {
        "_plan.py": ["a.py", "b.py"],
        "_rooms/c.py": ["b.py"],
    }
