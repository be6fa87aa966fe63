"""Figures of an explanation, by matplotlib."""

from .drawing import classes, flow, heads, layers, methods, overlay, plot
from .strips import frames

__all__ = ["classes", "flow", "frames", "heads", "layers", "methods", "overlay", "plot"]
