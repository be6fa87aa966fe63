"""All families: what the README's table of support is made from."""

from tests.families.timm_models import TIMM, TORCHVISION

FAMILIES = [*TIMM, *TORCHVISION]
