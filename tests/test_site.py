"""The documentation site: it builds without a warning, every link leads somewhere, and it shows every public name.

It needs the packages of the group `docs`; CAPTUM_VIT_SITE names a site that is built already.
"""

import ast
import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import captum_vit
from captum_vit.attr import METHODS

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")

from mkdocstrings import Inventory

ROOT = Path(__file__).parents[1]
PUBLIC = (
    "captum_vit",
    "captum_vit.access",
    "captum_vit.app",
    "captum_vit.capture",
    "captum_vit.evaluation",
    "captum_vit.exports",
    "captum_vit.features",
    "captum_vit.figures",
    "captum_vit.metrics",
    "captum_vit.targets",
    "captum_vit.training",
    "captum_vit.visualization",
)

pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="runs from a checkout only")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    if "CAPTUM_VIT_SITE" in os.environ:
        return Path(os.environ["CAPTUM_VIT_SITE"])
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "ignore"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


class Page(HTMLParser):
    """The links of a page, the anchors that it has, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            if name in ("href", "src") and value:
                self.links.append(value)

    def handle_data(self, data: str) -> None:
        self.text += data


def broken(site: Path) -> list[str]:
    """Links within the site that lead nowhere."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    found = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if target.is_dir() or not target.exists():
                found.append(f"{path.relative_to(site.resolve())}: {link}")
            elif anchor and anchor != "__codelineno" and target in pages and anchor not in pages[target].anchors:
                found.append(f"{path.relative_to(site.resolve())}: {link} (no such anchor)")
    return found


def test_every_link_leads_somewhere(site: Path):
    assert broken(site) == []


def test_a_broken_link_would_be_seen(tmp_path: Path):
    (tmp_path / "there.html").write_text('<p id="here"></p>')
    page = tmp_path / "page.html"
    page.write_text('<a href="there.html#here">a</a> <a href="gone.html">b</a> <a href="there.html#gone">c</a>')
    assert broken(tmp_path) == ["page.html: gone.html", "page.html: there.html#gone (no such anchor)"]


def test_nothing_comes_from_elsewhere(site: Path):
    """Scripts, styles and pictures are the site's own: it can be read without a network."""
    loaded = re.compile(
        r"<(?:script|img|iframe|link[^>]*stylesheet)[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*", re.IGNORECASE
    )
    found = {path.name: loaded.findall(path.read_text()) for path in site.rglob("*.html")}
    assert {name: links for name, links in found.items() if links} == {}


def public(module: str) -> list[str]:
    """What a module offers: its `__all__`, or its own functions and classes."""
    found = import_module(module)
    own = [name for name, thing in vars(found).items() if getattr(thing, "__module__", "") == module and name[0] != "_"]
    return getattr(found, "__all__", own)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_in_the_reference(site: Path, module: str):
    with (site / "objects.inv").open("rb") as file:
        shown = set(Inventory.parse_sphinx(file))
    missing = []
    for name in public(module):
        thing = getattr(import_module(module), name)
        home = f"{getattr(thing, '__module__', module)}.{getattr(thing, '__qualname__', name)}"
        if name != "__version__" and not {f"{module}.{name}", home} & shown:
            missing.append(name)
    assert missing == []


def options(method: type) -> list[inspect.Parameter]:
    """The options of a method: what follows `flow` in its `_maps`."""
    parameters = inspect.signature(method._maps).parameters.values()
    return [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "flow"]


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_page_has_its_options(site: Path, name: str):
    text = re.sub(r"\s+", "", Page(site / "methods" / f"{name}.html").text)
    for option in options(METHODS[name]):
        kind = option.annotation if isinstance(option.annotation, str) else inspect.formatannotation(option.annotation)
        written = re.sub(r"\s+", "", f"{option.name}:{kind}={option.default!r}").replace("typing.", "")
        assert written.replace("'", '"') in text.replace("'", '"'), written


def test_the_table_of_methods_says_what_the_classes_say():
    table = (ROOT / "tutorials" / "methods" / "index.md").read_text()
    cells = re.findall(r"^\| \[`(\w+)`\]\(\w+\.md\) \| `(\w+)` \| (yes|no) \| (yes|no) \|", table, re.MULTILINE)
    ours = {name: method for name, method in METHODS.items() if method.__module__.startswith("captum_vit.attr.")}
    said = {name: (kind, specific == "yes", signed == "yes") for kind, name, specific, signed in cells}
    assert said == {name: (m.__name__, m.class_specific, getattr(m, "signed", False)) for name, m in ours.items()}


def rooms() -> dict[str, int]:
    """The rooms of the library in the order in which the page about them has them."""
    text = (ROOT / "tutorials" / "built.md").read_text()
    rows = re.findall(r"^\| ((?:`\w+/?`(?:, )?)+) \|", text.split("## The rooms")[1].split("\n## ")[0], re.MULTILINE)
    return {name: i for i, row in enumerate(rows) for name in re.findall(r"`(\w+)/?`", row)}


def upward(file: Path, core: Path, rank: dict[str, int]) -> list[str]:
    """Rooms that a file imports though they stand below its own."""
    *folders, name = file.relative_to(core).with_suffix("").parts
    own, found = (*folders, name)[0], []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == len(folders) + 1:
            names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
            found += [f"{own} imports {room}" for room in names if rank.get(room, -1) > rank[own]]
    return found


def unlisted(page: str, folder: Path) -> set[str]:
    """Files of a room that its table on the page leaves out, and names that it has for none."""
    table = page.split(f"| files of `{folder.name}/` |")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", table))
    return named ^ {file.stem for file in folder.glob("*.py") if file.stem != "__init__"}


def test_the_files_of_two_rooms_are_listed():
    page = (ROOT / "tutorials" / "built.md").read_text()
    assert [unlisted(page, ROOT / "captum_vit" / room) for room in ("access", "capture")] == [set(), set()]


def test_a_file_that_is_not_listed_would_be_seen(tmp_path: Path):
    (tmp_path / "access").mkdir()
    (tmp_path / "access" / "new.py").touch()
    assert unlisted("| files of `access/` | ... |\n| --- | --- |\n| `old` | ... |\n\n", tmp_path / "access") == {
        "new",
        "old",
    }


def test_imports_run_one_way():
    core, rank = ROOT / "captum_vit", rooms()
    files = [file for file in core.rglob("*.py") if "adapters" not in file.parts and not file.name.startswith("_")]
    assert {file.relative_to(core).with_suffix("").parts[0] for file in files} <= rank.keys()
    assert [found for file in files for found in upward(file, core, rank)] == []


def test_an_import_against_the_order_would_be_seen(tmp_path: Path):
    (tmp_path / "attr").mkdir()
    (tmp_path / "attr" / "new.py").write_text("from ..capture import Run\nfrom ..figures import plot\n")
    assert upward(tmp_path / "attr" / "new.py", tmp_path, rooms()) == ["attr imports figures"]


def test_the_readme_links_to_pages_that_are_there():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text())
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_version_is_said_once():
    assert f"version: {captum_vit.__version__}\n" in (ROOT / "CITATION.cff").read_text()
