"""The command tokens: pictures in each image's folder and side by side, and what it refuses."""

from pathlib import Path

from PIL import Image

import captum_vit
from captum_vit import sample
from tests.cli.helpers import photo, pixels, run, written

OWN = ["norms.png", "pca.png"]
ALL = ["names.png", *OWN, "similarity.png"]


def test_pictures_of_each_image_and_side_by_side():
    """A large photograph is drawn smaller; the pixel that is named is still the original's."""
    Image.fromarray(sample.draw_scene(3, size=64).image).resize((320, 160)).save("wide.png")
    photo("small.png")
    told = run("tokens", "wide.png", "small.png", "--names", "--pixel", "190,90", "--max-side", "160").output
    folders = {"small": ALL, "together": ALL, "wide": ALL}
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


def test_one_bad_image_costs_its_own_pictures():
    photo("good.png")
    Path("bad.png").write_text("no image")
    result = run("tokens", "good.png", "bad.png", code=1)
    assert "Failed: " in result.stderr
    assert written("captum-vit-tokens") == [f"{folder}/{file}" for folder in ("good", "together") for file in OWN]
    assert "could not be read" in run("tokens", "bad.png", "good.png", "--pixel", "3,3", code=2).stderr
    assert "none of the images" in run("tokens", "bad.png", code=2).stderr


def test_what_cannot_be_had():
    photo("a.png")
    assert "sees nothing at pixel (900, 3)" in run("tokens", "a.png", "--pixel", "900,3", code=2).stderr
    assert "no tokens were kept after 9" in run("tokens", "a.png", "--block", "9", code=2).stderr
    assert "no block 'head.nothing'" in run("tokens", "a.png", "--block", "head.nothing", code=2).stderr
