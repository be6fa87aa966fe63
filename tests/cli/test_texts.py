"""Texts on the command line."""

import json
from pathlib import Path

from tests.cli.helpers import photo, refused, run

MODEL = "tests.families.two_towers:loaded"


def test_a_text_is_explained_word_by_word():
    photo("one.png")
    told = run(
        "explain",
        "one.png",
        "--model",
        MODEL,
        "--text",
        "a cat on a sofa",
        "--text",
        "a dog",
        "--words",
        "--no-verdict",
    )
    assert "“a cat on a sofa”: cosine " in told.stdout
    assert "% of 2 texts  explained" in told.stdout
    assert "words by Grad-ECLIP: a " in " ".join(told.stdout.split())
    (manifest,) = Path("captum-vit-out").rglob("explanation.json")
    kept = json.loads(manifest.read_text())
    assert "--text 'a cat on a sofa' --text 'a dog' --words" in kept["call"]
    assert [word["map"] for word in kept["attributions"][0]["sentence"]["words"]] == [True] * 5


def test_a_text_is_for_models_of_texts():
    photo("one.png")
    refused("has no text tower", "one.png", "--model", "sample", "--text", "a cat")


def test_a_text_is_asked_for():
    photo("one.png")
    refused("--text on the command line", "one.png", "--model", MODEL)
