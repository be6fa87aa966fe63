"""What a model is that no adapter knows, and why no gradient goes through another, in words: looked at, never run."""

import re
from collections.abc import Iterator
from itertools import chain

import torch
from torch import nn

TEXTS = {"input_ids", "decoder_input_ids", "token_ids", "tokens", "text", "texts", "src", "idx", "ids"}
SOUNDS = {"input_values", "input_features", "waveform", "waveforms", "audio"}
_HEADS = ("num_heads", "n_heads", "nhead", "heads", "num_attention_heads")
_PROJECTIONS = (
    ("qkv",),
    ("to_qkv",),
    ("q", "k"),
    ("q_proj", "k_proj"),
    ("query", "key"),
    ("to_q", "to_k"),
    ("wq", "wk"),
)
_QUANTISED = re.compile(
    r"(Linear4bit|LinearNF4|LinearFP4|Linear8bitLt|.*QuantLinear|WQLinear.*|QLinear|HQQLinear|QModule.*)"
)
_QUANTISERS = (
    "torchao",
    "bitsandbytes",
    "optimum.quanto",
    "auto_gptq",
    "gptqmodel",
    "awq",
    "hqq",
    "quark",
    "compressed_tensors",
)


def what_it_is(model: nn.Module) -> str | None:
    """What a model is, and what explains it, where it is no Vision Transformer; None where it may be one.

    >>> from captum_vit.access.kinds import what_it_is
    >>> print(what_it_is(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten())))  # doctest: +ELLIPSIS
    it is a convolutional network, without attention over image patches; ...

    It goes by the modules and the names of inputs: what reads pixels through convolutions and projects no queries and
    keys is a convolutional network, what reads numbers of tokens through an embedding and has no convolution is made
    for texts.
    """
    modules = list(model.modules())
    if isinstance(model, torch.fx.GraphModule) or any(isinstance(m, torch.jit.ScriptModule) for m in modules):
        return (
            "it was traced, exported or converted, and its attention layers are no modules any more: pass the model as "
            "it was before torch.fx, torch.export, torch.jit or ONNX"
        )
    attention = sum(map(attends, modules))
    spatial = [m for m in modules if _mixes_pixels(m)]
    if not any(_convolves(m, "23") for m in modules):
        return _without_images(model, modules, attention)
    linear = sum("Linear" in type(m).__name__ for m in modules)
    named = any(re.search("attention|attn", type(m).__name__.casefold()) for m in modules)  # of another kind
    if not (attention or named) and spatial and linear <= 4 * len(spatial):
        return (
            "it is a convolutional network, without attention over image patches; Captum's own methods explain it: "
            "captum.attr.LayerGradCam(model, layer), which is Grad-CAM, or captum.attr.IntegratedGradients(model)"
        )
    if not attention and any(re.search("mixer|mlp", type(m).__name__.casefold()) for m in [model, *modules[1:2]]):
        return (
            "its patches meet in fully connected layers and not in attention, so that there is none to show; Captum's "
            "own methods explain it, as captum.attr.IntegratedGradients(model)"
        )
    if attention and any(re.search("window|shifted|swin", type(m).__name__.casefold()) for m in modules):
        return "its attention runs in windows of the image, so that no query sees all patches"
    if (attention or named) and attention < len(spatial) and 2 * max(map(_of_blocks, modules)) <= attention:
        return (
            "it is a convolutional network with attention in a part of its layers: patches meet in convolutions as "
            "well, on several grids, so that attention gives no map of the image; captum.attr.LayerGradCam(model, "
            "layer) explains its convolutions"
        )
    return None


def why_no_gradient(model: nn.Module, *, surely: bool = False) -> str | None:
    """Why no gradient goes through a model's layers, where they are quantised; None where they are not.

    Layers with packed integer weights, as torch.ao makes them, surely let none through, though torch but warns of it
    and goes on past them. Of others, as those of bitsandbytes, some do: they are the reason once it has come to that.

    >>> from captum_vit.access.kinds import why_no_gradient
    >>> why_no_gradient(model) is None
    True
    """
    name, kind = next(_packed(model) if surely else _quantised(model), ("", ""))
    if not kind:
        return None
    return (
        f"{type(model).__name__} is quantised ({name} is {kind}), and no gradient goes through integer weights: "
        f"take the model as it was before, or a method without gradients, as rollout or raw_attention"
    )


