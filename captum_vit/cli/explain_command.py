"""The command explain; what it does is imported when it runs: --help needs no torch."""

import webbrowser
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import typer

from ..errors import CaptumViTError, InputError, OptionError
from . import options as o
from .asked import command_of
from .console import BAD_IMAGES, BAD_USE, STOPPED, Checkpoint, Device, Model, complain, look_here, plain, say
from .progress import counting, waiting
from .stopping import held

if TYPE_CHECKING:
    from ..colours import Look
    from ..explanation.explanation import Explanation
    from .batching import Job
    from .working import Options

WIDTH = 100  # letters of a line, where sentences are printed
SENTENCES = 3  # maps whose verdicts are told in sentences; of more in a few words, and in sentences in the report
AROUND = ("images", "out", "recursive", "resume", "open_", "flow", "batch_size", "device")  # no part in a map


def explain(
    context: typer.Context,
    images: o.Images = None,
    *,
    model: Model = "sample",
    checkpoint: Checkpoint = None,
    checkpoint_key: o.CheckpointKey = None,
    random: o.Random = False,
    img_size: o.ImageSize = None,
    preprocess: o.Preprocess = None,
    mean: o.Mean = None,
    std: o.Std = None,
    squash: o.Squash = False,
    class_names: o.ClassNames = None,
    forward_kwargs: o.ForwardKwargs = None,
    output: o.Output = None,
    method: o.Methods = None,
    option: o.MethodOption = None,
    target: o.Targets = None,
    text: o.Texts = None,
    words: o.Words = False,
    layer: o.Layers = None,
    top_k: o.TopK = 3,
    out: o.Out = Path("captum-vit-out"),
    recursive: o.Recursive = False,
    frames: o.Frames = False,
    by_folder: o.ByFolder = False,
    resume: o.Resume = False,
    open_: o.Open = False,
    max_side: o.MaxSide = 1024,
    attention: o.Attention = False,
    verdict: o.Verdict = None,
    removals: o.Removals = False,
    report: o.Report = True,
    flow: o.Flow = False,
    scale: o.Scale = "own",
    boost_faint: o.BoostFaint = False,
    cmap: o.Cmap = None,
    alpha: o.Alpha = 0.8,
    fade: o.Fade = True,
    threshold: o.Threshold = 0.0,
    contour: o.Contour = None,
    batch_size: o.BatchSize = 8,
    page: o.Page = None,
    window: o.Window = None,
    device: Device = None,
) -> None:
    """Draw what the score of each image rests on.

    Overlays go to OUT/IMAGE/METHOD-CLASS.png, with an overview.png that shows them side by side, and a report.html to
    look at them block by block. A folder that holds another image of that name is left alone: the next one
    is IMAGE-2. What an earlier run wrote of the same image is replaced, and what this one does not write removed.

    Exit code: 0 all done; 1 some images failed, the others are done; 2 something that was asked for cannot be had.
    """
    try:
        look_here()
        with waiting("Starting", logged=False), held():
            from . import working
            from .batching import jobs_of
            from .batching import window as ends_of
            from .modelling import ModelOptions

        working.check_methods(method or [])
        _check(images, model, report, open_, removals)
        known = ModelOptions(
            model=model,
            checkpoint=checkpoint,
            checkpoint_key=checkpoint_key,
            random=random,
            img_size=img_size,
            preprocess=preprocess,
            mean=mean,
            std=std,
            squash=squash,
            class_names=class_names,
            output=output,
            device=device,
        )
        options = working.Options(
            model=known,
            methods=method or (None if images else ["all"]),
            method_options=o.named_values(option or []),
            targets=target or [],
            texts=text or [],
            words=words,
            layers=layer or [],
            max_side=max_side,
            top_k=top_k,
            batch_size=batch_size,
            attention=attention,
            verdict=report if verdict is None else verdict,
            removals=removals,
            report=report,
            flow=flow,
            page=page,
            window=ends_of(window),
            look=o.look(scale, boost_faint, cmap, alpha, fade, threshold, contour),
        )
        named = jobs_of(images or [], o.keyword_arguments(forward_kwargs), recursive, frames=frames)
        jobs = [_told(job, context, by_folder) for job in named]
        code = _explain_all(jobs, options, out, resume, open_)
    except CaptumViTError as error:
        complain(f"Error: {error}")
        code = BAD_USE
    except KeyboardInterrupt:
        complain(f"Stopped. The pictures written so far are complete, in {out}; --resume goes on")
        code = STOPPED
    raise typer.Exit(code)


