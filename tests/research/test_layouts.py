"""ViTs of nobody's library: the maps are those of explicit attention, and what is no attention is refused."""

import pytest

from tests.research.checks import check_inspection, check_map, check_refusal
from tests.research.explicit import MAPS
from tests.research.layout import Layout
from tests.research.layouts import EXPLAINED, REFUSED

every = pytest.mark.parametrize("layout", EXPLAINED.values(), ids=EXPLAINED)


@every
@pytest.mark.parametrize("method", MAPS)
def test_the_map_is_that_of_explicit_attention(layout: Layout, method: str):
    check_map(layout, method)


@every
def test_layers_tokens_and_readout_are_found(layout: Layout):
    check_inspection(layout)


@pytest.mark.parametrize("layout", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("method", ["agcam", "rollout"])
def test_what_is_no_attention_to_patches_is_refused(layout: Layout, method: str):
    check_refusal(layout, method)
