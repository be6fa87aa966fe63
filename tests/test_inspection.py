"""What is told of a model's readout, of who had a hand in it, and of what was found in unknown code."""

import pytest
import torch
from torch import Tensor, nn

from captum_vit import Readout, inspect
from captum_vit.readouts import describe
from tests.adapters.test_outputs import Both, Unknown
from tests.helpers import CLASSES, WIDTH, randomise, timm_vit

PREFIX = ("class",)
LAYERS = ["blocks.0.attn", "blocks.1.attn"]
NONE = [0.0] * 17


def measured(*shares: list[float], unclear: str | None = None, **facts: object) -> Readout:
    found = {name: torch.tensor(share, dtype=torch.float64) for name, share in zip(LAYERS, shares, strict=True)}
    read = torch.stack([*found.values()]).sum(0) > 0
    own = tuple(read[:1].nonzero().flatten().tolist())
    return Readout(own, bool(read[1:].any()), declared=False, shares=found, unclear=unclear, **facts)  # type: ignore


def patches(**shares: float) -> list[float]:
    found = [0.0] * 17
    for place, share in shares.items():
        found[1 + int(place[1:])] = share
    return found


TOLD = {
    "class token": Readout((0,)),
    "mean of patches": Readout((), patches=True),
    "class token and mean of patches": measured(NONE, [0.5, *[1 / 32] * 16]),
    "all tokens": measured(NONE, [1 / 17] * 17, even=True),
    "attention pool over patches": Readout((), patches=True, latents=(0,)),
    "class token (80%) and mean of patches (20%)": measured(NONE, [0.8, *[0.2 / 16] * 16]),
    "patches 5, 6, 9 evenly": measured(NONE, patches(p5=1 / 3, p6=1 / 3, p9=1 / 3)),
    "patch 4": measured(NONE, patches(p4=1.0)),
    "12 of 16 patches evenly": measured(NONE, [0, 0, 0, 0, 0, *[1 / 12] * 12]),
    "patches 1, 2, the most weighed 3 times the least": measured(NONE, patches(p1=0.25, p2=0.75)),
    "class token, after layer 0": measured([1.0, *[0] * 16], NONE),
    "class token (25%), after layer 0; class token (75%), after layer 1": measured(
        [0.25, *[0] * 16], [0.75, *[0] * 16]
    ),
    "each patch, by weights that are not known: the head pools": measured(
        NONE, [0, *[1] * 16], unclear="the head pools"
    ),
    "class token and patches 2, 3, by weights that are not known: so": measured(
        NONE, [1, 0, 0, 1, 1, *[0] * 12], unclear="so"
    ),
}


@pytest.mark.parametrize("words", TOLD)
def test_a_readout_in_words(words: str):
    assert describe(TOLD[words], PREFIX, LAYERS) == words


def test_other_readouts_have_other_words():
    """Words that left out weights or depths would be the same for some of these."""
    assert len({describe(readout, PREFIX, LAYERS) for readout in TOLD.values()}) == len(TOLD)
    assert describe(Readout((0, 1)), ["token 0", "register"]) == "token 0 and register token"


class Owner(nn.Module):
    """Reads a region of the patches, of the image turned round."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.head = timm_vit(num_classes=0), randomise(nn.Linear(WIDTH, CLASSES), 5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.vit.forward_features(x.flip(-1))[:, 1:]
        return self.head(tokens.unflatten(1, (4, 4))[:, 1:3, 1:3].mean((1, 2)))


def test_an_owner_is_told():
    view = inspect(Owner())
    lines = dict(line.split(maxsplit=1) for line in str(view).splitlines()[:9])
    assert lines["readout"] == "patches 5, 6, 9, 10 evenly (measured)"
    assert "Owner owns the ViT" in lines["others"]
    assert lines["order"].startswith("tokens stand in another order than their patches")
    assert lines["checked"] == "scores equal those of a plain call to 1e-07; tokens meet nowhere but in these layers"
    assert all(text in view._repr_html_() for text in ("patches 5, 6, 9, 10 evenly", "Owner owns the ViT"))


def test_a_cropped_image_is_told():
    class Cropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit, self.image_size = timm_vit(), (48, 48)

        def forward(self, x: Tensor) -> Tensor:
            return self.vit(x[..., 8:40, 8:40])

    assert inspect(Cropping().eval(), (48, 48)).found["view"] == "x from 8 to 40, y from 8 to 40 (pixels of the input)"


def test_a_model_as_its_library_made_it_has_nothing_to_tell():
    view = inspect(timm_vit())
    assert not view.found
    assert not view.output
    assert "found" not in str(view)


def test_a_hook_that_edits_is_told():
    model = timm_vit()
    model.blocks[1].register_forward_hook(lambda module, args, output: output * 1.1)
    assert "a hook on blocks.1 (Block)" in inspect(model).found["others"]


def test_unknown_code_is_told():
    view = inspect(randomise(Unknown()), output=1)
    assert view.output == "the output 1, of 0 and 1"
    assert view.found["found"].startswith(
        "by running it on an image of noise: 2 times a softmax over keys is multiplied"
    )
    assert view.found["others"] == "Unknown is of no library"
    assert "scores equal those of a plain call" in view.found["checked"]
    assert "scores   classes: the output 1, of 0 and 1" in str(view)
    assert not inspect(Both(lambda features, scores: scores)).output
