"""What the adapters of Hugging Face's models share."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from captum_vit.access import CLASS, Adapter, Grid, Readout, Switch, TokenLayout, unaltered
from captum_vit.adapters.hf_tokens import patch_grid, patch_size, prefix_tokens

KERNELS = ("flash", "flex", "paged")  # that compute the same, and show nothing of it


class HFAdapter(Adapter):
    """A stack of layers with one attention each; the tokens are [class, distillation or registers, patches]."""

    readouts: Mapping[str, Readout] = {}  # of the classes in transformers that the adapter serves, subclasses too
    heads: tuple[str, ...] = ("classifier",)  # what stands behind the readout, and may be anybody's own
    any_size = False  # whether images of any size are taken without being asked for

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.hf = cast(Any, model)
        self.backbone: Any = next(m for m in model.modules() if hasattr(m, "embeddings"))
        self.stack: Any = next(m for m in self.backbone.modules() if isinstance(m, nn.ModuleList))
        self.prefix = len(self.prefix_tokens)

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return any(is_hf(kind) and kind.__name__ in cls.readouts for kind in type(model).__mro__)

    def attention_of(self, block: Any) -> nn.Module:
        """The attention of one layer."""
        return block.attention

    def attention_layers(self) -> dict[str, nn.Module]:
        names: dict[nn.Module, str] = {module: name for name, module in self.hf.named_modules()}
        return {names[attention]: attention for attention in map(self.attention_of, self.stack)}

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        any_size = self.any_size or bool(arguments.get("interpolate_pos_encoding"))
        grid = patch_grid(self.backbone.embeddings, image_size, any_size=any_size)
        return TokenLayout(grid, self.prefix, patch_size(self.backbone.embeddings), self.readout or CLASS)

    @property
    def image_size(self) -> Grid:
        size = self.backbone.config.image_size
        return (size, size) if isinstance(size, int) else tuple(size)

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        return prefix_tokens(self.backbone.embeddings)

    @property
    def readout(self) -> Readout | None:
        heads = [head for name in self.heads if isinstance(head := getattr(self.hf, name, None), nn.Module)]
        # a subclass may pool in its own way
        return self.readouts.get(type(self.hf).__name__) if unaltered(self.hf, "transformers", heads) else None

    @property
    def first_block(self) -> nn.Module | None:
        return self.stack[0]

    @property
    def embedding(self) -> nn.Module | None:
        return self.backbone.embeddings

    @property
    def bare(self) -> bool:
        """Whether it is a backbone without a classifier."""
        return self.model is self.backbone

    @property
    def headless(self) -> bool:
        return self.bare or getattr(self.hf.config, "num_labels", 1) == 0

    @property
    def class_names(self) -> Mapping[int, str]:
        return {} if self.headless else dict(self.hf.config.id2label)

    def features(self, output: Any) -> Tensor:
        """What a bare backbone is read by, (B, D), out of its outputs: the class token."""
        return output[0][:, 0]  # of last_hidden_state, as a tuple too

    def scores(self, output: Any) -> Tensor:
        if self.bare:
            return self.features(output)
        if type(output) is tuple and is_hf_function(type(self.model).forward):  # return_dict=False: [loss,] logits, ...
            output = next((each for each in output if isinstance(each, Tensor) and each.dim()), output)
        return super().scores(output)

    @property
    def settings(self) -> tuple:
        """Attention functions by name, of which anybody can register one or put another in its place."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as FUNCTIONS

        names = {m.config._attn_implementation for m in self.hf.modules() if hasattr(m, "config")}
        return tuple((name, id(FUNCTIONS.get(name, None))) for name in sorted(map(str, names)))

    @property
    def foreign(self) -> tuple[str, ...]:
        """Attention functions that somebody registered."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as FUNCTIONS

        found = {name: FUNCTIONS.get(name, None) for name, _ in self.settings}
        others = [name for name, function in found.items() if function is not None and not is_hf_function(function)]
        return tuple(f"the attention function {name!r} is none of transformers'" for name in others)

    def capturing(self) -> Iterable[Switch]:
        for config in {id(m.config): m.config for m in self.hf.modules() if hasattr(m, "config")}.values():
            if str(config._attn_implementation).startswith(KERNELS):
                yield config, "_attn_implementation_internal", "sdpa"
        for block in self.stack:
            yield block, "gradient_checkpointing", False


def is_hf_function(function: Any) -> bool:
    """Whether it stands in transformers, and not in a class that somebody derived."""
    return str(getattr(function, "__module__", "")).split(".")[0] == "transformers"


def takes_videos(model: nn.Module) -> bool:
    """Whether a model of transformers is of a family that classifies videos."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING as OF_VIDEOS

    return type(getattr(model, "config", None)) in OF_VIDEOS


def is_hf(kind: type) -> bool:
    """Whether the class is one of transformers' own."""
    return kind.__module__.split(".")[0] == "transformers"
