"""The same of models that packages bring, as far as these are installed."""

import pytest

from tests.research.checks import check_inspection, check_map, check_refusal

pytest.importorskip("vit_pytorch")
pytest.importorskip("monai")
from tests.research.explicit import MAPS
from tests.research.packages import LAYOUTS

EXPLAINED = {layout.name: layout for layout in LAYOUTS if layout.refused is None}
REFUSED = {layout.name: layout for layout in LAYOUTS if layout.refused is not None}


@pytest.mark.parametrize("name", EXPLAINED)
@pytest.mark.parametrize("method", MAPS)
def test_the_map_is_that_of_explicit_attention(name: str, method: str):
    check_map(EXPLAINED[name], method)


@pytest.mark.parametrize("name", EXPLAINED)
def test_layers_tokens_and_readout_are_found(name: str):
    check_inspection(EXPLAINED[name])


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("method", ["agcam", "rollout"])
def test_what_is_no_attention_to_patches_is_refused(name: str, method: str):
    check_refusal(REFUSED[name], method)
