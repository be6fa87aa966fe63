"""Small text towers of open_clip that are no plain transformer of its own, written out with explicit softmax."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from tests.families.two_towers import TEXT, Block, Written
from tests.helpers import randomise

OWN = {"context_length": 12, "vocab_size": 22, "width": 24, "heads": 3, "layers": 2}
VISION = {"image_size": 32, "layers": 2, "width": 24, "head_width": 8, "patch_size": 8}
POOL = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4, "output_tokens": True}
BERT = {name: TEXT[name] for name in TEXT if not name.endswith("_id")} | {"max_position_embeddings": 20}
PAD = {"xlm-roberta": 1, "bert": 0}


def custom(**text: Any) -> Any:
    """A CustomTextCLIP with a tower of open_clip's own."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP

    return randomise(CustomTextCLIP(16, CLIPVisionCfg(**VISION), CLIPTextCfg(**(OWN | text))), 1).double().eval()


def coca() -> Any:
    """The whole CoCa, decoder and all."""
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    text, vision = CLIPTextCfg(**OWN, embed_cls=True, output_tokens=True), CLIPVisionCfg(**VISION, **POOL)
    return randomise(CoCa(16, OWN, text, vision), 1).double().eval()


def hugging(kind: str, pooler: str) -> Any:
    """A CustomTextCLIP with a tower of transformers."""
    from open_clip.hf_model import HFTextEncoder

    config = transformers.AutoConfig.for_model(kind, **BERT, pad_token_id=PAD[kind], layer_norm_eps=1e-5)
    model = custom()
    model.text = HFTextEncoder("", 16, config=config, pooler_type=pooler, proj_type="linear")
    return randomise(model, 1).double().eval()


def seq2seq(folder: Path, config: Any, pooler: str) -> Any:
    """The same with the encoder of a model that has a decoder; it is made by a configuration in a folder alone."""
    from open_clip.hf_model import HFTextEncoder

    config.save_pretrained(folder)
    model = custom()
    model.text = HFTextEncoder(str(folder), 16, pooler_type=pooler, proj_type="linear", pretrained=False)
    return randomise(model, 1).double().eval()


def mt5(folder: Path) -> Any:
    sizes = {"d_model": 24, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 3}
    return seq2seq(folder, transformers.MT5Config(vocab_size=22, **sizes), "mean_pooler")


def m2m(folder: Path) -> Any:
    sizes: dict[str, Any] = {"d_model": 24, "max_position_embeddings": 20}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": 2, f"{side}_attention_heads": 3, f"{side}_ffn_dim": 48}
    return seq2seq(folder, transformers.M2M100Config(vocab_size=22, pad_token_id=1, **sizes), "cls_pooler")


