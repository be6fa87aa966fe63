"""The base class of all methods: inputs in, maps out, in Captum's way."""

import inspect
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from captum.attr import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from ..access import Layer, Readout, select_layers
from ..access.any_model import AnyModel
from ..capture import Inputs, Plain, Run
from ..errors import LayerNotFoundError, OptionError, UnsupportedModelError
from ..targets import Classes, Target
from .calls import Images, check_asked, check_one_image, checked_inputs, in_graph, note_unusual
from .naming import several_targets
from .options import refuse_options, with_options
from .settling import asked_once, settled
from .starting import maps_of_targets, start
from .stated import Stated, why_not

ENTRIES = ("attribute", "attribute_flow", "attribute_classes")


class ViTAttribution(Stated, LayerAttribution):
    """Attribution of an image to its patches, by what a Vision Transformer computed for it.

    A method states its facts (see `Stated`) and implements `_maps`; everything else is the same for all. It reads a run
    of the model and never runs it.

    Args:
        model: any timm or Hugging Face ViT, or a module with one inside.
        layer: attention layers to read, each by name, index (negative too) or module, or the block around it; None
            reads all. An index counts all attention layers, as `captum_vit.inspect(model)` lists them. Where a class
            token joins late, it is read in the last of them alone; those before have a part only in methods that
            multiply attention through them.
    Raises:
        UnsupportedModelError: no adapter knows the model, or the method does not apply to it.
        LayerNotFoundError: a layer that the model does not have, or none in which the score is read; where the readout
            is measured, that is known with the first map.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_maps" in vars(cls):
            for name in ENTRIES:
                if name not in vars(cls):
                    setattr(cls, name, with_options(inspect.unwrap(getattr(cls, name)), cls))

    def __init__(self, model: nn.Module, layer: Layer | Sequence[Layer] | None = None, **options: Any) -> None:
        refuse_options(self.get_name(), options)
        self.adapter = self._adapted(model)
        reason = why_not(type(self), self.adapter)
        if reason is not None:
            raise UnsupportedModelError(f"{self.get_name()} does not apply to {type(model).__name__}: {reason}")
        self.layer_names = list(chosen := self._chosen(layer))
        if self.adapter.readout is not None and not isinstance(self.adapter, AnyModel):
            self.layers_read(self.adapter.readout)
        LayerAttribution.__init__(self, model, list(chosen.values()))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise OptionError(f"an attribution is asked by its methods: {self.get_name()}(model).attribute(images, target)")

    @log_usage()
    def attribute(
        self,
        inputs: Images,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        forward_kwargs: Mapping[str, Any] | None = None,
        output: Any = None,
        output_shape: str = "grid",
        create_graph: bool = False,
        **options: Any,
    ) -> Images:
        """The map of each image.

        Args:
            inputs: images, (N, C, H, W), normalised as the model expects; a tuple of one gives a tuple of one.
            target: what is explained: a class as Captum takes it (int, list or integer tensor (N,), a tuple of indices
                where the scores have more dimensions), the name of a class, one of `captum_vit.targets`, or a function
                `output -> (N,)`. Where the class attribute `class_specific` is False, it only says which tokens are
                read, of a model whose scores are read from different ones, as a detector's.
            additional_forward_args: further positional arguments of the model's forward.
            forward_kwargs: keyword arguments of the model's forward, as `interpolate_pos_encoding=True`.
            output: which of the model's outputs are the scores, where it gives several tensors: a name as "logits", a
                place as 1, or a function of all that it gives.
            output_shape: "grid" (N, 1, rows, cols), "spatial" (N, 1, H, W; bilinear), or "input" (N, C, H, W; the
                spatial map divided by C, so that the channels sum to it). Of videos and volumes grids and maps have
                one dimension more.
            create_graph: whether a loss on the maps can train the model, see `captum_vit.training`.
            options: what the method itself offers; its class says what each means.
        Returns:
            Map in patch units, never normalised over the batch.
        Raises:
            InputError, TargetError, OptionError, TokenLayoutError: what was passed does not hold.
            LayerNotRecordedError: the model computed attention in a way that its adapter does not see.
        """
        call = checked_inputs(self.adapter, inputs, additional_forward_args, forward_kwargs, output)
        maps = self._attribute(call, target, output_shape, False, options, create_graph)
        return (maps,) if isinstance(inputs, tuple) else maps

    @log_usage()
    def attribute_flow(
        self,
        inputs: Images,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        forward_kwargs: Mapping[str, Any] | None = None,
        output: Any = None,
        output_shape: str = "grid",
        create_graph: bool = False,
        **options: Any,
    ) -> Images:
        """The map as it stands after each block: (N, layers, rows, cols), or (N, layers, H, W) for "spatial".

        The layers are the chosen ones among which the score is read, and the last slice is the map.

        Args:
            inputs, target, additional_forward_args, forward_kwargs, output, create_graph: as for `attribute`.
            output_shape: "grid" or "spatial".
            options: what the method itself offers; its class says what each means.
        Raises:
            InputError, TargetError, OptionError, TokenLayoutError, LayerNotRecordedError: as `attribute`.
        """
        if isinstance(output_shape, str) and output_shape == "input":
            raise OptionError("a flow has one channel a layer: output_shape must be 'grid' or 'spatial', got 'input'")
        call = checked_inputs(self.adapter, inputs, additional_forward_args, forward_kwargs, output)
        flow = self._attribute(call, target, output_shape, True, options, create_graph)
        return (flow,) if isinstance(inputs, tuple) else flow

    @log_usage()
    def attribute_classes(
        self,
        inputs: Images,
        targets: Sequence[Any] | Tensor | Literal["all"] = "all",
        additional_forward_args: Any = None,
        *,
        forward_kwargs: Mapping[str, Any] | None = None,
        output: Any = None,
        output_shape: str = "grid",
        create_graph: bool = False,
        **options: Any,
    ) -> Tensor:
        """The maps of several classes of one image, from one forward.

        Args:
            inputs: one image, (1, C, H, W).
            targets: K classes or other targets, or "all" classes.
            additional_forward_args, forward_kwargs, output, output_shape, create_graph: as for `attribute`.
            options: what the method itself offers; its class says what each means.
        Returns:
            (K, 1, rows, cols), or as `output_shape` says; each equals `attribute` for its target.
        Raises:
            OptionError: the method gives one map for all classes. All others as `attribute`.
        """
        if not self.class_specific:
            raise OptionError(f"{self.get_name()} gives one map for all classes: ask for it by .attribute(images)")
        check_asked(self, output_shape, options, create_graph)
        call = checked_inputs(self.adapter, inputs, additional_forward_args, forward_kwargs, output)
        check_one_image(call)
        return self._attribute_classes(call, targets, output_shape, options, create_graph)

    def _attribute_classes(
        self, call: Inputs, targets: Any, output_shape: str, options: Mapping[str, Any], graph: bool = False
    ) -> Tensor:
        with start([(reader := self.reader(output_shape), options)], call, create_graph=graph) as run:
            wanted = settled(several_targets(targets, self.adapter, run.scores.shape[1]), Plain(self.adapter, call))
            note_unusual(self.adapter, run, wanted[0])
            maps = torch.cat(maps_of_targets(reader, options, run, wanted, flow=False))
            return reader.shaped(in_graph(self.get_name(), maps, run, output_shape), run, output_shape)

    def layers_read(self, readout: Readout) -> list[str]:
        """The chosen layers in which the score is read; with those before them, if the method multiplies layers.

        Raises:
            LayerNotFoundError: there is none.
        """
        reading = [name for name in self.adapter.reading_layers(readout) if readout.reads(name)]
        read = [name for name in self.layer_names if name in reading]
        if not read:
            raise LayerNotFoundError(
                f"{', '.join(self.layer_names)}: no query there is a token that the score is read from. Choose at "
                f"least one of {', '.join(reading)}"
            )
        return self.layer_names[: self.layer_names.index(read[-1]) + 1] if self.multiplies_layers else read

    def layers_kept(self, readout: Readout, flow: bool, **options: Any) -> list[str]:
        """The layers that a run has to keep for the method's map with these options, or for its flow."""
        return self.layers_read(readout)

    def flow_layers(self, readout: Readout) -> list[str]:
        """Names of the layers that the slices of a flow belong to."""
        reading = [name for name in self.adapter.reading_layers(readout) if readout.reads(name)]
        return [name for name in self.layer_names if name in reading]

    def _chosen(self, layer: Layer | Sequence[Layer] | None) -> dict[str, nn.Module]:
        """The layers by name, in execution order."""
        return {name: self.adapter.attention_layers()[name] for name in select_layers(self.adapter, layer)}

    @abstractmethod
    def _maps(self, run: Run, target: Target, *, flow: bool) -> Tensor:
        """The method itself; keyword-only arguments after `flow` are its options.

        Returns the maps over the patches after each layer, (N, layers, patches), or for `flow=False` only the last,
        (N, 1, patches).
        """

    def _class_maps(self, run: Run, targets: Sequence[Target], *, flow: bool, **options: Any) -> Iterator[Tensor]:
        """The maps of several targets in parts, (part, N, layers or 1, patches) each, one target after another."""
        for target in targets:
            yield self._maps(run, target, flow=flow, **options).unsqueeze(0)

    def _attribute(
        self, call: Inputs, target: Any, output_shape: str, flow: bool, options: Mapping[str, Any], graph: bool = False
    ) -> Tensor:
        check_asked(self, output_shape, options, graph)
        run, wanted = asked_once(reader := self.reader(output_shape), options, call, target, flow=flow, graph=graph)
        with run:
            note_unusual(self.adapter, run, wanted)
            maps = reader._maps(run, wanted or Classes(None), flow=flow, **options)
            return reader.shaped(in_graph(self.get_name(), maps, run, output_shape), run, output_shape)
