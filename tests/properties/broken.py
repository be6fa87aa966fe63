"""Marks for the deliberately broken twin that stands next to a check: the check must catch it."""

import pytest
from hypothesis import Phase, settings

caught = pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: the check above catches it")
unshrunk = settings(phases=[Phase.generate])  # a failure that is wanted needs no smallest example
