"""Options of the model that the commands share: evaluate and inspect take them as explain does."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from captum_vit import models
from captum_vit.models import load_model
from tests.cli.helpers import explain, photo, run


class Both(nn.Module):
    """Gives features before its scores, and wants a sign beside the image."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm.create_model("test_vit", num_classes=4)

    def forward(self, image: Tensor, sign: int = 1) -> tuple[Tensor, Tensor]:
        scores = self.vit(image) * sign
        return scores.relu(), scores


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever model is named, it is that one."""
    torch.manual_seed(0)
    net = Both().eval()
    loaded = models.LoadedModel(net, load_model("timm/test_vit", pretrained=False).preprocess, name="own")
    for where in ("captum_vit.cli.modelling.load_model", "captum_vit.models.load_model"):
        monkeypatch.setattr(where, lambda *_, **__: loaded)


@pytest.mark.usefixtures("own")
def test_outputs_are_chosen():
    ask = ("explain", photo("a.png"), "--model", "own/x", "--target", "1")
    failed = explain(*ask[1:], code=2)
    assert "Both gives several outputs" in failed.stderr
    assert "Choose by output=0 or output=1" in failed.stderr
    assert "scores: the output 1, of 0 and 1" in run(*ask, "--output", "1").stderr
    Path("choosing.py").write_text("def second(output):\n    return output[1]\n")
    assert "scores: what second makes of the model's output" in run(*ask, "--output", "choosing:second").stderr
    assert "Both gives no output 'logits'" in explain(*ask[1:], "--output", "logits", code=2).stderr


@pytest.mark.usefixtures("own")
def test_inspect_takes_arguments_and_an_output():
    told = run("inspect", "own/x", "--output", "1", "--forward-kwargs", '{"sign": -1}').stdout
    assert "classes: the output 1, of 0 and 1" in told
    wrong = run("inspect", "own/x", "--output", "1", "--forward-kwargs", '{"sing": -1}', code=2)
    assert "got an unexpected keyword argument 'sing'" in wrong.stderr


@pytest.mark.usefixtures("own")
def test_tokens_take_arguments_and_an_output():
    """Of four classes the best under the other sign is none of the three best."""
    ask = ("tokens", photo("a.png"), "--model", "own/x", "--names")
    assert "Both gives several outputs" in run(*ask, code=2).stderr
    for sign, out in ((1, "one"), (-1, "other")):
        run(*ask, "--output", "1", "--forward-kwargs", f'{{"sign": {sign}}}', "--out", out)
    with np.load("one/a/tokens.npz") as one, np.load("other/a/tokens.npz") as other:
        names = [name for name in one.files if name.startswith("classes.")]
        assert names
        for name in names:
            assert not (one[name] == other[name][..., :1]).any()


def test_evaluate_takes_weights_sizes_and_normalisation():
    torch.manual_seed(0)
    weights = timm.create_model("test_vit", num_classes=6).state_dict()
    torch.save({"epoch": 1, "teacher": weights, "student": weights}, "w.ckpt")
    ask = ("evaluate", "--model", "timm/test_vit", "--checkpoint", "w.ckpt", "--checkpoint-key", "teacher")
    data = ("--data", "sample:1", "--methods", "rollout", "--img-size", "96", "--target", "predicted")
    run(*ask, *data, "--mean", "0.25", "--std", "0.5,0.25,0.5", "--out", "run")
    told = json.loads(Path("run/manifest.json").read_text())["settings"]["preprocessing"]
    assert (told["mean"], told["std"]) == ([0.25] * 3, [0.5, 0.25, 0.5])
    assert told["small"][0]["size"] == [96, 96]
    assert "--mean takes numbers" in run(*ask, *data, "--mean", "grey", "--out", "b", code=2).stderr
    assert "NAME=VALUE" in run(*ask, *data, "--option", "fusion", "--out", "c", code=2).stderr


def test_evaluate_takes_a_preprocessing_of_ones_own():
    Path("preparing.py").write_text(
        "from captum_vit.adapters.sample_vit import PREPROCESSING\n"
        "from captum_vit.preprocessing import normalised\n"
        "dark = normalised(PREPROCESSING, [0.9], [0.1])\n"
    )
    ask = ("evaluate", "--data", "sample:1", "--methods", "random", "--preprocess", "preparing:dark")
    assert "written: run" in run(*ask, "--out", "run").stdout
    settings = json.loads(Path("run/manifest.json").read_text())["settings"]
    assert settings["preprocessing"]["std"] == pytest.approx([0.1] * 3)
    both = run(*ask, "--squash", "--out", "other", code=2)
    assert "--preprocess says what becomes of an image, and so does --squash: give one of them" in both.stderr
