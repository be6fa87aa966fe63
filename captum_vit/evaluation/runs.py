"""A whole run: what it is, where it goes on, and which engine does it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from ..attr import METHODS
from ..data import open_data
from ..errors import OptionError
from ..explaining import Explainer, versions
from ..metrics import METRICS
from ..models import nearest
from ..saving import write_atomically
from .engines import ENGINES
from .evaluator import BASELINES, Evaluator, named_methods, weights_hash
from .results import Leaderboard
from .shards import Shards


@dataclass(frozen=True)
class Plan:
    """What a run evaluates; all of it is named, so that any process can make the evaluator.

    model: as for `explain`; checkpoint: weights for it.
    data: as for `captum_vit.data.open_data`.
    methods: names of methods, and of the baselines random and gaussian; "all" stands for all that apply, and both.
    metrics: names of groups in `captum_vit.metrics.METRICS`, with their options in `metric_options`.
    options: of the methods, each of which is given those that it knows.
    target: "label" or "predicted".
    limit: how many items at most, from the first; None for all.
    """

    model: str = "sample"
    data: str = "sample:200"
    methods: tuple[str, ...] = ("all",)
    metrics: tuple[str, ...] = ("localization",)
    checkpoint: str | None = None
    target: str = "label"
    options: Mapping[str, Any] = field(default_factory=dict)
    metric_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batch_size: int = 16
    limit: int | None = None
    keep_maps: bool = False
    device: str | None = None

    def make(self) -> Evaluator:
        """The evaluator: loads the model and opens the data.

        Raises:
            CaptumViTError: a part of it cannot be had.
        """
        self.check()
        explainer = Explainer(self.model, checkpoint=self.checkpoint, device=self.device)
        methods = named_methods(self._methods(explainer), explainer, self.options)
        metrics = [METRICS[name](**self.metric_options.get(name, {})) for name in self.metrics]
        return Evaluator(
            explainer, open_data(self.data), methods, metrics, target=self.target, batch_size=self.batch_size,
            keep_maps=self.keep_maps,
        )  # fmt: skip

    def check(self) -> None:
        """Raise OptionError for a name that nobody knows, before anything is loaded."""
        for kind, names, known in (
            ("method", self.methods, ["all", *METHODS, *BASELINES]), ("metric", self.metrics, list(METRICS)),
        ):  # fmt: skip
            for name in names:
                if name not in known:
                    raise OptionError(f"no {kind} {name!r}; there are {', '.join(known)}{nearest(name, known)}")

    def _methods(self, explainer: Explainer) -> list[str]:
        names: list[str] = []
        for name in self.methods:
            every = [*explainer.choose("all"), *BASELINES] if name == "all" else [name]
            names += [each for each in every if each not in names]
        return names

    def settings(self, evaluator: Evaluator) -> dict[str, Any]:
        """All that decides the rows, as JSON holds it; where they are computed does not."""
        plan = {name: value for name, value in asdict(self).items() if name != "device"}
        plan["methods"] = list(evaluator.methods)
        return {
            **plan,
            "data": {"spec": self.data.partition(":")[0], **evaluator.data.describe()},
            "weights": weights_hash(evaluator.explainer.loaded.model),
            "versions": {name: found for name, found in versions().items() if name != "python"},
        }


def evaluate(
    plan: Plan,
    out: str | Path,
    *,
    engine: str = "local",
    shard: int = 32,
    progress: bool = False,
    **engine_options: Any,
) -> Leaderboard:
    """Do what of a run is missing, and sum it up.

    Args:
        plan: what to evaluate.
        out: folder of the run; one that was stopped goes on where it was.
        engine: "local" or "ray".
        shard: items in a file, and in what an engine does at once: what a kill can lose.
        progress: a bar.
        engine_options: of the engine, as actors, num_cpus and num_gpus of ray.
    Raises:
        RunError: the folder holds a run with other settings.
        CaptumViTError: a part of the plan cannot be had.
    """
    if engine not in ENGINES:
        raise OptionError(f"no engine {engine!r}; there are {', '.join(ENGINES)}{nearest(engine, list(ENGINES))}")
    evaluator = plan.make()
    items = min(len(evaluator.data), plan.limit or len(evaluator.data))
    shards = Shards(out, plan.settings(evaluator), items, shard)
    make = (lambda: evaluator) if engine == "local" else partial(Plan.make, plan)
    ENGINES[engine](make, shards, progress=progress, **engine_options)
    return Leaderboard.read(out)


def write_summary(board: Leaderboard, folder: str | Path) -> None:
    """Write leaderboard.csv, and for each metric a plot of its means, beside the rows.

    Raises:
        OutputError: a file cannot be written.
    """
    board.to_csv(Path(folder) / "leaderboard.csv")
    for metric in board.metrics:
        png = BytesIO()
        board.plot(metric).savefig(png, format="png", dpi=150)
        write_atomically(Path(folder) / f"{metric}.png", png.getvalue())


def compare(folders: Sequence[str | Path], metric: str | None = None) -> str:
    """Runs side by side as Markdown: a row for each method, a column for each run.

    Raises:
        RunError: a folder without a run, or a metric that one of them lacks.
    """
    boards = {str(folder): Leaderboard.read(folder) for folder in folders}
    first = next(iter(boards.values()))
    shown = metric or first.metrics[0]
    methods = list(dict.fromkeys(method for board in boards.values() for method in board.methods))
    lines = [f"| {shown} | " + " | ".join(boards) + " |", "| --- |" + " --- |" * len(boards)]
    for method in methods:
        cells = [str(b.mean(method, shown)) if method in b.methods else "" for b in boards.values()]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
