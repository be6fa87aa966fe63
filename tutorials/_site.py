"""What the site needs beside its plugins: mkdocs calls the `on_` functions, griffe the extension."""

import inspect
import re
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File

from captum_vit.attr import METHODS, ViTAttribution

FORMULA = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r'href="([^":#]+\.(?:ipynb|md))(#[^"]*)?"')
SOURCE = re.compile(r"\n*^Source: (.*(?:\n +.*)*)", re.MULTILINE)
OPTIONS = re.compile(r"^Options of `attribute`:\n((?: +.*(?:\n|$))+)", re.MULTILINE)


def on_files(files: Any, config: Any) -> None:
    """A page for each method that has none: its docstring and its options, so that a new method needs one file."""
    section = next(entry["Methods"] for entry in config.nav if "Methods" in entry)
    for name, method in METHODS.items():
        path = f"methods/{name}.md"
        if files.get_file_from_path(path) is None:
            text = f"# {method.__name__}\n\n{reference(method)}\n"
            files.append(File.generated(config, path, content=text))
            section.append({method.__name__: path})


def reference(method: type[ViTAttribution]) -> str:
    """The line of a page that shows a class with its options."""
    return f"::: {method.__module__}.{method.__name__}"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw without a script."""

    def drawn(formula: re.Match[str]) -> str:
        return f'<div class="formula">{convert(formula[1].strip(), display="block")}</div>'

    return FORMULA.sub(drawn, markdown)


def on_page_content(html: str, page: Any, files: Any, **_: Any) -> str:
    """Links out of notebooks, which mkdocs-jupyter leaves as they are."""
    if not page.file.src_path.endswith(".ipynb"):
        return html

    def led(link: re.Match[str]) -> str:
        target = files.get_file_from_path(link[1])
        return f'href="{target.url_relative_to(page.file)}{link[2] or ""}"' if target else link[0]

    return LINK.sub(led, html)


class Signatures(griffe.Extension):
    """The methods' signatures, which are made of `_maps` when a class is: no reading of the source shows them."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Docstrings as the parser of Google's style wants them; of a constant the comment on its line."""
        if obj.docstring is None and obj.is_attribute and obj.parent.is_module:
            comment = re.search(r"  # (.+)$", obj.lines[-1] if obj.lines else "")
            obj.docstring = griffe.Docstring(comment[1] if comment else "<!-- its value says it -->", parent=obj)
        if obj.docstring is not None:
            names = set(obj.members) | ({p.name for p in obj.parameters} if obj.is_class or obj.is_function else set())
            obj.docstring.value = laid_out(obj.docstring.value, names)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Put them in the place of what the base class has."""
        if pkg.name != "captum_vit":
            return
        for method in METHODS.values():
            shown = pkg[f"{method.__module__}.{method.__qualname__}".removeprefix("captum_vit.")]
            for name in entries(method):
                shown.set_member(name, as_read(method, name, shown))


def entries(method: type[ViTAttribution]) -> list[str]:
    """What a method's page shows of its functions."""
    return ["attribute", "attribute_flow", *(["attribute_classes"] if method.class_specific else [])]


def as_read(method: type[ViTAttribution], name: str, parent: griffe.Class) -> griffe.Function:
    """A function as griffe would have read it from a source."""
    function = getattr(method, name)
    signature = inspect.signature(function)
    parameters = [
        griffe.Parameter(
            parameter.name,
            kind=KINDS[parameter.kind],
            annotation=written(parameter.annotation),
            default=None if parameter.default is parameter.empty else repr(parameter.default),
        )
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    made = griffe.Function(
        name, parameters=griffe.Parameters(*parameters), returns=written(signature.return_annotation), parent=parent
    )
    text = laid_out(with_options(inspect.getdoc(function) or "", method), set(signature.parameters))
    made.docstring = griffe.Docstring(text, parent=made, parser="google") if text else None
    return made


def with_options(text: str, method: type[ViTAttribution]) -> str:
    """A docstring with a line for each argument, and the options of the method in the place of `options`."""
    told = OPTIONS.search(inspect.getdoc(method) or "")
    text = re.sub(
        r"^    options: .*\n(?:      .*\n)*", told[1].rstrip() + "\n" if told else "", text, flags=re.MULTILINE
    )

    def apart(line: re.Match[str]) -> str:
        names = [name for name in line[1].split(", ") if name != "options"]
        return "\n".join(f"    {name}: {line[2]}" for name in names)

    return re.sub(r"^    ([a-z_]+(?:, [a-z_]+)+): (.*)$", apart, text, flags=re.MULTILINE)


def laid_out(text: str, names: set[str]) -> str:
    """A docstring with an empty line above each section, and lists of `name: what it is` as lists."""
    text = re.sub(r"\n+(?=(?:Args|Attributes|Returns|Raises|Yields):\n)", "\n\n", text)
    text = SOURCE.sub(lambda found: f"\n\n**Source**: {joined(found[1])}", text)
    text = OPTIONS.sub(
        lambda found: f"The options of `attribute`:\n\n{listed(inspect.cleandoc(found[1]), None)}\n", text
    )
    return "\n\n".join(listed(paragraph, names) for paragraph in text.split("\n\n"))


def listed(paragraph: str, names: set[str] | None) -> str:
    """A paragraph whose lines begin with names of what is described, as a list; a session as a program."""
    if paragraph.startswith(">>> "):
        return f"```pycon\n{paragraph}\n```"
    lines = re.sub(r"(?<=[.;])  (?=\w+: )", "\n", paragraph)
    parts = re.split(r"^(?=\w+(?:, \w+)*: )", lines, flags=re.MULTILINE)
    heads = [set(part.partition(":")[0].split(", ")) for part in parts[1:]]
    known = names is None or all(head <= names for head in heads)
    if not heads or parts[0].strip().endswith(":") or not known:
        return paragraph
    items = [f"- `{head}`: {joined(rest)}" for head, _, rest in (part.partition(": ") for part in parts[1:])]
    return "\n\n".join(filter(None, [parts[0].strip(), "\n".join(items)]))


def joined(lines: str) -> str:
    """Several lines as one."""
    return " ".join(lines.split())


def written(annotation: Any) -> str | None:
    """A type as it stands in a source."""
    if annotation is inspect.Parameter.empty:
        return None
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:torch(?:\.nn\.modules\.module)?|typing|collections\.abc)\.", "", text)


KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: griffe.ParameterKind.positional_only,
    inspect.Parameter.POSITIONAL_OR_KEYWORD: griffe.ParameterKind.positional_or_keyword,
    inspect.Parameter.VAR_POSITIONAL: griffe.ParameterKind.var_positional,
    inspect.Parameter.KEYWORD_ONLY: griffe.ParameterKind.keyword_only,
    inspect.Parameter.VAR_KEYWORD: griffe.ParameterKind.var_keyword,
}
