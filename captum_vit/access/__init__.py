"""The layer-access protocol: all that an attribution method may know of a model, and how an adapter tells it."""

from .adapter import Adapter, unaltered
from .attention import AttentionCall, Computed, Projections, Rows
from .described import Described
from .modules import Layer, Switch
from .nested import NestedAdapter
from .registry import ADAPTERS, adapt, register, select_layers, unwrap
from .tokens import (
    CLASS,
    CLASS_AND_DISTILLATION,
    CLASS_AND_PATCHES,
    PATCHES,
    Grid,
    LayerLayout,
    Readout,
    TokenLayout,
    all_tokens,
)

__all__ = [
    "ADAPTERS",
    "CLASS",
    "CLASS_AND_DISTILLATION",
    "CLASS_AND_PATCHES",
    "PATCHES",
    "Adapter",
    "AttentionCall",
    "Computed",
    "Described",
    "Grid",
    "Layer",
    "LayerLayout",
    "NestedAdapter",
    "Projections",
    "Readout",
    "Rows",
    "Switch",
    "TokenLayout",
    "adapt",
    "all_tokens",
    "register",
    "select_layers",
    "unaltered",
    "unwrap",
]
