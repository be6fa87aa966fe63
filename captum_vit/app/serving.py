"""The app on this machine alone."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory

LARGEST = "64mb"  # an upload
HERE = "127.0.0.1"


def serve(
    models: Sequence[str] | None = None,
    *,
    host: str = HERE,
    port: int | None = None,
    open_browser: bool = False,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve the app until it is interrupted.

    By default it listens to this machine alone. Nothing is reported to anybody, no tunnel is opened, and uploads lie in
    a temporary folder that goes when the app ends.

    Args:
        models: on offer, as for `explain`; by default both sample models.
        host: where it listens; another than 127.0.0.1 lets others in, who may then choose among `models` alone.
        port: by default the first free one from 7860 on.
        open_browser: whether the browser is opened.
        ready: is given the address when it can be opened.
    Raises:
        OptionError: Gradio is not installed.
        OSError: the port is taken.
    """
    with TemporaryDirectory(prefix="captum-vit-app-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
        from .form import OFFERED, build, look

        app = build(models or OFFERED, typed=host == HERE)
        _, url, _ = app.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            share=False,
            quiet=True,
            max_file_size=LARGEST,
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            **look(),
        )
        try:
            with _ended_by_a_signal():
                ready(url)
                app.block_thread()
        finally:
            app.close(verbose=False)


@contextmanager
def _ended_by_a_signal() -> Iterator[None]:
    """SIGTERM unwinds the stack as an exit does, so that the uploads go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
