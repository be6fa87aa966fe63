"""The tokens that a score is read from, in words."""

from collections.abc import Sequence

from torch import Tensor

from .access import Readout

FEW = 8  # patches that are named by their numbers
SAME = 1e-3  # of a share, by which two that are meant to be equal may differ


def describe(readout: Readout, prefix_tokens: Sequence[str], layers: Sequence[str] = ()) -> str:
    """The readout in words.

    >>> from captum_vit.readouts import describe
    >>> describe(Readout((0,), patches=True), ["class"])
    'class token and mean of patches'

    Args:
        readout: declared or measured; where it was, with the weights and the depths that were found.
        prefix_tokens: what each token before the patches is.
        layers: the model's attention layers in their order, by which depths are numbered.
    """
    if readout.latents:
        return f"attention pool over {'all tokens' if readout.prefix else 'patches'}"
    if readout.shares is None:
        return _declared(readout, prefix_tokens)
    read = {name: share for name, share in readout.shares.items() if bool(share.any())}
    plain = readout.unclear is None and len(read) == 1
    if plain and _as_declared(readout, next(iter(read.values())), len(prefix_tokens)):
        text = _declared(readout, prefix_tokens)
    else:
        text = "; ".join(_at(name, share, readout, prefix_tokens, layers, len(read)) for name, share in read.items())
    if list(read) == list(readout.shares)[-1:]:
        return text
    return text if len(read) > 1 else f"{text}, {_after(next(iter(read)), layers)}"


def _declared(readout: Readout, prefix_tokens: Sequence[str]) -> str:
    """Of one depth, where prefix tokens weigh the same, and the patches."""
    if readout.even and readout.patches:
        return "all tokens"
    return " and ".join([*_named(readout.prefix, prefix_tokens), *(["mean of patches"] if readout.patches else [])])


def _named(places: Sequence[int], prefix_tokens: Sequence[str]) -> list[str]:
    names = [prefix_tokens[i] if i < len(prefix_tokens) else f"token {i}" for i in places]
    return [name if name.startswith("token ") else f"{name} token" for name in dict.fromkeys(names)]


def _as_declared(readout: Readout, share: Tensor, prefix: int) -> bool:
    """Whether the weights are those that the fewer words stand for."""
    expected = readout.weights(prefix, len(share))
    return bool((share.double().cpu() - expected).abs().max() < SAME)


def _at(
    name: str, share: Tensor, readout: Readout, prefix_tokens: Sequence[str], layers: Sequence[str], depths: int
) -> str:
    """What is read of the tokens at one depth."""
    prefix = len(prefix_tokens)
    own, patches = share[:prefix], share[prefix:]
    sizes = own.double().tolist()
    parts = [(each, size) for i, size in enumerate(sizes) if size for each in _named([i], prefix_tokens)]
    if bool(patches.any()):
        parts.append((_patches(patches, readout.unclear is not None), float(patches.sum())))
    if readout.unclear is not None:
        told = " and ".join(part for part, _ in parts)
        told = f"{told}, by weights that are not known: {readout.unclear}"
    elif len(parts) > 1 or depths > 1:
        told = " and ".join(f"{part} ({size:.0%})" for part, size in parts)
    else:
        told = parts[0][0]
    return f"{told}, {_after(name, layers)}" if depths > 1 else told


def _patches(shares: Tensor, unclear: bool) -> str:
    """Which patches, and how they are weighed against one another."""
    read = shares.nonzero().flatten().tolist()
    count, every = len(read), len(shares)
    if count == 1:
        return f"patch {read[0]}"
    several = f"patches {', '.join(map(str, read))}" if count <= FEW else f"{count} of {every} patches"
    if unclear:
        return "each patch" if count == every else several
    low, high = (float(end) for end in shares[read].aminmax())
    if high - low < SAME * high:
        return "mean of patches" if count == every else f"{several} evenly"
    return f"{'all patches' if count == every else several}, the most weighed {high / low:.3g} times the least"


def _after(name: str, layers: Sequence[str]) -> str:
    """The depth, as the layers are numbered where they are listed."""
    return f"after layer {layers.index(name)}" if name in layers else f"after {name}"
