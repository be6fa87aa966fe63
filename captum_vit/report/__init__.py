"""Explanations as HTML: a page that needs nothing but itself, and a piece for a notebook."""

from .comparison import render_comparison
from .inline import render_inline
from .page import images_of, pages, render

__all__ = ["images_of", "pages", "render", "render_comparison", "render_inline"]
