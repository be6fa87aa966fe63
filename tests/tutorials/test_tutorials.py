"""The tutorials run, and what is committed of them is whole, small and of no particular machine."""

import os
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

from nbformat import NotebookNode  # noqa: E402

from tests.tutorials.execute import TUTORIALS, cleaned, execute, notebooks  # noqa: E402

ORDER = ["1_first_map", "2_attention_flow", "3_which_method", "4_hugging_face", "5_extending", "6_leaderboard"]
LARGEST = 1_500_000  # bytes
WIDEST = 98  # characters of a line of code, which a page then shows whole
PATHS = re.compile(r"(?<![\w.:/])/(?:home|root|work|tmp|usr|opt|Users|mnt)/\w|(?<!\w)[A-Z]:\\+\w")
LITTER = re.compile(r"Warning|%\|[█▏ #]|it/s\]|\bTraceback\b")

# of jupyter's own event loops and sockets
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

each = pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def texts(notebook: NotebookNode) -> list[str]:
    """All that a person reads, without the pictures."""
    shown = [output.get("text", "") for output in outputs(notebook)]
    for output in outputs(notebook):
        shown += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return [re.sub(r"base64,[\w+/=]+", "", text) for text in [cell.source for cell in notebook.cells] + shown]


def problems(notebook: NotebookNode) -> list[str]:
    """What must not be in a committed notebook."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = [f"not run: {cell.source[:40]}" for i, cell in enumerate(code, 1) if cell.execution_count != i]
    found += [f"error: {output.ename}" for output in outputs(notebook) if output.output_type == "error"]
    found += [f"stderr: {o.text[:80]}" for o in outputs(notebook) if o.get("name") == "stderr"]
    found += [f"path: {match[0]}" for text in texts(notebook) for match in PATHS.finditer(text)]
    shown = [output.get("text", "") for output in outputs(notebook)]
    found += [f"litter: {match[0]}" for text in shown for match in LITTER.finditer(text)]
    found += [f"wide: {line[:40]}" for cell in code for line in cell.source.splitlines() if len(line) > WIDEST]
    if not any(kind.startswith("image/") for output in outputs(notebook) for kind in output.get("data", {})):
        found.append("no picture")
    if notebook != cleaned(nbformat.from_dict(notebook)):
        found.append("metadata")
    return found


def test_they_are_read_in_the_order_of_their_names():
    assert [path.stem for path in notebooks()] == ORDER


@each
def test_what_is_committed_can_be_shown(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert problems(notebook) == []
    assert path.stat().st_size < LARGEST
    assert sum("THE ONE LINE TO CHANGE" in cell.source for cell in notebook.cells) == 1


@each
def test_links_between_them_lead_somewhere(path):
    prose = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", prose)
    assert all((TUTORIALS / name).exists() for name in linked), linked


@each
def test_it_runs(path, tmp_path):
    """Offline, and in a folder of its own, in which it leaves nothing."""
    committed, fresh = read(path), execute(path, tmp_path)
    assert problems(fresh) == []
    kinds = [[output.output_type for output in outputs(n)] for n in (committed, fresh)]
    assert kinds[0] == kinds[1], "what is committed is not what comes out: python -m tests.tutorials.execute"
    assert not any(tmp_path.iterdir())


def broken(change) -> NotebookNode:
    notebook = read(TUTORIALS / "1_first_map.ipynb")
    change(next(c for c in notebook.cells if c.cell_type == "code" and c.outputs))
    return notebook


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda cell: cell.update(execution_count=None), "not run"),
        (lambda cell: cell.outputs.append(nbformat.v4.new_output("error", ename="ValueError")), "error: ValueError"),
        (lambda cell: cell.outputs.append(nbformat.v4.new_output("stream", name="stderr", text="x")), "stderr: x"),
        (lambda cell: cell.update(source="open('/tmp/x')"), "path: /tmp/x"),
        (lambda cell: cell.outputs.append(nbformat.v4.new_output("stream", text="UserWarning: x")), "litter: Warning"),
        (lambda cell: cell.update(source="x" * 99), "wide"),
        (lambda cell: cell.metadata.update(execution={"iopub.execute_input": "2020"}), "metadata"),
    ],
)
def test_the_check_would_notice(change, found):
    assert any(problem.startswith(found) for problem in problems(broken(change)))


def test_a_cell_that_fails_is_an_error(tmp_path):
    from nbclient.exceptions import CellExecutionError

    path = tmp_path / "failing.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), path)
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(path, tmp_path)


def test_the_kernel_sees_this_checkout(tmp_path):
    path = tmp_path / "where.ipynb"
    source = "import os, captum_vit; print(captum_vit.__file__, os.getcwd())"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
    package, folder = outputs(execute(path, tmp_path))[0].text.split()
    assert Path(package).is_relative_to(TUTORIALS.parent)
    assert os.path.samefile(folder, tmp_path)