def _check(images: list[str] | None, model: str, report: bool, open_report: bool, removals: bool) -> None:
    if not images and model.split("/")[0] != "sample":
        raise InputError("no images: name files or folders (only the sample model brings a scene of its own)")
    for image in images or []:
        if "://" in image:
            raise InputError(f"{image!r} is a link, not a file: download the image first, and name the file")
    if removals and not report:
        raise OptionError("--removals is for the report, and --no-report leaves it out: give one of them")
    if open_report and not report:
        raise OptionError("--open shows the report, and --no-report leaves it out: give one of them")


def _told(job: "Job", context: typer.Context, by_folder: bool) -> "Job":
    """With the command that explains it again, and the class that its folder is called after."""
    file = job.file
    truth = file.resolve().parent.name if file and by_folder else ""
    return replace(job, call=command_of(context, str(file or ""), AROUND), truth=truth)


def _explain_all(jobs: list["Job"], options: "Options", out: Path, resume: bool, open_report: bool) -> int:
    """Every image, whatever happens to the others; returns the exit code."""
    from . import explain as work
    from . import working
    from .batching import EMBEDDED, refusal_of

    work.check_folder(out)
    done, todo = working.finished_before(jobs, options, out) if resume else ({}, jobs)
    if resume:
        say(f"{len(done)} of {len(jobs)} images were explained before, with these settings")
    failed, folders = 0, list(done)
    taken, notes = set(done), Notes()
    with counting(len(jobs), done=len(done)) as count:
        for answer in working.answers(todo, options, notes):
            try:
                explanation = answer.granted()
                folder, written = work.write(explanation, out, answer.name, options, taken, answer.made)
            except Exception as error:
                failed += 1
                complain(f"Failed: {refusal_of(error, answer.file)}")
            else:
                notes.of(explanation, options.model.of_sample)
                folders.append(folder)
                say(_summary(str(answer.file or EMBEDDED), explanation, written, folder))
            count()
    if failed:
        complain(f"{failed} of {len(jobs)} images failed" + ("" if failed == len(jobs) else "; the others are done"))
    if open_report and folders:
        _show(folders, out, options.look)
    elif options.report and len(folders) > 1:
        say(f"one page of all: captum-vit report {plain(str(out))}")
    return BAD_IMAGES if failed else 0


class Notes:
    """Says each note once, however many images it is of."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            complain(f"Note: {text}")

    def of(self, explanation: "Explanation", of_sample: bool) -> None:
        """What is odd about one image, or about the model's scores; what was said of the model is not said again."""
        for note in explanation.notes:
            known = note.startswith("preprocessing: ") or (of_sample and note.startswith("the sample model"))
            if not known and not any(said.endswith(note) for said in self._said):
                self(note)


def _show(folders: list[Path], out: Path, look: "Look") -> None:
    """The report of one image, or one page of all, in the browser."""
    from .explain import REPORT, write_report

    page = folders[0] / REPORT
    if len(folders) > 1:
        page = out / REPORT
        write_report(folders, page, look, lambda error: complain(f"Failed: {error}"))
    say(f"report: {plain(str(page))}")
    if not webbrowser.open(page.resolve().as_uri()):
        complain(f"Note: no browser could be opened: open {page} in one")


def _summary(image: str, explanation: "Explanation", written: list[str], folder: Path) -> str:
    """What is printed of one image."""
    classes = [label for label in explanation.labels if label.index is not None]
    names = [plain(label.name or f"class {label.index}") for label in classes]
    width = min(max(map(len, names), default=0), 50)
    lines = [plain(image)]
    for name, p in zip(names, classes, strict=True):
        short = name if len(name) <= width else name[: width - 3] + "..."
        lines.append(
            f"  {p.index:5d}  {short:{width}}  {p.measured:>7}{'  explained' if p in explanation.targets else ''}"
        )
    if explanation.truth and classes and classes[0].title != explanation.truth:
        lines.append(f"         wrong: it is {plain(explanation.truth)}")
    for label in explanation.targets:
        if label.index is None:
            lines.append(f"         {plain(label.title)}: {label.measured}  explained")
    for attribution in explanation:
        if attribution.sentence is not None:
            told = plain(f"words by {attribution.method_title}: {attribution.sentence.told}")
            lines.append(fill(told, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False))
    verdicts = explanation.verdicts
    for title, verdict in verdicts.items():
        told = plain(f"{title}: {verdict.text if len(verdicts) <= SENTENCES else verdict.short}")
        lines.append(fill(told, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False))
    overlays = sum(name.endswith(".png") for name in written) - 1
    pages = [name for name in written if name.endswith(".html")]
    others = [name for name in written if name not in pages and not name.endswith(".png")]
    files = [*pages, "overview.png", f"{overlays} overlay{'s' if overlays > 1 else ''}", *others]
    several = f"{', '.join(files[1:-1])} and {files[-1]}" if len(files) > 2 else files[-1]
    lines.append(f"  written: {plain(str(folder / files[0]))}, and beside it {several}")
    return "\n".join(lines)