class WrittenOwn(Written):
    """A transformer of open_clip's own in `model.text`.

    row: the token that is read; of a class token, which stands behind the text, None.
    """

    eps = 1e-5

    @property
    def joined(self) -> int:
        return int(self.row is None)

    @property
    def depth(self) -> int:
        return len(self.model.text.transformer.resblocks)

    @property
    def reads(self) -> Tensor:
        return torch.eye(len(self.ids) + self.joined, dtype=torch.float64)[-1 if self.row is None else self.row]

    @property
    def hidden(self) -> Tensor:
        """With a class token the padding too; by the mask that its weights were trained with, from one later on."""
        hidden = torch.full((len(self.reads),) * 2, self.causal).triu(1)
        return hidden | torch.cat([torch.tensor([False]), self.ids == 0]) if self.joined else hidden

    def weight(self, name: str) -> Tensor:
        return super().weight(f"text.{name}")

    def norm(self, x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + self.eps).sqrt()
        deviation = deviation.detach() if self.rules in ("cp", "attn") else deviation
        return centred / deviation * self.weight(f"{name}.weight") + self.weight(f"{name}.bias")

    def activated(self, x: Tensor) -> Tensor:
        y = F.gelu(x)
        return x * (y / x).detach() if self.rules in ("cp", "attn") else y

    def start(self) -> Tensor:
        words = self.weight("token_embedding.weight")[self.ids]
        own = [self.weight("cls_emb")[None]] if self.joined else []
        return torch.cat([words, *own]) + self.weight("positional_embedding")[: len(self.reads)]

    def linear(self, x: Tensor, name: str) -> Tensor:
        name, _, third = name.partition(":")  # of weights of queries, keys and values in one
        if not third:
            return super().linear(x, name)
        weight, bias = (self.weight(f"{name}_{kind}").chunk(3)[int(third)] for kind in ("weight", "bias"))
        return x @ weight.T + bias

    def block(self, i: int, x: Tensor) -> Block:
        name = f"transformer.resblocks.{i}"
        seen = self.attended(self.norm(x, f"{name}.ln_1"), [f"{name}.attn.in_proj:{p}" for p in range(3)], OWN["heads"])
        x = x + self.linear(seen["o"].transpose(0, 1).flatten(1), f"{name}.attn.out_proj")
        inside = self.activated(self.linear(self.norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc"))
        return Block(**seen, after=x + self.linear(inside, f"{name}.mlp.c_proj"))

    def head(self, stream: Tensor) -> Tensor:
        return self.reads @ self.norm(stream, "ln_final") @ self.weight("text_projection")


class WrittenBert(WrittenOwn):
    """A tower of transformers, whose norms stand behind what they norm.

    row: the token that is read, None of the mean of all that do not fill up; -1 of the mean of all.
    """

    joined = 0

    @property
    def filling(self) -> Tensor:
        return self.ids == self.model.text.config.pad_token_id

    @property
    def depth(self) -> int:
        return self.model.text.config.num_hidden_layers

    @property
    def reads(self) -> Tensor:
        if self.row is not None and self.row >= 0:
            return super().reads
        own = (~self.filling).double() if self.row is None else torch.ones(len(self.ids), dtype=torch.float64)
        return own / own.sum()

    @property
    def hidden(self) -> Tensor:
        return (self.filling | torch.full((len(self.ids),) * 2, self.causal).triu(1)).expand(len(self.ids), -1)

    def start(self) -> Tensor:
        name, places = "transformer.embeddings", torch.arange(len(self.ids))
        if self.model.text.config.model_type == "xlm-roberta":  # which counts from behind the padding's number
            places = torch.where(self.filling, PAD["xlm-roberta"], places + PAD["xlm-roberta"] + 1)
        given = {"word": self.ids, "position": places, "token_type": torch.zeros_like(self.ids)}
        found = sum(self.weight(f"{name}.{kind}_embeddings.weight")[at] for kind, at in given.items())
        return self.norm(found, f"{name}.LayerNorm")

    def block(self, i: int, x: Tensor) -> Block:
        name = f"transformer.encoder.layer.{i}"
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        seen = self.attended(x, parts, self.model.text.config.num_attention_heads)
        given = self.linear(seen["o"].transpose(0, 1).flatten(1), f"{name}.attention.output.dense")
        x = self.norm(x + given, f"{name}.attention.output.LayerNorm")
        inside = self.activated(self.linear(x, f"{name}.intermediate.dense"))
        return Block(
            **seen, after=self.norm(x + self.linear(inside, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        )

    def head(self, stream: Tensor) -> Tensor:
        read = self.reads @ stream
        if type(self.model.text.pooler).__name__ == "ClsPooler":
            y = self.linear(read, "transformer.pooler.dense")
            tanh = y.tanh()
            read = y * (tanh / y).detach() if self.rules in ("cp", "attn") else tanh
        return read @ self.weight("proj.weight").T


def towers() -> dict[str, tuple[Any, Tensor, type[Written], tuple[bool, int | None], tuple[bool, int | None]]]:
    """Of each: the model, ids, how it is written out; whether it is causal and what is read, and a wrong twin's."""
    own = torch.tensor([3, 8, 14, 12, 17, 8, 21])
    padded, roberta = torch.cat([own, torch.zeros(5).long()]), torch.cat([own, torch.ones(3).long()])
    return {
        "CoCa": (coca(), padded, WrittenOwn, (True, None), (False, None)),
        "first": (custom(pool_type="first", no_causal_mask=True), padded, WrittenOwn, (False, 0), (False, 1)),
        "mean": (hugging("xlm-roberta", "mean_pooler"), roberta, WrittenBert, (False, None), (False, -1)),
        "pooler": (hugging("bert", "cls_pooler"), padded, WrittenBert, (False, 0), (False, 1)),
    }
