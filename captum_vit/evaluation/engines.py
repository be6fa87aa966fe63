"""Engines write the missing shards of a run with its evaluator: in this process, or on the actors of a Ray cluster."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from ..errors import OptionError
from .evaluator import Evaluator
from .shards import Shards

MakeEvaluator = Callable[[], Evaluator]


class Meter(Protocol):
    """What is told how far a run is."""

    def update(self, count: int, /) -> object:
        """So many more items are done."""
        ...

    def close(self) -> object:
        """The run has ended."""
        ...


Progress = bool | Callable[[int, int], Meter]  # a bar of tqdm, or of the items in all and of those done before a meter
Done = Callable[[int], object]


def run_local(make: MakeEvaluator, shards: Shards, *, progress: Progress = False) -> None:
    """Write every missing shard in this process, one after another.

    Args:
        make: gives the evaluator.
        shards: of the run.
        progress: whether, or by what, is told how far it is.
    """

    def work(missing: Sequence[int], done: Done) -> None:
        evaluator = make()
        for shard in missing:
            shards.write(shard, evaluator(shards.indices(shard), done))

    _finish(shards, work, progress)


def run_ray(
    make: MakeEvaluator,
    shards: Shards,
    *,
    actors: int = 2,
    num_cpus: float = 0.5,
    num_gpus: float = 0.0,
    progress: Progress = False,
    threads: int | None = None,
) -> None:
    """Write every missing shard on a pool of Ray actors, each of which loads the model once and writes its own shards.

    Args:
        make: called in each actor, gives the evaluator; Ray pickles it.
        shards: on storage that all nodes see.
        actors: how many at once.
        num_cpus, num_gpus: what each actor reserves. As many actors as cores, with a whole CPU each, would leave none
            to Ray's own tasks, and the run would stand still.
        progress: whether, or by what, is told how far it is.
        threads: of torch's in each actor, by default as Ray sets them.
    Raises:
        OptionError: Ray is not installed, or this machine has less than the actors ask for.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise OptionError("the engine 'ray' needs Ray: pip install 'captum-vit[ray]'") from error

    def work(missing: Sequence[int], finished: Done) -> None:
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        if not os.environ.get("RAY_ADDRESS"):  # a cluster may grow, this machine does not
            _check_room(ray.cluster_resources(), CPU=actors * num_cpus, GPU=actors * num_gpus)
        questions = ray.data.from_items([{"shard": shard} for shard in missing], override_num_blocks=len(missing))
        questions.context.enable_progress_bars = False  # they count Ray's tasks, not images
        done = questions.map_batches(  # Ray Data starts an actor that dies anew, and gives it its shard again
            _Actor,
            fn_constructor_args=(make, shards, threads),
            batch_size=1,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(missing))),
        )
        for batch in done.iter_batches(batch_size=1):
            for shard in batch["shard"].tolist():
                finished(len(shards.indices(shard)))

    _finish(shards, work, progress)


def _check_room(there: Mapping[str, float], **asked: float) -> None:
    """Raise OptionError where actors would wait for ever."""
    for kind, number in asked.items():
        if number > there.get(kind, 0):
            raise OptionError(
                f"the actors ask for {number:g} {kind}s, and there are {there.get(kind, 0):g}: take fewer actors, or "
                f"less for each"
            )


def _finish(shards: Shards, work: Callable[[Sequence[int], Done], None], progress: Progress) -> None:
    """Have the missing shards written by `work`, which tells of how many items it is done."""
    missing = shards.missing()
    if missing:
        before = shards.items - sum(len(shards.indices(shard)) for shard in missing)
        meter = progress(shards.items, before) if callable(progress) else _bar(shards.items, before, progress)
        try:
            work(missing, meter.update)
        finally:
            meter.close()
    shards.tidy()


def _bar(items: int, before: int, shown: bool) -> Meter:
    bar: Meter = tqdm(total=items, initial=before, unit="item", disable=not shown)
    return bar


@contextmanager
def threads_of(number: int | None) -> Iterator[None]:
    """So many threads of torch's within, and as many as before after it; None leaves them alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Actor:
    """An evaluator in a process of its own."""

    def __init__(self, make: MakeEvaluator, shards: Shards, threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.evaluator, self.shards = make(), shards

    def __call__(self, batch: dict[str, Any]) -> dict[str, Iterable[Any]]:
        for shard in batch["shard"].tolist():
            self.shards.write(shard, self.evaluator(self.shards.indices(shard)))
        return batch


ENGINES = {"local": run_local, "ray": run_ray}
