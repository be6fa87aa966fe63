"""Callbacks that look at a training: their maps are those of `explain`, and the training is the same without them."""

import copy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_vit import explain
from captum_vit.errors import InputError, OptionError, UnsupportedModelError
from captum_vit.exports import captioned
from captum_vit.watching import Watch, undisturbed
from tests.helpers import CLASSES, hf_vit, images, timm_vit

tensorboard = pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

ASKED = {"method": "agcam", "target": 1, "every": 2}
STEPS = 3  # of the optimiser, of two batches each
OURS = pytest.mark.filterwarnings("ignore")  # what frameworks have to say of so small a training


def shown() -> list[Tensor]:
    """Two images that no step sees."""
    return list(images(2, seed=9))


def data(count: int = 12) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    return torch.randn(count, 3, 32, 32, generator=draw), torch.arange(count) % CLASSES


def dropping() -> nn.Module:
    """A model that draws at every step, with a part that its owner keeps in eval mode."""
    model = timm_vit(proj_drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.2, pos_drop_rate=0.2).train()
    model.blocks[1].eval()
    return model


def stand(model: nn.Module) -> list[Any]:
    """What a callback must leave alone, but for the weights."""
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), "forward" in vars(m), m.training)
        for m in model.modules()
    ]
    grads = [None if p.grad is None else p.grad.clone().numpy().tobytes() for p in model.parameters()]
    numbers = torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()
    return [hooks, grads, numbers, [p.requires_grad for p in model.parameters()]]


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach() for p in model.parameters()]


