"""All families: what the README's table of support is made from."""

from tests.families.hf import HF
from tests.families.open_clip import OPEN_CLIP
from tests.families.t2t import T2T
from tests.families.timm_models import TIMM, TORCHVISION

FAMILIES = [*TIMM, *HF, *TORCHVISION, *OPEN_CLIP, *T2T]
