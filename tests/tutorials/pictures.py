"""Draws the pictures of the README and of the pages, and the gallery of all methods.

    python -m tests.tutorials.pictures

All show scenes of photographs and what the library makes of them today. Of `tutorials/gallery.md` everything between
its two marks is written anew; a new method needs a line in ASKS. A minute on one core.
"""

import re
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from captum_vit import Explanation, explain
from captum_vit.attr import METHODS, in_all
from captum_vit.cli.explain import pictures
from captum_vit.explained import Attribution
from captum_vit.sample.hard import CLASSES, Batch, Plan
from captum_vit.visualization import overlay, sheet
from tests.tutorials.clip import inflated, panned

TUTORIALS = Path(__file__).parents[2] / "tutorials"
PICTURES, PAGE, TABLE = TUTORIALS / "pictures", TUTORIALS / "gallery.md", TUTORIALS / "methods" / "index.md"
GALLERY = PICTURES / "gallery"
BEGIN, END = "<!-- maps -->\n", "<!-- end of maps -->\n"
ON_WOOD, ON_GRAVEL = 7570, 3586  # seeds of scenes with an astronaut and a cat
ASKED = ["astronaut", "cat"]
SIDE, TILE = 384, 256  # of a scene, and of a map in the gallery, in pixels

ASKS = {
    "agcam": "Which patches were attended to where more attention would raise the score?",
    "attcat": "What does each patch give to the score, counted by the attention it receives?",
    "attn_lrp": "Which patches does the score come from, through values, queries and keys?",
    "beyond_intuition": "Through which chain of attention did patches reach the score, averaged along a path?",
    "cdam": "Would more of what the patch holds raise the score, or lower it?",
    "cp_lrp": "Which patches does the score come from, with the attention taken as it is?",
    "daam": "What did each block add to the score, and from where?",
    "eigencam": "Along what direction do the patches differ most, whatever the answer?",
    "eigengradcam": "Along what direction do the patches, times their gradients, differ most?",
    "finercam": "What makes it this class rather than the ones most like it?",
    "generic_relevance": "How much of each patch has come into the class token, where that raised the score?",
    "grad_eclip": "Whose values would raise the score, where the last block looks?",
    "gradcam": "Which patches hold the features that raise the score on the whole?",
    "gradcam_plus_plus": "As Grad-CAM, with features that few patches share counting more.",
    "gradient_rollout": "Along which attention, multiplied from block to block, did the score rise?",
    "hirescam": "Which patches hold features that raise the score right there?",
    "layercam": "As HiResCAM, with only the features that speak for the class.",
    "legrad": "Where would attention have to turn to raise the score, block by block?",
    "libragrad": "Which patches is the score made of, by gradients that add up to it?",
    "raw_attention": "Where does the last block look?",
    "rise": "How high is the score on average where this place shows, under random covers?",
    "rollout": "Where does the attention of all blocks, multiplied together, come from?",
    "scorecam": "How high is the score of what each feature's map leaves visible?",
    "tis": "How high is the score on average when this patch is among those that are kept?",
    "token_occlusion": "What does the score lose without this one patch?",
    "transformer_attribution": "Where does the score come from, by attention and relevance, block by block?",
    "transition_attention": "Where does attention lead, as a walk from block to block, weighed by the score?",
    "vitcx": "How high is the score with only what a group of similar features shows?",
    "xgradcam": "Which patches hold most of the features that raise the score?",
}
GROUPS = {
    "What speaks for a class": "One map for each class, nowhere below 0.",
    "What speaks for it, and what against": "Orange speaks for the class, blue against it.",
    "What becomes of the score without a part": "The model is asked again and again with parts left out: dear, and "
    "free of gradients.",
    "Where the model looks, whatever it answers": "One map for all classes: it cannot say why astronaut, and why cat.",
}


def scene(seed: int) -> tuple[Image.Image, Batch]:
    """A photograph with two objects and without shortcuts, and the truth about it."""
    batch = Plan.draw(seed, objects=2, mark=0.0, sky=0.0).render(SIDE)
    return Image.fromarray(batch.images[0]), batch


def group(name: str) -> str:
    """Under which heading a method stands, by what its class says."""
    method, (own, signed, changing, attention) = METHODS[name], GROUPS
    if not method.class_specific:
        return attention
    return changing if name not in in_all() else signed if getattr(method, "signed", False) else own


def cost(name: str) -> str:
    """What the table of methods says of it."""
    row = re.search(rf"^\|[^|]*\| `{name}` \|[^|]*\|[^|]*\| ([^|]+) \|", TABLE.read_text(), re.MULTILINE)
    if row is None:
        raise LookupError(f"{name} has no row in {TABLE}")
    return row[1]


