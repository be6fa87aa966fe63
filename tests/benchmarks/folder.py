"""A folder of photographs, explained as the command line does, against classifying the same files by a plain loop.

    python tests/benchmarks/folder.py FOLDER            # a folder of photographs, as many as there are
    python tests/benchmarks/folder.py FOLDER --quick    # the smallest model, to see that it runs
    python tests/benchmarks/folder.py FOLDER --sample   # the sample model, for images of 64 pixels
    python tests/benchmarks/folder.py FOLDER --flow  # with animations

Both read, turn upright and preprocess the same files in batches of eight; imports and the loading of the model are left
out. CPU seconds, and what they go to. OMP_WAIT_POLICY=passive keeps waiting threads from counting as work.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import timm
import torch

from captum_vit import Explainer
from captum_vit.cli.explain import FLOW, REPORT, pictures, save
from captum_vit.images import find_images, read_image

BATCH = 8
spent: Counter[str] = Counter()


@contextmanager
def counted(what: str) -> Iterator[None]:
    start = time.process_time()
    yield
    spent[what] += time.process_time() - start


def classify(explainer: Explainer, files: list[Path]) -> None:
    for first in range(0, len(files), BATCH):
        batch = [explainer.preprocess(read_image(file).image) for file in files[first : first + BATCH]]
        with torch.no_grad():
            explainer.loaded.model(torch.stack(batch)).softmax(-1).topk(3)


def explain(explainer: Explainer, files: list[Path], out: Path, flow: bool) -> None:
    asked = explainer.ask(method="agcam", top_k=3)
    for first in range(0, len(files), BATCH):
        with counted("reading and preprocessing"):
            seen = [explainer.see(read_image(file).image) for file in files[first : first + BATCH]]
        with counted("predictions and maps"):
            found = explainer.answer(seen, asked)
        for number, explanation in enumerate(found):
            folder = out / str(first + number)
            shown = explanation.reduced(1024)
            with counted("pictures"):
                save(pictures(shown), folder)
            if flow:
                with counted("flow.gif"):
                    shown.flow.save(folder / FLOW)
            with counted("report.html and the saved explanation"):
                shown.to_html(folder / REPORT)
                shown.save(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--flow", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    name = "vit_tiny_patch16_224" if arguments.quick else "vit_base_patch16_224"
    explainer = Explainer("sample" if arguments.sample else timm.create_model(name).eval())
    files = find_images([arguments.folder])
    classify(explainer, files[:BATCH])  # warm up
    with counted("plain"):
        classify(explainer, files)
    with tempfile.TemporaryDirectory() as out:
        explain(explainer, files, Path(out), arguments.flow)
    plain = spent.pop("plain")
    print(f"{len(files)} photographs, CPU seconds as a ratio to the plain loop ({plain:.1f} s)")
    for what, seconds in spent.items():
        print(f"  {what:40} {seconds / plain:5.2f}")
    whole = spent["reading and preprocessing"] + spent["predictions and maps"]
    print(f"  {'without pictures, GIF and page':40} {whole / plain:5.2f}")
    print(f"  {'all':40} {spent.total() / plain:5.2f}")


if __name__ == "__main__":
    main()
