"""timm's models inside Hugging Face's TimmWrapper."""

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from captum_vit.access import NestedAdapter, Readout, adapt, unaltered
from captum_vit.adapters.hf_common import is_hf


class HFTimm(NestedAdapter):
    """The inner model as timm's; transformers' settings do not reach its attention."""

    def __init__(self, model: nn.Module) -> None:
        self.hf = cast(Any, model)
        super().__init__(model, "timm_model", adapt(self.hf.timm_model))

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        names = ("TimmWrapperModel", "TimmWrapperForImageClassification")
        return any(is_hf(kind) and kind.__name__ in names for kind in type(model).__mro__)

    @property
    def readout(self) -> Readout | None:
        pooled = self.hf.config.do_pooling or not self.headless
        return self.inner.readout if pooled and unaltered(self.model, "transformers", [self.hf.timm_model]) else None

    @property
    def headless(self) -> bool:
        return self.inner.headless

    @property
    def class_names(self) -> Mapping[int, str]:
        return {} if self.headless else dict(self.hf.config.id2label)

    def scores(self, output: Any) -> Tensor:
        """Logits; of a bare model what it pools, or else what timm's unpooled models are read by."""
        if not self.headless:
            return super().scores(output)
        values = output.values() if isinstance(output, Mapping) else output
        *_, last = (value for value in values if isinstance(value, Tensor))
        return self.inner.scores(last)
