"""What all tests share: hypothesis profiles and the default seed."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "ci", max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=QUIET
)
settings.register_profile("nightly", max_examples=500, deadline=None, suppress_health_check=QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

torch.set_num_threads(1)  # the models are so small that a second thread only waits; pytest -n 2 uses the second core


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
