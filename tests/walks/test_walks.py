"""A method, a target and an adapter from outside stand where ours do, as a package brings them by its entry points.

The package `outside` is made of the files beside this one, which CONTRIBUTING.md shows; another package's method cannot
be loaded, and must not stop anything.
"""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captum_vit import sample
from tests.waiting import PATIENCE

HERE = Path(__file__).parent
ENTRY_POINTS = """
[captum_vit.methods]
value_gradient = outside.method:ValueGradient

[captum_vit.adapters]
outside.vit = outside.adapter:OwnAdapter

[captum_vit.loaders]
outside = outside.model:load
"""
BROKEN = """
[captum_vit.methods]
nowhere = missing.module:Method
unlike = json:dumps

[captum_vit.adapters]
torch.missing = missing.module:Adapter
"""
METHOD, TARGET = "value_gradient", "outside.target:Entropy"


def package(folder: Path, name: str, entry_points: str) -> None:
    """What pip leaves of a package beside its code."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "default::UserWarning"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the path of Python with both packages."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "outside").mkdir()
    (folder / "outside" / "__init__.py").touch()
    for part in ("method", "target", "adapter", "model"):
        (folder / "outside" / f"{part}.py").write_text((HERE / f"{part}.py").read_text())
    package(folder, "outside", ENTRY_POINTS)
    package(folder, "broken-package", BROKEN)
    return folder


@pytest.fixture(scope="module")
def found(installed: Path) -> dict[str, Any]:
    """What one process finds where."""
    return json.loads(python(installed, str(HERE / "session.py"), str(installed)).stdout.splitlines()[-1])


def test_a_method_is_listed_behind_ours(found: dict[str, Any]):
    assert found["methods"][-1] == METHOD
    assert found["methods"][0] == "agcam"


def test_what_cannot_be_loaded_is_warned_of_by_its_package(found: dict[str, Any]):
    methods, adapters = ("broken-package: its {!r} in captum_vit." + group for group in ("methods", "adapters"))
    assert [text.partition(" cannot be loaded: ")[0] for text in found["warnings"]] == [
        methods.format("nowhere"),
        methods.format("unlike"),
        adapters.format("torch.missing"),
    ], "each once"
    assert "No module named 'missing'" in found["warnings"][0]
    assert "'unlike' is no method" in found["warnings"][1]
    assert found["agcam"] == [1, 1, 4, 4], "nor is anything of ours stopped"


def test_an_adapter_is_found(found: dict[str, Any]):
    assert found["adapter"] == "outside.adapter"


def test_in_explain(found: dict[str, Any]):
    assert found["explain"] == [
        [METHOD, "disc", "score"],
        ["agcam", "disc", "score"],
        [METHOD, "entropy", "nats"],
        ["agcam", "entropy", "nats"],
    ]
    assert found["options"] == {METHOD: {"power": 2.0}, "agcam": {}}
    assert min(found["maps"]) > 0


def test_in_the_report(found: dict[str, Any]):
    assert found["report"] == ["value gradient", "entropy", "nats", "AGCAM"]


def test_in_the_pipeline(found: dict[str, Any]):
    for method in (METHOD, "agcam"):
        assert sorted(found["pipeline"][method]) == [["disc", [4, 4]], ["entropy", [4, 4]]]


def test_on_a_leaderboard(found: dict[str, Any]):
    assert found["leaderboard"] == {METHOD: 8, "agcam": 8}, "two objects in each of four scenes"


def test_on_the_command_line(installed: Path):
    Image.fromarray(sample.draw_scene(15, size=100).image).save(installed / "photo.png")
    asked = ("--model", "outside/vit", "--method", METHOD, "--method", "agcam", "--target", TARGET)
    done = python(installed, "-m", "captum_vit", "explain", "photo.png", *asked)
    folder = installed / "captum-vit-out" / "photo"
    assert {path.name for path in folder.glob("*.png")} >= {f"{METHOD}-entropy.png", "agcam-entropy.png"}
    assert "value gradient" in (folder / "report.html").read_text()
    assert "entropy: nats" in done.stdout


def test_in_a_file_of_this_folder(tmp_path: Path):
    """Where nothing is installed, and the command is the script that pip made."""
    (tmp_path / "own.py").write_text((HERE / "target.py").read_text())
    script = "import sys; sys.path.remove(''); from captum_vit.cli.app import main; main()"
    arguments = ("explain", "--method", "agcam", "--target", "own:Entropy", "--no-report")
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "captum-vit-out" / "scene" / "agcam-entropy.png").exists()


def lines_of_code(source: str) -> int:
    """Lines that are neither empty, nor comments, nor docstrings."""
    kept = {i for i, line in enumerate(source.splitlines(), 1) if line.strip() and not line.strip().startswith("#")}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            kept -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(kept)


def differing(page: str, parts: dict[str, str]) -> list[str]:
    """The files beside this one that a page shows, each known by its first line, and shows otherwise than they are."""
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    shown = {
        name: block for name, text in parts.items() for block in blocks if block.split("\n")[0] == text.split("\n")[0]
    }
    return [name for name, block in shown.items() if block != parts[name]]


def test_contributing_shows_these_files():
    parts = {name: (HERE / f"{name}.py").read_text() for name in ("method", "target", "adapter")}
    page = HERE.parents[1] / "CONTRIBUTING.md"
    assert not page.exists() or differing(page.read_text(), parts) == []
    assert differing('```python\n"""A target of somebody\'s own package."""\n\npass\n```\n', parts) == ["target"]


@pytest.mark.parametrize(("part", "most"), [("method", 20), ("target", 10), ("adapter", 15)])
def test_a_walk_is_short(part: str, most: int):
    assert 0 < lines_of_code((HERE / f"{part}.py").read_text()) <= most


def test_lines_are_counted():
    assert (
        lines_of_code(
            '"""One\n\ntwo."""\n\nimport a  # why\n\n\ndef f():\n    """Three."""\n    # four\n    return a\n'
        )
        == 3
    )