def where(a: Attribution, batch: Batch) -> str:
    """On what the highest patch of a map lies."""
    rows, columns = a.map.shape
    patch = SIDE // rows
    row, column = divmod(int(a.map.argmax()), columns)
    inside = np.s_[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
    shares = batch.masks[0][(slice(None), *inside)].mean((1, 2))
    return f"the {CLASSES[int(shares.argmax())]}" if shares.max() > 0.25 else "the wood behind"


def card(name: str, explanation: Explanation, batch: Batch) -> str:
    """The picture of a method's maps is written; returned is what the page says of it."""
    made = [a for a in explanation if a.method == name]
    width = len(made) * (TILE + 8) - 8
    picture = Image.new("RGB", (width, TILE), "white")
    for i, a in enumerate(made):
        drawn = overlay(explanation.image, a.map, explanation.view).resize((TILE, TILE), Image.Resampling.LANCZOS)
        picture.paste(drawn, (i * (TILE + 8), 0))
    picture.save(GALLERY / f"{name}.webp", quality=80, method=6)
    asked = [f"the {a.target.title}" if a.target else "any class" for a in made]
    seen = "; ".join(f"for {whose} highest on {where(a, batch)}" for whose, a in zip(asked, made, strict=True))
    said = "<br>\n".join(f"{whose.removeprefix('the ')}: {a.judged}" for whose, a in zip(asked, made, strict=True))
    return "\n\n".join(
        [
            "<div markdown>",
            f"### [{METHODS[name].title}](methods/{name}.md)",
            f"![{METHODS[name].title}: {seen}](pictures/gallery/{name}.webp)",
            ASKS[name],
            f"Forwards: {cost(name)}<br>\n{said}",
            "</div>",
        ]
    )


def cards() -> str:
    """All methods, those first whose maps the verdict trusts."""
    image, batch = scene(ON_WOOD)
    explanation = explain(image, "sample/hard", method=list(METHODS), target=ASKED, verdict=True)
    image.resize((SIDE, SIDE)).save(GALLERY / "scene.webp", quality=80, method=6)

    def doubted(name: str) -> float:
        verdicts = [a.verdict for a in explanation if a.method == name and a.verdict]
        return 1 - sum(bool(v.trusted) for v in verdicts) / len(verdicts)

    parts = []
    for heading, told in GROUPS.items():
        names = sorted(filter(lambda name: group(name) == heading, METHODS), key=lambda name: (doubted(name), name))
        shown = [card(name, explanation, batch) for name in names]
        parts += [f"## {heading}", told, '<div class="gallery" markdown>', *shown, "</div>"]
    return "\n\n".join(parts)


def write_gallery() -> None:
    GALLERY.mkdir(parents=True, exist_ok=True)
    found, text = cards(), PAGE.read_text()
    before, after = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text(f"{text[:before]}\n{found}\n\n{text[after:]}")


def write_overview(name: str, seed: int, methods: Iterable[str], *, verdict: bool = False) -> None:
    """An overview as the command line writes it."""
    e = explain(scene(seed)[0], "sample/hard", method=list(methods), target=ASKED, verdict=verdict)
    pictures(e)["overview.png"].save(PICTURES / name, quality=80, method=6)


def write_contrast() -> None:
    """Why the one rather than the other, by a method without signs and by one with two."""
    methods = ["agcam", "captum.attr:IntegratedGradients"]
    e = explain(scene(ON_WOOD)[0], "sample/hard", method=methods, target="/".join(ASKED))
    cells = [(f"{a.method_title}\n{a.target and a.target.title}", overlay(e.image, a.map, e.view)) for a in e]
    sheet([[("the scene", e.image), *cells]]).save(PICTURES / "contrast.webp", quality=80, method=6)


def write_video() -> None:
    """A view that moves over a photograph, by the sample's model given all frames at once."""
    clip = panned(np.asarray(scene(ON_GRAVEL)[0]))
    figure = explain(clip, inflated(), method="agcam", target=ASKED).plot()
    with BytesIO() as png:
        figure.savefig(png, format="png", dpi=110)
        Image.open(png).convert("RGB").save(PICTURES / "video.webp", quality=80, method=6)


def write_dense() -> None:
    """What `tutorials/how/dense.md` makes: regions of a segmentation, outlined, and why the one and not the other."""
    program = re.search(
        r"^```python\n(.*?)^```", (TUTORIALS / "how" / "dense.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert program is not None
    made: dict = {}
    exec(compile(program[1], "dense.md", "exec"), made)
    cells = [
        (f"{a.method_title}\n{a.target and a.target.title}", overlay(e.image, a.map, e.view, marks=a.marks))
        for e in (made["e"], made["rather"])
        for a in e
    ]
    sheet([[("the scene", made["e"].image), *cells]]).save(PICTURES / "dense.webp", quality=80, method=6)


def main() -> None:
    write_dense()
    write_video()
    write_overview("photographs.webp", ON_WOOD, ["agcam", "cp_lrp", "grad_eclip"], verdict=True)
    write_overview("overview.webp", ON_GRAVEL, ["agcam", "daam", "gradient_rollout", "raw_attention", "rollout"])
    write_contrast()
    built = explain(scene(ON_GRAVEL)[0], "sample/hard", method="agcam", target=ASKED)
    built.flow.save(PICTURES / "flow.webp", max_side=280)
    write_gallery()


if __name__ == "__main__":
    main()