def alike(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def events(folder: Path) -> dict[str, list[int]]:
    """The steps of each image that TensorBoard reads."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.rglob("events*")):
        read = EventAccumulator(str(path), size_guidance={"images": 0}).Reload()
        for tag in read.Tags()["images"]:
            found.setdefault(tag, []).extend(event.step for event in read.Images(tag))
    return found


def last_picture(folder: Path, tag: str) -> np.ndarray:
    (path,) = [p for p in folder.rglob("events*") if tag in EventAccumulator(str(p)).Reload().Tags()["images"]]
    event = EventAccumulator(str(path), size_guidance={"images": 0}).Reload().Images(tag)[-1]
    with Image.open(BytesIO(event.encoded_image_string)) as picture:
        return np.asarray(picture)


def test_a_look_leaves_the_model_as_it_stands():
    model = dropping()
    model(images()).sum().backward()
    before, watch = stand(model), Watch(shown(), **ASKED)
    found = watch.look(model, 0)
    assert stand(model) == before
    with undisturbed(model):
        expected = explain(shown(), model, method="agcam", target=1)
    assert list(found) == ["maps/0", "maps/1"]
    for ours, theirs in zip(found.values(), expected, strict=True):
        assert torch.equal(ours.maps, theirs.maps)
    other = model.eval() and explain(shown(), model, method="agcam", target=1)
    assert torch.equal(found["maps/1"].maps, other[1].maps), "that of a model in eval mode"


@pytest.mark.parametrize("disturb", ["eval", "draw", "grad", "hook"])
def test_a_look_that_disturbs_would_be_seen(disturb: str):
    model = dropping()
    model(images()).sum().backward()
    before = stand(model)
    if disturb == "eval":
        model.eval()
    elif disturb == "draw":
        torch.rand(1)
    elif disturb == "grad":
        model(images()).sum().backward()
    else:
        model.register_forward_hook(lambda *_: None)
    assert stand(model) != before


def test_what_draws_in_a_preparation_moves_nobodys_numbers():
    model = timm_vit().train()

    def drawing(picture: Image.Image) -> Tensor:
        np.random.rand(3)
        return torch.from_numpy(np.array(picture.resize((32, 32)))).permute(2, 0, 1) / 255 + torch.rand(1)

    from captum_vit import Preprocessing
    from captum_vit.geometry import View

    preparing = Preprocessing(drawing, lambda size: View.of(size).resized(32, 32))
    before = stand(model)
    Watch(Image.new("RGB", (40, 40), "red"), target=1, preprocess=preparing).look(model, 0)
    assert stand(model) == before


def test_when_it_is_due():
    watch = Watch(shown(), every=3)
    assert [step for step in range(7) if watch.due(step)] == [0, 3, 6]
    assert watch.due(7, last=True)
    watch.look(timm_vit(), 6)
    assert not watch.due(6, last=True), "no second time"


def test_what_cannot_be_watched_is_refused():
    with pytest.raises(OptionError, match="every"):
        Watch(shown(), every=0)
    with pytest.raises(InputError, match="got none"):
        Watch([])
    with pytest.raises(OptionError, match="of is a function"):
        Watch(shown(), of="net")
    model = timm_vit()
    model.head.weight.ds_id = 3
    with pytest.raises(UnsupportedModelError, match=r"head\.weight is spread over the processes"):
        Watch(shown()).begin(model)


def test_a_first_refusal_ends_a_training_and_a_later_one_warns():
    model, watch = timm_vit(), Watch(shown(), target=1)
    with pytest.raises(OptionError, match="nonsense"):
        Watch(shown(), method="nonsense").look(model, 0)
    watch.look(model, 0)
    with torch.no_grad():
        model.head.weight.fill_(torch.nan)
    watch.asked["target"] = CLASSES
    with pytest.warns(UserWarning, match="no map at step 100: "):
        assert watch.look(model, 100) == {}


# Lightning


def lightning_run(folder: Path, callback: bool, *, loggers: Any = None, disturb: bool = False, **asked: Any) -> Any:
    """The module after a training, and what stood before and after each step."""
    lightning = pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.loggers import TensorBoardLogger

    from captum_vit.adapters.lightning_maps import LogMaps

    class Learner(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = dropping()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, number: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 1e-3)

    class Disturbing(lightning.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            torch.rand(1)

    lightning.seed_everything(3, verbose=False)
    learner = Learner()
    torch.manual_seed(1)
    callbacks = [LogMaps(shown(), **{**ASKED, **asked})] if callback else [Disturbing()] if disturb else []
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=TensorBoardLogger(str(folder)) if loggers is None else loggers,
        callbacks=callbacks,
        accumulate_grad_batches=2,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(learner, DataLoader(TensorDataset(*data()), batch_size=2, shuffle=True))
    return learner


@OURS
def test_a_training_by_lightning_ends_the_same(tmp_path: Path):
    ours, plainly = (lightning_run(tmp_path / str(with_it), with_it) for with_it in (True, False))
    assert alike(weights(ours), weights(plainly))
    assert not alike(weights(ours), weights(dropping())), "something was trained"
    assert not alike(weights(lightning_run(tmp_path / "d", False, disturb=True)), weights(plainly)), "one draw is seen"
    assert events(tmp_path / "True") == {f"maps/{i}/AGCAM: class 1": [0, 2, STEPS] for i in range(2)}
    (expected, _) = explain(shown(), ours.net.eval(), method="agcam", target=1)
    drawn = last_picture(tmp_path / "True", "maps/0/AGCAM: class 1")
    assert np.array_equal(drawn, np.asarray(expected.overlay()))


@OURS
def test_lightning_without_a_logger_of_images_is_refused(tmp_path: Path):
    pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.loggers import CSVLogger

    with pytest.raises(OptionError, match="no logger of this trainer takes images"):
        lightning_run(tmp_path, True, loggers=CSVLogger(str(tmp_path)))


@OURS
def test_lightning_writes_to_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("lightning.pytorch")
    wandb = pytest.importorskip("wandb")
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(save_dir=str(tmp_path), project="maps")
    ours = lightning_run(tmp_path, True, loggers=logger, of=lambda learner: learner.net)
    wandb.finish()
    pictures = sorted(tmp_path.rglob("*.png"))
    assert len(pictures) == 3 * len(shown())  # three looks
    (expected, _) = explain(shown(), ours.net.eval(), method="agcam", target=1)
    (drawn, caption), *_ = captioned(expected)
    assert caption == "AGCAM: class 1"
    assert any(np.array_equal(np.asarray(Image.open(path)), drawn) for path in pictures)


# The Trainer of Hugging Face


class Rows(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.images, self.labels = data()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"pixel_values": self.images[number], "labels": self.labels[number]}


def hf_run(folder: Path, callback: bool, report: str = "tensorboard", *, disturb: bool = False) -> nn.Module:
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from captum_vit.adapters.hf_maps import LogMaps

    class Disturbing(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.rand(1)

    torch.manual_seed(3)
    model = copy.deepcopy(hf_vit(hidden_dropout_prob=0.2))
    arguments = TrainingArguments(
        str(folder / "out"),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        report_to=report,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        seed=4,
    )
    trainer = Trainer(model, arguments, train_dataset=Rows())
    if callback:
        trainer.add_callback(LogMaps(trainer, shown(), **ASKED))
    if disturb:
        trainer.add_callback(Disturbing())
    trainer.train()
    return model


@pytest.fixture
def _reports_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    return


@OURS
@pytest.mark.usefixtures("_reports_here")
def test_a_training_by_hugging_face_ends_the_same(tmp_path: Path, capsys: pytest.CaptureFixture):
    plainly = hf_run(tmp_path, False)
    disturbed = hf_run(tmp_path, False, disturb=True)
    assert events(tmp_path / "runs") == {}
    ours = hf_run(tmp_path, True)
    assert alike(weights(ours), weights(plainly))
    assert not alike(weights(disturbed), weights(plainly)), "one draw is seen"
    tag = "AGCAM: class 1"
    found = events(tmp_path / "runs")
    assert list(found.values()) == [[0, 2, STEPS]] * 2
    assert all(tag in name or "LABEL_1" in name for name in found)
    (expected, _) = explain(shown(), ours.eval(), method="agcam", target=1)
    assert np.array_equal(last_picture(tmp_path / "runs", next(iter(found))), np.asarray(expected.overlay()))


@OURS
@pytest.mark.usefixtures("_reports_here")
def test_hugging_face_that_reports_nowhere_is_refused(tmp_path: Path):
    with pytest.raises(OptionError, match="reports to nothing that takes images"):
        hf_run(tmp_path, True, "none")


@OURS
@pytest.mark.usefixtures("_reports_here")
def test_hugging_face_writes_to_weights_and_biases(tmp_path: Path):
    wandb = pytest.importorskip("wandb")
    wandb.init(dir=tmp_path, project="maps")  # the trainer reports to a run that is there
    hf_run(tmp_path, True, "wandb")
    wandb.finish()
    assert len(sorted(tmp_path.rglob("*.png"))) == 3 * len(shown())
