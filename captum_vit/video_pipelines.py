"""The task `video-attribution` for Hugging Face pipelines; importing this module registers it."""

from typing import Any

from transformers import AutoModelForVideoClassification
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.video_classification import VideoClassificationPipeline

from .checking import check_whole
from .clips import is_clip
from .explanation.explaining import Explainer
from .explanation.explanation import Explanation

TASK = "video-attribution"
_ASKED = ("method", "target", "top_k", "verdict")


class VideoAttributionPipeline(VideoClassificationPipeline):
    """Video classification that also says what the model looked at, frame by frame.

    Made by `pipeline("video-attribution", model=..., video_processor=...)`. Called with a video in any form that
    `captum_vit.explain` takes, or a list of paths. A call takes:

        method: agcam (default), another name, `module:Class`, or a class; one or several.
        target: class by number or name, or another target as for `explain`, or several; by default the predicted class.
        top_k: how many classes the explanation names.
        verdict: whether to judge each map.
        any option of the method, as discard_ratio.

    A video gives a list of dictionaries, one for each map:

        label (str), score (float): of the target; of a method that gives one map for all, of the predicted class.
        grid: float32 (cells, rows, cols), the map in patch units.
        map: float32 (frames, height, width), laid on the frames that the model saw, NaN where it saw nothing.
        frames: these frames, PIL images.
        explanation: the whole `Explanation`, with its overlays, film and page.
    """

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        asked = {name: kwargs.pop(name) for name in _ASKED if name in kwargs}
        if "top_k" in asked:
            check_whole("top_k", asked["top_k"])
        return {}, {**asked, **kwargs}, {}

    @property
    def _explainer(self) -> Explainer:
        known: dict[str, Explainer] = self.__dict__.setdefault("_captum_vit", {})
        if "explainer" not in known:
            known["explainer"] = Explainer(self.model, preprocess=self.video_processor or self.image_processor)
        return known["explainer"]

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """The maps of a video, or for a list of videos a list of them."""
        several = isinstance(inputs, (list, tuple)) and all(map(is_clip, inputs))  # a list of frames is one video
        found = super().__call__(inputs if several else [inputs], **kwargs)
        return found if several else found[0]

    def preprocess(self, video: Any) -> dict[str, Any]:
        """The video as the model sees it."""
        return {"seen": self._explainer.see(video)}

    def _forward(self, model_inputs: Any, **asked: Any) -> dict[str, Any]:
        return {"explanation": self._explainer.answer([model_inputs["seen"]], self._explainer.ask(**asked))[0]}

    def postprocess(self, model_outputs: Any) -> list[dict[str, Any]]:
        """Labels, scores and maps."""
        e: Explanation = model_outputs["explanation"]
        assert e.frames is not None
        found = []
        for number, a in enumerate(e):
            label = a.target or next(iter(e.labels), None)
            found.append(
                {
                    "label": label.title if label else "",
                    "score": label.score if label else float("nan"),
                    "grid": a.map.numpy(),
                    "map": e.placed(number),
                    "frames": e.frames.images,
                    "explanation": e,
                }
            )
        return found


def _register() -> None:
    if TASK in PIPELINE_REGISTRY.supported_tasks:
        return
    PIPELINE_REGISTRY.register_pipeline(
        TASK, pipeline_class=VideoAttributionPipeline, pt_model=AutoModelForVideoClassification, type="video"
    )
    delattr(VideoAttributionPipeline, "_registered_impl")  # save_pretrained would write a copy of this class


_register()
