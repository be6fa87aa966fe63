"""EoMT: maps of a model whose queries join late are those of its forward written out here, in float64."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from torch import Tensor, nn

from captum_vit import (
    AGCAM,
    CPLRP,
    DAAM,
    AttentionRollout,
    AttnLRP,
    LeGrad,
    LibraGrad,
    RawAttention,
    adapt,
    explain,
    load_model,
)
from captum_vit.attr import RISE, GenericRelevance, GradCAM
from captum_vit.errors import PreprocessingError, TargetError, TokenLayoutError, UnsupportedModelError
from captum_vit.inspection import inspect
from captum_vit.marks import Outline
from captum_vit.targets import Contrast, Mask, Query
from captum_vit.targets.texts import of_text
from tests.families import stepwise
from tests.helpers import assert_close, images, randomise, relative_error

QUERIES, BLOCKS, JOINED, REGISTERS, PATCHES = 5, 4, 2, 2, 16
EARLY = 1 + REGISTERS  # tokens before the patches in the first blocks
SIZES = {"hidden_size": 24, "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "num_upscale_blocks": 1}
SIZES |= {"num_hidden_layers": BLOCKS, "num_blocks": JOINED, "num_queries": QUERIES, "num_register_tokens": REGISTERS}


def eomt(masked: float = 0.0, family: str = "Eomt") -> Any:
    settings = getattr(transformers, f"{family}Config")(**SIZES, num_labels=3)
    settings.id2label = {0: "car", 1: "person", 2: "dog"}
    model: Any = randomise(getattr(transformers, f"{family}ForUniversalSegmentation")(settings))
    with torch.no_grad():
        model.attn_mask_probs.fill_(masked)
        model.query.weight.copy_(torch.randn(model.query.weight.shape, generator=torch.Generator().manual_seed(3)))
        model.class_predictor.bias[-1] = -9  # every query says a class
    return model


def dinov3(masked: float = 0.0) -> Any:
    return eomt(masked, "EomtDinov3")


@dataclass
class Written:
    """The forward of EoMT by its formulas. With `constant`, the input of every attention counts as a constant."""

    model: Any
    constant: bool = False
    masked: bool = False
    steps: list[stepwise.Step] = field(default_factory=list)
    given: list[Tensor] = field(default_factory=list)
    streams: list[Tensor] = field(default_factory=list)

    def attention(self, layer: Any, tokens: Tensor, bias: Any) -> Tensor:
        tokens = tokens.clone().requires_grad_() if not tokens.requires_grad else tokens.clone()
        self.given.append(tokens)

        def heads(linear: Any) -> Tensor:
            return linear(tokens).unflatten(2, (2, -1)).transpose(1, 2)

        q, k, v = (heads(getattr(layer, f"{name}_proj")) for name in "qkv")
        scores = q @ k.mT * q.shape[-1] ** -0.5 + bias
        if self.constant:
            scores, v = scores.detach(), v.detach()
        weights = scores.softmax(-1).requires_grad_() if self.constant else scores.softmax(-1)
        out = weights @ v
        self.steps.append(stepwise.Step(scores, weights, v, out))
        return layer.out_proj(out.transpose(1, 2).flatten(2))

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        m = self.model
        patches = F.conv2d(x, m.embeddings.patch_embeddings.projection.weight, stride=8).flatten(2).mT
        patches = patches + m.embeddings.patch_embeddings.projection.bias + m.embeddings.position_embeddings.weight
        first = [m.embeddings.cls_token, m.embeddings.register_tokens]
        stream = torch.cat([*(token.expand(len(x), -1, -1) for token in first), patches], 1)
        for number, block in enumerate(m.layers):
            if number == BLOCKS - JOINED:
                stream = torch.cat([m.query.weight.expand(len(x), -1, -1), stream], 1)
            bias = self.mask(stream) if self.masked and number >= BLOCKS - JOINED else 0.0
            stream = stream + self.attention(block.attention, block.norm1(stream), bias) * block.layer_scale1.lambda1
            stream = stream + block.mlp(block.norm2(stream)) * block.layer_scale2.lambda1
            self.streams.append(stream)
        return self.head(stream)

    def mask(self, stream: Tensor) -> Tensor:
        """What a query may look at among the patches: where its own mask is above 0."""
        found = F.interpolate(self.head(stream)["masks_queries_logits"], (4, 4), mode="bilinear").flatten(2)
        bias = torch.ones(len(stream), 1, stream.shape[1], stream.shape[1], dtype=stream.dtype)
        bias[:, 0, :QUERIES, -PATCHES:] = torch.where(found > 0, 1.0, -1e9).to(bias)
        return bias

    def head(self, stream: Tensor) -> dict[str, Tensor]:
        m, tokens = self.model, F.layer_norm(stream, (24,), eps=1e-6) * self.model.layernorm.weight
        tokens = tokens + m.layernorm.bias
        fine = m.upscale_block(tokens[:, -PATCHES:].mT.unflatten(2, (4, 4)))
        masks = torch.einsum("nqd,ndhw->nqhw", m.mask_head(tokens[:, :QUERIES]), fine)
        return {"class_queries_logits": m.class_predictor(tokens[:, :QUERIES]), "masks_queries_logits": masks}


def semantic(out: Any, category: int) -> Tensor:
    """By a loop over queries and pixels' masks."""
    return sum(  # type: ignore[return-value]
        (out["class_queries_logits"][:, q].softmax(1)[:, category, None, None])
        * torch.sigmoid(out["masks_queries_logits"][:, q])
        for q in range(QUERIES)
    )


