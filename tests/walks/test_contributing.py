"""What CONTRIBUTING.md says of adapters is all there is, and as it is."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from captum_vit.access import Adapter, Projections, TokenLayout
from captum_vit.access.modules import LayerAccess
from captum_vit.capture import Found

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
MEMBERS = {name for kind in (Adapter, LayerAccess) for name in vars(kind) if not name.startswith("_")}

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="runs from a checkout only")


def section() -> str:
    return PAGE.read_text().split("### An adapter")[1].split("\n### ")[0]


def programs() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", section(), re.DOTALL | re.MULTILINE)


def rows() -> set[str]:
    """What stands in the first column of its tables."""
    first = re.findall(r"^\| ([^|]*) \|", section(), re.MULTILINE)
    return {name for cell in first for name in re.findall(r"`(\w+)", cell)}


def functions(program: str) -> dict[str, list[str]]:
    """The methods that a program shows, and their arguments."""
    found = [node for node in ast.parse(program).body if isinstance(node, ast.FunctionDef)]
    return {node.name: [argument.arg for argument in node.args.args] for node in found}


def unlike(program: str) -> list[str]:
    """The methods that an adapter does not have, or not with these arguments."""
    found = []
    for name, arguments in functions(program).items():
        member = inspect.getattr_static(Adapter, name, None)
        member = member.fget if isinstance(member, property) else member
        if not callable(member) or list(inspect.signature(member).parameters) != arguments:
            found.append(name)
    return found


def test_the_smallest_adapter_is_shown():
    assert (Path(__file__).parent / "adapter.py").read_text() in programs()


def test_all_that_an_adapter_may_say_is_there():
    assert MEMBERS - rows() == set()
    for kind in (Projections, TokenLayout):
        assert {field.name for field in dataclasses.fields(kind)} - rows() == set()


def test_what_is_shown_can_be_overridden_so():
    shown = [name for program in programs() for name in functions(program)]
    assert len(shown) >= 8
    assert [name for program in programs() for name in unlike(program)] == []
    assert unlike("def token_layout(self, size):\n    pass\n") == ["token_layout"]
    assert unlike("def token_layouts(self, image_size, arguments):\n    pass\n") == ["token_layouts"]


def test_what_was_found_can_be_corrected():
    (program,) = (program for program in programs() if "(Found)" in program)
    session: dict = {"Found": Found}
    exec(program, session)
    assert session["Named"].prefix_tokens == ("class",)
    assert session["Named"].matches(type("OwnViT", (), {})())


def unwritten(quotes: list[str]) -> list[str]:
    """The parts of quoted messages that no message of the code has; dots stand for what differs."""
    folders = ("captum_vit/access", "captum_vit/capture", "captum_vit/attr", "adapters")
    code = "".join(file.read_text() for folder in folders for file in sorted((PAGE.parent / folder).glob("*.py")))
    code = re.sub(r'"\s*f?r?"', "", code).lower()
    parts = [part.strip() for quote in quotes for part in quote.split("...") if part.strip()]
    return [part for part in parts if part.lower() not in code]


def test_the_refusals_of_an_adapter_are_those_of_the_code():
    table = section().split("#### What is checked")[1]
    quotes = re.findall(r"(?<!\\)\*([^*]+(?:\\\*[^*]+)*)(?<!\\)\*:", table)
    quotes = [quote.replace("\\*", "*") for quote in quotes]
    assert len(quotes) >= 8
    assert unwritten(quotes) == []


def test_the_refusals_on_the_page_are_those_of_the_code():
    page = (PAGE.parent / "tutorials" / "how" / "refused.md").read_text()
    cells = re.findall(r"^\| (\*[^|]*) \|", page, re.MULTILINE)
    assert len(cells) >= 30
    quotes = [quote for cell in cells for quote in re.findall(r"\*([^*]+)\*", cell)]
    assert unwritten(quotes) == []
    assert unwritten(["it is a ... horse"]) == ["horse"]
