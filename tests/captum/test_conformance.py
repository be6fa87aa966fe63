"""Captum's generated tests, run on our methods: hooks are removed, and a batch equals its singles.

Captum keeps these generators in its own repository; its wheel brings the configuration and the helpers that they read
(captum.testing). What is generated here follows the same rules from the same kind of entries.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import NoiseTunnel
from captum.testing.attr.helpers.gen_test_utils import (
    gen_test_name,
    get_target_layer,
    parse_test_config,
    should_create_generated_test,
)
from captum.testing.helpers import BaseTest
from captum.testing.helpers.basic import assertTensorTuplesAlmostEqual, deep_copy_args
from torch import Tensor, nn

from captum_vit import AGCAM
from tests.helpers import METHODS, hf_vit, images, timm_vit

SPECIFIC = [method for method in METHODS if method.class_specific]
OTHERS = [method for method in METHODS if not method.class_specific]
X = images(4)
TARGETS = {"single": 1, "negative": -2, "tensor": torch.tensor([0, 3, 1, 6]), "list": [0, 3, 1, 6]}
TARGETS |= {"tuples": [(0,), (3,), (1,), (6,)], "one": torch.tensor([2]), "scalar": torch.tensor(2), "tuple": (4,)}


def entry(name: str, algorithms: list[type], model: nn.Module, layer: Any, noise: bool = False, **args: Any) -> dict:
    """An entry in the form of captum.testing.attr.helpers.test_config."""
    return {
        "name": name,
        "algorithms": algorithms,
        "model": model,
        "layer": layer,
        "noise_tunnel": noise,
        "attribute_args": {"inputs": X, **args},
    }


NOISE = {"nt_samples": 4, "stdevs": 0.0}
LAYERS = ["blocks.0.attn", "blocks.2.attn"]
config = [
    *(entry(f"timm_{name}", SPECIFIC, timm_vit(), None, target=target) for name, target in TARGETS.items()),
    entry("timm_no_target", OTHERS, timm_vit(), None),
    entry("timm_layer", SPECIFIC, timm_vit(), "blocks.1.attn", target=1),
    entry("timm_layers", SPECIFIC, timm_vit(), LAYERS, target=TARGETS["tensor"]),
    entry("timm_layer", OTHERS, timm_vit(), "blocks.1.attn"),
    entry("hf", SPECIFIC, hf_vit(), "vit.layers.1.attention", target=TARGETS["list"]),
    entry("hf", OTHERS, hf_vit(), None),
    *(
        entry(f"noise_{kind}", SPECIFIC, timm_vit(), None, True, target=1, nt_type=kind, **NOISE)
        for kind in ("smoothgrad", "smoothgrad_sq", "vargrad")
    ),
    entry("noise_no_target", OTHERS, hf_vit(), None, True, nt_type="smoothgrad", **NOISE),
]


def build(algorithm: type, model: nn.Module, layer: Any, noise: bool) -> Any:
    chosen = None if layer is None else get_target_layer(model, layer)
    method = algorithm(model, chosen)
    return NoiseTunnel(method) if noise else method


def hook_test(algorithm: type, model: nn.Module, args: dict, layer: Any, noise: bool) -> Callable[[BaseTest], None]:
    """Every hook that an attribution registers is gone when it returns, or when the model raises."""

    def generated(self: BaseTest) -> None:
        active: dict[int, str] = {}
        count = 0
        registered = {
            "register_forward_hook": nn.Module.register_forward_hook,
            "register_forward_pre_hook": nn.Module.register_forward_pre_hook,
            "register_full_backward_hook": nn.Module.register_full_backward_hook,
            "register_full_backward_pre_hook": nn.Module.register_full_backward_pre_hook,
        }

        def counted(name: str, original: Callable) -> Callable:
            def register(module, *hook, **options):
                nonlocal count
                handle = original(module, *hook, **options)
                active[id(handle)] = name
                count += 1
                remove = handle.remove

                def removed():
                    active.pop(id(handle), None)
                    remove()

                handle.remove = removed
                return handle

            return register

        with pytest.MonkeyPatch.context() as patch:
            for name, original in registered.items():
                patch.setattr(nn.Module, name, counted(name, original))
            build(algorithm, model, layer, noise).attribute(**args)
            assert count > 0, "the method registers hooks, so the count must see some"
            assert not active

    return generated


def single_test(algorithm: type, model: nn.Module, args: dict, layer: Any, noise: bool) -> Callable[[BaseTest], None]:
    """Each image of a batch by itself, with its own target, gives its slice of the batch."""

    def one(value: Any, index: int, name: str) -> Any:
        if name == "inputs" or (isinstance(value, Tensor) and value.numel() == len(X)):
            return value[index : index + 1]
        if name == "target" and isinstance(value, list):
            return value[index : index + 1]
        return value

    @deep_copy_args
    def attribute(**arguments: Any) -> Tensor:
        return build(algorithm, model, layer, noise).attribute(**arguments)

    def generated(self: BaseTest) -> None:
        whole = attribute(**args)
        for index in range(len(X)):
            single = attribute(**{name: one(value, index, name) for name, value in args.items()})
            assertTensorTuplesAlmostEqual(self, single, whole[index : index + 1], delta=1e-5, mode="max")

    return generated


class Generated(type):
    """Puts one test a method and configuration into the class, for each kind of test."""

    def __new__(cls, name: str, bases: tuple, namespace: dict):
        for kind, make in (("hooks", hook_test), ("singles", single_test)):
            for settings in config:
                algorithms, model, args, layer, noise, _ = parse_test_config(settings)
                for algorithm in filter(should_create_generated_test, algorithms):
                    test = make(algorithm, model, args, layer, noise)
                    test.__name__ = gen_test_name(f"test_{kind}", settings["name"], algorithm, noise)
                    assert test.__name__ not in namespace
                    namespace[test.__name__] = test
        return super().__new__(cls, name, bases, namespace)


class TestConformance(BaseTest, metaclass=Generated):
    """What captum generates for a layer method."""


class Leaky(AGCAM):
    """Leaves its hook behind, and divides by the batch's maximum."""

    def attribute(self, inputs, target=None):
        self.forward_func.register_forward_hook(lambda *_: None)
        maps = super().attribute(inputs, target)
        return maps / maps.max()


@pytest.mark.parametrize("make", [hook_test, single_test])
def test_the_generated_tests_catch_a_leaky_method(make):
    test = make(Leaky, timm_vit(), {"inputs": X, "target": 1}, None, False)
    with pytest.raises(AssertionError):
        test(BaseTest())
