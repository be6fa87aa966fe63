"""Attention Guided CAM."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from captum.log import log_usage
from torch import Tensor

from .. import ops
from ..capture import Differentiable, Inputs, Recording, differentiate, record, replay
from ..errors import InputError, OptionError, TargetError
from ..layers import AttentionCall, Shelf, TokenLayout
from ..untouched import untouched
from .base import GradientViTAttribution, Images, check_output_shape, shape_maps, target_indices

CLASSES_AT_ONCE = 256


class AGCAM(GradientViTAttribution):
    """Attention Guided CAM: gradients of the score at the attention, guided by the attention itself.

    sum_l sum_h sum_i relu(dy_c/dA_lh[i, patches]) * sigmoid(S_lh[i, patches]) over the rows i that the score is read
    from, where gradients flow through skip connections and MLPs only: every attention layer's input is a constant.

    Where the score is read from prefix tokens, that gradient lives on them alone, and after one forward the model is
    run again on these few tokens instead of backwards through all (`replay`).

    Source: Leem & Seo 2024, "Attention Guided CAM: Visual Explanations of Vision Transformer Guided by
        Self-Attention" (arXiv:2402.04563).

    Options of `attribute`:
        replay: False takes the general path for every readout; both paths give the same maps.
    """

    @log_usage()
    def attribute_classes(
        self,
        inputs: Images,
        targets: Sequence[int] | Tensor | Literal["all"] = "all",
        additional_forward_args: Any = None,
        *,
        forward_kwargs: dict[str, Any] | None = None,
        output_shape: str = "grid",
    ) -> Tensor:
        """The maps of many classes of one image, from one forward and one batched replay.

        Args:
            inputs: one image, (1, C, H, W).
            targets: K classes, or "all".
        Returns:
            (K, 1, rows, cols), or as `output_shape` says; each equals `attribute` for its class.
        """
        check_output_shape(output_shape)
        call = self._inputs(inputs, additional_forward_args, forward_kwargs)
        if len(call.images) != 1:
            raise InputError(f"attribute_classes takes one image, got a batch of {len(call.images)}")
        with untouched(self.adapter), torch.no_grad():
            recording = self._recording(call)
            run = self._graph(call, recording)
            classes = self._classes(targets, run.scores.shape[1]).to(run.scores.device)
            maps = []
            for part in classes.split(self._classes_at_once(run)):
                gradients = self._class_gradients(call, recording, run, part)
                maps.append(_class_maps(run, gradients, len(part)))
            return shape_maps(run.layout.to_grid(torch.cat(maps).unsqueeze(1)), run.layout, call.images, output_shape)

    def _maps(self, inputs: Inputs, target: Any, *, flow: bool, replay: bool = True) -> tuple[Tensor, TokenLayout]:
        run = self._graph(inputs, self._recording(inputs) if replay else None)
        gradients = run.gradients(self._score(target))
        maps = torch.stack([_guided(call, gradients[name], run.layout) for name, call in run.calls.items()], 1)
        return (maps.cumsum(1) if flow else maps.sum(1, keepdim=True)), run.layout

    def _recording(self, inputs: Inputs) -> Recording[AttentionCall] | None:
        """The forward that a replay needs; None where only the general path is right."""
        readout = self._readout(inputs)
        # a head that is not known may use the values of tokens that its gradient does not show; and in train mode the
        # two forwards of a replay would draw different dropout masks
        if not readout.only_prefix or self.adapter.training:
            return None
        shelf = Shelf(len(self.adapter.attention_layers()))

        def keep(call: AttentionCall, layout: TokenLayout) -> AttentionCall:
            fields = ("q", "k", "v", "out") if call.name in self.layer_names else ("out",)
            return call.first_rows(layout.prefix).keep(shelf, *fields)

        return record(self.adapter, inputs, keep, readout, for_replay=True)

    def _graph(self, inputs: Inputs, recording: Recording[AttentionCall] | None) -> Differentiable:
        """The graph from the chosen layers' outputs to the scores, all attention inputs being constant."""
        if recording is None:
            readout = self._readout(inputs)
            return differentiate(self.adapter, inputs, self.layer_names, readout, detach_attention=True)
        return replay(self.adapter, inputs, recording, self.layer_names)

    def _class_gradients(
        self, inputs: Inputs, recording: Recording[AttentionCall] | None, run: Differentiable, classes: Tensor
    ) -> dict[str, Tensor]:
        """`dy_c/dO` for the classes (K,) of one image, (K, H, M, d) each."""
        if recording is None:
            return {name: gradient[:, 0] for name, gradient in run.class_gradients(classes).items()}
        batch = replay(self.adapter, inputs, recording, self.layer_names, copies=len(classes))
        return batch.gradients(lambda scores: scores.gather(1, classes[:, None])[:, 0])

    @staticmethod
    def _classes(targets: Sequence[int] | Tensor | str, count: int) -> Tensor:
        if isinstance(targets, str):
            if targets != "all":
                raise OptionError(f"targets must be classes or 'all', got {targets!r}")
            return torch.arange(count)
        wanted = targets.flatten() if isinstance(targets, Tensor) else list(targets)
        if len(wanted) == 0:
            raise TargetError("targets must hold at least one class")
        return target_indices(wanted, len(wanted), count)

    @staticmethod
    def _classes_at_once(run: Differentiable) -> int:
        call = next(iter(run.calls.values()))
        rows = len(run.layout.readout_rows)
        fits = 4 * ops.CHUNK_ELEMENTS // max(rows * run.layout.tokens * call.heads, call.out.numel() * len(run.calls))
        return min(max(fits, 1), CLASSES_AT_ONCE)


def _class_maps(run: Differentiable, gradients: dict[str, Tensor], count: int) -> Tensor:
    """Maps of several classes of one image, (K, patches): the classes stand where other rows would."""
    rows, maps = run.layout.readout_rows, []
    for name, call in run.calls.items():
        gradient = gradients[name][:, :, rows].transpose(0, 1)  # (H, K, R, d)
        pulled = call.weight_grad(slice(None), gradient.flatten(1, 2)[None])  # (1, H, K*R, N)
        pulled = pulled[0].unflatten(1, (count, len(rows))).relu()  # (H, K, R, N)
        gate = call.scores(rows).sigmoid()[0]  # (H, R, N)
        maps.append((pulled * gate.unsqueeze(1)).sum((0, 2)))
    return torch.stack(maps).sum(0)[:, run.layout.prefix :]


def _guided(call: AttentionCall, gradient: Tensor, layout: TokenLayout) -> Tensor:
    """relu(dy/dA) * sigmoid(S) summed over heads and readout rows: (B, patches)."""
    maps = [
        (call.weight_grad(rows, gradient).relu() * call.scores(rows).sigmoid()).sum((1, 2))
        for rows in call.parts(layout.readout_rows)
    ]
    return torch.stack(maps).sum(0)[:, layout.prefix :]
