"""From what was asked on the command line to explanations: files are read, batched, and explained."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..attr import find_method, in_all
from ..colours import LOOK, Look
from ..errors import ImageLoadError, InputError
from ..explanation.asking import Asked
from ..explanation.dense import is_dense
from ..explanation.explaining import Explainer
from ..explanation.explanation import Explanation
from ..targets import Text
from .batching import Job, Shown, Work, in_batches
from .folders import finished
from .progress import waiting


@dataclass(frozen=True)
class Options(Shown):
    """What was asked for; no methods choose one that suits the model."""

    methods: Sequence[str] | None = None
    method_options: Mapping[str, Any] = field(default_factory=dict)
    targets: Sequence[str] = ()
    texts: Sequence[str] = ()
    words: bool = False
    layers: Sequence[str] = ()
    max_side: int = 1024
    top_k: int = 3
    attention: bool = False
    verdict: bool = True
    removals: bool = False
    report: bool = True
    flow: bool = False
    look: Look = LOOK


@dataclass(frozen=True)
class Answer:
    """What came of one file, the embedded scene where it is None: an explanation, or the reason why not.

    made: a hash of the file and of all that was asked, for a run that goes on.
    """

    file: Path | None
    name: str
    explanation: Explanation | None = None
    refusal: ImageLoadError | InputError | None = None
    made: str = ""

    def granted(self) -> Explanation:
        """The explanation; raises the refusal where there is none."""
        if self.explanation is None:
            assert self.refusal is not None
            raise self.refusal
        return self.explanation


def check_methods(names: Sequence[str]) -> None:
    """Raise OptionError for a method that nobody knows, before anything is loaded."""
    for name in names:
        if name != "all":
            find_method(name)


def load(options: Options) -> tuple[Explainer, Asked, list[str]]:
    """The model and the question that was asked, and what a user should know about the choice of methods.

    Raises:
        CaptumViTError: model, layer, method, target or device cannot be had.
    """
    layers = [int(n) if re.fullmatch("-?[0-9]{1,9}", n) else n for n in options.layers] or None
    explainer = options.model.load(layers)
    asked = explainer.ask(
        method=options.methods,
        target=[*options.targets, *map(Text, options.texts)],
        top_k=options.top_k,
        attention=options.attention,
        verdict=options.verdict,
        removals=options.removals,
        words=options.words,
        **options.method_options,
    )
    notes = []
    reasons: dict[str, list[str]] = {}
    for name, method in in_all().items() if "all" in (options.methods or ()) else ():
        reason = explainer.unfit(method)
        if reason is not None:
            reasons.setdefault(reason, []).append(name)
    notes += [f"{' and '.join(names)} cannot be drawn: {reason}" for reason, names in reasons.items()]
    used = any(method.class_specific for method in asked.methods.values()) or is_dense(explainer.loaded.model, asked)
    if (options.targets or options.texts) and not used:
        given = "--target" if options.targets else "--text"
        notes.append(f"{given} is not used: {', '.join(asked.methods)} gives one map for all classes")
    return explainer, asked, notes


def finished_before(jobs: Sequence[Job], options: Options, out: Path) -> tuple[dict[Path, Job], list[Job]]:
    """What an earlier run with the same settings has finished, by folder, and what is left to do."""
    done: dict[Path, Job] = {}
    left = []
    for job in jobs:
        made = job.made(options)
        folder = finished(out, job.name, made, done) if made else None
        if folder is None:
            left.append(job)
        else:
            done[folder] = job
    return done, left


def answers(jobs: Sequence[Job], options: Options, note: Callable[[str], None]) -> Iterator[Answer]:
    """What comes of each file, in their order; images of one input size are explained in batches.

    Raises:
        CaptumViTError: model, layer, method, target or device cannot be had.
    """
    made: dict[str, str] = {}
    titles: dict[str, str] = {"": ""}  # of the classes that folders are called after

    def noted() -> Iterator[Job]:
        for job in jobs:
            made[job.name] = job.made(options)  # before it is read: a file may change meanwhile
            yield job

    def begin(first: Job) -> tuple[Explainer, Work[Explanation]]:
        explainer, asked = _loaded(options, first.file, note)
        titles.update({job.truth: explainer.vocabulary.title(job.truth) for job in jobs if job.truth})
        return explainer, lambda seen: explainer.answer(seen, asked)

    for job, found in in_batches(noted(), options, begin, note):
        if isinstance(found, Explanation):
            told = replace(found, call=job.call, truth=titles[job.truth])
            yield Answer(job.file, job.name, told, made=made.pop(job.name))
        else:
            yield Answer(job.file, job.name, refusal=found)


def _loaded(options: Options, file: Path | None, note: Callable[[str], None]) -> tuple[Explainer, Asked]:
    model = options.model
    with waiting(model.loaded_now, logged=not model.of_sample):
        explainer, asked, notes = load(options)
    if file is not None and model.of_sample:
        notes.insert(0, model.of_its_own)
    for each in [*model.notes(explainer), *notes]:
        note(each)
    return explainer, asked
