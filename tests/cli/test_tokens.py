"""The command tokens: pictures in each image's folder and side by side, and what it refuses."""

import csv
import inspect
import weakref
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import captum_vit
from captum_vit import sample
from captum_vit.cli import token_run
from captum_vit.cli.explain_command import explain
from captum_vit.cli.modelling import ModelOptions
from captum_vit.cli.tokens import tokens
from captum_vit.explanation.seeing import Seen
from captum_vit.features import PatchTokens, reading
from captum_vit.images import open_image
from tests.cli.helpers import photo, pixels, run, written
from tests.properties.broken import caught

FIGURES = ["norms.png", "pca.png"]
OWN = ["norms.csv", *FIGURES, "tokens.npz"]
ALL = ["names.png", *FIGURES, "similarity.png"]
EVERY = ["names.png", "norms.csv", *FIGURES, "similarity.png", "tokens.npz"]
OUT = Path("captum-vit-tokens")
SHARED = ("forward_kwargs", "page", "window", "recursive", "batch_size")


def scenes(count: int) -> list[Path]:
    """Photographs of the sample's."""
    files = [Path(f"{i}.png") for i in range(count)]
    for i, file in enumerate(files):
        Image.fromarray(sample.draw_scene(i, size=64).image).save(file)
    return files


def test_pictures_of_each_image_and_side_by_side():
    """A large photograph is drawn smaller; the pixel that is named is still the original's."""
    Image.fromarray(sample.draw_scene(3, size=64).image).resize((320, 160)).save("wide.png")
    photo("small.png")
    told = run("tokens", "wide.png", "small.png", "--names", "--pixel", "190,90", "--max-side", "160").output
    folders = {"small": EVERY, "together": ALL, "wide": EVERY}
    assert written("captum-vit-tokens") == [f"{folder}/{file}" for folder, files in folders.items() for file in files]
    assert "side by side: pca.png, norms.png" in told
    chosen = captum_vit.tokens("wide.png").similarity(pixel=(190, 90))
    assert chosen.patch == (4, 4)
    drawn = pixels("captum-vit-tokens/wide/similarity.png")
    assert drawn.shape == (80, 160, 3)
    assert (drawn[40:50, 80] == 255).all()
    assert (drawn[40:50, 79] == 0).all()
    run("tokens", "wide.png", "--block", "norm", "--foreground")
    assert not Path("captum-vit-tokens/wide/names.png").exists()
    assert not Path("captum-vit-tokens/wide-2").exists()
    assert Path("captum-vit-tokens/together-2/pca.png").exists()  # of other images


@pytest.mark.parametrize("foreground", [False, True])
def test_the_numbers_are_those_of_all_images_together(foreground: bool):
    """As `captum_vit.tokens` has them, which holds all images: the sums over one image at a time give the same."""
    files = scenes(3)
    Image.open(files[1]).resize((128, 64)).save(files[1])
    asked = ["--foreground"] if foreground else []
    run("tokens", *files, "--names", "--pixel", "20,40", "--block", "3", "--batch-size", "2", *asked)
    found = captum_vit.tokens(files, lens=True)
    pca, norms = found.pca(3, foreground=foreground), found.norms()
    similar, lens = found.similarity(pixel=(20, 40), block=3), found.lens()
    for i, file in enumerate(files):
        with np.load(OUT / file.stem / "tokens.npz") as kept:
            assert np.allclose(kept["colours"], pca.colours[i], atol=1e-5, equal_nan=True)
            assert np.isnan(kept["colours"]).any() == bool((~pca.foreground[i]).any())
            assert np.allclose(kept["projections"], pca.projections[i], atol=1e-4)
            assert np.allclose(kept["components"], pca.basis.components, atol=1e-5)
            assert np.allclose(kept["mean"], pca.basis.mean, atol=1e-5)
            assert np.allclose(kept["explained"], pca.basis.explained, atol=1e-5)
            assert np.allclose(kept["similarity"], similar.maps[i], atol=1e-6)
            for block in found.blocks:
                assert np.allclose(kept[f"norms.{block}"], norms.maps[block][i], rtol=1e-5)
                if block in lens.probabilities:
                    numbers, shares = lens.best(block, 3)[i]
                    assert np.array_equal(kept[f"classes.{block}"], numbers)
                    assert np.allclose(kept[f"shares.{block}"], shares, atol=1e-6)
        drawn = {"pca": pca.pictures(), "norms": norms.pictures(found.block(3)), "similarity": similar.pictures()}
        for name, pictures in {**drawn, "names": lens.pictures(found.block(3))}.items():
            assert np.abs(pixels(OUT / file.stem / f"{name}.png") - np.asarray(pictures[i])).max() <= 1


