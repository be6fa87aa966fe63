"""Running the command line and looking at what it wrote."""

from pathlib import Path

import numpy as np
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from captum_vit.cli import app as cli
from captum_vit.cli.folders import RECORD


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def explain(*arguments: str | Path, code: int = 0) -> Result:
    """The pictures alone; the report and the flow have tests of their own."""
    return run("explain", "--no-report", *arguments, code=code)


def refused(message: str, *arguments: str | Path, code: int = 2) -> None:
    """One line of error, and nothing left behind."""
    before = set(Path().iterdir())
    result = explain(*arguments, code=code)
    told = [line for line in result.stderr.splitlines() if not line.startswith(("Loading ", "Note: "))]
    assert message in result.stderr
    assert len(told) == 1
    assert told[0].startswith("Error: ")
    assert not result.stdout
    assert set(Path().iterdir()) == before


def photo(path: str | Path, size: tuple[int, int] = (90, 60)) -> Path:
    rng = np.random.default_rng(len(str(path)))
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path, "PNG")
    return Path(path)


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def written(folder: str | Path) -> list[str]:
    """All files, but for the hidden records of what was written."""
    files = (p for p in Path(folder).rglob("*") if p.is_file() and p.name != RECORD)
    return sorted(p.relative_to(folder).as_posix() for p in files)
