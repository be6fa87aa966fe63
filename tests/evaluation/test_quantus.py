"""Our methods inside Quantus."""

import numpy as np
import pytest
import torch
from PIL import Image

from captum_vit import AGCAM, sample
from captum_vit.adapters.sample_vit import PREPROCESSING, build
from captum_vit.errors import OptionError
from captum_vit.evaluation.quantus import quantus_explain

pytestmark = pytest.mark.filterwarnings("ignore")  # of Quantus and what it imports


def test_quantus_scores_our_methods():
    import quantus

    scenes = [sample.draw_scene(seed, objects=2) for seed in range(3)]
    images = torch.stack([PREPROCESSING(Image.fromarray(scene.image)) for scene in scenes])
    targets = np.array([scene.labels[0] for scene in scenes])
    masks = np.stack([scene.masks[:1] for scene in scenes])
    model = build()
    found = quantus.RelevanceMassAccuracy(disable_warnings=True)(
        model=model,
        x_batch=images.numpy(),
        y_batch=targets,
        s_batch=masks,
        explain_func=quantus_explain,
        explain_func_kwargs={"method": "agcam"},
    )
    maps = AGCAM(model).attribute(images, torch.from_numpy(targets), output_shape="spatial").numpy()
    expected = (maps * masks).sum((1, 2, 3)) / maps.sum((1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_an_unknown_method():
    with pytest.raises(OptionError, match=r"no method 'agcm'; there are agcam, .*; nearest: agcam"):
        quantus_explain(build(), np.zeros((1, 3, 64, 64)), [0], method="agcm")
