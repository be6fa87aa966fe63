"""Maps of fixed images while the Trainer of Hugging Face trains a model, written where it reports to."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback, WandbCallback

from captum_vit.errors import OptionError
from captum_vit.exports import captioned, log_images
from captum_vit.images import Picture
from captum_vit.watching import Watch


class LogMaps(TrainerCallback):
    """A callback that shows at intervals what a model looks at in the same images.

    >>> from captum_vit.adapters.hf_maps import LogMaps
    >>> trainer = Trainer(model, TrainingArguments("out", report_to="tensorboard"), ...)
    >>> trainer.add_callback(LogMaps(trainer, photos, every=200, method="agcam", target=281))

    The first maps are those before the first step, the last those after the last. The training is left as it was:
    with the callback and without it ends with the same weights, bit by bit.

    Args:
        trainer: whose reports to TensorBoard and Weights & Biases the maps are part of; its `processing_class`, if it
            has one, prepares the images, unless `preprocess` says another.
        images, every, of, name, asked: see `captum_vit.watching.Watch`.
    Raises:
        OptionError: with the training, the trainer reports to neither.
    """

    def __init__(
        self,
        trainer: Trainer,
        images: Picture | Sequence[Picture],
        every: int = 100,
        *,
        of: Callable[[Any], nn.Module] | None = None,
        name: str = "maps",
        **asked: Any,
    ) -> None:
        own = {} if trainer.processing_class is None else {"preprocess": trainer.processing_class}
        self.watch = Watch(images, every, of=of, name=name, **{**own, **asked})
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **found: Any
    ) -> None:
        self.watch.begin(found["model"])
        self._log(state, found["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **found: Any) -> None:
        self._log(state, found["model"], last=control.should_training_stop)  # after it the others have closed theirs

    def _log(self, state: TrainerState, module: nn.Module, *, last: bool = False) -> None:
        step = state.global_step
        if not state.is_world_process_zero or not self.watch.due(step, last=last):
            return
        reports = self.trainer.callback_handler.callbacks
        writers = [c.tb_writer for c in reports if isinstance(c, TensorBoardCallback) and c.tb_writer is not None]
        to_wandb = any(isinstance(c, WandbCallback) for c in reports)
        if not writers and not to_wandb:
            raise OptionError(
                'this trainer reports to nothing that takes images: pass report_to="tensorboard" or "wandb" to its '
                "TrainingArguments"
            )
        named = self.watch.look(module, step)
        for name, explanation in named.items():
            for writer in writers:
                log_images(writer, explanation, step, name)
        if to_wandb and named:
            import wandb

            pictures = [(p, f"{name}, {text}") for name, one in named.items() for p, text in captioned(one)]
            shown = [wandb.Image(picture, caption=text) for picture, text in pictures]
            wandb.log({self.watch.name: shown, "train/global_step": step})
