"""Attention Guided CAM."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from captum.log import log_usage
from torch import Tensor

from .. import ops
from ..access import AttentionCall, Readout, TokenLayout
from ..capture.running import Differentiable, Inputs, Recording, differentiate, record, replay
from ..capture.shelf import Shelf
from ..capture.untouched import untouched
from ..errors import InputError, OptionError, TargetError
from .base import GradientViTAttribution, Images, check_output_shape, shape_maps, target_indices

CLASSES_AT_ONCE = 256


class AGCAM(GradientViTAttribution):
    """Attention Guided CAM: gradients of the score at the attention, guided by the attention itself.

    sum_l sum_h sum_i relu(dy_c/dA_lh[i, patches]) * sigmoid(S_lh[i, patches]) over the rows i that the score is read
    from, where gradients flow through skip connections and MLPs only: every attention layer's input is a constant. An
    attention pool has no skip connection: there queries and keys are constants, and gradients pass its values to the
    tokens, as they pass a mean over them.

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
            readout, names = self._read(call)
            recording = self._recording(call, readout, names)
            run = self._graph(call, recording, readout, names)
            classes = self._classes(targets, run.scores.shape[1]).to(run.scores.device)
            maps = []
            for part in classes.split(self._classes_at_once(run)):
                gradients = self._class_gradients(call, recording, run, part)
                maps.append(_class_maps(run, gradients, len(part)))
            return shape_maps(run.layout.to_grid(torch.cat(maps).unsqueeze(1)), run.layout, call.images, output_shape)

    def _maps(self, inputs: Inputs, target: Any, *, flow: bool, replay: bool = True) -> tuple[Tensor, TokenLayout]:
        readout, names = self._read(inputs)
        recording = self._recording(inputs, readout, names) if replay else None
        run = self._graph(inputs, recording, readout, names)
        gradients = run.gradients(self._score(target))
        maps = torch.stack([_guided(call, gradients[name]) for name, call in run.calls.items()], 1)
        return (maps.cumsum(1) if flow else maps.sum(1, keepdim=True)), run.layout

    def _recording(self, inputs: Inputs, readout: Readout, names: list[str]) -> Recording[AttentionCall] | None:
        """The forward that a replay needs; None where only the general path is right."""
        # a head that is not known may use the values of tokens that its gradient does not show; and in train mode the
        # two forwards of a replay would draw different dropout masks
        if not readout.only_prefix or self.adapter.training or self.adapter.first_block is None:
            return None
        shelf = Shelf(len(self.adapter.attention_layers()))

        def keep(call: AttentionCall) -> AttentionCall:
            fields = ("q", "k", "v", "out") if call.name in names else ("out",)
            return shelf.put_call(call.first_rows(call.layout.prefix), *fields)

        return record(self.adapter, inputs, keep, readout, for_replay=True)

    def _graph(
        self, inputs: Inputs, recording: Recording[AttentionCall] | None, readout: Readout, names: list[str]
    ) -> Differentiable:
        """The graph from the chosen layers' outputs to the scores, all attention inputs being constant."""
        if recording is None:
            return differentiate(self.adapter, inputs, names, readout, detach_attention=True)
        return replay(self.adapter, inputs, recording, names)

    def _class_gradients(
        self, inputs: Inputs, recording: Recording[AttentionCall] | None, run: Differentiable, classes: Tensor
    ) -> dict[str, Tensor]:
        """`dy_c/dO` for the classes (K,) of one image, (K, H, M, d) each."""
        if recording is None:
            return {name: gradient[:, 0] for name, gradient in run.class_gradients(classes).items()}
        batch = replay(self.adapter, inputs, recording, run.calls, copies=len(classes))
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
        attention = max(len(c.layout.read_rows) * c.layout.keys * c.heads for c in run.calls.values())
        fits = 4 * ops.CHUNK_ELEMENTS // max(attention, call.out.numel() * len(run.calls))
        return min(max(fits, 1), CLASSES_AT_ONCE)


def _class_maps(run: Differentiable, gradients: dict[str, Tensor], count: int) -> Tensor:
    """Maps of several classes of one image, (K, patches): the classes stand where other rows would."""
    maps = []
    for name, call in run.calls.items():
        rows = call.layout.read_rows
        gradient = gradients[name][:, :, rows].transpose(0, 1)  # (H, K, R, d)
        pulled = call.weight_grad(slice(None), gradient.flatten(1, 2)[None])  # (1, H, K*R, N)
        pulled = pulled[0].unflatten(1, (count, len(rows))).relu()  # (H, K, R, N)
        gate = call.scores(rows).sigmoid()[0]  # (H, R, N)
        maps.append(call.layout.to_map((pulled * gate.unsqueeze(1)).sum((0, 2))))
    return torch.stack(maps).sum(0)


def _guided(call: AttentionCall, gradient: Tensor) -> Tensor:
    """relu(dy/dA) * sigmoid(S) summed over heads and readout rows: (B, patches)."""
    maps = [
        (call.weight_grad(rows, gradient).relu() * call.scores(rows).sigmoid()).sum((1, 2))
        for rows in call.parts(call.layout.read_rows)
    ]
    return call.layout.to_map(torch.stack(maps).sum(0))
