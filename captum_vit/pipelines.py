"""The task `image-attribution` for Hugging Face pipelines; importing this module registers it.

The one module of the core that knows transformers: it is imported on demand, or by captum_vit itself where transformers
has been imported already.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForDepthEstimation,
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    AutoModelForSemanticSegmentation,
)
from transformers.image_utils import load_image
from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.image_classification import ImageClassificationPipeline
from transformers.pipelines.zero_shot_image_classification import ZeroShotImageClassificationPipeline

from .access import TokenLayout
from .access.any_model import AnyModel, adapt_any
from .access.two_towers import embedded
from .attr import ViTAttribution, find_method, start
from .attr.calls import checked_inputs
from .attr.options import check_options
from .checking import LONGEST, check_whole
from .colours import LOOK, Look, check_look, nearly_flat, two_signs
from .dense_pipelines import DensePipeline
from .errors import ImageLoadError, InputError, brief
from .explained import Label
from .explanation.asking import Vocabulary, Wanted, listed
from .explanation.candidates import check_candidates, shown_as, texts_of
from .explanation.piped import judged_maps, maps_of, output_of
from .geometry import View
from .images import to_image
from .preprocessing import checked_view, covered, read_preprocessing
from .targets import Classes, Target
from .visualization import overlay

TASK = "image-attribution"
MODELS: Any = (
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    AutoModelForSemanticSegmentation,
    AutoModelForDepthEstimation,
)
_OWN = ("method", "target", "top_k", "layer", "output", "verdict", "candidate_labels", "hypothesis_template")
_BESIDE = ("original", "size")  # go around the model, a list of one for each image
_SHOWN = ("look", "max_side")


class ImageAttributionPipeline(DensePipeline):
    """Image classification that also says, for each label, what the model looked at.

    Made by `pipeline("image-attribution", model=..., image_processor=...)`, or from a classification pipeline by
    `explainer`. Called with an image, a list, a generator or a dataset, as any pipeline; besides the arguments of
    image classification (top_k, function_to_apply, timeout, batch_size) a call takes:

        method: agcam (default; attn_lrp of a model that no adapter knows), daam, rollout, gradient_rollout,
            raw_attention, `module:Class`, or a class.
        target: class by number or name, "tabby/Egyptian cat" for why the one rather than the other, one of
            `captum_vit.targets` or `module:object` for one of your own, or a list; by default the `top_k` with the
            highest scores.
        candidate_labels: of a model of images and texts, as CLIP, what the image may show, a list of texts; as in
            zero-shot image classification hypothesis_template, "This is a photo of {}.", stands around each.
        look: how the overlays are painted, a `captum_vit.Look`; a common scale is of all labels of an image.
        max_side: longest side of map and overlay in pixels; by default they are as large as the original, and those of
            24 megapixels take 170 MB a label.
        layer: attention layers to read, as for the methods; all by default.
        output: which of the model's outputs are its scores, where it gives several; as for the methods.
        verdict: whether to judge each map, by up to 8 forwards on some of the tokens.
        any option of the method, as discard_ratio.

    An image gives a list, best label first and scores of one unit together, of dictionaries:

        label (str), score (float): as image classification gives them; of a target that is no class its name, and
            the number that is explained; of candidate labels, whose cosine is explained, the probability.
        map: float32 (height, width) of the original image (or `max_side`), NaN where the model saw nothing of it.
        grid: float32 (rows, cols), the same in patch units.
        flat: whether the map is nearly flat: its values differ by no more than a quarter of the greatest.
        overlay: PIL image, the original under the map, in the same size; labels share it if there is one map for all.
        marks: of models of detection, segmentation, depth and pose alone: what was asked about, a list of dictionaries,
            as {"kind": "box", "left": 10.0, ...} in pixels of overlay and map. There an image gives a list with the
            most confident detections, the largest regions or the clearest keypoints, or with what `target` asks for.
        verdict: where it was asked, a `Verdict`: whether the map may be trusted; its `text` says so in one line.
    """

    def check_model_type(self, supported_models: Any) -> None:
        if type(self.model).__name__ not in MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES.values():
            super().check_model_type(supported_models)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        own: dict[str, Any] = {name: kwargs.pop(name) for name in _OWN if name in kwargs}
        shown = {name: kwargs.pop(name) for name in _SHOWN if name in kwargs}
        parents = {name: kwargs.pop(name) for name in ("function_to_apply", "timeout") if name in kwargs}
        before, _, after = super()._sanitize_parameters(**parents)
        if "method" in own:
            find_method(own["method"])
        for name, value in [*own.items(), *shown.items()]:
            if name in ("top_k", "max_side") and value is not None:
                check_whole(name, value)
            if name == "look":
                check_look(value)
        own |= {"options": kwargs} if kwargs else {}
        return before, own, {**after, **shown}

    def preprocess(self, image: Any, timeout: float | None = None) -> dict[str, Any]:
        """The model's inputs, with the image itself beside them."""
        if isinstance(image, str) and (len(image) > LONGEST or not Path(image).exists()):  # a link, or base64
            try:
                image = load_image(image, timeout=timeout)
            except ValueError as error:
                raise ImageLoadError(f"no image at {brief(image)}: neither a file, nor a link, nor base64") from error
        original = to_image(image)
        inputs: Any = super().preprocess(original)
        if inputs["pixel_values"].dim() == 3:  # patches as a sequence, which the adapter cuts of the image itself
            image = read_preprocessing(self.image_processor)(original)
            inputs = {"pixel_values": image[None].to(inputs["pixel_values"].dtype)}
        return {**inputs, "original": [original], "size": [tuple(inputs["pixel_values"].shape[2:])]}

    def get_iterator(self, inputs: Any, num_workers: int, batch_size: int, *parameters: Any, **more: Any) -> Any:
        """What is given for each image, with images of several sizes in one batch refused."""
        found = super().get_iterator(inputs, num_workers, batch_size, *parameters, **more)
        if batch_size > 1:
            found.loader.loader.collate_fn = partial(_of_one_size, found.loader.loader.collate_fn)
        return found

    def _forward(
        self,
        model_inputs: Mapping[str, Any],
        method: Any = None,
        target: Any = None,
        top_k: int | None = 5,
        layer: Any = None,
        output: Any = None,
        verdict: bool = False,
        candidate_labels: Sequence[str] | None = None,
        hypothesis_template: str = "This is a photo of {}.",
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        if candidate_labels is not None:
            target = texts_of(candidate_labels, hypothesis_template, target, adapt_any(self.model))
        if self.dense:
            asked = {"method": method, "target": target, "top_k": top_k, "layer": layer, "output": output}
            return self.answers(model_inputs, {**asked, "verdict": verdict, "options": options})
        ours, options = self._method(method or self._default, layer), dict(options or {})
        check_options(ours.get_name(), ours.options(), options)
        beside = {name: model_inputs[name] for name in _BESIDE}
        pixels = model_inputs["pixel_values"]
        others = {n: value for n, value in model_inputs.items() if n not in (*_BESIDE, "pixel_values")}
        call = checked_inputs(ours.adapter, pixels, None, others, output)
        with start([(ours, options)], call, flow=False) as run:
            targets = self._targets(run.scores, target, top_k)
            layout, _ = ours.place_of(run)
            maps = layout.to_grid(maps_of(ours, run, targets, options))
            titles = [(each.title(self._names), each.unit) for each in targets]
            classes = [each.index if isinstance(each, Classes) else -1 for each in targets]
            read = partial(output_of, ours, call, run)
            values = torch.stack([each.score(read(each)) for each in targets], 1).detach()
            shown, titles = shown_as(candidate_labels, ours.adapter, values, titles)
            signed = ours.facts(**options).signed
            lists = [isinstance(one, list) for one in beside["original"]]
            judged: list[Any] = [None] * len(pixels)
            if verdict:
                wanted = [self._wanted(target, values[:, k]) for k, target in enumerate(targets)]
                judged = judged_maps(ours, options, run, wanted, maps.flatten(2), read)
            indices = [torch.as_tensor(index, device=maps.device).expand(len(pixels)) for index in classes]
            return {
                "logits": run.scores,
                "targets": torch.stack(indices, 1),
                "values": shown,
                "titles": [[titles] if nested else titles for nested in lists],
                "verdicts": [[each] if nested else each for nested, each in zip(lists, judged, strict=True)],
                "maps": maps.detach(),
                "layouts": [[layout] if nested else layout for nested in lists],
                "signed": [[signed] if nested else signed for nested in lists],
                **beside,
            }

    def postprocess(
        self,
        model_outputs: Mapping[str, Any],
        function_to_apply: Any = None,
        look: Look = LOOK,
        max_side: int | None = None,
    ) -> list[dict[str, Any]]:
        """Labels, scores, maps and overlays of one image."""
        if self.dense:
            return self.told(model_outputs, look, max_side)
        original: Image.Image = model_outputs["original"][0]
        view = self._view(original, model_outputs["size"][0], model_outputs["layouts"][0])
        shown = original.copy()
        if max_side is not None:
            shown.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        scores = self._scores(model_outputs["logits"][0], function_to_apply)
        given = (model_outputs[name][0] for name in ("targets", "values", "titles", "maps"))
        told = model_outputs["verdicts"][0]
        verdicts = [{}] * len(model_outputs["maps"][0]) if told is None else [{"verdict": each} for each in told]
        results, drawn, units = [], {}, dict[str, int]()
        every, signed = model_outputs["maps"][0], model_outputs["signed"][0]
        for index, value, (title, unit), grid, verdict in zip(*given, verdicts, strict=True):
            if grid.data_ptr() not in drawn:  # an expanded map is one for all
                of_signs = signed or two_signs(every if look.scale == "common" else grid)
                drawn[grid.data_ptr()] = {
                    "map": view.place(grid, shown.size),
                    "grid": grid.float().numpy(),
                    "overlay": overlay(shown, grid, view, look, scale=look.spanning(grid, every, of_signs)),
                    "flat": nearly_flat(grid),
                }
            of_class = int(index) >= 0
            label = self._names[int(index)] if of_class else title
            score = scores[int(index)] if of_class else float(value)
            place = units.setdefault("" if of_class else unit, len(units))
            results.append((place, -score, {"label": label, "score": score, **drawn[grid.data_ptr()], **verdict}))
        return [result for *_, result in sorted(results, key=lambda each: each[:2])]

    @cached_property
    def _default(self) -> str:
        """The method that suits the model."""
        return "attn_lrp" if isinstance(adapt_any(self.model), AnyModel) else "agcam"

    def _method(self, method: Any, layer: Any = None) -> ViTAttribution:
        kind = find_method(method)[1]
        if layer is not None:
            return kind(self.model, layer)
        known: dict[Any, ViTAttribution] = self.__dict__.setdefault("_captum_vit_methods", {})
        if kind not in known:
            known[kind] = kind(self.model)
        return known[kind]

    def _targets(self, logits: Tensor, target: Any, top_k: int | None) -> list[Target]:
        """What is explained; of each image the best classes where nothing is asked for."""
        count, adapter = logits.shape[1], adapt_any(self.model)
        check_candidates(asked := listed(target), adapter)
        if not asked:
            return [Classes(column.tolist()) for column in logits.topk(min(top_k or count, count)).indices.T]
        embed = partial(embedded, adapter, tokenizer=self.tokenizer)
        return Vocabulary(self._names, {}, type(self.model).__name__, embed).parsed(asked, count)

    def _wanted(self, target: Target, values: Tensor) -> Wanted:
        """A target with what it is called, of each image."""
        if not isinstance(target, Classes) or self.model.config.problem_type == "regression":
            title = target.title(self._names)
            return Wanted(target, [Label(None, title, value, unit=target.unit) for value in values.tolist()])
        each = [target.of_image(i).index for i in range(len(values))]  # type: ignore[attr-defined]
        return Wanted(target, [Label(i, self._names.get(i, ""), v) for i, v in zip(each, values.tolist(), strict=True)])

    def _view(self, original: Image.Image, size: tuple[int, int], layout: TokenLayout) -> View:
        """How an input of (height, width) looks at its image, where this is how the maps lie on it."""
        view = checked_view(read_preprocessing(self.image_processor), original.size, (size[1], size[0]))
        return covered(view, layout, size)


def _of_one_size(collate: Callable, items: Sequence[Mapping[str, Any]]) -> Any:
    sizes = sorted({"{}x{}".format(*item["size"][0]) for item in items})
    if len(sizes) > 1:
        told = " and ".join(sizes)
        raise InputError(f"images of a batch are of one size, and the processor makes {told}: pass batch_size=1")
    return collate(items)


def explainer(pipe: ImageClassificationPipeline | ZeroShotImageClassificationPipeline) -> ImageAttributionPipeline:
    """The attribution pipeline of a classification pipeline that is there already; they share model and processors.

    Raises:
        InputError: it is no such pipeline.
    """
    if not isinstance(pipe, (ImageClassificationPipeline, ZeroShotImageClassificationPipeline)):
        raise InputError(
            f"expected a pipeline for image classification, got {type(pipe).__name__}: make one by "
            f"pipeline({TASK!r}, model=...), or use explain(image, model)"
        )
    return ImageAttributionPipeline(
        model=pipe.model,
        image_processor=pipe.image_processor,
        tokenizer=pipe.tokenizer,
        task=TASK,
        device=pipe.device,
        batch_size=pipe._batch_size,
        num_workers=pipe._num_workers,
    )


def _register() -> None:
    if TASK in PIPELINE_REGISTRY.supported_tasks:
        return
    PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=ImageAttributionPipeline, pt_model=MODELS, type="image")
    delattr(ImageAttributionPipeline, "_registered_impl")  # save_pretrained would write a copy of this class


_register()
