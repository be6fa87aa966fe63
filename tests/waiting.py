"""Tests that need another process to have come so far wait for that, and never for a time."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATIENCE = 1800  # seconds: a bound for what hangs, which no machine reaches that is only busy


def wait_until(there: Callable[[], bool], otherwise: str) -> None:
    """Return as soon as it is so; fail with what `otherwise` says where it never is."""
    last = time.monotonic() + PATIENCE
    while not there():
        if time.monotonic() > last:
            pytest.fail(f"{otherwise}, in {PATIENCE} s")
        time.sleep(0.01)
