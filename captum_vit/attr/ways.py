"""Rules in place of derivatives, as an option of the methods that read gradients."""

from collections.abc import Collection
from typing import Literal

from ..capture import Need, UnderRules, rules_named

Ways = Literal["none", "cp", "attn", "libra"]


def under(word: str, needs: Collection[Need]) -> frozenset[Need]:
    """What a method reads of a run, where it is asked under the rules of this name.

    >>> from captum_vit.attr.ways import under
    >>> under("none", {"values"})
    frozenset({'values'})

    Raises:
        OptionError: there are no such rules.
    """
    rules = rules_named(word)
    return frozenset(needs) if rules is None else frozenset(UnderRules(rules, need) for need in needs)
