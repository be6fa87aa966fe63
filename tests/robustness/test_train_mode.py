"""In train mode an explanation draws its own numbers and changes nothing, whatever happens beside it meanwhile."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from captum_vit import AGCAM, DAAM, adapt
from captum_vit.capture import Inputs, Run, untouched
from captum_vit.capture.draws import draws as op_draws
from captum_vit.capture.private import AsFound, Private
from captum_vit.errors import UnsupportedModelError
from captum_vit.wrapped import look_inside
from tests.fingerprint import changes, fingerprint
from tests.helpers import CLASSES, METHODS, WIDTH, assert_close, explain, images, relative_error, timm_vit


def dropping() -> nn.Module:
    return timm_vit(proj_drop_rate=0.3, attn_drop_rate=0.3, drop_path_rate=0.3).train()


class Counting(nn.Module):
    """A head with all kinds of state that a training step moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(WIDTH), spectral_norm(nn.Linear(WIDTH, CLASSES))
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.register_buffer("queue", torch.zeros(4, WIDTH))
        self.register_buffer("at", torch.zeros((), dtype=torch.long))
        self.register_buffer("replaced", torch.ones(WIDTH))
        self.kept = torch.zeros(WIDTH)  # no buffer, but a tensor of the module all the same

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
            self.queue[self.at % 4] = x[0]
            self.queue.view(-1)[:1].fill_(1)
            self.at += 1
            self.kept.data.add_(1)
            self.replaced = self.replaced * 0.5
        return self.linear(self.norm(x + self.mean + self.queue.mean(0) + self.at + self.kept + self.replaced))


def counting() -> nn.Module:
    return nn.Sequential(timm_vit(num_classes=0, proj_drop_rate=0.2), Counting()).train()


@contextmanager
def global_state_put_back(found: AsFound) -> Iterator[None]:
    """What a careless program would do: let the model draw and write, and undo it afterwards."""
    state, buffers = torch.get_rng_state(), [(b, b.clone()) for b in found.model.buffers()]
    try:
        yield
    finally:
        torch.set_rng_state(state)
        for buffer, value in buffers:
            buffer.data.copy_(value)


@pytest.fixture
def careless(monkeypatch) -> None:
    monkeypatch.setattr(AsFound, "forward", global_state_put_back)


def beside(model: nn.Module, method, act: Callable[[], object]) -> object:
    """What is done in this thread while another is in the middle of an explanation."""
    inside, go_on = threading.Event(), threading.Event()

    def hook(*_: object) -> None:
        if threading.current_thread() is other:
            inside.set()
            assert go_on.wait(60)

    vit = next(module for module in model.modules() if isinstance(module, VisionTransformer))
    handle = vit.blocks[1].register_forward_hook(hook)
    other = threading.Thread(target=explain, args=(method(model), images()))
    other.start()
    try:
        assert inside.wait(60)
        return act()
    finally:
        go_on.set()
        other.join()
        handle.remove()


def lost_steps() -> int:
    """How many of a training loop's steps, beside an explanation, a batch norm has not counted."""
    norm = nn.BatchNorm1d(WIDTH)
    model = nn.Sequential(timm_vit(num_classes=0), norm, nn.Linear(WIDTH, CLASSES)).train()
    beside(model, DAAM, lambda: [model(images(seed=i)) for i in range(3)])
    return 3 - int(norm.num_batches_tracked)


def test_a_training_loop_beside_an_explanation_loses_nothing():
    assert lost_steps() == 0


def test_lost_steps_would_be_caught(careless):
    assert lost_steps() > 0


def test_the_statistics_of_that_loop_are_those_without_an_explanation():
    trained = []
    for explained in (False, True):
        torch.manual_seed(0)
        model = counting()
        torch.manual_seed(1)

        def steps(model: nn.Module = model) -> list:
            return [model(images(seed=i)) for i in range(3)]

        beside(model, DAAM, steps) if explained else steps()
        trained.append(model)
    for (name, plain), (_, other) in zip(*(model.named_buffers() for model in trained), strict=True):
        assert torch.equal(plain, other), name


def draws(model: nn.Module, explained: bool) -> list[Tensor]:
    """Random numbers of this thread, during an explanation in another and after it."""
    torch.manual_seed(5)
    during = beside(model, AGCAM, lambda: torch.rand(8)) if explained else torch.rand(8)
    return [during, torch.rand(8)]


def test_another_thread_draws_as_if_there_were_no_explanation():
    model = dropping()
    for plain, beside_one in zip(draws(model, False), draws(model, True), strict=True):
        assert torch.equal(plain, beside_one)


def test_repeated_draws_would_be_caught(careless):
    during, after = draws(dropping(), True)
    assert not torch.equal(during, draws(timm_vit(), False)[0])
    assert not torch.equal(after, draws(timm_vit(), False)[1])


