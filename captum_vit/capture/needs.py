"""What a reader can ask of a run, so that the run keeps that and no more."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union

from ..access import AttentionCall
from .rules import Rules

Reduction = Callable[[AttentionCall], Any]  # taken of every attention while the model runs
Need = Union[str, Reduction, "UnderRules"]

READ_ATTENTION = "attention of the tokens that are read"  # queries that the score is read from, and all keys
ATTENTION = "attention"  # all queries and keys
VALUES = "values"
GRADIENTS = "gradients"  # dy/dO; with them comes all of the above
HELD_GRADIENTS = "gradients with the attention held constant"
OUTPUTS = "the model's own output, whole"  # without it, what follows the last attention is computed for what is read
TOKENS = "tokens"  # the token stream before the first block and after each
TOKEN_GRADIENTS = "gradients at the tokens"
PATH_GRADIENTS = "gradients at the last attention, along the path from a black image"  # forwards of their own
OUTPUT_WEIGHTS = "weights of the projections that attention outputs go into"
GIVEN = "what attention layers are given"  # or other modules give
GIVEN_GRADIENTS = "gradients at what attention layers are given"
LAYER_GRADIENTS = "gradients of the score of each layer, read as the model reads its last"
MEAN_LAYER_GRADIENTS = "gradients of the score of each layer, read as the mean of its tokens"
PIXEL_GRADIENTS = "gradients at the pixels"


@dataclass(frozen=True)
class UnderRules:
    """What is asked under rules in place of derivatives, by `Run.under`.

    >>> UnderRules(cp_rules(), TOKEN_GRADIENTS).need
    'gradients at the tokens'
    """

    rules: Rules
    need: Need
