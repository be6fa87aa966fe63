"""Scoring maps over data sets: rows from any engine, kept in shards, summed up in a leaderboard."""

from .bootstrap import Mean
from .entries import BASELINES, Entry
from .evaluator import Evaluator
from .leaderboard import Leaderboard
from .runs import Plan, compare, evaluate, write_summary
from .shards import Shards, read_rows

__all__ = [
    "BASELINES",
    "Entry",
    "Evaluator",
    "Leaderboard",
    "Mean",
    "Plan",
    "Shards",
    "compare",
    "evaluate",
    "read_rows",
    "write_summary",
]
