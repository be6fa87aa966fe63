"""The call that makes an explanation again, as it is written."""

from typing import Any

import numpy as np
import pytest

import captum_vit
from captum_vit.calling import program

VALUES = [0.5, np.float64(0.5), np.float32(0.25), np.int64(3), float("inf"), [float("-inf"), 2], {"a": np.bool_(True)}]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_numbers_are_written_so_that_python_reads_them(value: Any):
    told = program(captum_vit.explain, "photo.jpg", {"alpha": value}).removeprefix("captum_vit.explain(")
    assert eval(f"dict(image={told}")["alpha"] == value


def test_what_is_no_number_is_written_too():
    assert program(captum_vit.explain, "a.jpg", {"alpha": float("nan")}).endswith("alpha=float('nan'))")
