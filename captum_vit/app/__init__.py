"""A local app: drop photographs, choose a model, methods and classes, and look at the report."""

from .form import build, look
from .serving import serve

__all__ = ["build", "look", "serve"]
