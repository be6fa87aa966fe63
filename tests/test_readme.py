"""The README's first program runs, and gives maps of the shapes that its comments say."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
PROGRAM = re.compile(r"```python\n(.*?)```", re.DOTALL)
SHAPE = re.compile(r"^(\w+) = .*  # \((\d[\d, ]*)\)", re.MULTILINE)


@pytest.mark.skipif(not README.exists(), reason="runs from a checkout only")
def test_the_first_program_runs():
    program = PROGRAM.findall(README.read_text())[0]
    smaller = program.replace("pretrained=True", "pretrained=False").replace(
        "vit_base_patch16_224", "vit_tiny_patch16_224"
    )
    assert smaller.count("pretrained=False") == 3
    namespace: dict = {}
    exec(smaller, namespace)
    shapes = SHAPE.findall(program)
    assert len(shapes) == 4
    for name, shape in shapes:
        assert tuple(namespace[name].shape) == tuple(map(int, shape.split(",")))
    for name in ("late", "smooth", "unsupervised", "described"):
        assert namespace[name].abs().max() > 0
