"""Small models of images and texts, their tokenizer, and their text tower written out with explicit softmax."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from captum_vit.models import LoadedModel
from captum_vit.preprocessing import read_preprocessing
from tests.families.hf import ANY_SHAPE, SMALL
from tests.helpers import randomise

BOS, EOS = 20, 21
TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "vocab_size": 22,
    "max_position_embeddings": 12,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
}
MERGES = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("s", "o"), ("so", "f")]
PIECES = [*"acdfgnost", *(f"{last}</w>" for last in "agnto,"), "ca", "cat</w>", "do", "so", "sof"]


def tokenizer() -> Any:
    """A CLIP tokenizer of twenty pieces, by which a sofa is sof-a and a dog do-g."""
    vocabulary = {piece: i for i, piece in enumerate([*PIECES, "<|startoftext|>", "<|endoftext|>"])}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=MERGES)


def clip(seed: int = 1, **changes: Any) -> Any:
    config = transformers.CLIPConfig(vision_config=SMALL, text_config=TEXT | changes, projection_dim=16)
    return randomise(transformers.CLIPModel(config), seed).double().eval()


def processor() -> Any:
    """The image processor of `clip`."""
    size = {"height": SMALL["image_size"], "width": SMALL["image_size"]}
    return transformers.CLIPImageProcessorPil(size={"shortest_edge": SMALL["image_size"]}, crop_size=size)


def loaded() -> LoadedModel:
    """A model of images and texts with all that belongs to it."""
    return LoadedModel(clip(max_position_embeddings=20).float(), read_preprocessing(processor()), tokenizer=tokenizer())


def siglip(seed: int = 0) -> Any:
    text = TEXT | {"projection_size": SMALL["hidden_size"], "pad_token_id": 1, "eos_token_id": 1, "bos_token_id": 0}
    config = transformers.SiglipConfig(vision_config=SMALL, text_config=text)
    return randomise(transformers.SiglipModel(config), seed).double().eval()


def siglip2(seed: int = 0) -> Any:
    """SigLIP 2 that takes patches of any shape."""
    text = TEXT | {"projection_size": SMALL["hidden_size"], "pad_token_id": 1, "eos_token_id": 1, "bos_token_id": 0}
    config = transformers.Siglip2Config(vision_config=SMALL | ANY_SHAPE, text_config=text)
    return randomise(transformers.Siglip2Model(config), seed).double().eval()


def open_clip_of(hf: Any) -> nn.Module:
    """open_clip's CLIP with the weights of Hugging Face's."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    width, heads = SMALL["hidden_size"], SMALL["num_attention_heads"]
    vision = CLIPVisionCfg(
        layers=SMALL["num_hidden_layers"],
        width=width,
        head_width=width // heads,
        patch_size=SMALL["patch_size"],
        image_size=SMALL["image_size"],
    )
    words = CLIPTextCfg(
        context_length=TEXT["max_position_embeddings"],
        vocab_size=TEXT["vocab_size"],
        width=TEXT["hidden_size"],
        heads=TEXT["num_attention_heads"],
        layers=TEXT["num_hidden_layers"],
    )
    words.mlp_ratio = TEXT["intermediate_size"] / TEXT["hidden_size"]
    model = CLIP(16, vision, words, quick_gelu=True).double().eval()
    w, own = hf.state_dict(), {}
    own["token_embedding.weight"] = w["text_model.embeddings.token_embedding.weight"]
    own["positional_embedding"] = w["text_model.embeddings.position_embedding.weight"]
    own["visual.class_embedding"] = w["vision_model.embeddings.class_embedding"]
    own["visual.conv1.weight"] = w["vision_model.embeddings.patch_embedding.weight"]
    own["visual.positional_embedding"] = w["vision_model.embeddings.position_embedding.weight"]
    own["visual.proj"], own["text_projection"] = w["visual_projection.weight"].T, w["text_projection.weight"].T
    own["logit_scale"] = w["logit_scale"]
    norms = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm"}
    norms["ln_final"] = "text_model.final_layer_norm"
    depths = {"vision_model": SMALL["num_hidden_layers"], "text_model": TEXT["num_hidden_layers"]}
    for ours, side in (("visual.transformer.resblocks", "vision_model"), ("transformer.resblocks", "text_model")):
        for i in range(depths[side]):
            block, there = f"{ours}.{i}", f"{side}.encoder.layers.{i}"
            for kind in ("weight", "bias"):
                own[f"{block}.attn.in_proj_{kind}"] = torch.cat(
                    [w[f"{there}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
                )
            norms |= {f"{block}.ln_1": f"{there}.layer_norm1", f"{block}.ln_2": f"{there}.layer_norm2"}
            norms |= {f"{block}.attn.out_proj": f"{there}.self_attn.out_proj"}
            norms |= {f"{block}.mlp.c_fc": f"{there}.mlp.fc1", f"{block}.mlp.c_proj": f"{there}.mlp.fc2"}
    own |= {f"{ours}.{kind}": w[f"{there}.{kind}"] for ours, there in norms.items() for kind in ("weight", "bias")}
    model.load_state_dict(own)
    return model


# --- the text tower written out ------------------------------------------------------------------------------------


@dataclass
class Block:
    """One block's attention, (H, T, ...): scores, weights, queries, keys, values, output; and the stream after it."""

    s: Tensor
    a: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    after: Tensor


@dataclass(frozen=True)
class Written:
    """The text tower of a Hugging Face model for one text.

    causal, row: whether later tokens are hidden, and which token is read: other than the model's own, a wrong twin.
    rules: "none", "held" (each attention's input is a constant), "cp" or "attn".
    """

    model: Any
    ids: Tensor
    causal: bool
    row: int
    rules: str = "none"

    def weight(self, name: str) -> Tensor:
        return self.model.state_dict()[name].detach().double()

    def norm(self, x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + self.model.config.text_config.layer_norm_eps).sqrt()
        deviation = deviation.detach() if self.rules in ("cp", "attn") else deviation
        return centred / deviation * self.weight(f"{name}.weight") + self.weight(f"{name}.bias")

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weight(f"{name}.weight").T + self.weight(f"{name}.bias")

    def activated(self, x: Tensor) -> Tensor:
        quick = self.model.config.text_config.hidden_act == "quick_gelu"
        y = x * torch.sigmoid(1.702 * x) if quick else F.gelu(x, approximate="tanh")
        return x * (y / x).detach() if self.rules in ("cp", "attn") else y

    @property
    def of_text(self) -> int:
        """How many tokens are of the text, which come first."""
        return len(self.ids)

    @property
    def reads(self) -> Tensor:
        """What each token gives to the feature."""
        return torch.eye(len(self.ids), dtype=torch.float64)[self.row]

    @property
    def hidden(self) -> Tensor:
        """Which tokens are hidden from which, (T, T)."""
        return torch.full((len(self.ids),) * 2, self.causal).triu(1)

    def head(self, stream: Tensor) -> Tensor:
        """The text's feature, of the stream after a block."""
        read = self.norm(stream[self.row], "text_model.final_layer_norm")
        if hasattr(self.model, "text_projection"):
            return read @ self.weight("text_projection.weight").T
        return self.linear(read, "text_model.head")

    def start(self) -> Tensor:
        """The stream before the blocks."""
        stream = self.weight("text_model.embeddings.token_embedding.weight")[self.ids]
        return stream + self.weight("text_model.embeddings.position_embedding.weight")[: len(self.ids)]

    def attended(self, inner: Tensor, projections: Sequence[str], heads: int) -> dict[str, Tensor]:
        """An attention of these projections, query, key and value, as it stands in a `Block`."""
        inner = inner.detach() if self.rules == "held" else inner
        q, k, v = (self.linear(inner, p).unflatten(-1, (heads, -1)).transpose(0, 1) for p in projections)
        factors = (_half(q), _half(k), _half(v)) if self.rules == "attn" else (q, k, v)
        s = (factors[0] @ factors[1].mT * q.shape[-1] ** -0.5).masked_fill(self.hidden, -torch.inf)
        a = s.softmax(-1)
        if self.rules == "attn":
            a = _half(a)
        elif self.rules == "cp":
            a = a.detach()
        a = a.requires_grad_() if not a.requires_grad else a
        return {"s": s, "a": a, "q": q, "k": k, "v": v, "o": a @ factors[2]}

    def block(self, i: int, x: Tensor) -> Block:
        """One block."""
        name = f"text_model.encoder.layers.{i}"
        inner, heads = self.norm(x, f"{name}.layer_norm1"), self.model.config.text_config.num_attention_heads
        seen = self.attended(inner, [f"{name}.self_attn.{p}_proj" for p in "qkv"], heads)
        x = x + self.linear(seen["o"].transpose(0, 1).flatten(1), f"{name}.self_attn.out_proj")
        inside = self.activated(self.linear(self.norm(x, f"{name}.layer_norm2"), f"{name}.mlp.fc1"))
        return Block(**seen, after=x + self.linear(inside, f"{name}.mlp.fc2"))

    def run(self) -> tuple[Tensor, Tensor, list[Block]]:
        """The stream before the blocks, the feature, and the blocks."""
        first, blocks = self.start().requires_grad_(), list[Block]()
        for i in range(self.depth):
            blocks.append(self.block(i, blocks[-1].after if blocks else first))
        return first, self.head(blocks[-1].after), blocks

    @property
    def depth(self) -> int:
        return self.model.config.text_config.num_hidden_layers


def _half(x: Tensor) -> Tensor:
    return 0.5 * x + 0.5 * x.detach()


def cosine(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum() / (one.norm() * other.norm())


def agcam(written: Written, image: Tensor) -> Tensor:
    _, feature, blocks = written.run()
    grads, rows = torch.autograd.grad(cosine(feature, image), [b.a for b in blocks]), written.reads > 0
    parts = [g[:, rows].relu() * b.s[:, rows].sigmoid() for g, b in zip(grads, blocks, strict=True)]
    return torch.stack(parts).sum((0, 1, 2)).detach()


def generic_relevance(written: Written, image: Tensor) -> Tensor:
    _, feature, blocks = written.run()
    grads = torch.autograd.grad(cosine(feature, image), [b.a for b in blocks])
    whole = torch.eye(len(written.reads), dtype=torch.float64)
    for g, b in zip(grads, blocks, strict=True):
        whole = whole + (g * b.a).relu().mean(0) @ whole
    return (written.reads @ whole).detach()


def grad_eclip(written: Written, image: Tensor) -> Tensor:
    _, feature, blocks = written.run()
    last, total = blocks[-1], torch.zeros(len(written.reads), dtype=torch.float64)
    (g,) = torch.autograd.grad(cosine(feature, image), [last.o])
    words = slice(None, written.of_text)
    for row in written.reads.nonzero().flatten().tolist():
        query, keys = last.q[:, row].flatten(), last.k.transpose(0, 1).flatten(1)
        alike, seen = F.cosine_similarity(query[None], keys), last.s[0, row] > -torch.inf
        low, high = alike[words][seen[words]].min(), alike[words][seen[words]].max()
        total += seen * (alike - low) / (high - low) * torch.einsum("hd,htd->t", g[:, row], last.v)
    return total.relu().detach()


def legrad(written: Written, image: Tensor) -> Tensor:
    _, _, blocks = written.run()
    total: Any = 0.0
    for b in blocks:
        (g,) = torch.autograd.grad(cosine(written.head(b.after), image), [b.a], retain_graph=True)
        total = total + (g.relu() * (b.s > -torch.inf)).mean((0, 1))
    return total.detach()


def input_times_gradient(written: Written, image: Tensor) -> Tensor:
    first, feature, _ = written.run()
    (g,) = torch.autograd.grad(cosine(feature, image), [first])
    return (first * g).sum(-1).detach()


FORMULAS: dict[str, tuple[Callable[[Written, Tensor], Tensor], str]] = {
    "agcam": (agcam, "held"),
    "generic_relevance": (generic_relevance, "none"),
    "grad_eclip": (grad_eclip, "none"),
    "legrad": (legrad, "none"),
    "cp_lrp": (input_times_gradient, "cp"),
    "libragrad": (input_times_gradient, "cp"),
    "attn_lrp": (input_times_gradient, "attn"),
}
