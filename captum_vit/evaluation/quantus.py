"""Our methods as Quantus asks for explanations."""

from typing import Any

import numpy as np
import torch
from torch import nn

from ..attr import find_method


def quantus_explain(
    model: nn.Module, inputs: Any, targets: Any, *, method: str = "agcam", **options: Any
) -> np.ndarray:
    """An `explain_func` for Quantus: `Metric(...)(model, x, y, explain_func=quantus_explain,
    explain_func_kwargs={"method": "daam"})`.

    Args:
        model: any supported ViT.
        inputs: images, (N, C, H, W), array or tensor.
        targets: classes, (N,).
        method: as for `explain`; options: its own, what Quantus adds of its own accord (as `device`) being left aside.
    Returns:
        Maps over the pixels, (N, 1, H, W), as Quantus compares them with its inputs.
    Raises:
        OptionError: an unknown method.
    """
    kind = find_method(method)[1]
    own = {name: value for name, value in options.items() if name not in QUANTUS_OWN}
    weight = next(model.parameters())
    images = torch.as_tensor(np.asarray(inputs), dtype=weight.dtype, device=weight.device)
    classes = torch.as_tensor(np.asarray(targets), device=weight.device).long()
    maps = kind(model).attribute(images, target=classes, output_shape="spatial", **own)
    return maps.cpu().float().numpy()


QUANTUS_OWN = ("device", "softmax", "channel_first", "normalise", "img_size", "nr_channels")
