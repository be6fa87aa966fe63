"""Explanations as HTML: a page that needs nothing but itself, and a piece for a notebook."""

from .comparison import render_comparison
from .inline import render_inline
from .page import pages, render

__all__ = ["pages", "render", "render_comparison", "render_inline"]
