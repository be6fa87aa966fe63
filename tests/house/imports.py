"""Who imports whom in a package, read from its sources: function-level and type-checking imports too."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Sources = Mapping[str, str]  # path below the package, "attr/base.py" -> source
Arrows = Mapping[str, set[str]]  # who imports -> what


def sources(package: Path, *, without: Iterable[str] = ()) -> dict[str, str]:
    """The sources of a package by their paths in it."""
    files = {file.relative_to(package): file for file in sorted(package.rglob("*.py"))}
    return {path.as_posix(): file.read_text() for path, file in files.items() if path.parts[0] not in without}


def arrows(tree: Sources, package: str) -> dict[str, set[str]]:
    """File -> the files of the same package that it imports.

    A name taken from a package is looked for as a file in it, then in its `__init__`. Importing a file runs the
    `__init__` of its folders too; that is no arrow, as it is how Python finds a file and not what the author wrote.
    """
    return {path: set(_imported(path, text, tree, package)) - {path} for path, text in tree.items()}


def _imported(path: str, source: str, tree: Sources, package: str) -> Iterator[str]:
    folder = [package, *path.split("/")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _file(alias.name.split("."), tree, package)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                yield from _file([*module, alias.name], tree, package) or _file(module, tree, package)
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield from _named(argument.value, folder, tree, package)


def _named(text: str, folder: list[str], tree: Sources, package: str) -> list[str]:
    """What `import_module` is given as text; with dots before it, it is taken as if from the file's own folder."""
    dots = len(text) - len(text.lstrip("."))
    base = folder[: len(folder) - dots + 1] if dots else []
    return _file([*base, *text.lstrip(".").split(".")], tree, package)


def _file(module: list[str], tree: Sources, package: str) -> list[str]:
    """The file of a module of this package, if it is one."""
    if module[0] != package:
        return []
    path = "/".join(module[1:])
    return [found for found in (f"{path}.py", f"{path}/__init__.py".lstrip("/")) if found in tree][:1]


def _name(function: ast.expr) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


def by_room(files: Arrows, nobodys: Iterable[str] = ("__init__.py", "__main__.py")) -> dict[str, set[str]]:
    """The same between rooms: a top-level file or folder each; what is nobody's is left out."""
    found: dict[str, set[str]] = {}
    for path, imported in files.items():
        if path not in nobodys:
            rooms = {room(other) for other in imported if other not in nobodys}
            found.setdefault(room(path), set()).update(rooms - {room(path)})
    return found


def room(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


def circles(graph: Arrows) -> list[list[str]]:
    """Groups that import each other, as far round as they do; none in a house whose imports run one way."""
    reached = {start: _reached(start, graph) for start in graph}
    found = {tuple(sorted(b for b in reached[a] if a in reached.get(b, ()))) for a in graph if a in reached[a]}
    return sorted(map(list, found))


def _reached(start: str, graph: Arrows) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found