CORNER = np.zeros((32, 32), bool)
CORNER[:16, :8] = True
Score = Callable[[Any], Tensor]
CASES: dict[str, tuple[Any, Score, Score]] = {
    "a query's class": (
        Query(3, "dog"),
        lambda o: o["class_queries_logits"][:, 3, 2],
        lambda o: o["class_queries_logits"][:, 2, 2],
    ),
    "a query's mask": (
        Mask(Query(1), CORNER),
        lambda o: o["masks_queries_logits"][:, 1, :4, :2].mean((1, 2)),
        lambda o: o["masks_queries_logits"][:, 1, :2, :4].mean((1, 2)),
    ),
    "a class's region": (
        Mask("person", CORNER),
        lambda o: semantic(o, 1)[:, :4, :2].mean((1, 2)),
        lambda o: semantic(o, 0)[:, :4, :2].mean((1, 2)),
    ),
    "one query rather than another": (
        Contrast(Query(3, 2), Query(0, 1)),
        lambda o: o["class_queries_logits"][:, 3, 2] - o["class_queries_logits"][:, 0, 1],
        lambda o: o["class_queries_logits"][:, 3, 2],
    ),
}


Method = tuple[type, Callable, bool]
METHODS: list[Method] = [(AGCAM, stepwise.agcam, True), (DAAM, stepwise.daam, False)]


def by_rows(score: Score, x: Tensor, method: Method, masked: bool = False) -> Tensor:
    """A method's map by the formulas, of whatever rows the score reads after attention."""
    held = Written(eomt().double(), constant=True, masked=masked)
    grads = [grad for _, grad in stepwise.gradients(score(held(x)), held.steps)]
    rows = sorted({int(i) - g.shape[2] for g in grads for i in g.abs().sum((0, 1, 3)).nonzero()})
    _, theirs, constant = method
    run = Written(eomt().double(), constant=constant, masked=masked)
    found, maps = stepwise.gradients(score(run(x)), run.steps), torch.zeros(len(x), PATCHES).double()
    for step, grad in zip(run.steps, found, strict=True):
        there = [row for row in rows if step.a.shape[2] + row >= 0]  # queries are no rows of the first blocks
        maps += theirs([step], [grad], there, PATCHES) if there else 0
    return maps.detach().view(len(x), 1, 4, 4)


def pictures(count: int = 1) -> Tensor:
    return images(count).double()


