"""What the adapters of timm's models share."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from captum_vit.access import Adapter, Grid, Switch, unaltered


class TimmAdapter(Adapter):
    """A model of timm; what is missing here is where its attention layers stand."""

    kinds: tuple[str, ...] = ()  # names of timm's classes that the adapter serves, subclasses too

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.timm = cast(Any, model)
        self.embeds = getattr(self.timm, "embeds", self.timm)  # NaFlexVit keeps there what it begins with

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return any(is_timm(kind) and kind.__name__ in cls.kinds for kind in type(model).__mro__)

    @property
    def as_made(self) -> bool:
        """Whether the model is timm's own, but for its heads; a subclass may pool in its own way."""
        heads = (getattr(self.timm, name, None) for name in ("head", "head_dist", "aux_head"))
        return is_timm(type(self.model)) and unaltered(self.model, "timm", (h for h in heads if h is not None))

    @property
    def image_size(self) -> Grid | None:
        embed = getattr(self.timm, "patch_embed", None) or getattr(self.timm, "pixel_embed", self.embeds)
        built = getattr(embed, "img_size", None) or (self.timm.pretrained_cfg or {}).get("input_size", (0, 0, 0))[1:]
        return (built[0], built[1]) if built[0] else None

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        known = {"cls_token": "class", "dist_token": "distillation", "reg_token": "register"}
        tokens = {name: getattr(self.embeds, part, None) for part, name in known.items()}
        return tuple(name for name, token in tokens.items() if token is not None for _ in range(token.shape[1]))

    @property
    def headless(self) -> bool:
        return self.timm.num_classes == 0

    @property
    def class_names(self) -> Mapping[int, str]:
        return class_names(self.model)

    def scores(self, output: Any) -> Tensor:
        if type(output) is tuple and getattr(self.timm, "head_dist", None) is not None:
            one, other = output if len(output) == 2 else (None, None)
            if isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape:
                return (one + other) / 2  # in distilled training the two heads come separately
        if isinstance(output, Tensor) and output.dim() == 3:
            return output[:, 0]  # unpooled: (B, N, D)
        return super().scores(output)

    def capturing(self) -> Iterable[Switch]:
        for module in self.timm.modules():
            if hasattr(module, "grad_checkpointing"):
                yield module, "grad_checkpointing", False


def is_timm(kind: type) -> bool:
    """Whether the class is one of timm's own."""
    return kind.__module__.split(".")[0] == "timm"


def class_names(model: Any) -> dict[int, str]:
    """The names that come with the weights, else those of ImageNet where the number of classes says so."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("label_names") or ()
    if len(names) and len(names) == model.num_classes:
        return dict(enumerate(names))
    subset = infer_imagenet_subset(model)
    if subset is None:
        return {}
    info = ImageNetInfo(subset)
    return {index: info.index_to_description(index) for index in range(info.num_classes())}
