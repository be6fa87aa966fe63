"""The Hugging Face task on models of detection, segmentation, depth and pose."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers.pipelines.image_classification import (
    ClassificationFunction,
    ImageClassificationPipeline,
    sigmoid,
    softmax,
)

from .colours import LOOK, Look
from .errors import InputError
from .explanation.dense import TASKS, task_of
from .explanation.explaining import Explainer
from .explanation.explanation import Explanation
from .marks import to_dict
from .models import LoadedModel
from .preprocessing import read_preprocessing


class DensePipeline(ImageClassificationPipeline):
    """What the pipeline does with a dense model: it asks `explain` about each image."""

    def check_model_type(self, supported_models: Any) -> None:
        """Dense models are taken too.

        Raises:
            InputError: the checkpoint is of a dense model, and was loaded as a classifier, whose head is random.
        """
        wanted = [name for name in self.model.config.architectures or () if name.endswith(tuple(TASKS))]
        if wanted and not task_of(self.model):
            loaded = type(self.model).__name__
            raise InputError(
                f"the checkpoint is of {wanted[0]}, and was loaded as {loaded}, whose head it does not have: pass "
                f"model={wanted[0]}.from_pretrained(...) and image_processor=..."
            )
        if not self.dense:
            super().check_model_type(supported_models)

    @property
    def dense(self) -> bool:
        """Whether the model is made for detection, segmentation, depth or pose."""
        return bool(task_of(self.model))

    def answers(self, inputs: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
        """The explanations of a batch of images, each by itself."""
        given = dict(asked)
        options, top_k = given.pop("options", None) or {}, given.pop("top_k", 5) or 5
        reader = {name: given.pop(name) for name in ("layer", "output") if name in given}
        explainer = Explainer(LoadedModel(self.model, read_preprocessing(self.image_processor), self._names), **reader)
        every = [one[0] if isinstance(one, list) else one for one in inputs["original"]]
        found = [explainer(image, top_k=top_k, **given, **options) for image in every]
        nested = [isinstance(one, list) for one in inputs["original"]]
        return {"explained": [[each] if inner else each for inner, each in zip(nested, found, strict=True)]}

    @property
    def _names(self) -> dict[int, str]:
        return {int(index): str(name) for index, name in (self.model.config.id2label or {}).items()}

    def _scores(self, logits: Tensor, function_to_apply: Any) -> list[float]:
        """The parent's scores by class number; its list is sorted, and does not say whose they are where some tie."""
        config = self.model.config
        rule = function_to_apply
        if rule is None and config.problem_type == "regression":
            rule = ClassificationFunction.NONE
        elif rule is None:
            several = config.problem_type == "multi_label_classification" or len(logits) == 1
            rule = ClassificationFunction.SIGMOID if several else ClassificationFunction.SOFTMAX
        values = logits.float().numpy()
        apply = {ClassificationFunction.SIGMOID: sigmoid, ClassificationFunction.SOFTMAX: softmax}.get(rule)
        return (values if apply is None else apply(values)).tolist()

    @staticmethod
    def told(outputs: Mapping[str, Any], look: Look = LOOK, max_side: int | None = None) -> list[dict[str, Any]]:
        """What is said of one image: of each target its label and score, map, overlay and marks."""
        explanation: Explanation = outputs["explained"][0]
        shown = explanation if max_side is None else explanation.reduced(max_side)
        results = []
        for part, original in zip(shown, explanation, strict=True):
            label = part.target
            assert label is not None
            one = replace(shown, attributions=(part,), removals={})
            told = {"verdict": part.verdict} if part.verdict is not None else {}
            results.append(
                {
                    "label": label.title,
                    "score": label.score,
                    "map": shown.view.place(part.map, shown.image.size),
                    "grid": original.map.float().numpy(),
                    "overlay": one.overlay(look),
                    "flat": part.flat,
                    "marks": [to_dict(mark) for mark in part.marks],
                    **told,
                }
            )
        return results
