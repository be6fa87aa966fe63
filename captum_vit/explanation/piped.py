"""What a pipeline makes of one method's maps: verdicts of them, and runs for targets that are more than scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..attr import ViTAttribution
from ..attr.starting import maps_of_targets
from ..capture import OUTPUTS, CellRun, Inputs, Run
from ..models import LoadedModel
from ..targets import Classes, Output, Target
from ..verdicts import Verdict
from .asking import Wanted
from .judging import Judge, second_classes
from .reading import FOR_ALL, Flows


def own_run(run: Run, call: Inputs) -> Run:
    """A run of the same model for a target that is made of more than the scores."""
    return run if isinstance(run, CellRun) else Run(run.adapter, call, {OUTPUTS})


def judged_maps(
    method: ViTAttribution, options: Mapping[str, Any], run: Run, wanted: Sequence[Wanted], maps: Tensor, output: Any
) -> list[list[Verdict]]:
    """Of each image, of each target, the verdict of its map (N, targets, patches)."""
    model: Any = method.adapter.model
    name, kind = method.get_name(), model.config.problem_type
    seconds = second_classes(wanted)
    loaded = LoadedModel(model, multi_label=kind == "multi_label_classification", regression=kind == "regression")
    grid = method.place_of(run)[0].grid
    judge = Judge(run, {name: method}, {name: options}, output, wanted, seconds, loaded)
    if not method.class_specific:
        found = judge.verdicts({(FOR_ALL, name): (maps[:, :1].unflatten(2, grid), ())})[FOR_ALL, name]
        return [[each] * len(wanted) for each in found]
    flows: Flows = {
        (id(each.target), name): (maps[:, k : k + 1].unflatten(2, grid), ()) for k, each in enumerate(wanted)
    }
    verdicts = judge.verdicts(flows)
    return [[verdicts[id(each.target), name][i] for each in wanted] for i in range(len(maps))]


def output_of(method: ViTAttribution, call: Inputs, run: Run, target: Target) -> Output:
    """What the model gave, as far as the target reads it."""
    own = run if target.reads_scores else own_run(run, call)
    return Output(None if own is run else own.outputs, own.scores, method.adapter.headless)


def maps_of(method: ViTAttribution, run: Run, targets: Sequence[Target], options: Mapping[str, Any]) -> Tensor:
    """The maps of one method, (B, K, patches)."""
    if not method.class_specific:
        return method._maps(run, Classes(None), flow=False, **options).expand(-1, len(targets), -1)
    return torch.cat(maps_of_targets(method, options, run, targets, flow=False), 1)
