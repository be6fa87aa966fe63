"""What is explained: a number for each image, made of the model's output.

>>> from captum_vit import AGCAM
>>> from captum_vit.targets import Contrast
>>> AGCAM(model).attribute(images, target=Contrast(281, 285)).shape  # why class 281 rather than 285
torch.Size([2, 1, 14, 14])
"""

from .base import Output, Sight, Target
from .classes import Classes
from .classes import class_places as class_places
from .classes import target_indices as target_indices
from .contrast import Contrast
from .embedding import Embedding
from .feature_importance import FeatureImportance
from .forms import Function, as_target
from .forms import target_at as target_at
from .joined import Joined as Joined
from .joined import Several as Several
from .mask import Mask
from .query import Query
from .text import Text
from .text import TextEmbedding as TextEmbedding

__all__ = [
    "Classes",
    "Contrast",
    "Embedding",
    "FeatureImportance",
    "Function",
    "Mask",
    "Output",
    "Query",
    "Sight",
    "Target",
    "Text",
    "as_target",
]
