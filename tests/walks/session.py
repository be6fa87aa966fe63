"""What stands where, in a process that finds the package on its path: run by `test_walks.py`, prints JSON."""

import json
import sys
import warnings
from typing import Any

import torch
from PIL import Image
from transformers import PretrainedConfig, PreTrainedModel, ViTImageProcessor, pipeline
from transformers.modeling_outputs import ImageClassifierOutput

import captum_vit.pipelines  # noqa: F401  # the task of pipelines
from captum_vit import AGCAM, adapt, explain, load_model, sample
from captum_vit.attr import METHODS
from captum_vit.evaluation import Plan, evaluate

METHOD, TARGET = "value_gradient", "outside.target:Entropy"
found: dict[str, Any] = {}

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found["methods"] = list(METHODS)
    model = load_model("outside/vit").model
    found["adapter"] = type(adapt(model)).__module__
    found["agcam"] = list(AGCAM(model).attribute(torch.randn(1, 3, 64, 64), target=1).shape)
found["warnings"] = [str(each.message) for each in caught if "cannot be loaded" in str(each.message)]

photo = Image.fromarray(sample.draw_scene(15, objects=2, size=200).image)
explanation = explain(photo, "outside/vit", method=[METHOD, "agcam"], target=["disc", TARGET], power=2.0)
found["explain"] = [[a.method, a.target.name, a.target.unit] for a in explanation]
found["options"] = explanation.options
found["maps"] = [float(a.map.max()) for a in explanation]
page = explanation.to_html()
found["report"] = [word for word in ("value gradient", "entropy", "nats", "AGCAM") if word in page]


class Wrapped(PreTrainedModel):
    """As whoever publishes a model would wrap it for Hugging Face."""

    config_class = PretrainedConfig

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.vit = model
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=self.vit(pixel_values))


config = PretrainedConfig(id2label=dict(enumerate(sample.CLASSES)))
processor = ViTImageProcessor(size={"height": 64, "width": 64})
pipe = pipeline("image-attribution", model=Wrapped(config).eval(), image_processor=processor)
found["pipeline"] = {
    name: [[each["label"], list(each["grid"].shape)] for each in pipe(photo, method=name, target=[TARGET, "disc"])]
    for name in (METHOD, "agcam")
}

board = evaluate(Plan("outside/vit", "sample:4", [METHOD, "agcam"], target=TARGET), f"{sys.argv[1]}/run")
found["leaderboard"] = {name: board.mean(name, next(iter(board.figures))).count for name in board.methods}
print(json.dumps(found))
