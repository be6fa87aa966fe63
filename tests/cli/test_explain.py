"""What `captum-vit explain` draws, prints and writes."""

import os
from pathlib import Path

import timm
from safetensors.torch import save_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from captum_vit import Explanation, sample
from captum_vit._version import __version__
from captum_vit.attr import in_all
from captum_vit.cli import batching
from tests.cli.helpers import explain, photo, pixels, refused, run, written


def test_without_arguments():
    result = run("explain")
    labels = sorted(sample.draw_scene(batching._SCENE_SEED, objects=2).labels)
    lines = result.stdout.splitlines()
    assert lines[0] == "embedded scene"
    explained = [line.split() for line in lines if line.endswith("explained")]
    assert sorted(int(words[0]) for words in explained) == labels
    assert [words[1] for words in explained] == [sample.CLASSES[int(words[0])] for words in explained]
    assert all(float(words[2]) > 90 and words[3] == "%" for words in explained)
    overlays = int(lines[-1].split(" overlays")[0].split()[-1])
    found = [line for line in lines if ", at random " in line]
    assert len(found) == overlays, "of each map what it does, in a line"
    assert len(lines) == 1 + 3 + overlays + 1
    expected = ["overview.png", *(f"{name}.png" for name, kind in in_all().items() if not kind.class_specific)]
    specific = [name for name, kind in in_all().items() if kind.class_specific]
    for label in labels:
        expected += [f"{name}-{label}-{sample.CLASSES[label]}.png" for name in specific]
    found = [name for name in written("captum-vit-out/scene") if name.endswith(".png") and "image-" not in name]
    assert found == sorted(expected)
    count = len(expected) - 1
    assert f"captum-vit-out/scene/report.html, and beside it overview.png and {count} overlays" in lines[-1]
    assert not result.stderr


def test_overlays_point_at_their_object():
    explain("--method", "agcam")
    scene = sample.draw_scene(batching._SCENE_SEED, objects=2, size=512)
    for label, mask in zip(scene.labels, scene.masks, strict=True):
        overlay = pixels(f"captum-vit-out/scene/agcam-{label}-{sample.CLASSES[label]}.png")
        assert overlay.shape == (512, 512, 3)
        warmth = overlay[..., 0] - overlay[..., 2]
        assert warmth[mask].mean() > warmth[~mask].mean() + 40


def test_options():
    targets = ("--target", "star", "--target", "0", "--target", "STAR")
    explain(photo("a.png"), *targets, "--out", "deep/er", "--layer", "-1")
    star = sample.CLASSES.index("star")
    assert written("deep/er") == ["a/agcam-0-disc.png", f"a/agcam-{star}-star.png", "a/overview.png"]
    explain(photo("a.png"), "--method", "rollout", "--layer", "blocks.2.attn", "--layer", "blocks.4.attn")
    assert written("captum-vit-out") == ["a/overview.png", "a/rollout.png"]
    assert len(explain(photo("a.png"), "--top-k", "5").stdout.splitlines()) == 1 + 5 + 1


def test_one_map_for_all_classes():
    note = explain("--method", "rollout", "--target", "3").stderr
    assert note == "Note: --target is not used: rollout gives one map for all classes\n"
    assert written("captum-vit-out") == ["scene/overview.png", "scene/rollout.png"]
    height, width = pixels("captum-vit-out/scene/overview.png").shape[:2]
    assert width > 1.8 * height  # one row: the scene and its map


def test_the_layer_matters():
    explain(photo("a.png"), "--method", "raw_attention", "--layer", "0", "--out", "first")
    explain(photo("a.png"), "--method", "raw_attention", "--layer", "blocks.0.attn", "--out", "named")
    explain(photo("a.png"), "--method", "raw_attention", "--out", "last")
    first, named, last = (Path(f, "a", "raw_attention.png").read_bytes() for f in ("first", "named", "last"))
    assert first == named != last


def test_large_photos_are_shown_smaller():
    explain(photo("a.png", (300, 150)), "--max-side", "100", "--target", "0")
    assert pixels("captum-vit-out/a/agcam-0-disc.png").shape == (50, 100, 3)


def timm_checkpoint(classes: int) -> Path:
    save_file(timm.create_model("test_vit", num_classes=classes).state_dict(), "weights.safetensors")
    return Path("weights.safetensors")


def test_a_timm_model_with_imagenets_names():
    use = ("--model", "timm/test_vit", "--checkpoint", timm_checkpoint(1000))
    result = explain(photo("a.png", (200, 90)), *use, "--target", "tabby cat", "--no-fade")
    assert "281  tabby, tabby cat" in result.stdout
    assert written("captum-vit-out") == ["a/agcam-281-tabby.png", "a/overview.png"]
    overlay = pixels("captum-vit-out/a/agcam-281-tabby.png")
    grey = (overlay.max(-1) == overlay.min(-1)).all(0)
    assert grey[:50].all()  # test_vit sees the middle 86 of 200 columns
    assert not grey[65:135].any()
    said = "class 'crane' is not unique: give one of the numbers 134 (crane), 517 (crane)"
    refused(said, "a.png", *use, "--target", "crane")


