"""What the command tokens does with a folder of any size: it reads each image once, and holds none of them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from ..attr.patches import EMBEDDED
from ..colours import LOOK, Look, Scale
from ..errors import CaptumViTError, InputError
from ..explanation.explaining import Explainer
from ..explanation.seeing import Seen
from ..features.components import Shared
from ..features.keeping import Kept, features_in
from ..features.lens import commonest, count_classes
from ..features.patches import PatchTokens
from ..features.reading import tokens_of
from ..features.sheets import Common, Sheet
from ..features.similarity import chosen_patch
from ..files import write_atomically
from ..geometry import View
from .batching import Job, Shown, Work, in_batches, picture, refusal_of
from .console import BAD_IMAGES, complain, plain, say
from .explain import check_folder, save
from .folders import fingerprint, finished, folder_for
from .progress import counting, waiting
from .shelf import Shelf

TOGETHER, SIDES = "together", 12  # the folder of what is side by side, and up to how many images that are
ARRAYS, TABLE = "tokens.npz", "norms.csv"


@dataclass(frozen=True)
class TokenOptions(Shown):
    """What was asked for."""

    block: int | str = -1
    foreground: bool = False
    pixel: tuple[float, ...] | None = None
    names: bool = False
    max_side: int = 1024


@dataclass(frozen=True)
class Shelved:
    """An image that was read: where what was kept of it lies, how the model saw it, and a hash of its pixels."""

    job: Job
    path: Path
    view: View
    image: str

    def photo(self, options: TokenOptions, block: str, kept: Kept) -> PatchTokens:
        """The photograph, read again, smaller.

        Raises:
            ImageLoadError: it cannot be read any more.
            InputError: it is another one by now.
        """
        image = picture(self.job.file, options).image
        if fingerprint(image) != self.image:
            raise InputError(f"{str(self.job.file)!r} has changed since it was read")
        assert self.job.file is not None
        return PatchTokens(image, self.view, self.job.file.name, {block: kept.features}).reduced(options.max_side)


class Reader:
    """The first pass: each image goes through the model, and what is kept of it to the shelf."""

    def __init__(self, jobs: Sequence[Job], options: TokenOptions, note: Callable[[str], None]) -> None:
        self._jobs, self._options, self._note = jobs, options, note
        self._block = ""
        self._token: Tensor | None = None
        self._patch: tuple[int, ...] | None = None
        self._names: dict[int, str] = {}
        self._called, self._cosines = Counter[int](), torch.ones(1)
        self.shelved: list[Shelved] = []
        self.failed = 0

    def read(self, shelf: Shelf) -> None:
        """All images; of those that fail it is told, and the others go on.

        Raises:
            CaptumViTError: something that was asked for cannot be had, or none of the images.
        """
        with counting(len(self._jobs)) as count:
            for job, found in in_batches(self._jobs, self._options, self._begin, self._note):
                if isinstance(found, PatchTokens):
                    self._choose(job, found)
                try:
                    self._shelve(job, found, shelf)
                except Exception as error:
                    self.fail(error, job)
                count()
        if not self.shelved:
            raise InputError("none of the images could be read")
        if self._options.pixel is not None and self._token is None:
            self._note("--pixel is of the first image, which failed: none is compared with it")

    def fail(self, error: Exception, job: Job) -> None:
        """Tell what went wrong with an image.

        Raises:
            CaptumViTError: an error that all files would meet.
        """
        complain(f"Failed: {refusal_of(error, job.file)}")
        self.failed += 1

    def common(self) -> Common:
        """What all images have in common, by passes over the shelf, which hold one image at a time."""
        shared = Shared.of(self._features, foreground=self._options.foreground)
        scale = Scale.of([self._cosines], False)
        look = LOOK if self._patch is None else Look((scale.low, scale.high))
        return Common(self._block, shared, self._patch, look, self._names, commonest(self._called))

    def _features(self) -> Iterator[Tensor]:
        return (features_in(each.path) for each in self.shelved)

    def _begin(self, job: Job) -> tuple[Explainer, Work[PatchTokens]]:
        model = self._options.model
        with waiting(model.loaded_now, logged=not model.of_sample):
            explainer = model.load(None)
        for each in [*[model.of_its_own] * model.of_sample, *model.notes(explainer)]:
            self._note(each)
        place, adapter = self._options.block, explainer.adapter
        blocks: list[int | str] | None = None
        if not (isinstance(place, int) or place in (EMBEDDED, *adapter.blocks())):
            blocks = [*range(len(set(adapter.blocks().values()))), place]  # a module beside all blocks

        def work(seen: Sequence[Seen]) -> Sequence[PatchTokens]:
            found = tokens_of(seen, explainer, blocks, lens=self._options.names, batch_size=len(seen))
            self._block, self._names = found.block(place), dict(found.class_names)
            return found.photos

        return explainer, work

    def _choose(self, job: Job, photo: PatchTokens) -> None:
        """The token that others are compared with, if this is the image that has it."""
        if self._options.pixel is not None and job is self._jobs[0]:
            self._patch = chosen_patch(photo, self._block, None, self._options.pixel)
            self._token = photo.features[self._block][self._patch]

    def _shelve(self, job: Job, found: PatchTokens | CaptumViTError, shelf: Shelf) -> None:
        if not isinstance(found, PatchTokens):
            raise found
        kept = Kept.of(found, self._block, self._token)
        self.shelved.append(Shelved(job, shelf.put(kept, len(self.shelved)), found.view, fingerprint(found.image)))
        self._called += count_classes([each] for each in kept.numbers.values())
        if kept.similarity is not None:
            self._cosines = torch.stack([*self._cosines.aminmax(), *kept.similarity.aminmax()])


@dataclass(frozen=True)
class Writer:
    """The second pass: what was kept of each image becomes pictures and numbers.

    first: the file that was named first.  made: a hash of what each folder's files are made of, by its name.
    taken: the folders that were written.
    """

    options: TokenOptions
    common: Common
    out: Path
    first: Job
    made: Mapping[str, str]
    taken: set[Path]

    def draw(self, each: Shelved) -> None:
        """The pictures and the numbers of one image.

        Raises:
            ImageLoadError, InputError: it cannot be read again.
            OutputError: a file cannot be written.
        """
        kept = Kept.read(each.path)
        sheet = self._sheet([each], [kept])
        drawn = sheet.pictures()
        files = [*drawn, ARRAYS, TABLE]
        folder = folder_for(self.out, each.job.name, each.image, files, self.taken)
        self.taken.add(folder.path)
        folder.announce(files)
        save(drawn, folder.path)
        write_atomically(folder.path / ARRAYS, sheet.arrays(kept))
        write_atomically(folder.path / TABLE, sheet.table())
        folder.finish(files, self.made[each.job.name])
        say(plain(f"{each.job.file}: {', '.join(files)} in {folder.path}"))
        if sheet.norms.warnings[0]:
            complain(f"Note: {each.job.file}: {sheet.norms.warnings[0]}")

    def draw_together(self, shelved: Sequence[Shelved]) -> None:
        """A few images side by side."""
        figures = self._sheet(shelved, [Kept.read(each.path) for each in shelved]).figures()
        folder = folder_for(self.out, TOGETHER, "".join(each.image for each in shelved), list(figures), self.taken)
        folder.announce(figures)
        for file, plot in figures.items():
            png = BytesIO()
            plot().savefig(png, format="png", dpi=150)
            write_atomically(folder.path / file, png.getvalue())
        folder.finish(list(figures), self.made[""])
        say(plain(f"side by side: {', '.join(figures)} in {folder.path}"))

    def _sheet(self, shelved: Sequence[Shelved], kept: Sequence[Kept]) -> Sheet:
        block = self.common.block
        photos = [each.photo(self.options, block, own) for each, own in zip(shelved, kept, strict=True)]
        return Sheet.of(photos, kept, self.common, first=shelved[0].job is self.first)


def draw_all(jobs: Sequence[Job], options: TokenOptions, out: Path, resume: bool, note: Callable[[str], None]) -> int:
    """Every image, whatever happens to the others; returns the exit code.

    The PCA needs the tokens of all images, of which no more than a batch is ever in memory: what is kept of each image
    goes to the disk, and the basis is found by sums over it.
    """
    check_folder(out)
    made = hashes(jobs, options)
    before = drawn_before(jobs, out, made) if resume else {}
    if resume:
        say(f"{len(before)} of {len(jobs)} images were drawn before, with these settings and beside the same others")
        if len(before) == len(jobs) and (len(jobs) > SIDES or finished(out, TOGETHER, made[""], before)):
            return 0
    reader, drawn = Reader(jobs, options, note), list[Shelved]()
    with Shelf(out) as shelf:
        reader.read(shelf)
        writer = Writer(options, reader.common(), out, jobs[0], made, set(before))
        names = {job.name for job in before.values()}
        with counting(len(reader.shelved), "drawing", done=len(names)) as count:
            for each in reader.shelved:
                if each.job.name not in names:
                    try:
                        writer.draw(each)
                    except Exception as error:
                        reader.fail(error, each.job)
                        continue
                    finally:
                        count()
                drawn.append(each)
        if 0 < len(drawn) <= SIDES:
            writer.draw_together(drawn)
    if reader.failed:
        complain(f"{reader.failed} of {len(jobs)} images failed" + ("; the others are done" if drawn else ""))
    return BAD_IMAGES if reader.failed else 0


def drawn_before(jobs: Sequence[Job], out: Path, made: Mapping[str, str]) -> dict[Path, Job]:
    """What an earlier run has finished of the same, by folder."""
    done: dict[Path, Job] = {}
    for job in jobs:
        folder = finished(out, job.name, made[job.name], done)
        if folder is not None:
            done[folder] = job
    return done


def hashes(jobs: Sequence[Job], options: TokenOptions) -> dict[str, str]:
    """What each folder's files are made of, by its name: the image, all that was asked, and the images beside it.

    The folder in which they stand side by side has an empty name here.
    """
    own = {job.name: job.made(options) for job in jobs}
    every = sha256("".join(own.values()).encode()).hexdigest()
    return {"": every, **{name: sha256(f"{every}{each}".encode()).hexdigest() for name, each in own.items()}}