@pytest.mark.parametrize("build", [dropping, counting])
def test_eight_threads_leave_the_random_state_and_the_model(build):
    model, together = build(), threading.Barrier(8)
    ours = [(AGCAM, DAAM)[i % 2](model) for i in range(8)]
    before, at_once = fingerprint(model), threading.local()

    def hook(*_: object) -> None:
        if not getattr(at_once, "met", False):
            at_once.met = True
            together.wait(60)

    handle = model.register_forward_pre_hook(hook)
    with ThreadPoolExecutor(8) as pool:
        maps = list(pool.map(lambda method: explain(method, images(), 1), ours))
    handle.remove()
    assert not changes(before, fingerprint(model))
    if build is dropping:  # from copies of one state, all have dropped the same
        for i in range(2, 8):
            assert_close(maps[i], maps[i % 2], 1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_with_state_of_all_kinds_is_untouched(method):
    model, x = counting(), images()
    before, versions = fingerprint(model, x), [b._version for b in model.buffers()]
    kept = model[1].kept.clone()
    explain(method(model), x)
    assert not changes(before, fingerprint(model, x))
    assert [b._version for b in model.buffers()] == versions
    assert torch.equal(model[1].kept, kept)


@pytest.mark.parametrize("build", [dropping, counting])
def test_a_run_is_the_forward_that_would_come_next(build):
    """Each of its forwards draws and counts from where the model stands."""
    model, x = build(), images()
    torch.manual_seed(3)
    with Run(adapt(model), Inputs(x)) as run:
        scores, other, again = run.scores.clone(), run.score(x), run.score(x)
    with torch.no_grad():
        plain, next_one = model(x), model(x)
    for found in (scores, other, again):
        assert_close(found, plain)
    assert relative_error(next_one, plain) > 0.01


def test_a_training_step_may_stand_around_an_explanation():
    """The graph of its forward holds buffers, which must not count as changed."""

    def gradients(explained: bool) -> list[Tensor | None]:
        torch.manual_seed(0)
        model, x = counting(), images()
        loss = model(x).square().sum()
        if explained:
            explain(DAAM(model), x)
        loss.backward()
        return [p.grad for p in model.parameters()]

    for plain, around in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, around)


