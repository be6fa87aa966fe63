"""The site's table of models, made from the table of families: `python -m tests.families.support` writes it."""

import re
from pathlib import Path

from captum_vit.attr import METHODS
from captum_vit.inspection import describe, inspect
from tests.families.family import Family
from tests.families.table import FAMILIES

PAGE = Path(__file__).parents[2] / "tutorials" / "models.md"
BEGIN, END = "<!-- support: begin -->\n", "<!-- support: end -->\n"
HEAD = "| library | family | models | attention layers | readout | methods |\n| --- | --- | --- | --- | --- | --- |\n"


def row(family: Family) -> str:
    """One line of the table, from what is seen of the family's model."""
    seen = inspect(family.build(), family.size)
    layers = dict.fromkeys(re.sub(r"(?<=[._])\d+", "*", layer.name) for layer in seen.layers)
    readout = describe(seen.layout.readout, seen.prefix_tokens) + (", measured" if seen.measured else "")
    refused = [METHODS[name].__name__ for name, why in seen.methods.items() if why is not None]
    methods = f"all but {', '.join(refused)}" if refused else "all"
    models, code = (", ".join(f"`{name}`" for name in names) for names in (family.models.split(", "), layers))
    return f"| {family.library} | {family.name} | {models} | {code} | {readout} | {methods} |\n"


def table() -> str:
    """The whole table in Markdown."""
    return HEAD + "".join(map(row, FAMILIES))


def on_page(text: str) -> str:
    """What stands between the marks."""
    return text.split(BEGIN, 1)[1].split(END, 1)[0]


if __name__ == "__main__":
    old = PAGE.read_text()
    PAGE.write_text(old.replace(BEGIN + on_page(old) + END, BEGIN + table() + END))