def test_a_model_without_classes():
    use = ("--model", "timm/test_vit", "--checkpoint", timm_checkpoint(0))
    assert explain(photo("a.png"), *use).stdout.splitlines()[1:] == [
        "  written: captum-vit-out/a/overview.png, and beside it 1 overlay"
    ]
    assert written("captum-vit-out") == ["a/daam.png", "a/overview.png"]
    result = explain("a.png", *use, "--method", "all", "--out", "all")
    told = [line for line in result.stderr.splitlines() if "cannot be drawn" in line]  # all others explain the feature
    assert ["finercam" in line for line in told] == [True], told
    drawn = [name for name in in_all() if name != "finercam"]
    assert written("all") == sorted([*(f"a/{name}.png" for name in drawn), "a/overview.png"])
    refused("target needs a classifier", "a.png", *use, "--target", "3")


def test_labels_never_become_paths_or_markup():
    small = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 48}
    names = {0: "../../etc/passwd", 1: "[red]x[/red]\n\x1b[31m", 2: "$\\frac$", 3: ""}
    config = ViTConfig(**small, image_size=32, patch_size=8, id2label=names)
    ViTForImageClassification(config).save_pretrained("model")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("model")
    targets = [a for i in range(4) for a in ("--target", str(i))]
    result = explain(photo("a.png"), "--model", "hf/model", *targets, "--out", "o/u/t")
    assert "[red]x[/red]\\n\\x1b[31m" in result.stdout
    assert "\x1b" not in result.output
    assert written("o") == [
        "u/t/a/agcam-0-etc_passwd.png",
        "u/t/a/agcam-1-red_x__red____31m.png",
        "u/t/a/agcam-2-frac.png",
        "u/t/a/agcam-3.png",
        "u/t/a/overview.png",
    ]


def test_file_names_never_become_paths_or_markup():
    names = ["[red]x", "new\nline", "..png", "a b", "$HOME", "\x1b[31m", "😀", "x" * 240]
    result = explain(*[photo(f"{name}.png") for name in names], "--method", "rollout")
    folders = {p.name for p in Path("captum-vit-out").iterdir()}
    assert folders == {"red_x", "new_line", "png", "a_b", "HOME", "31m", "image", "x" * 50}
    assert "\x1b" not in result.output
    assert "[red]x.png" in result.stdout
    assert "new\\nline.png" in result.stdout


def test_names_that_are_not_utf8():
    Path(os.fsdecode(b"\xff.png")).write_bytes(photo("a.png").read_bytes())
    result = explain(os.fsdecode(b"\xff.png"), "--method", "rollout")
    assert result.stdout.startswith("\\udcff.png\n")
    assert written("captum-vit-out") == ["image/overview.png", "image/rollout.png"]


def test_same_stems_do_not_overwrite_each_other():
    for folder in ("one", "two"):
        Path(folder).mkdir()
    for name in ("one/cat.png", "two/cat.png", "two/CAT.jpg", "two/cat-2.png"):
        photo(name)
    explain("one/cat.png", "one", "two", "--method", "rollout")
    assert {p.name for p in Path("captum-vit-out").iterdir()} == {"cat", "CAT-2", "cat-2-2", "cat-3"}


def test_version_and_help():
    assert run("--version").stdout == f"captum-vit {__version__}\n"
    text = run("explain", "--help").stdout
    for option in ("--model", "--checkpoint", "--method", "--target", "--layer", "--top-k", "--out", "--device"):
        assert option in text


def test_each_map_has_a_verdict_where_there_is_a_report():
    told = "Without the marked tenth of the picture the score of"
    assert told in run("explain", "--method", "agcam", "--target", "cross").stdout.replace("\n   ", "")
    plain = run("explain", "--method", "agcam", "--target", "cross", "--no-report").stdout
    assert "Without" not in plain
    asked = run("explain", "--method", "agcam", "--target", "cross", "--no-report", "--verdict").stdout
    assert told in asked.replace("\n   ", "")
    assert "Without" not in run("explain", "--method", "agcam", "--target", "cross", "--no-verdict").stdout


def test_removals_are_measured_where_they_are_asked_for():
    run("explain", "--method", "agcam", "--target", "cross", "--no-verdict")
    [folder] = [path.parent for path in Path().rglob("explanation.json")]
    assert Explanation.load(folder).removals == {}
    run("explain", "--method", "agcam", "--target", "cross", "--no-verdict", "--removals")
    assert list(Explanation.load(folder).removals) == ["cross"]
