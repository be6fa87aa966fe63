"""An evaluation holds a shard at a time: its peak memory does not grow with the number of images."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import re
import tempfile
from pathlib import Path

import torch

from captum_vit.evaluation import Evaluator, Plan
from captum_vit.evaluation.engines import run_local
from captum_vit.evaluation.shards import Shards

torch.set_num_threads(1)
kept = []


def leaky(evaluator, index, see=Evaluator._see):
    seen = see(evaluator, index)
    kept.append(seen.inputs)
    return seen


def peak():  # in bytes; ru_maxrss would count the parent process before exec
    return 1024 * int(re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text()).group(1))


def growth(scenes):
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(data=f"sample:{scenes}?size=128", methods=("agcam",))
        run_local(plan.make, Shards(folder, {}, 2 * scenes))
    return peak() - before


growth(100)  # libraries come in, and the allocator settles
sound = growth(200)
Evaluator._see = leaky
print(sound, growth(200), sum(x.nbytes for x in kept))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of the peak")
def test_memory_does_not_grow_with_the_number_of_images():
    settled = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "32768"}  # else glibc's own habits hide the leak
    done = subprocess.run(
        [sys.executable, "-c", RUN], env=os.environ | settled, check=True, capture_output=True, text=True
    )
    sound, leaky, inputs = map(int, done.stdout.split())
    assert sound < inputs / 2 < leaky  # the second keeps the model's input of each item, the least that is worth a leak
