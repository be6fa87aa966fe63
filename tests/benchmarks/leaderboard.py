"""The leaderboard of the documentation: all methods on both sample models, by truths that are known.

    python tests/benchmarks/leaderboard.py                  # writes the tables into tutorials/leaderboard.md
    python tests/benchmarks/leaderboard.py --scenes 4       # a few scenes, to see that it runs; prints the tables

Drawn shapes and the model `sample`; planted scenes and the model `sample/hard`, of which only those count where taking
the thing out of the scene changes the model's answer (or, for a negative, does not): the truth is what the model did.
Runs go on where they were stopped. Half an hour on two cores.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from captum_vit.data.planted import Planted
from captum_vit.evaluation import Leaderboard, Plan, evaluate
from captum_vit.evaluation.leaderboard import as_markdown
from captum_vit.evaluation.reading import heading, verdict
from captum_vit.evaluation.standing import behind, is_baseline
from captum_vit.models import load_model
from captum_vit.sample import hard
from captum_vit.sample.hard.judging import scores_of

PAGE = Path(__file__).parents[2] / "tutorials/leaderboard.md"
BEGIN, END = "<!-- tables -->\n", "<!-- end of tables -->\n"
METHODS = ("all", "token_occlusion", "vit_cx", "score_cam")
SANITY = "sanity:class_sensitivity"
FIGURES = (
    *("average_precision", "iou", "abpc", "srg_tokens", "saco", "saco_tokens"),
    *("single_deletion", "single_deletion_tokens", "class_sensitivity"),
)
ASKED = {
    "reason": "the reason",
    "distractor": "the reason before its negative",
    "shortcut": "the sticker",
    "background": "the sky",
}
Without = Callable[[hard.Plan, int], hard.Plan]
TAKEN_OUT: dict[str, Without] = {
    "reason": hard.Plan.without_objects,
    "distractor": hard.Plan.without_distractors,
    "shortcut": hard.Plan.without_shortcut,
    "background": hard.Plan.without_shortcut,
}


def run(name: str, arguments: argparse.Namespace, model: str, data: str, metrics: Sequence[str]) -> Leaderboard:
    plan = Plan(model, data.format(arguments.scenes), METHODS, metrics, batch_size=32)
    return evaluate(plan, arguments.runs / f"{name}-{arguments.scenes}", progress=True)


def proven(truth: str, count: int) -> tuple[set[str], str]:
    """The questions whose truth the model proves, and how many these are in words."""
    reader, model = Planted(str(count), truth=truth), load_model("sample/hard").model
    rows = reader.list_rows()
    found = set()
    for row in rows:
        plan, label = reader.plan(row.source), int(row.target or 0)
        before, after = (scores_of(model, each)[0, label] > 0 for each in (plan, TAKEN_OUT[truth](plan, label)))
        if before and (after if truth == "distractor" else not after):
            found.add(row.id)
    return found, f"{len(found)} of {len(rows)}"


def of_questions(board: Leaderboard, ids: set[str]) -> Leaderboard:
    """What a run says of some of its questions."""
    kept = pa.array([identity in ids for identity in board.table["id"].to_pylist()], pa.bool_())
    found = Leaderboard(board.table.filter(kept), board.figures, board.curves)
    found.about = board.about
    return found


def section(title: str, board: Leaderboard) -> str:
    """A run's heading, what it shows, its table, and who is not shown to be behind the first of each figure."""
    figures = [name for name in FIGURES if name in board.figures]
    firsts = []
    for figure in figures[:-1]:
        found = behind(board, figure)
        if found is not None:  # it is where there are too few scenes for intervals
            firsts.append([board.title(figure), found.to, ", ".join(found.open) or "none"])
    parts = [
        f"### {title}",
        heading(board, board.about) + ".",
        verdict(board, figures[:-1]),
        board.bare_table(figures),
        "Who is first, and whose paired difference to it, image by image, has an interval that holds 0:",
        as_markdown(["figure", "first", "not shown to be worse"], firsts),
    ]
    return "\n\n".join(parts)


def planted(boards: dict[str, tuple[Leaderboard, str]]) -> str:
    """Average precision for each truth, side by side, the best at the reason first and the baselines last."""
    first = boards["reason"][0]
    methods = sorted(first.ranking("average_precision"), key=is_baseline)
    heads = ["method", *(f"{ASKED[truth]} ↑" for truth in boards)]
    rows = [[name, *(str(board.mean(name, "average_precision")) for board, _ in boards.values())] for name in methods]
    counts = "; ".join(f"{ASKED[truth]}: {count}" for truth, (_, count) in boards.items())
    return "\n\n".join(
        [
            "### Photographs: `sample/hard`, planted truths, by average precision",
            f"Scenes whose truth the model proves: {counts}.",
            as_markdown(heads, rows),
        ]
    )


def tables(arguments: argparse.Namespace) -> str:
    drawn = run("drawn", arguments, "sample", "sample:{}", ["localization", "perturbation", "faithfulness", SANITY])
    boards = {}
    for truth in ASKED:
        metrics = ["localization"]
        if truth == "reason":
            metrics += ["perturbation:tokens", "faithfulness:tokens", SANITY]
        board = run(truth, arguments, "sample/hard", f"planted:{{}}?truth={truth}", metrics)
        ids, count = proven(truth, arguments.scenes)
        boards[truth] = of_questions(board, ids), count
    return "\n\n".join(
        [
            section("Drawn shapes: `sample`", drawn),
            section("Photographs: `sample/hard`, planted reasons", boards["reason"][0]),
            planted(boards),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--runs", type=Path, default=Path("build/leaderboard"))
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    np.seterr(all="raise", under="ignore")
    found = tables(arguments)
    if arguments.scenes < parser.get_default("scenes"):
        print(found)
        return
    text = PAGE.read_text()
    before, after = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text(f"{text[:before]}\n{found}\n\n{text[after:]}")


if __name__ == "__main__":
    main()