def test_norms_stand_in_a_table_too():
    (file,) = scenes(1)
    run("tokens", file)
    with (OUT / "0/norms.csv").open() as table:
        rows = list(csv.DictReader(table))
    found = captum_vit.tokens(file).norms()
    assert [row["block"] for row in rows] == list(found.maps)
    for row, (block, (norms,)) in zip(rows, found.maps.items(), strict=True):
        assert (row["image"], int(row["patches"])) == ("0.png", norms.numel())
        told = [float(row[name]) for name in ("lowest", "median", "highest")]
        assert told == pytest.approx([float(each) for each in (norms.min(), norms.median(), norms.max())], rel=1e-5)
        assert int(row["artifacts"]) == int(found.artifacts[block][0].sum())


class Alive:
    """How many images' tokens there are in memory at once, at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.references: list[weakref.ref] = []
        self.most = 0
        made = PatchTokens.__init__

        def counted(self_: PatchTokens, *args: Any, **kwargs: Any) -> None:
            made(self_, *args, **kwargs)
            self.references.append(weakref.ref(self_))
            self.most = max(self.most, sum(each() is not None for each in self.references))

        monkeypatch.setattr(PatchTokens, "__init__", counted)


@pytest.mark.parametrize("kept", [False, pytest.param(True, marks=caught)])
def test_tokens_of_many_images_are_not_held(kept: bool, monkeypatch: pytest.MonkeyPatch):
    """Of thirteen, which are too many to be shown side by side: a batch of two, and one of the batch before it."""
    files, alive, hoard = scenes(13), Alive(monkeypatch), []
    shelve = token_run.Reader._shelve
    if kept:  # broken on purpose
        monkeypatch.setattr(token_run.Reader, "_shelve", lambda *args: (hoard.append(args[2]), shelve(*args)))
    run("tokens", *files, "--batch-size", "2", "--foreground")
    assert len(alive.references) == 26  # each is read, and drawn
    assert not (OUT / "together").exists()
    assert not list(OUT.glob(".tokens*"))
    assert alive.most <= 4


def test_one_bad_image_costs_its_own_pictures():
    photo("good.png")
    Path("bad.png").write_text("no image")
    result = run("tokens", "good.png", "bad.png", code=1)
    assert "Failed: " in result.stderr
    assert "1 of 2 images failed; the others are done" in result.stderr
    assert written(OUT) == [f"good/{file}" for file in OWN] + [f"together/{file}" for file in FIGURES]
    assert "none of the images" in run("tokens", "bad.png", "--out", "none", code=2).stderr
    assert not Path("none").exists()


def test_the_pixel_of_a_bad_image_costs_what_is_compared_with_it():
    Path("bad.png").write_text("no image")
    result = run("tokens", "bad.png", photo("good.png"), "--pixel", "3,3", code=1)
    assert "Note: --pixel is of the first image, which failed" in result.stderr
    assert written(OUT) == [f"good/{file}" for file in OWN] + [f"together/{file}" for file in FIGURES]


def test_an_image_that_fails_in_the_model_costs_its_own_pictures(monkeypatch: pytest.MonkeyPatch):
    """In a batch, by tokens that are not finite, and where it is drawn; what is left stands side by side."""
    files, read = scenes(4), reading.Reader.read
    for name in ("dark.png", "nan.png"):
        photo(name)

    def fails(self: reading.Reader, seen: Sequence[Seen]) -> list[PatchTokens]:
        if any(one.source == "dark.png" for one in seen):
            raise RuntimeError("too dark")
        for one in (found := read(self, seen)):
            if one.source == "nan.png":
                one.features["blocks.0.attn"][0, 0] = torch.nan  # type: ignore[index]
        return found

    monkeypatch.setattr(reading.Reader, "read", fails)
    draw = token_run.Writer.draw

    def once(self: Any, each: Any) -> None:
        if each.job.name == "2":
            raise RuntimeError("no ink")
        draw(self, each)

    monkeypatch.setattr(token_run.Writer, "draw", once)
    result = run("tokens", *files[:2], "dark.png", *files[2:], "nan.png", code=1)
    assert "'dark.png' could not be" in result.stderr
    assert "too dark" in result.stderr
    assert "'2.png' could not be" in result.stderr
    assert "the tokens hold NaN or infinite values" in result.stderr
    assert "3 of 6 images failed; the others are done" in result.stderr
    assert sorted(path.name for path in OUT.iterdir()) == ["0", "1", "3", "together"]


def test_a_run_that_was_stopped_goes_on(monkeypatch: pytest.MonkeyPatch):
    files, draw = scenes(3), token_run.Writer.draw

    def stopped(self: Any, each: Any) -> None:
        if each.job.name == "1":
            raise KeyboardInterrupt
        draw(self, each)

    with monkeypatch.context() as patched:
        patched.setattr(token_run.Writer, "draw", stopped)
        assert "--resume goes on" in run("tokens", *files, code=130).stderr
    assert sorted(path.name for path in OUT.iterdir()) == ["0"]  # the hidden shelf is gone too
    before = {path: path.stat().st_mtime_ns for path in (OUT / "0").iterdir()}
    result = run("tokens", *files, "--resume")
    assert "1 of 3 images were drawn before" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in (OUT / "0").iterdir()} == before
    assert sorted(path.name for path in OUT.iterdir()) == ["0", "1", "2", "together"]
    whole = {path: path.stat().st_mtime_ns for path in OUT.rglob("*.*")}
    assert "3 of 3 images were drawn before" in run("tokens", *files, "--resume").stdout
    assert {path: path.stat().st_mtime_ns for path in OUT.rglob("*.*")} == whole
    assert "0 of 2 images were drawn before" in run("tokens", *files[:2], "--resume").stdout  # in other colours
    assert "0 of 2 images were drawn before" in run("tokens", *files[:2], "--resume", "--block", "2").stdout


def test_folders_below_folders_pages_and_windows():
    for name in ("a/x", "a/y"):
        Path(name).mkdir(parents=True)
        pages = [Image.fromarray(np.full((64, 64), value, np.uint16)) for value in (100, 4000)]
        for page, value in zip(pages, (0, 9000), strict=True):
            page.paste(value, (8, 8, 40, 40))
        pages[0].save(f"{name}/scan.tif", save_all=True, append_images=pages[1:])
    run("tokens", "a", "--recursive", "--page", "1", "--window", "0,10000")
    assert written(OUT / "x/scan") == written(OUT / "y/scan") == OWN
    found = captum_vit.tokens(open_image("a/x/scan.tif", page=1, window=(0, 10000)))
    with np.load(OUT / "x/scan/tokens.npz") as kept:
        assert np.allclose(kept["norms.blocks.5.attn"], found.norms(-1).maps["blocks.5.attn"][0], rtol=1e-5)
    assert "--window takes" in run("tokens", "a", "--recursive", "--window", "5", code=2).stderr


def test_the_model_is_asked_for_as_explain_asks_for_it():
    """Each option of the model has the same name, text and default in both."""
    one, other = (inspect.signature(command).parameters for command in (explain, tokens))
    shared = {*(each.name for each in fields(ModelOptions)), *SHARED}
    for name in shared:
        assert one[name].annotation == other[name].annotation
        assert one[name].default == other[name].default


def test_what_cannot_be_had():
    photo("a.png")
    assert "sees nothing at pixel (900, 3)" in run("tokens", "a.png", "--pixel", "900,3", code=2).stderr
    assert "no tokens were kept after 9" in run("tokens", "a.png", "--block", "9", code=2).stderr
    assert "no block 'head.nothing'" in run("tokens", "a.png", "--block", "head.nothing", code=2).stderr