def attends(module: nn.Module) -> bool:
    """Whether a module computes attention, as far as its parts and its code tell."""
    if isinstance(module, nn.MultiheadAttention):
        return True
    parts = module.__dict__.keys() | module._modules.keys() | module._parameters.keys()
    if any(all(part in parts for part in several) for several in _PROJECTIONS):
        return True
    if any(name in parts for name in _HEADS) and any(isinstance(m, nn.Linear) for m in module.children()):
        return True
    code = getattr(getattr(type(module), "forward", None), "__code__", None)
    used = set(code.co_names) if code is not None else set()
    if "scaled_dot_product_attention" in used or "multi_head_attention_forward" in used:
        return True
    return "softmax" in used and sum(isinstance(m, nn.Linear) for m in module.children()) > 1


def _convolves(module: nn.Module, dimensions: str) -> bool:
    return re.search(rf"Conv[{dimensions}]d", " ".join(kind.__name__ for kind in type(module).__mro__)) is not None


def _mixes_pixels(module: nn.Module) -> bool:
    return _convolves(module, "23") and not _cuts_patches(module)


def _of_blocks(module: nn.Module) -> int:
    """How many attentions a list of blocks holds, if each attends and none convolves, as those of a ViT under a dense
    head or behind a convolutional stem."""
    blocks = list(module.children()) if isinstance(module, (nn.ModuleList, nn.Sequential)) else []
    found = [sum(map(attends, block.modules())) for block in blocks]
    return 0 if not all(found) or any(map(_mixes_pixels, module.modules())) else sum(found)


def _cuts_patches(module: nn.Module) -> bool:
    """Whether a convolution has no pixel in common with the next place, as a patch embedding; also of one pixel."""
    kernel, stride = getattr(module, "kernel_size", ()), getattr(module, "stride", ())
    return kernel == stride or all(side == 1 for side in kernel)


def of_other_inputs(model: nn.Module) -> str | None:
    """Why a model without a convolution over images takes no images, as of texts and sounds; None where it may."""
    modules = list(model.modules())
    first = getattr(model, "main_input_name", "") or _first_input(model)
    embedded = any(isinstance(m, nn.Embedding) for m in modules)
    if embedded and first not in SOUNDS and (first in TEXTS or any(map(attends, modules))):
        return (
            "it is a text model: it takes the numbers of tokens, and no patches of an image; for texts Captum has "
            "captum.attr.LayerIntegratedGradients(model, embedding)"
        )
    if first in SOUNDS or any(_convolves(m, "1") for m in modules if type(m).__module__.startswith("torch")):
        return "it is a model of sounds or other sequences, and there are no patches of an image in it"
    return None


def _without_images(model: nn.Module, modules: list[nn.Module], attention: int) -> str | None:
    """Of a model without a convolution over an image."""
    told = of_other_inputs(model)
    if told is None and not attention and all(_plain(m) for m in modules[len(modules) > 1 :]):
        return (
            "it has neither attention nor patches of an image; Captum's own methods explain it, as "
            "captum.attr.IntegratedGradients(model)"
        )
    return told


def _first_input(model: nn.Module) -> str:
    code = getattr(type(model).forward, "__code__", None)
    return code.co_varnames[1] if code is not None and code.co_argcount > 1 else ""


def _plain(module: nn.Module) -> bool:
    """Whether it is one of torch's own layers, in which no attention can hide."""
    return type(module).__module__.startswith("torch.nn.modules.")


def _packed(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Name and class of the layers whose integer weights are packed."""
    for name, module in model.named_modules():
        home = type(module).__module__
        if re.match(r"torch\.(ao\.)?nn\.(intrinsic\.)?quantized", home) and "reference" not in home:
            yield name or "it", f"{home}.{type(module).__name__}"


def _quantised(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Name and class of all that is quantised."""
    yield from _packed(model)
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__module__.startswith(_QUANTISERS) or _QUANTISED.fullmatch(kind.__name__):
            yield name or "it", f"{kind.__module__}.{kind.__name__}"
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        home = f"{type(tensor).__module__}.{type(tensor).__name__}"
        if tensor.is_quantized or home.startswith(_QUANTISERS):
            yield name, home
