"""A whole run: what it is, where it goes on, and which engine does it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from torch import nn

from ..checking import check_by_name, check_flag, check_path, check_text, check_whole
from ..data import open_data
from ..errors import OptionError, RunError, brief, nearest
from ..explanation.explaining import Explainer
from ..files import write_atomically
from ..metrics import Metric, named_metric
from ..models import LoadedModel, load_model
from ..preprocessing import shown_as
from .engines import ENGINES, Progress, threads_of
from .entries import Method, check_methods
from .evaluator import Evaluator
from .leaderboard import Leaderboard, as_markdown
from .shards import MANIFEST, Shards, read_manifest, read_rows
from .standing import is_baseline, order
from .unchanged import check_unchanged


@dataclass(frozen=True)
class Plan:
    """What a run evaluates, as plain settings from which any process can make the evaluator.

    model: as for `explain`; checkpoint: weights for it; loading: options of `load_model`, as img_size.
    data: as for `captum_vit.data.open_data`.
    methods: names and other forms that `Evaluator` takes; "all" stands for all that apply, and both baselines.
    metrics: names of groups in `captum_vit.metrics.METRICS`, of a published protocol with its name behind a colon, as
        "perturbation:rise"; or metrics themselves.
    options: of the methods, each of which is given those that it knows.
    target: "label", "predicted", or a contrast of two classes, as for `Evaluator`.
    preprocess, class_names, output: as for `explain`; "squash" takes the whole image.
    mean, std: by which inputs are normalised, where not as the preprocessing says.
    batch_size: images at once.
    limit: how many items at most, from the first; None for all.
    keep_maps: whether every map is kept in the rows, at grid size.
    device: where to compute; by default cuda if there is one.
    """

    model: str = "sample"
    data: str = "sample:200"
    methods: Sequence[Method] | Mapping[str, Any] = ("all",)
    metrics: Sequence[str | Metric] = ("localization",)
    checkpoint: str | None = None
    loading: Mapping[str, Any] = field(default_factory=dict)
    target: Any = "label"
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Any = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    class_names: Sequence[str] | str | None = None
    output: Any = None
    batch_size: int = 16
    limit: int | None = None
    keep_maps: bool = False
    device: str | None = None

    def make(self) -> Evaluator:
        """The evaluator: loads the model and opens the data.

        Raises:
            CaptumViTError: the model, the data, a method or a metric cannot be had.
        """
        self._check()
        check_methods(list(self.methods.values()) if isinstance(self.methods, Mapping) else self.methods)
        wanted = [self.metrics] if isinstance(self.metrics, (str, Metric)) else self.metrics
        if not isinstance(wanted, Sequence) or not all(isinstance(metric, (str, Metric)) for metric in wanted):
            raise OptionError(f"metrics are names, as 'localization', or metrics, in a list, got {brief(wanted)}")
        metrics = [named_metric(metric) if isinstance(metric, str) else metric for metric in wanted]
        data = open_data(self.data)
        loaded = load_model(self.model, checkpoint=self.checkpoint, **self.loading)
        shown = shown_as(loaded.preprocess, self.preprocess, self.mean, self.std)
        explainer = Explainer(
            loaded, device=self.device, preprocess=shown, class_names=self.class_names, output=self.output
        )
        return Evaluator(
            explainer,
            data,
            self.methods,
            metrics,
            options=self.options,
            target=self.target,
            batch_size=self.batch_size,
            keep_maps=self.keep_maps,
        )

    def _check(self) -> None:
        """Raise OptionError for a setting of another kind."""
        if isinstance(self.model, (nn.Module, LoadedModel)):
            raise OptionError(
                "a plan is plain settings, from which any process can load the model: name it, as "
                "'timm/vit_base_patch16_224' or 'my_module:make_model'. One at hand is evaluated by "
                "Evaluator(Explainer(model), open_data(...), methods, metrics)"
            )
        check_text("model", self.model, "timm/vit_base_patch16_224")
        check_text("data", self.data, "voc:FOLDER")
        check_by_name("options", self.options)
        check_by_name("loading", self.loading)
        check_whole("batch_size", self.batch_size)
        check_flag("keep_maps", self.keep_maps)
        if self.limit is not None:
            check_whole("limit", self.limit)
        if self.checkpoint is not None:
            check_path("checkpoint", self.checkpoint)


def evaluate(
    what: Plan | Evaluator,
    out: str | Path,
    *,
    engine: str = "local",
    limit: int | None = None,
    shard: int = 32,
    retry: bool = False,
    progress: Progress = False,
    threads: int | None = None,
    **engine_options: Any,
) -> Leaderboard:
    """Score the items that a run lacks yet, and give its leaderboard.

    Args:
        what: what to evaluate: a plan, or an evaluator of a model at hand, which Ray would pickle for each actor.
        out: folder of the run; one that was stopped goes on where it was.
        engine: "local" or "ray".
        limit: how many items at most, from the first; by default the plan's.
        shard: items in each file of rows. A file is written when all of its items are scored, so that a process that is
            killed loses no more than these.
        retry: whether files that are damaged, or hold what failed, are done again.
        progress: whether a bar is shown; or a function of how many items there are and how many are done already, that
            gives an object whose `update` is told of how many more, and whose `close` is called at the end.
        threads: of torch's in each process; by default as many as it has. Where other programs are at work, more than
            there are free cores cost a multiple of the time.
        engine_options: of the engine, as actors, num_cpus and num_gpus of ray.
    Raises:
        RunError: the folder holds a run with other settings, of data that has changed, or with damaged rows; or a
            method or a metric fails whatever it is asked, or changes the model.
        CaptumViTError: a part of the plan cannot be had.
    """
    if not isinstance(what, (Plan, Evaluator)):
        raise OptionError(f"what is evaluated is a Plan or an Evaluator, got {brief(what)}")
    check_path("out", out)
    check_whole("shard", shard)
    if limit is not None:
        check_whole("limit", limit)
    check_text("engine", engine, "local")
    if engine not in ENGINES:
        raise OptionError(f"no engine {brief(engine)}; there are {', '.join(ENGINES)}{nearest(engine, list(ENGINES))}")
    with threads_of(threads):
        evaluator = what.make() if isinstance(what, Plan) else what
        wanted = what.limit if isinstance(what, Plan) and limit is None else limit
        items = len(evaluator.data) if wanted is None else min(len(evaluator.data), wanted)
        shards = _begun(evaluator, out, items, shard, retry)
        make: Callable[[], Evaluator] = partial(_same, evaluator)
        if engine != "local":
            engine_options["threads"] = threads
            make = partial(Plan.make, what) if isinstance(what, Plan) else make
        ENGINES[engine](make, shards, progress=progress, **engine_options)
    return Leaderboard.read(out)


def _begun(evaluator: Evaluator, out: str | Path, items: int, shard: int, retry: bool) -> Shards:
    """The shards of a run, of which all is sound that is there, and nothing will fail for sure that is not."""
    begun = (Path(out) / MANIFEST).exists()
    settings = evaluator.describe()  # before the model is asked anything: it may count its calls
    if not begun:
        evaluator.rehearse()  # before anything is written, so that the folder stays free
    recorded = {
        "root": evaluator.data.describe().get("root"),
        "batch_size": evaluator.batch_size,
        "notes": evaluator.notes,
    }
    shards = Shards(out, settings, items, shard, recorded=recorded)
    if begun:
        shards.reopen() if retry else shards.check()
        check_unchanged(evaluator.data, shards.read_items())
        if shards.missing():
            evaluator.rehearse()
    return shards


def _same(evaluator: Evaluator) -> Evaluator:
    return evaluator


def write_summary(board: Leaderboard, folder: str | Path, figures: Sequence[str] | None = None) -> None:
    """Write leaderboard.csv, per class too, leaderboard.md with all figures, and leaderboard.png beside the rows.

    Args:
        board: the run's.
        folder: of the run.
        figures: what the picture shows; by default the four of `Leaderboard.summary`.
    Raises:
        OutputError: a file cannot be written.
    """
    board.to_csv(Path(folder) / "leaderboard.csv")
    write_atomically(Path(folder) / "leaderboard.md", board.page().encode("utf-8", "backslashreplace"))
    if not board.figures:
        return
    png = BytesIO()
    board.plot(figures).savefig(png, format="png", dpi=120)
    write_atomically(Path(folder) / "leaderboard.png", png.getvalue())


def compare(folders: Sequence[str | Path], figure: str | None = None) -> str:
    """Runs side by side as Markdown: a row for each method, a column for each run.

    Of two runs over the same images, asked about the same classes, a third column has the second run's figure less the
    first's, over the items that both have.

    Args:
        folders: of runs.
        figure: which; by default the first that all of the runs have.
    Raises:
        RunError: a folder without a run, or a figure that one of them lacks.
    """
    boards = {str(folder): Leaderboard.read(folder) for folder in folders}
    first = next(iter(boards.values()))
    shared = [name for name in first.figures if all(name in board.figures for board in boards.values())]
    if not shared or (figure is not None and figure not in shared):
        raise RunError(
            f"not all of the runs have {'a figure' if figure is None else repr(figure)}; they share: "
            f"{', '.join(shared) or 'none'}"
        )
    shown = figure or shared[0]
    heads, notes = [first.title(shown), *boards], _partial(folders)
    joined = None
    if len(boards) == 2:
        different = _different(folders[0], folders[1], shown)
        if different:
            notes.append(f"Not subtracted: the runs have other {' and '.join(different)}.")
        else:
            joined = Leaderboard.join(boards)
            heads.append("second - first")
    rows = []
    every = dict.fromkeys(method for board in boards.values() for method in order(board, shown))
    for method in sorted(every, key=is_baseline):
        cells = [str(board.mean(method, shown)) if method in board.methods else "" for board in boards.values()]
        if joined is not None:
            one, other = (f"{name}: {method}" for name in boards)
            both = one in joined.methods and other in joined.methods
            cells.append(str(joined.difference(other, one, shown)) if both else "")
        rows.append([method, *cells])
    return "\n".join([as_markdown(heads, rows), *notes])


def _different(first: str | Path, second: str | Path, figure: str) -> list[str]:
    """What makes two runs incomparable image by image."""
    one, other = (_asked(read_manifest(Path(folder))["settings"], figure) for folder in (first, second))
    return [name for name in one if one[name] != other[name]]


def _asked(settings: Mapping[str, Any], figure: str) -> dict[str, Any]:
    metrics = [metric for metric in settings["metrics"].values() if figure in metric["figures"]]
    return {"data": settings["data"], "target": settings["target"], "metric": metrics}


def _partial(folders: Sequence[str | Path]) -> list[str]:
    """A line for each run that is not done."""
    lines = []
    for folder in folders:
        items = read_manifest(Path(folder))["items"]
        there = len(set(read_rows(folder)["item"].to_pylist()))
        if there < items:
            lines.append(f"{folder}: {there} of {items} items so far.")
    return lines
