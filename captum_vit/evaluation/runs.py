"""A whole run: what it is, where it goes on, and which engine does it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from ..data import open_data
from ..errors import OptionError
from ..explaining import Explainer
from ..metrics import Metric, named_metric
from ..models import nearest
from ..saving import write_atomically
from .engines import ENGINES
from .entries import Method, check_methods
from .evaluator import Evaluator
from .results import Leaderboard, as_markdown
from .shards import Shards


@dataclass(frozen=True)
class Plan:
    """What a run evaluates, so that any process can make the evaluator.

    model: as for `explain`; checkpoint: weights for it.
    data: as for `captum_vit.data.open_data`.
    methods: names and other forms that `Evaluator` takes; "all" stands for all that apply, and both baselines.
    metrics: names of groups in `captum_vit.metrics.METRICS`, of a published protocol with its name behind a colon, as
        "perturbation:rise"; or metrics themselves.
    options: of the methods, each of which is given those that it knows.
    target: "label" or "predicted".
    preprocess: as for `explain`; "squash" takes the whole image.
    limit: how many items at most, from the first; None for all.
    """

    model: str = "sample"
    data: str = "sample:200"
    methods: Sequence[Method] | Mapping[str, Any] = ("all",)
    metrics: Sequence[str | Metric] = ("localization",)
    checkpoint: str | None = None
    target: str = "label"
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Any = None
    batch_size: int = 16
    limit: int | None = None
    keep_maps: bool = False
    device: str | None = None

    def make(self) -> Evaluator:
        """The evaluator: loads the model and opens the data.

        Raises:
            CaptumViTError: a part of it cannot be had.
        """
        check_methods(list(self.methods.values()) if isinstance(self.methods, Mapping) else self.methods)
        metrics = [named_metric(metric) if isinstance(metric, str) else metric for metric in self.metrics]
        data = open_data(self.data)
        explainer = Explainer(self.model, checkpoint=self.checkpoint, device=self.device, preprocess=self.preprocess)
        return Evaluator(
            explainer, data, self.methods, metrics, options=self.options, target=self.target,
            batch_size=self.batch_size, keep_maps=self.keep_maps,
        )  # fmt: skip


def evaluate(
    what: Plan | Evaluator,
    out: str | Path,
    *,
    engine: str = "local",
    limit: int | None = None,
    shard: int = 32,
    progress: bool = False,
    **engine_options: Any,
) -> Leaderboard:
    """Do what of a run is missing, and sum it up.

    Args:
        what: what to evaluate: a plan, or an evaluator of a model at hand, which Ray would pickle for each actor.
        out: folder of the run; one that was stopped goes on where it was.
        engine: "local" or "ray".
        limit: how many items at most, from the first; by default the plan's.
        shard: items in a file, and in what an engine does at once: what a kill can lose.
        progress: a bar.
        engine_options: of the engine, as actors, num_cpus and num_gpus of ray.
    Raises:
        RunError: the folder holds a run with other settings, or a method or a metric fails whatever it is asked.
        CaptumViTError: a part of the plan cannot be had.
    """
    if engine not in ENGINES:
        raise OptionError(f"no engine {engine!r}; there are {', '.join(ENGINES)}{nearest(engine, list(ENGINES))}")
    evaluator = what.make() if isinstance(what, Plan) else what
    wanted = what.limit if isinstance(what, Plan) and limit is None else limit
    items = len(evaluator.data) if wanted is None else min(len(evaluator.data), wanted)
    shards = Shards(out, evaluator.describe(), items, shard)
    if shards.missing():
        evaluator.rehearse()
    make: Callable[[], Evaluator] = partial(_same, evaluator)
    if engine != "local" and isinstance(what, Plan):
        make = partial(Plan.make, what)
    ENGINES[engine](make, shards, progress=progress, **engine_options)
    return Leaderboard.read(out)


def _same(evaluator: Evaluator) -> Evaluator:
    return evaluator


def write_summary(board: Leaderboard, folder: str | Path) -> None:
    """Write leaderboard.csv, per class too, and leaderboard.png beside the rows.

    Raises:
        OutputError: a file cannot be written.
    """
    board.to_csv(Path(folder) / "leaderboard.csv")
    png = BytesIO()
    board.plot().savefig(png, format="png", dpi=120)
    write_atomically(Path(folder) / "leaderboard.png", png.getvalue())


def compare(folders: Sequence[str | Path], figure: str | None = None) -> str:
    """Runs side by side as Markdown: a row for each method, a column for each run.

    Of two runs over the same images, a third column has what the second has more than the first, paired by image.

    Raises:
        RunError: a folder without a run, or a figure that one of them lacks.
    """
    boards = {str(folder): Leaderboard.read(folder) for folder in folders}
    first = next(iter(boards.values()))
    shown = figure or next(iter(first.figures))
    methods = list(dict.fromkeys(method for board in boards.values() for method in board.methods))
    heads = [*boards]
    joined = Leaderboard.join(boards) if len(boards) == 2 else None
    if joined is not None:
        heads.append("second - first")
    rows = []
    for method in methods:
        cells = [str(board.mean(method, shown)) if method in board.methods else "" for board in boards.values()]
        if joined is not None:
            one, other = (f"{name}: {method}" for name in boards)
            both = one in joined.methods and other in joined.methods
            cells.append(str(joined.difference(other, one, shown)) if both else "")
        rows.append([method, *cells])
    return as_markdown([first.title(shown), *heads], rows)