class Noisy(nn.Module):
    """Drops and counts in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return F.dropout(x, 0.1, training=True)


@pytest.mark.parametrize("method", [DAAM, AGCAM])
def test_eval_mode_that_draws_and_counts_is_left_alone_too(method):
    model, x = nn.Sequential(timm_vit(), Noisy()), images()
    before = fingerprint(model, x)
    for _ in range(3):  # at first it is not known
        explain(method(model), x)
    assert not changes(before, fingerprint(model, x))


def test_a_quiet_model_is_run_plainly_from_the_second_visit_on(monkeypatch):
    made: list[Private] = []
    plain = Private.__init__

    def count(self, found: AsFound) -> None:
        made.append(self)
        plain(self, found)

    monkeypatch.setattr(Private, "__init__", count)
    model, x = timm_vit(), images()
    explain(DAAM(model), x)
    assert made
    made.clear()
    explain(DAAM(model), x)
    assert not made
    model.blocks[1].mlp = nn.Sequential(model.blocks[1].mlp, Noisy())  # another module: it is looked at again
    before = fingerprint(model, x)
    explain(DAAM(model), x)
    explain(DAAM(model), x)
    assert made
    assert not changes(before, fingerprint(model, x))


def one(shape: tuple[int, ...] = (9,)) -> Tensor:
    return torch.full(shape, 0.5)


DRAWS = {
    "rand": lambda: torch.rand(3, dtype=torch.float64),
    "randn": lambda: torch.randn(3),
    "randint": lambda: torch.randint(9, (3,)) + torch.randint(2, 9, (3,)),
    "randperm": lambda: torch.randperm(7),
    "like": lambda: torch.rand_like(one()) + torch.randn_like(one()) + torch.randint_like(one(), 9),
    "normal": lambda: torch.normal(0.0, 1.0, (3,)) + torch.normal(torch.zeros(3), 1.0),
    "bernoulli": lambda: torch.bernoulli(one()) + one().bernoulli_(0.0) + one().bernoulli_(0.4),
    "multinomial": lambda: torch.multinomial(one(), 3),
    "poisson": lambda: torch.poisson(one()),
    "in place": lambda: one().exponential_() + one().uniform_() + one().random_() + one().geometric_(0.5),
    "dropout": lambda: F.dropout(one(), 0.5),
    "dropout of channels": lambda: F.dropout2d(one((2, 3, 4, 4)), 0.5),
    "alpha dropout": lambda: F.alpha_dropout(one(), 0.5, training=True),
    "native dropout": lambda: torch.native_dropout(one(), 0.5, True)[0],
    "dropout of nothing": lambda: torch.native_dropout(one(), 0.0, True)[0] + F.dropout(one(), 0.0) + torch.rand(9),
    "rrelu": lambda: F.rrelu(-one(), training=True),
    "attention": lambda: F.scaled_dot_product_attention(*[one((1, 2, 3, 4))] * 3, dropout_p=0.4),
    "drop path": lambda: timm.layers.DropPath(0.5).train()(one((9, 2))),
    "patch dropout": lambda: timm.layers.PatchDropout(0.5).train()(torch.arange(18.0).reshape(1, 9, 2)),
    "gamma": lambda: torch.distributions.Gamma(one(), one()).sample(),
    "truncated": lambda: nn.init.trunc_normal_(one()),
    "inference": lambda: torch.inference_mode()(lambda: F.dropout(one(), 0.5) + torch.rand(9))(),
    "vmap": lambda: torch.vmap(lambda x: x + torch.rand(2), randomness="different")(one((3, 2))),
}


def drawn(draw: Callable[[], Tensor]) -> tuple[Tensor, bool]:
    """What comes of it inside, and whether the random state has stayed."""
    state = torch.get_rng_state()
    found = AsFound(nn.Identity(), [])
    with found.forward():
        numbers = draw()
    assert found.noticed
    return numbers, torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", DRAWS)
def test_numbers_are_those_of_a_plain_call(name):
    numbers, stayed = drawn(DRAWS[name])
    assert stayed
    assert torch.equal(numbers, DRAWS[name]())


def test_a_generator_of_the_model_is_not_moved_on():
    model = nn.Module()
    model.generator = torch.Generator().manual_seed(1)
    state = model.generator.get_state()
    with AsFound(model, [model]).forward():
        numbers = torch.rand(3, generator=model.generator)
    assert torch.equal(model.generator.get_state(), state)
    assert torch.equal(torch.rand(3, generator=model.generator), numbers)


def test_a_generator_of_somebody_else_is():
    generator = torch.Generator().manual_seed(1)
    with AsFound(nn.Identity(), []).forward():
        first, second = torch.rand(3, generator=generator), torch.rand(3, generator=generator)
    assert not torch.equal(first, second)


def test_a_kernel_that_takes_no_generator_is_refused():
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    assert op_draws(op)
    q = one((1, 2, 3, 4))
    with AsFound(nn.Identity(), []).forward():
        op(q, q, q)
        with pytest.raises(UnsupportedModelError, match=r"draws random numbers by aten\._scaled_dot_product_flash"):
            op(q, q, q, 0.5)


def test_what_is_read_after_it_was_written_is_the_copy():
    model = nn.Module()
    model.register_buffer("b", torch.zeros(2, 3))
    view = model.b[1]
    with AsFound(model, [model]).forward():
        assert model.b.add_(1) is model.b
        model.b.t()[0].mul_(5)
        view.sub_(2)
        torch.add(view, 1, out=model.b[0])
        inside = (model.b + 0, view + 0)
    assert torch.equal(model.b, torch.zeros(2, 3))
    assert inside[0].tolist() == [[4.0, 0.0, 0.0], [3.0, -1.0, -1.0]]
    assert torch.equal(inside[0][1], inside[1])


@pytest.mark.parametrize("context", ["autocast", "no-grad", "inference"])
def test_contexts_around_it(context):
    around = {
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "no-grad": torch.no_grad,
        "inference": torch.inference_mode,
    }[context]
    model, x = counting(), images()
    with around():
        before = fingerprint(model, x)
        assert torch.isfinite(explain(AGCAM(model), x)).all()
        assert not changes(before, fingerprint(model, x))


def test_parts_that_are_compiled():
    model, x = counting(), images()
    model[0].blocks[1] = torch.compile(model[0].blocks[1], backend="eager")
    before = fingerprint(model, x)
    explain(AGCAM(model), x)
    assert not changes(before, fingerprint(model, x))


def test_gradients_of_several_targets_at_once():
    model, x = dropping(), images(1)
    before = fingerprint(model, x)
    maps = AGCAM(model).attribute_classes(x)
    assert maps.shape[0] == CLASSES
    assert not changes(before, fingerprint(model, x))
    with untouched(adapt(model)):
        assert torch._C._len_torch_dispatch_stack() == 0  # between the forwards, this thread is as it was


def test_a_look_inside_a_wrapper_changes_nothing():
    model = counting()
    before = fingerprint(model)
    assert look_inside(adapt(model)) is not None
    assert not changes(before, fingerprint(model))
