"""Figures of an explanation, by matplotlib."""

from .drawing import classes, flow, heads, layers, methods, overlay, plot

__all__ = ["classes", "flow", "heads", "layers", "methods", "overlay", "plot"]
