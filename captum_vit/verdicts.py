"""What is to be thought of a map: numbers of what it does to the model, and one line that says it."""

from dataclasses import dataclass
from typing import Literal, get_args

from .colours import NEARLY_FLAT
from .wording import number, percent

Finding = Literal["carries", "counts", "chance", "against", "untested"]
FINDINGS: tuple[str, ...] = get_args(Finding)

ALIKE = 0.9  # correlation from which on maps of two classes count as one
ARTIFACTS = "rests on artifacts"
RESTS = 0.25  # share of a map on artifacts from which on it rests on them, if it is more than twice what is even
FAINT = 0.05  # score of a class below which it is no answer that a part could carry
FAINTLY = "but the model sees hardly any of this class here"
UNTRAINED = "The model looks untrained, its weights are like random numbers: no picture of it explains an answer."
MANY = 40  # patches from which on the marked ones are about a tenth, and a random part about an eighth
FINEST = 6  # digits of a score
WORDS = {
    "carries": "carries the answer",
    "counts": "counts more than chance",
    "chance": "no better than random",
    "against": "marks what speaks against it",
    "untested": "not tested",
}


@dataclass(frozen=True)
class Verdict:
    """Whether a map may be trusted: what happens without the patches that it marks most, in numbers and in one line.

    >>> verdict = Verdict("cat", 0.98, 0.31, (0.95, 0.981), "carries", tokens=19, patches=196, draws=7)
    >>> print(verdict.text)
    Without the marked tenth of the picture the score of "cat" falls from 98.0 % to 31.0 %; without a random eighth it \
is 95.0 to 98.1 %: the marked part carries this answer.

    of: what is explained, in words; empty of the only value of a model.
    score: of the whole picture, in 0..1 for a class; otherwise the number that is explained.
    without_map: the score without the `tokens` patches with the highest values of the map.
    without_random: from where to where it lies without a random part of the other patches, in 99 of 100 cases: the
        prediction interval of Student's t for one more, of a class on the scale of log-odds. The others are dealt into
        `draws` parts, each a little larger than what the map marks.
    finding: "carries", where the score falls below the interval and loses half, that of a class from 0.05 up; "counts",
        where it falls below the interval;
        "chance", where it does not; "against", where it rises above it and above the score; "untested".
    tokens, patches, draws: how many patches are taken away, of how many, and how many random parts there were.
    unit: what the score is: "score" of a class, else as "logit difference".
    painted: whether patches were painted over in the picture's mean colour, where the model takes no part of them.
    reason: why it is untested.
    flat: whether the map is nearly flat: its values differ by no more than a quarter of the greatest.
    sum: what the map sums to, as a share of what it explains, of methods that claim to share that out.
    second, likeness: the class that scores next, and Pearson's r between its map and this one.
    others, agreement: how many other methods were asked of the same target, and the mean rank correlation with their
        maps.
    artifact_share, artifact_tokens: the share of the map that lies on tokens of an abnormal norm, and the share of the
        patches that these are; None where the norms are not known.
    for_all: whether this is one map for all classes, and `of` only what it was tested with.
    untrained: whether the model's weights look like random numbers.
    """

    of: str
    score: float | None = None
    without_map: float | None = None
    without_random: tuple[float, float] | None = None
    finding: Finding = "untested"
    tokens: int = 0
    patches: int = 0
    draws: int = 0
    unit: str = "score"
    painted: bool = False
    reason: str = ""
    flat: bool = False
    sum: float | None = None
    second: str = ""
    likeness: float | None = None
    others: int = 0
    agreement: float | None = None
    artifact_share: float | None = None
    artifact_tokens: float | None = None
    for_all: bool = False
    untrained: bool = False

    @property
    def trusted(self) -> bool | None:
        """Whether the marked part matters more than a random one; None where it was not tested.

        False of a model that looks untrained, whatever its maps do.
        """
        if self.untrained:
            return False
        return None if self.finding == "untested" else self.finding in ("carries", "counts")

    @property
    def rests_on_artifacts(self) -> bool:
        """Whether a good part of the map lies on artifacts: where it marks them, it says nothing of the place.

        That is a quarter of it or more, and more than twice what lies there of an even map.
        """
        share, even = self.artifact_share, self.artifact_tokens
        return share is not None and even is not None and share >= RESTS and share > 2 * even

    @property
    def warning(self) -> str:
        """What has to stand beside the picture, in a few words; empty where there is nothing to warn of."""
        if self.untrained or self.finding in ("against", "chance"):
            return self.words
        return ARTIFACTS if self.rests_on_artifacts else NEARLY_FLAT if self.flat else ""

    @property
    def words(self) -> str:
        """What was found in a few words, as for a caption."""
        if self.untrained:
            return "model looks untrained"
        return WORDS[self.finding]

    @property
    def short(self) -> str:
        """What was found in a few words with its numbers, as for a table of many maps."""
        flat = f", {ARTIFACTS}" * self.rests_on_artifacts + f", {NEARLY_FLAT}" * self.flat
        if self.untrained:
            return self.words
        if self.score is None:
            return f"{self.words}{flat}: {self.reason}"
        whole, without, random = self._shown()
        change = _between(whole, without, " -> ")
        return f"{self.words}{flat}: {change}, at random {random}"

    @property
    def text(self) -> str:
        """The verdict in one line; of a model that looks untrained only that."""
        if self.untrained:
            return UNTRAINED
        told = [self._tested, self._artifacts, self._flat, self._for_all, self._second, self._sum, self._agreement]
        return " ".join(part for part in told if part)

    @property
    def _tested(self) -> str:
        if self.score is None or self.without_map is None or self.without_random is None:
            return f"Not tested what the marked part does: {self.reason}."
        whole, without, interval = self._shown()
        moves = "falls" if self.without_map < self.score else "rises"
        course = f"stays at {whole}" if whole == without else f"{moves} from {whole} to {without}"
        part, other = ("tenth", "eighth") if self.patches >= MANY else ("part", "part")
        few = "" if self.patches >= MANY else f" ({self.tokens} of {self.patches} patches)"
        marked = f"{part} of the picture{few}"
        marked = f"With the marked {marked} painted over" if self.painted else f"Without the marked {marked}"
        random = f"with a random {other} painted over" if self.painted else f"without a random {other}"
        named = f'the {self.unit} of "{self.of}"' if self.of else f"the {self.unit}"
        head = f"{marked} {named} {course}"
        if self.finding == "chance":
            above = self.without_map > self.without_random[1]
            than = "as" if moves == "rises" else "less than" if above else "no more than"
            return f"{head}, {than} {random} ({interval}): do not trust this picture."
        faint = self.unit == "score" and self.score < FAINT
        counts = "but the answer does not stand or fall with it"
        ends = {
            "carries": "the marked part carries this answer",
            "counts": f"the marked part counts more than chance, {FAINTLY if faint else counts}",
            "against": "the marked part speaks against this answer, do not take this picture for its reason",
        }
        return f"{head}; {random} it is {interval}: {ends[self.finding]}."

    def _shown(self) -> tuple[str, str, str]:
        """The score, that without the map, and the interval, in as many digits as tell the first two apart."""
        numbers = [self.score or 0.0, self.without_map or 0.0, *(self.without_random or (0.0, 0.0))]
        shares = self.unit == "score"
        shown = [percent(x) if shares else number(x) for x in numbers]
        for digits in range(4, FINEST + 1):
            if shown[0] != shown[1]:
                break
            shown = [f"{100 * x:.{digits - 2}f} %" if shares else f"{x:.{digits}g}" for x in numbers]
        whole, without, low, high = shown
        return whole, without, _between(low, high)

    @property
    def _artifacts(self) -> str:
        if self.artifact_share is None or self.artifact_tokens is None or not self.rests_on_artifacts:
            return ""
        share, tokens = percent(self.artifact_share), percent(self.artifact_tokens)
        return (
            f"{share} of the map lies on {tokens} of the patches, whose tokens have an abnormal norm: models keep what "
            f"belongs to the whole picture there, so that these marks say nothing of their places."
        )

    @property
    def _flat(self) -> str:
        return "The map is nearly flat: it marks everything alike." if self.flat else ""

    @property
    def _for_all(self) -> str:
        if not self.for_all:
            return ""
        tested = f', tested with "{self.of}"' if self.of and self.finding != "untested" else ""
        return f"The map is one for all targets{tested}."

    @property
    def _second(self) -> str:
        if self.likeness is None:
            return ""
        other, r = f'The map of "{self.second}"', f"correlation {self.likeness:.2f}"
        if self.likeness < ALIKE:
            return f"{other} {'differs' if self.likeness < ALIKE / 2 else 'resembles it'} ({r})."
        return f"{other} is nearly the same ({r}): this shows what stands out, not why the one and not the other."

    @property
    def _sum(self) -> str:
        return "" if self.sum is None else f"The map sums to {100 * self.sum:.0f} % of what it explains."

    @property
    def _agreement(self) -> str:
        if self.agreement is None:
            return ""
        others = "the other method" if self.others == 1 else f"the {self.others} other methods"
        return f"It agrees with {others} at {self.agreement:.2f} (mean rank correlation, 1 is alike)."


def _between(one: str, other: str, way: str = " to ") -> str:
    """From one score to another, their unit told once."""
    return f"{one.removesuffix(' %')}{way}{other}"
