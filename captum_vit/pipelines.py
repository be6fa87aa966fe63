"""The task `image-attribution` for Hugging Face pipelines; importing this module registers it.

The one module of the core that knows transformers: it is imported on demand, or by captum_vit itself where transformers
has been imported already.
"""

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageClassification
from transformers.image_utils import load_image
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.image_classification import ImageClassificationPipeline

from .attr import METHODS, ViTAttribution
from .attr.base import check_options
from .classes import as_targets, class_index
from .errors import OptionError
from .explaining import covered
from .images import to_image
from .models import nearest
from .preprocessing import read_preprocessing
from .visualization import ALPHA, CMAP, overlay

TASK = "image-attribution"
_SHOWN = ("alpha", "cmap")


class ImageAttributionPipeline(ImageClassificationPipeline):
    """Image classification that also says, for each label, what the model looked at.

    Made by `pipeline("image-attribution", model=..., image_processor=...)`, or from a classification pipeline by
    `explainer`. Called with an image, a list, a generator or a dataset, as any pipeline; besides the arguments of
    image classification (top_k, function_to_apply, timeout, batch_size) a call takes:

        method: agcam (default), daam, rollout, gradient_rollout or raw_attention.
        target: class by number or name, or a list; by default the `top_k` with the highest scores.
        alpha, cmap: of the overlay, as for `captum_vit.visualization.overlay`.
        any option of the method, as discard_ratio.

    An image gives a list, best label first, of dictionaries:

        label (str), score (float): as image classification gives them.
        map: float32 (height, width) of the original image, NaN where the model saw nothing of it.
        grid: float32 (rows, cols), the same in patch units.
        overlay: PIL image, the original under the map, in its own size.
    """

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        own: dict[str, Any] = {name: kwargs.pop(name) for name in ("method", "target", "top_k") if name in kwargs}
        shown = {name: kwargs.pop(name) for name in _SHOWN if name in kwargs}
        parents = {name: kwargs.pop(name) for name in ("function_to_apply", "timeout") if name in kwargs}
        before, _, after = super()._sanitize_parameters(**parents)
        if "method" in own and own["method"] not in METHODS:
            close = nearest(str(own["method"]), list(METHODS))
            raise OptionError(f"no method {own['method']!r}; there are {', '.join(METHODS)}{close}")
        if kwargs:
            own["options"] = kwargs
        return before, own, {**after, **shown}

    def preprocess(self, image: Any, timeout: float | None = None) -> dict[str, Any]:
        """The model's inputs, with the image itself beside them."""
        if isinstance(image, str):
            image = load_image(image, timeout=timeout)
        original = to_image(image)
        return {**super().preprocess(original), "original": [original]}

    def _forward(
        self, model_inputs: Mapping[str, Any], method: str = "agcam", target: Any = None, top_k: int | None = 5,
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        check_options(METHODS[method], options or {})
        inputs = {name: value for name, value in model_inputs.items() if name != "original"}
        logits = super()._forward(inputs)["logits"]
        targets = self._targets(logits, target, top_k)
        maps = self._maps(self._method(method), inputs["pixel_values"], targets, options or {})
        return {"logits": logits, "targets": targets, "maps": maps, "original": model_inputs["original"]}

    def postprocess(
        self, model_outputs: Mapping[str, Any], function_to_apply: Any = None, alpha: float = ALPHA, cmap: str = CMAP
    ) -> list[dict[str, Any]]:
        """Labels, scores, maps and overlays of one image."""
        logits = model_outputs["logits"]
        ranked = super().postprocess({"logits": logits}, function_to_apply, top_k=logits.shape[1])
        order = logits[0].float().argsort(descending=True, stable=True).tolist()  # as the parent sorts
        found = dict(zip(order, ranked, strict=True))
        original: Image.Image = model_outputs["original"][0]
        rows, cols = model_outputs["maps"].shape[2:]
        view = self._view(original)
        results = []
        for index, grid in zip(model_outputs["targets"][0].tolist(), model_outputs["maps"][0], strict=True):
            drawn = overlay(original, grid, view, alpha=alpha, cmap=cmap)
            results.append(
                {**found[index], "map": view.place(grid), "grid": grid.reshape(rows, cols).numpy(), "overlay": drawn}
            )
        return sorted(results, key=lambda result: -result["score"])

    def _method(self, name: str) -> ViTAttribution:
        known: dict[str, ViTAttribution] = self.__dict__.setdefault("_captum_vit_methods", {})
        if name not in known:
            known[name] = METHODS[name](self.model)
        return known[name]

    def _targets(self, logits: Tensor, target: Any, top_k: int | None) -> Tensor:
        """Classes to explain, (B, K)."""
        count = logits.shape[1]
        if not as_targets(target):
            return logits.topk(min(top_k or count, count)).indices
        names = {int(index): str(name) for index, name in (self.model.config.id2label or {}).items()}
        indices = [class_index(each, names, count, type(self.model).__name__) for each in as_targets(target)]
        return torch.tensor(list(dict.fromkeys(indices)), device=logits.device).expand(len(logits), -1)

    @staticmethod
    def _maps(method: ViTAttribution, images: Tensor, targets: Tensor, options: Mapping[str, Any]) -> Tensor:
        """(B, K, rows, cols)."""
        if not method.class_specific:
            return method.attribute(images, **options).expand(-1, targets.shape[1], -1, -1)
        return torch.cat([method.attribute(images, target=column, **options) for column in targets.T], 1)

    def _view(self, original: Image.Image) -> Any:
        view = read_preprocessing(self.image_processor).view(original.size)
        return covered(view, self._method("agcam").adapter, view.size[::-1])


def explainer(pipe: ImageClassificationPipeline) -> ImageAttributionPipeline:
    """The attribution pipeline of a classification pipeline that is there already; they share model and processor."""
    return ImageAttributionPipeline(
        model=pipe.model, image_processor=pipe.image_processor, task=TASK, device=pipe.device,
        batch_size=pipe._batch_size, num_workers=pipe._num_workers,
    )  # fmt: skip


def _register() -> None:
    if TASK in PIPELINE_REGISTRY.supported_tasks:
        return
    PIPELINE_REGISTRY.register_pipeline(
        TASK, pipeline_class=ImageAttributionPipeline, pt_model=AutoModelForImageClassification, type="image"
    )
    delattr(ImageAttributionPipeline, "_registered_impl")  # save_pretrained would write a copy of this class


_register()