@pytest.mark.parametrize("masked", [False, True])
def test_the_forward_written_out_is_the_models(masked):
    x, own = pictures(2), Written(eomt().double(), masked=masked)(pictures(2))
    model = eomt(float(masked)).to(torch.float32 if masked else torch.float64)
    theirs = model(x.to(model.dtype))
    assert_close(theirs.class_queries_logits, own["class_queries_logits"], 1e-4 if masked else 1e-12)
    assert_close(theirs.masks_queries_logits, own["masks_queries_logits"], 1e-4 if masked else 1e-12)
    other = Written(eomt().double(), masked=not masked)(x)["class_queries_logits"]
    assert relative_error(other, own["class_queries_logits"]) > 1e-2


@pytest.mark.parametrize("method", METHODS, ids=["AGCAM", "DAAM"])
@pytest.mark.parametrize("name", CASES)
def test_the_map_is_that_of_the_score(name, method):
    target, score, twin = CASES[name]
    expected = by_rows(score, pictures(), method)
    assert_close(method[0](eomt().double()).attribute(pictures(), target), expected, 1e-6)
    assert relative_error(by_rows(twin, pictures(), method), expected) > 1e-2


@pytest.mark.parametrize("method", METHODS, ids=["AGCAM", "DAAM"])
@pytest.mark.parametrize("name", ["a query's class", "a query's mask"])
def test_masks_of_attention_are_part_of_its_scores(name, method):
    target, score, _ = CASES[name]
    x = images(2)
    expected = by_rows(score, x.double(), method, masked=True)
    assert_close(method[0](eomt(1.0)).attribute(x, target).double(), expected, 1e-4)
    assert relative_error(by_rows(score, x.double(), method), expected) > 1e-2


def test_masks_that_torch_reads_wrongly_are_refused():
    with pytest.raises(UnsupportedModelError, match="queries in float64 and a mask in float32"):
        DAAM(eomt(1.0).double()).attribute(pictures(), Query(3, 2))


def test_masks_that_are_drawn_at_random_are_refused():
    model = eomt(1.0)
    model.attn_mask_probs[0] = 0.5
    for ask in (DAAM(model).attribute, RISE(model).attribute, AGCAM(Outer(model)).attribute):
        with pytest.raises(UnsupportedModelError, match=r"draws at random.*has \[0.5, 1.0\].*fill_\(0\)"):
            ask(images(1), Query(3, 2))
    model.attn_mask_probs[0] = 0
    assert DAAM(model).attribute(images(1), Query(3, 2)).isfinite().all()


def carried(step: Callable[[stepwise.Step, Any], Tensor], score: Score, row: Tensor) -> Tensor:
    """Rows over tokens from the last block to the first: `r <- r step`; of queries nothing goes on before they join."""
    run = Written(eomt().double())
    grads = stepwise.gradients(score(run(pictures())), run.steps)
    state = row[None, None]
    for each, grad in zip(reversed(run.steps), reversed(grads), strict=True):
        state = state[..., -each.a.shape[3] :] @ step(each, grad[0])
    return state[..., -PATCHES:].detach().view(1, 1, 4, 4)


def test_rollouts_begin_at_the_row_of_the_query():
    score, model, one = CASES["a query's class"][1], eomt().double(), torch.eye(QUERIES + EARLY + PATCHES).double()
    rolled = [
        carried(lambda s, _: (s.a.mean(1) + torch.eye(s.a.shape[3])) / 2, score, one[row]) for row in (3, 2, QUERIES)
    ]
    assert_close(AttentionRollout(model).attribute(pictures(), Query(3, "dog")), rolled[0], 1e-6)
    assert min(relative_error(other, rolled[0]) for other in rolled[1:]) > 1e-2  # another query, the class token
    run = Written(model)
    run(pictures())
    raw = run.steps[-1].a[:, :, 3, -PATCHES:].mean(1).view(1, 1, 4, 4)
    assert_close(RawAttention(model).attribute(pictures(), Query(3, "dog")), raw, 1e-6)
    relevance = carried(lambda s, g: (s.a * g).relu().mean(1) + torch.eye(s.a.shape[3]), score, one[3])
    assert_close(GenericRelevance(model).attribute(pictures(), Query(3, "dog")), relevance, 1e-6)
    with pytest.raises(UnsupportedModelError, match="what each token contributes to the score is not known"):
        AttentionRollout(model).attribute(pictures(), Mask(Query(3), CORNER))  # the head convolves


