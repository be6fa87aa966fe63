"""Pure tensor mathematics of the maps: no modules, no hooks.

Shapes: B images, H heads, N key tokens, M query tokens, d channels a head, R chosen query rows.
Sums and softmax run in float32 at least, whatever the inputs' type and whether autocast is on or not.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import OptionError, brief

CHUNK_ELEMENTS = 1 << 21  # entries of attention held at once when rows are streamed: 8 MiB in float32

FUSIONS = ("mean", "max", "min")


_TINY = 1e-9


def full_precision(device: torch.device) -> torch.autocast:
    """Context in which autocast on `device` is off."""
    return torch.autocast(device.type, enabled=False)


def widen(x: Tensor) -> Tensor:
    """`x` in float32, or float64 if it is that already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def attention_scores(q: Tensor, k: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """`S = scale * q k^T + bias`, before the softmax: (B, H, R, N) from q (B, H, R, d) and k (B, H, N, d).

    `bias` is additive, or boolean as in scaled_dot_product_attention (False: the key is left out).
    """
    with full_precision(q.device):
        scores = (widen(q) * scale) @ widen(k).mT
        if bias is None:
            return scores
        if bias.dtype == torch.bool:
            return scores.masked_fill(~bias, float("-inf"))
        return scores + bias


def row_chunks(rows: int, columns: int, batch_heads: int) -> Iterator[slice]:
    """Slices over `rows` such that a (batch_heads, slice, columns) block stays within CHUNK_ELEMENTS."""
    step = max(1, CHUNK_ELEMENTS // max(1, columns * batch_heads))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def check_fusion(fusion: str) -> None:
    """Raise OptionError unless heads can be fused so."""
    if not isinstance(fusion, str) or fusion not in FUSIONS:
        raise OptionError(f"fusion must be one of {', '.join(FUSIONS)}, got {brief(fusion)}")


def check_ratio(discard_ratio: float) -> None:
    """Raise OptionError unless 0 <= discard_ratio < 1."""
    if isinstance(discard_ratio, bool) or not isinstance(discard_ratio, (int, float)) or not 0 <= discard_ratio < 1:
        raise OptionError(f"discard_ratio must lie in [0, 1), got {brief(discard_ratio)}")


def fuse_heads(weights: Tensor, fusion: str) -> Tensor:
    """Heads fused by "mean", "max" or "min": (B, H, R, N) -> (B, R, N)."""
    check_fusion(fusion)
    if fusion == "mean":
        return weights.mean(1)
    return weights.amax(1) if fusion == "max" else weights.amin(1)


def discard_lowest(fused: Tensor, ratio: float, *, keep_first: bool) -> Tensor:
    """The `int(M * N * ratio)` lowest entries of each matrix set to 0: (B, M, N) -> (B, M, N).

    Entries that tie with the highest discarded one go with it. `keep_first` exempts entry [0, 0].
    """
    return discard_lowest_(fused.clone(), ratio, keep_first=keep_first)


def discard_lowest_(fused: Tensor, ratio: float, *, keep_first: bool) -> Tensor:
    """The same in place, which spares two matrices of that size."""
    flat = fused.flatten(1)
    count = int(flat.shape[1] * ratio)
    for row in flat if count else ():
        first = row[0].clone()
        F.threshold(row, row.kthvalue(count).values.item(), 0, inplace=True)
        if keep_first:
            row[0] = first
    return fused


def rollout_step(
    state: Tensor,
    fused_rows: Callable[[slice], Tensor],
    heads: int,
    queries: int,
    keys: int,
    discard_ratio: float = 0.0,
    *,
    keep_first: bool = True,
    skip: bool = True,
    normalised: bool = True,
) -> Tensor:
    """Row vectors carried through one layer of a rollout: `r <- r rownorm((F + I) / 2)`.

    Args:
        state: row vectors, (B, V, keys). Where only the first `queries` keys attend, the others stay what they are.
        fused_rows: gives the rows of the layer's fused matrix F, slice -> (B, R, keys).
        heads: heads that `fused_rows` holds at once, for the size of the chunks.
        queries, keys: the shape of F.
        discard_ratio: share of the entries of F that is dropped, in [0, 1); above 0, F is held whole.
        keep_first: whether entry [0, 0] of F is exempt from the discard.
        skip: whether a skip connection leads past the attention. Without one, as in an attention pool, the state is
            (B, V, queries) and the step is `r <- r rownorm(F)`.
        normalised: whether rows are divided by their sums. If not, the step is `r <- r (F + I)`, as relevance adds up.
    Returns:
        (B, V, keys). Of a rollout, rows that sum to one before sum to one after, unless a row of a pool's F is 0.
    Source: Abnar & Zuidema 2020 (arXiv:2005.00928), section 3; without the norm Chefer et al. 2021 (arXiv:2103.15679),
        equation 6. Read from the output down, so that no N x N product is ever formed.
    """
    batch, values, _ = state.shape
    chunks = list(row_chunks(queries, keys, batch * heads))
    if discard_ratio > 0:
        whole = _whole(fused_rows, chunks, queries)
        if whole.requires_grad:  # which parts of it that are written to in place would not survive
            whole = whole * discard_lowest(whole.detach(), discard_ratio, keep_first=keep_first).ne(0)
        else:
            discard_lowest_(whole, discard_ratio, keep_first=keep_first)
        fused_rows, chunks = (lambda rows: whole[:, rows]), [slice(0, queries)]
    carried = state.new_zeros(batch, values, keys)
    for rows in chunks:
        fused = fused_rows(rows)  # (B, R, keys)
        share = state[:, :, rows]
        if normalised:
            total = fused.sum(-1) + 1 if skip else fused.sum(-1)  # the 1/2 of (F + I)/2 cancels in the row sum
            share = share / total.where(total != 0, 1).unsqueeze(1)
        with full_precision(state.device):
            carried += share @ fused
        if skip:
            carried[:, :, rows] += share
    if skip:
        carried[:, :, queries:] += state[:, :, queries:]
    return carried


def _whole(rows_of: Callable[[slice], Tensor], chunks: Sequence[slice], queries: int) -> Tensor:
    """All rows of a matrix, (B, queries, keys)."""
    first = rows_of(chunks[0])
    whole = first.new_empty(len(first), queries, first.shape[2])
    whole[:, chunks[0]] = first
    for rows in chunks[1:]:
        whole[:, rows] = rows_of(rows)
    return whole


def importance_by_neighbours(
    features: Tensor, bank: Tensor, labels: Tensor, k: int = 20, temperature: float = 0.07
) -> tuple[Tensor, Tensor]:
    """Dimension-wise importance of self-supervised features from a memory bank.

    The k nearest neighbours by cosine vote for their labels with weight exp(similarity / temperature); over
    the neighbours m of the winning label, the mean of `f_hat * m` is divided by the absolute value of its sum
    and min-maxed to [0, 1].

    Args:
        features: (B, D).  bank: (M, D).  labels: (M,), integers >= 0.
    Returns:
        Importance (B, D) and the winning label of each image (B,).
    Source: DAAM, self-supervised section (Wu et al., "Dynamic Accumulated Attention Map").
    """
    unit = F.normalize(widen(features), dim=1)
    bank = F.normalize(widen(bank), dim=1)
    with full_precision(unit.device):
        similarity, nearest = (unit @ bank.mT).topk(min(k, len(bank)), dim=1)  # (B, k)
    neighbour_labels = labels[nearest]
    votes = unit.new_zeros(len(unit), int(labels.max()) + 1)
    votes.scatter_add_(1, neighbour_labels, (similarity / temperature).exp())
    winner = votes.argmax(1)
    agrees = (neighbour_labels == winner[:, None]).to(unit.dtype)  # (B, k)
    mean = unit * (agrees.unsqueeze(2) * bank[nearest]).sum(1) / agrees.sum(1, keepdim=True)
    return min_max(mean / mean.sum(1, keepdim=True).abs()), winner


def min_max(x: Tensor) -> Tensor:
    """Each row of a (B, ...) tensor brought to [0, 1]; a constant row becomes 0."""
    flat = x.flatten(1)
    low = flat.amin(1, keepdim=True)
    span = flat.amax(1, keepdim=True) - low
    return ((flat - low) / span.where(span > 0, 1)).view_as(x)


def safe_divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b, pushed off 0 by 1e-9, and 0 where b is 0."""
    pushed = b + torch.where(b == -_TINY, 2 * _TINY, _TINY)
    return torch.where(b == 0, 0.0, a / pushed)
