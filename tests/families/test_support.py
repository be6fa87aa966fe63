"""The site's table of supported models is the one that the table of families gives."""

import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from captum_vit import inspect
from captum_vit.access.registry import ADAPTERS
from tests.families import support
from tests.families.table import FAMILIES

checkout = pytest.mark.skipif(not support.PAGE.exists(), reason="runs from a checkout only")


@checkout
def test_the_page_is_not_stale():
    found = support.on_page(support.PAGE.read_text())
    assert found == support.table(), "run `python -m tests.families.support`"


@checkout
def test_a_renamed_layer_would_be_seen():
    family = FAMILIES[0]
    assert support.row(family) in support.PAGE.read_text()
    assert support.row(family).replace("blocks.*", "layers.*") not in support.PAGE.read_text()


def test_families_have_names_of_their_own():
    names = [(family.library, family.name) for family in FAMILIES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.library}: {family.name}")
def test_inspection_shows_layers_tokens_and_methods(family):
    model = family.build()
    seen = inspect(model, family.size)
    text = str(seen)
    assert len(seen.layers) == family.layers
    assert seen.image_size == family.size
    for layer in seen.layers:
        assert layer.name in text
    assert len(seen.prefix_tokens) == seen.layout.prefix
    assert f"{' x '.join(map(str, seen.layout.grid))} patches" in text
    refused = [name for name, why in seen.methods.items() if why is not None]
    assert refused == family.refused(model)
    width = max(map(len, seen.methods))
    assert all(f"{name:{width}}  no: " in text for name in refused)


@checkout
def test_no_adapter_is_long():
    lines = {
        point.name: len(Path(sys.modules[point.load().__module__].__file__).read_text().splitlines())
        for point in entry_points(group=ADAPTERS)
        if point.value.startswith("captum_vit.")
    }
    assert len(lines) > 10
    # one of two towers has both encoders, and how each text is read
    assert {n: count for n, count in lines.items() if count > (120 if n.endswith("two_towers") else 80)} == {}
