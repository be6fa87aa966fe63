"""The app as a component of Gradio: a form, and the report beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from ..errors import CaptumViTError, OptionError
from .desk import MOST, Desk, Wish, pack

if TYPE_CHECKING:
    import gradio

OFFERED = ("sample/hard", "sample")
KEPT = (600, 3600)  # seconds: how often uploads are looked through, and how old one becomes
WELCOME = "Drop a photograph, or take the example, and press **Explain**. Nothing leaves this machine."
STYLE = """
.captum-vit-page iframe {width: 100%; height: max(640px, 88vh); border: 1px solid var(--border-color-primary);
  border-radius: 6px; background: Canvas;}
footer {display: none !important;}
"""


def build(models: Sequence[str] = OFFERED, *, typed: bool = True) -> gradio.Blocks:
    """The app, to be launched, or put into another: in a notebook, in a Space, or by `serve`.

    `build(["timm/vit_base_patch16_224"]).launch(**look())` shows it, until it is interrupted.

    Args:
        models: on offer, as for `explain`; the first is chosen.
        typed: whether other names of timm and Hugging Face can be typed in. Where strangers use the app, as in a Space,
            pass False.
    Returns:
        A `gradio.Blocks` that reports nothing to anybody, and deletes uploads after an hour.
    Raises:
        OptionError: Gradio is not installed.
    """
    gr = _gradio()
    from ..attr import METHODS
    from ..report import render

    desk = Desk(models, typed)

    def explain(
        photos: list[str] | None,
        model: str | None,
        methods: list[str] | None,
        classes: str | None,
        texts: str | None,
        patches: bool,
        removals: bool,
        progress: Any = gr.Progress(),  # noqa: B008  Gradio finds it by its default
    ) -> tuple[Any, Any, Any]:
        wish = Wish(photos or [], model or "", methods or [], classes or "", texts or "", patches, removals)
        try:
            found = desk.explain(wish, lambda done, count: progress((done, count), desc="Explaining"))
            page = render(found)
            archive = Path(mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))) / "captum-vit.zip"
            pack(page, found, archive)
        except CaptumViTError as error:
            return _told(gr, str(error)), gr.update(visible=False), gr.update(interactive=False)
        shown = gr.update(value=_frame(page), visible=True)
        return gr.update(visible=False), shown, gr.update(value=str(archive), interactive=True)

    with gr.Blocks(analytics_enabled=False, title="captum-vit", delete_cache=KEPT, fill_width=True) as app, gr.Row():
        with gr.Column(scale=1, min_width=280):
            gr.Markdown("# captum-vit\nWhat did a Vision Transformer look at, for which class?")
            photos = gr.File(
                label=f"Photographs, up to {MOST}", file_count="multiple", file_types=["image"], height=140
            )
            gr.Examples([[_example()]], [photos], label="An example", examples_per_page=1)
            model = gr.Dropdown(
                list(models),
                value=models[0],
                label="Model",
                allow_custom_value=typed,
                info="or a name as timm/vit_base_patch16_224" if typed else None,
            )
            methods = gr.Dropdown(
                list(METHODS), multiselect=True, label="Methods", info="none: the one that suits the model"
            )
            classes = gr.Textbox(
                label="Classes, one a line", lines=2, info="none: what is predicted; A/B: why A and not B"
            )
            texts = gr.Textbox(
                label="Texts, one a line", lines=2, info="for a model of images and texts, as CLIP: where is it?"
            )
            patches = gr.Checkbox(label="Attention: click a patch, see what it attends to; all heads")
            removals = gr.Checkbox(label="Brush: take patches away, see the score (some 200 forwards a photograph)")
            start = gr.Button("Explain", variant="primary")
            save = gr.DownloadButton("Save report and maps (zip)", interactive=False)
        with gr.Column(scale=4, min_width=320):
            told = gr.Markdown(WELCOME)
            shown = gr.HTML(visible=False, elem_classes="captum-vit-page")
        start.click(
            explain,
            [photos, model, methods, classes, texts, patches, removals],
            [told, shown, save],
            concurrency_limit=1,
        )
    return app


def _gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise OptionError("the app needs Gradio: pip install 'captum-vit[app]'") from error
    return gradio


def look() -> dict[str, Any]:
    """What Gradio's `launch` takes for the app's look, without fonts from elsewhere."""
    gr = _gradio()
    grey = ("block_info_text_color", "body_text_color_subdued", "input_placeholder_color")
    blue = ("button_primary_background_fill", "link_text_color")
    told = dict.fromkeys(grey, "*neutral_600") | {f"{name}_dark": "*neutral_300" for name in grey}
    told |= dict.fromkeys(blue, "*primary_700") | {"link_text_color_dark": "*primary_300"}
    return {"css": STYLE, "theme": gr.themes.Base().set(**told)}  # Gradio's own can hardly be read


def _told(gr: Any, text: str) -> Any:
    """A message as it is, whatever is in it."""
    return gr.update(value=f"<div role='alert'>{escape(text)}</div>", visible=True)


def _frame(html: str) -> str:
    """The page in a frame that shares nothing with the app around it."""
    return f'<iframe title="Report" sandbox="allow-scripts allow-downloads" srcdoc="{escape(html)}"></iframe>'


def _example() -> list[str]:
    """A scene of the hard sample, written where uploads go."""
    from PIL import Image

    from ..sample.hard import Plan

    path = Path(mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))) / "scene.png"
    Image.fromarray(Plan.draw(4, objects=2, mark=0.0, sky=0.0).render(512).images[0]).save(path)
    return [str(path)]
