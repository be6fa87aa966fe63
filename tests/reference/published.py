"""What the authors' published programs print, and the models that they were given."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

DATA = Path(__file__).parent / "data"


@cache
def arrays(name: str) -> dict[str, Tensor]:
    """The arrays of one file of `data`, by their names; nobody writes to them."""
    with np.load(DATA / f"{name}.npz") as found:
        return {key: torch.from_numpy(array) for key, array in found.items()}


def vit(dtype: torch.dtype = torch.float32) -> VisionTransformer:
    """The model of all arrays but those under `clip`: four blocks, three heads, images of 64 pixels."""
    model = VisionTransformer(**json.loads((DATA / "config.json").read_text())).eval()
    model.load_state_dict(load_file(DATA / "model.safetensors"))
    return model.to(dtype)


def clip_tower(dtype: torch.dtype = torch.float32) -> nn.Module:
    """The image tower of `clip/expected`, an open_clip VisionTransformer that gives image embeddings."""
    open_clip = pytest.importorskip("open_clip")
    config = json.loads((DATA / "clip" / "config.json").read_text())
    vision, text = open_clip.CLIPVisionCfg(**config["vision_cfg"]), open_clip.CLIPTextCfg(**config["text_cfg"])
    tower = open_clip.CLIP(config["embed_dim"], vision, text, quick_gelu=False).visual.eval()
    tower.load_state_dict(load_file(DATA / "clip" / "visual.safetensors"))
    return tower.to(dtype)