@pytest.mark.parametrize("name", ["a query's class", "a query's mask"])
def test_legrad_differentiates_a_score_of_each_block(name):
    target, score, _ = CASES[name]

    def by_blocks(score: Score, first: int) -> Tensor:
        run = Written(eomt().double())
        run(pictures())
        maps = torch.zeros(1, PATCHES).double()
        for stream, step in list(zip(run.streams, run.steps, strict=True))[first:]:
            alike = stream.mean(1, keepdim=True).expand(-1, QUERIES + EARLY + PATCHES, -1)
            (grad,) = torch.autograd.grad(score(run.head(alike)).sum(), step.a, retain_graph=True)
            maps += grad.relu().mean((1, 2))[:, -PATCHES:]
        return maps.view(1, 1, 4, 4)

    first = BLOCKS - JOINED if isinstance(target, Query) else 0  # patches are there from the beginning
    expected = by_blocks(score, first)
    assert_close(LeGrad(eomt().double()).attribute(pictures(), target), expected, 1e-6)
    if isinstance(target, Query):  # of equal tokens, all have the same masks
        assert relative_error(by_blocks(lambda o: o["class_queries_logits"][:, 3, 1], first), expected) > 1e-2
    assert relative_error(by_blocks(score, BLOCKS - 1), expected) > 1e-2


def test_a_masked_key_is_none_that_legrad_could_turn_to():
    x, model = images(1), eomt(1.0)
    found = LeGrad(model, layer=-1).attribute(x, Query(3, "dog"))
    run = Written(eomt().double(), masked=True)
    run(x.double())
    alike = run.streams[-1].mean(1, keepdim=True).expand(-1, QUERIES + EARLY + PATCHES, -1)
    (grad,) = torch.autograd.grad(run.head(alike)["class_queries_logits"][:, 3, 2].sum(), run.steps[-1].a)
    seen = grad.masked_fill(run.steps[-1].s < -1e6, 0).relu().mean((1, 2))[:, -PATCHES:].view(1, 1, 4, 4)
    assert_close(found.double(), seen, 1e-4)
    assert relative_error(grad.relu().mean((1, 2))[:, -PATCHES:].view(1, 1, 4, 4), seen) > 1e-2


def test_grad_cam_weighs_what_the_last_attention_is_given():
    target, score, twin = CASES["a query's class"]

    def cam(score: Score) -> Tensor:
        run = Written(eomt().double())
        value = score(run(pictures())).sum()
        (grad,) = torch.autograd.grad(value, run.given[-1])
        a, g = run.given[-1][:, -PATCHES:], grad[:, -PATCHES:]
        return (a * g.mean(1, keepdim=True)).sum(2).relu().detach().view(1, 1, 4, 4)

    assert_close(GradCAM(eomt().double()).attribute(pictures(), target), cam(score), 1e-6)
    assert relative_error(cam(twin), cam(score)) > 1e-2


@pytest.mark.parametrize("method", [CPLRP, AttnLRP, LibraGrad])
@pytest.mark.parametrize("name", ["a query's class", "a query's mask"])
def test_conserving_maps_are_complete(name, method):
    target, score, _ = CASES[name]
    model = eomt().double()
    (told,) = method(model).completeness(pictures(), target)
    assert_close(torch.tensor(told.score).double(), score(Written(model)(pictures())).detach()[0], 1e-6)
    parts = told.map + told.prefix + told.biases + told.softmax
    assert abs(parts - told.score) < 1e-6 * abs(told.score)
    assert abs(parts - told.biases - told.score) > 1e-3 * abs(told.score)  # without what biases and queries hold
    assert_close(method(model).attribute(pictures(), target).sum(), torch.tensor(told.map).double(), 1e-6)


def test_a_semantic_map_is_a_constant_where_softmax_and_sigmoid_are():
    with pytest.raises(UnsupportedModelError, match="scores come out of softmax, which is a constant under the rules"):
        CPLRP(eomt()).attribute(images(1), Mask("person", CORNER))
    (told,) = AttnLRP(eomt().double()).completeness(pictures(), Mask("person", CORNER))
    assert abs(told.map + told.prefix + told.biases + told.softmax - told.score) < 1e-9


