"""An adapter of somebody's own package, for the models in it."""

from captum_vit import Adapter, TokenLayout
from captum_vit.access import CLASS

from .model import OwnViT


class OwnAdapter(Adapter):
    """A class token, then the patches row by row."""

    readout = CLASS

    @classmethod
    def matches(cls, model):
        return isinstance(model, OwnViT)

    def attention_layers(self):
        return {f"blocks.{i}": block for i, block in enumerate(self.model.blocks)}

    def token_layout(self, image_size, arguments):
        height, width = image_size
        return TokenLayout((height // 16, width // 16), prefix=1, patch=(16, 16), readout=CLASS)
