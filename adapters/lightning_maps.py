"""Maps of fixed images while Lightning trains a model, written by the trainer's own loggers."""

from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from captum_vit.errors import OptionError
from captum_vit.exports import captioned, log_images
from captum_vit.images import Picture
from captum_vit.watching import Watch


class LogMaps(Callback):
    """A callback that shows at intervals what a model looks at in the same images.

    >>> from captum_vit.adapters.lightning_maps import LogMaps
    >>> maps = LogMaps(photos, every=200, method="agcam", target=281, preprocess="squash")
    >>> trainer = Trainer(logger=TensorBoardLogger("runs"), callbacks=[maps])

    The first maps are those before the first step, the last those after the last. The training is left as it was:
    with the callback and without it ends with the same weights, bit by bit.

    Args:
        images, every, of, name, asked: see `captum_vit.watching.Watch`.
    Raises:
        OptionError: with the training, none of the trainer's loggers takes images.
    """

    def __init__(
        self,
        images: Picture | Sequence[Picture],
        every: int = 100,
        *,
        of: Callable[[Any], nn.Module] | None = None,
        name: str = "maps",
        **asked: Any,
    ) -> None:
        self.watch = Watch(images, every, of=of, name=name, **asked)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.watch.begin(pl_module)
        self._log(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._log(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, last=True)

    def _log(self, trainer: Any, module: LightningModule, *, last: bool = False) -> None:
        step = trainer.global_step
        if trainer.fast_dev_run or not trainer.is_global_zero or not self.watch.due(step, last=last):
            return  # a trial run has no loggers
        pictured = [logger for logger in trainer.loggers if hasattr(logger, "log_image")]
        writers = [w for w in (logger.experiment for logger in trainer.loggers) if hasattr(w, "add_image")]
        if not pictured and not writers:
            raise OptionError(
                "no logger of this trainer takes images: give it a TensorBoardLogger or a WandbLogger, by logger="
            )
        found = self.watch.look(module, step)
        for name, explanation in found.items():
            for writer in writers:
                log_images(writer, explanation, step, name)
        for logger in pictured if found else ():
            pictures = [(p, f"{name}, {text}") for name, one in found.items() for p, text in captioned(one)]
            images, captions = map(list, zip(*pictures, strict=True))
            logger.log_image(self.watch.name, images, step, caption=captions)