def check_places(shift: int = 0) -> None:
    """The patch whose pixels change is the one whose token changes, whatever joins before it."""
    model, x, seen = eomt(), images(1), []
    adapter = adapt(model)
    layout, layers = adapter.token_layout((32, 32), {}), adapter.attention_layers()
    for name, joined in zip(layers, (0, 0, QUERIES, QUERIES), strict=True):
        count = PATCHES + EARLY + joined
        assert layout.of_layer(name, count, count).prefix == EARLY + joined
        for other in (count - 1, PATCHES + EARLY + QUERIES - joined):
            with pytest.raises(TokenLayoutError, match=f"got {other}"):
                layout.of_layer(name, other, other)
    hook = layers["layers.0.attention"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    changed = x.clone()
    changed[..., 9, 30] += 3
    with torch.no_grad():
        model(x), model(changed)
    hook.remove()
    moved = (seen[1] - seen[0]).abs().sum((0, 2)).nonzero().flatten().tolist()
    assert moved == [layout.of_layer("layers.0.attention", 19, 19).prefix + 1 * 4 + 3 + shift]


def test_a_token_stands_for_the_pixels_of_its_patch():
    check_places()
    with pytest.raises(TokenLayoutError, match="the model takes images of 32x32, got 16x64"):
        DAAM(eomt()).attribute(images(1, (16, 64)), Query(3, 2))  # as many patches, and masks on another grid


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose: a token further has to be noticed")
def test_the_next_token_does_not():
    check_places(shift=1)


@pytest.mark.parametrize("build", [eomt, dinov3])
def test_inside_somebodys_module_tokens_are_looked_for(build):
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.segmenter = build()

        def forward(self, x: Tensor) -> Tensor:
            return self.segmenter(x).class_queries_logits

    x = images(2)
    for method in (DAAM, AttentionRollout):
        assert_close(method(Owner()).attribute(x, Query(3, 2)), method(build()).attribute(x, Query(3, 2)), 1e-5)


def test_of_dinov3_attention_shows_in_the_gradient_at_the_values():
    model, x, values = dinov3().double(), pictures(), []
    seen = inspect(model)
    assert [layer.name for layer in seen.layers] == [f"layers.{i}.attention" for i in range(BLOCKS)]
    assert seen.prefix_tokens == ("query",) * QUERIES + ("class",) + ("register",) * REGISTERS
    raw = RawAttention(model).attribute(x, Query(3, 2)).flatten()
    model.layers[-1].attention.v_proj.register_forward_hook(lambda *args: values.append(args[-1]))

    def weights(query: int) -> Tensor:
        """dy/dv_j = A[query, j] dy/dO[query], so that its size is the attention but for a factor."""
        score = model(x).class_queries_logits[:, query, 2].sum()
        (grad,) = torch.autograd.grad(score, values[-1:])
        sizes = grad.unflatten(2, (2, -1)).norm(dim=3)  # (1, tokens, heads)
        return (sizes / sizes.sum(1, keepdim=True)).mean(2)[0, -PATCHES:]

    assert_close(raw, weights(3), 1e-6)
    assert relative_error(weights(2), raw) > 1e-2


def test_a_batch_is_its_images():
    x, model = images(3), eomt(1.0)
    together = DAAM(model).attribute(x, Query(3))
    for i in range(3):
        assert_close(DAAM(model).attribute(x[i : i + 1], Query(3)), together[i : i + 1], 1e-5)


def test_probabilities_are_those_among_the_classes_of_a_query_or_of_a_pixel():
    x, model = images(1), eomt()
    theirs = RISE(model).attribute(x, lambda o: o.class_queries_logits.softmax(2)[:, 3, 2], masks=9, score="logit")
    assert_close(RISE(model).attribute(x, Query(3, 2), masks=9), theirs, 1e-5)

    def share(o: Any) -> Tensor:
        maps = torch.stack([semantic(o, category) for category in range(3)], 1)
        return (maps / maps.sum(1, keepdim=True))[:, 1, :4, :2].mean((1, 2))

    theirs = RISE(model).attribute(x, share, masks=9, score="logit")
    assert_close(RISE(model).attribute(x, Mask(1, CORNER), masks=9), theirs, 1e-5)


def test_explain_draws_the_mask_that_was_asked_about():
    model, photo = eomt(), Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    x = square(photo)[None]
    found = explain(
        photo,
        model,
        preprocess=square,
        target=[Query(3), Mask(Query(3)), "query:3/mask", Mask("person", CORNER.repeat(2, 0).repeat(2, 1))],
        method=["daam", "agcam"],
    )
    out = model(x)
    best = int(out.class_queries_logits[0, 3, :3].argmax())
    named = ["car", "person", "dog"][best]
    titles = [label.title for label in found.targets]
    assert titles[0] == f"{named}, query 3"
    assert f"mask of {named}, query 3" in titles
    mark = found.attributions[0].marks[0]
    assert isinstance(mark, Outline)
    area = sum(shoelace(line) for line in mark.lines)
    pixels = int((out.masks_queries_logits[0, 3] > 0).sum()) * 64  # of 8 x 8 pixels of the photograph
    assert abs(abs(area) - pixels) < 1e-2 * pixels  # the view is seen, not told
    assert abs(abs(area) - int((out.masks_queries_logits[0, 2] > 0).sum()) * 64) > 1e-2 * pixels
    assert_close(found.attributions[0].map, DAAM(model).attribute(x, Query(3))[0, 0], 1e-5)
    largest = explain(photo, model, preprocess=square, top_k=1, method="daam")
    counts = torch.stack([semantic(out, c)[0] for c in range(3)]).argmax(0).flatten().bincount(minlength=3)
    assert largest.targets[0].title == ["car", "person", "dog"][int(counts.argmax())]


@pytest.mark.parametrize(("build", "pieces"), [(eomt, False), (dinov3, True)])
def test_a_folder_is_loaded_with_its_processor(build, pieces, tmp_path):
    model, photo = build(), Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8))
    model.save_pretrained(tmp_path)
    made = transformers.EomtImageProcessor(size={"shortest_edge": 32, "longest_edge": 32}, do_pad=True)
    cutting = transformers.EomtImageProcessor(size={"shortest_edge": 32, "longest_edge": None}, do_split_image=True)
    (cutting if pieces else made).save_pretrained(tmp_path)
    loaded = load_model(f"hf/{tmp_path}")
    assert loaded.class_names == {0: "car", 1: "person", 2: "dog"}
    assert any("padded to a square" in note for note in loaded.notes) == pieces
    inputs = made(images=photo, return_tensors="pt")["pixel_values"]
    found = explain(photo, loaded, method="daam", target=["query:3/dog", "mask:person/peak"])
    assert (found.view.size, found.view.scale) == ((32, 32), (0.5, 0.5))  # a fourth of it is padding
    for one, target in zip(found.attributions, (Query(3, 2), Mask(1, "peak")), strict=True):
        assert_close(one.map, DAAM(model).attribute(inputs, target)[0, 0], 1e-4)
    with pytest.raises(PreprocessingError, match="it has do_split_image"):
        explain(photo, model, preprocess=cutting, target=Query(3))


def square(image: Image.Image) -> Tensor:
    pixels = np.array(image.resize((32, 32), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def shoelace(line: Any) -> float:
    return sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(line, [*line[1:], line[0]], strict=True)) / 2


def test_what_a_query_does_not_have():
    x, model = images(1), eomt()
    with torch.no_grad():
        model.class_predictor.bias[-1] = 99
    with pytest.raises(TargetError, match="query 3 finds no object in image 0"):
        DAAM(model).attribute(x, Mask(Query(3)))
    with pytest.raises(TargetError, match="the model gives no masks of queries"):
        DAAM(Outer(eomt())).attribute(x, Mask(Query(3, 1), CORNER))
    with pytest.raises(TargetError, match="query out of range: the model has 0 to 4, got 5"):
        DAAM(model).attribute(x, Query(5, 1, empty=True))
    assert repr(of_text("query:17/mask")) == "Mask(Query(17))"


class Outer(nn.Module):
    """Of somebody's own, that gives what queries say alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).class_queries_logits
