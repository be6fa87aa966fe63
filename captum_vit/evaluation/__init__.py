"""Scoring maps over data sets: rows from any engine, kept in shards, summed up in a leaderboard."""

from .evaluator import BASELINES, Evaluator, as_attribute, named_methods
from .results import Leaderboard, Mean
from .runs import Plan, evaluate
from .shards import Shards, read_rows

__all__ = [
    "BASELINES",
    "Evaluator",
    "Leaderboard",
    "Mean",
    "Plan",
    "Shards",
    "as_attribute",
    "evaluate",
    "named_methods",
    "read_rows",
]
