"""Runs the tutorials and writes what they put out back into them.

    python -m tests.tutorials.execute [tutorials/1_first_map.ipynb ...]

By default all. Times, host names and progress bars are left out, so that the same results give the same file.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "tutorials"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
SECONDS = 300  # for a cell, on a machine that has other things to do


def notebooks() -> list[Path]:
    """All tutorials, in the order in which they are read."""
    return sorted(TUTORIALS.glob("*.ipynb"))


def execute(path: Path, folder: Path) -> NotebookNode:
    """The notebook with fresh outputs, run in `folder` by this interpreter, on one core and without a network.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    searched = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(searched),  # this checkout, whatever is installed
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm without ipywidgets, which no reader has to have
    }
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.create_kernel_manager()
    client.km.kernel_spec.argv[0] = sys.executable  # not the interpreter of a kernel that is installed by this name
    client.execute(env=environment)
    return cleaned(notebook)


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what differs from machine to machine, each picture once."""
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/jpeg" in data:
                data.pop("image/png", None)  # PIL gives the same picture as both, the latter much larger
    return notebook


def main(paths: list[str]) -> None:
    from tempfile import TemporaryDirectory
    from time import perf_counter

    for path in map(Path, paths) if paths else notebooks():
        start = perf_counter()
        with TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        nbformat.write(notebook, path)
        print(f"{path.name}: {perf_counter() - start:.0f} s, {path.stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
