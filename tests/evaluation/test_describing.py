"""What a manifest says of values: the same of equal ones, in any process, and something else of others."""

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from captum_vit.describing import described


class Box:
    def __init__(self, inside: Any) -> None:
        self.inside = inside

    def call(self, x):
        return x

    @classmethod
    def around_itself(cls) -> "Box":
        box = cls(None)
        box.inside = [box]
        return box


def outer(factor: Any, *, power: Any = 2) -> Callable:
    def inner(x, shift=power):
        return factor * x + shift

    return inner


def loops() -> Callable:
    def inner(n):
        return inner(n - 1) if n else later

    later = 1
    return inner


def middle(value: float) -> torch.Tensor:
    found = torch.ones(5000)
    found[2500] = value
    return found


PAIRS = {
    "numbers": (1, 2),
    "kinds of numbers": (True, "True"),
    "not a number": (float("nan"), 0.0),
    "numpy's numbers": (np.int64(3), np.int64(4)),
    "tensors": (middle(1), middle(2)),
    "types of tensors": (torch.ones(3), torch.ones(3, dtype=torch.float64)),
    "arrays": (np.arange(3), np.arange(3)[::-1]),
    "sets": ({"a", "b"}, {"a", "c"}),
    "mappings": ({"a": 1}, {"a": 2}),
    "what they close over": (outer(1), outer(2)),
    "defaults": (outer(1, power=1), outer(1, power=3)),
    "sources": (outer(1), loops()),
    "partials": (functools.partial(outer, 1), functools.partial(outer, 2)),
    "attributes": (Box(1), Box(2)),
    "methods": (Box(1).call, Box(2).call),
    "themselves": (Box.around_itself(), Box(None)),
    "modules": (torch.nn.Conv2d(1, 1, 1), torch.nn.Conv2d(1, 1, 1)),
    "dtypes": (torch.float16, torch.float32),
    "builtins": (torch.relu, torch.sigmoid),
    "libraries": (np, torch),
    "paths": (Path("a"), Path("b")),
}


@pytest.mark.parametrize(("one", "other"), PAIRS.values(), ids=PAIRS)
def test_other_values_are_others_and_the_same_is_the_same(one, other):
    first, second = (json.loads(json.dumps(described(value))) for value in (one, other))
    assert first == json.loads(json.dumps(described(one)))
    assert first != second
    assert "0x" not in json.dumps([first, second])


def test_an_object_that_holds_half_the_world_ends():
    chain: Any = None
    for _ in range(10_000):
        chain = Box(chain)
    assert len(json.dumps(described(chain))) < 10_000


def test_another_process_says_the_same():
    program = (
        "import json, torch; from captum_vit.describing import described; "
        "print(json.dumps(described([{'b', 'a', 'c'}, torch.arange(4.0), torch.nn.ReLU(), torch.relu, float('nan')])))"
    )
    here = json.loads(json.dumps(described([{"c", "a", "b"}, torch.arange(4.0), torch.nn.ReLU(), torch.relu, np.nan])))
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == here
