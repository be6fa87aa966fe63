"""The pictures that the command line writes: their names, and the colours in them."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from captum_vit.cli import explain as work
from captum_vit.colours import Scale
from captum_vit.errors import OutputError
from captum_vit.explained import Label
from captum_vit.files import check_writable, make_folder
from captum_vit.visualization import overlay
from tests.figures.made import CAT, DOG, explanation

CONTRAST = Label(None, "tabby/Egyptian cat", 2.345, "tabby rather than Egyptian cat", "logit difference")


def names(*labels: Label, methods: tuple[str, ...] = ("agcam",)) -> list[str]:
    return sorted(work.pictures(explanation(methods, labels)))


def test_names_of_classes_and_of_other_targets():
    assert names(CAT, DOG, CONTRAST, methods=("agcam", "rollout")) == [
        "agcam-0-cat.png",
        "agcam-7-dog.png",
        "agcam-tabby_Egyptian_cat.png",
        "overview.png",
        "rollout.png",
    ]


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\0b", "\n", "...", "", "x" * 500, "/", "con", "<b>ü 猫</b>"])
def test_any_text_makes_a_name(name, tmp_path):
    drawn = work.pictures(explanation(classes=(Label(None, name, 1.0, "title"),)))
    assert len(drawn) == 2
    work.save(drawn, tmp_path / "new")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(drawn)
    assert all(name.startswith("agcam-") and len(name) > 10 for name in drawn if name != "overview.png")


def test_targets_whose_names_come_out_the_same_have_a_picture_each():
    alike = [replace(CONTRAST, name=name) for name in ("a/b", "a b", "A_B", "0-cat")]
    assert names(CAT, *alike) == sorted(
        ["agcam-0-cat.png", "agcam-a_b.png", "agcam-a_b-2.png", "agcam-A_B-3.png", "agcam-0-cat-2.png", "overview.png"]
    )


def test_titles_of_pictures():
    found = [a.caption for a in explanation(("agcam", "rollout"), (CAT, CONTRAST))]
    assert found == ["AGCAM: cat, 90.0 %", f"AGCAM: {CONTRAST.title}, logit difference 2.35", "attention rollout"]


def test_two_signs_have_two_colours():
    e = explanation(("signed",))
    drawn = work.pictures(e)["signed-0-cat.png"]
    first = e.attributions[0]
    unsigned = Scale.of([first.map], signed=False)
    assert np.array_equal(np.asarray(drawn), np.asarray(e.overlay()))
    assert not np.array_equal(np.asarray(drawn), np.asarray(overlay(e.image, first.map, e.view, scale=unsigned)))


def test_the_overview_has_a_row_for_each_target():
    one, two = (work.pictures(explanation(classes=labels))["overview.png"] for labels in ((CAT,), (CAT, CONTRAST)))
    assert isinstance(one, Image.Image)
    assert one.width == two.width
    assert two.height > 1.9 * one.height


def test_one_wording_for_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for refuse in (make_folder, check_writable, lambda folder: work.save({}, folder)):
        with pytest.raises(OutputError, match=r"^cannot write to the folder '.*file/new': Not a directory$"):
            refuse(tmp_path / "file" / "new")


def test_a_trial_leaves_nothing(tmp_path):
    check_writable(tmp_path / "new")
    check_writable(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").touch()
    check_writable(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
