"""The command that was given, in words that can be given again."""

import shlex
from collections.abc import Collection

import typer


def command_of(context: typer.Context, image: str, without: Collection[str]) -> str:
    """A line for a terminal that asks the same of one image.

    Args:
        context: of the command that runs.
        image: name of its file; empty of the embedded scene.
        without: parameters that have no part in what comes of it.
    """
    told = []
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in without or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        if isinstance(value, bool):
            told.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            for each in value if isinstance(value, list) else [value]:
                told += [parameter.opts[0], str(each)]
    file = ["--"] * image.startswith("-") + [image] * bool(image)
    return shlex.join(["captum-vit", str(context.command.name), *told, *file])
