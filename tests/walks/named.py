"""What a person may name as `module:object`, and what not."""

from abc import abstractmethod

from captum_vit.targets import Contrast, Embedding, Target
from tests.walks.target import Entropy

undecided = Entropy()
by_name = Contrast("ring", "disc")
Vector = Embedding  # cannot be made without its vector
text = "disc"


def doubled(output):
    """A function of the model's output."""
    return 2 * output[:, 0]


class Unfinished(Target):
    """Has no score."""

    @abstractmethod
    def score(self, output):
        """To come."""
