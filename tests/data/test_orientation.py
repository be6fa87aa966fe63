"""Photographs that a camera stored on their side: masks and boxes turn with them."""

import numpy as np
import pytest
from PIL import Image

from captum_vit.data import Photo, open_data, open_photo
from captum_vit.errors import DataError
from tests.data import made
from tests.data.made import HEIGHT, WIDTH, block

SPAN = (2, 3, 9, 7)
broken = pytest.mark.xfail(strict=True, raises=(AssertionError, DataError), reason="a wrong turn, which must be seen")


def unturned(photo: Photo, mask):
    return mask


def turned_the_other_way(photo: Photo, mask):
    return np.rot90(photo.upright(mask), 2)


TURNS = [Photo.upright, pytest.param(unturned, marks=broken), pytest.param(turned_the_other_way, marks=broken)]


def expected(photo: Photo) -> np.ndarray:
    """The mask of SPAN by what the pixels themselves say about where they were stored."""
    column, row = np.moveaxis(made.scan(photo.image), 2, 0)
    return (column >= SPAN[0]) & (column < SPAN[2]) & (row >= SPAN[1]) & (row < SPAN[3])


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_and_boxes_turn_with_the_photograph(tmp_path, orientation, suffix):
    file = tmp_path / f"a.{suffix}"
    made.photo(tmp_path / "a.png", orientation=orientation)
    if suffix != "png":
        with Image.open(tmp_path / "a.png") as image:
            image.save(file, exif=image.getexif(), **({"lossless": True} if suffix == "webp" else {}))
    for photo in (open_photo(file), open_photo(file.read_bytes(), "a")):
        assert photo.image.size == ((HEIGHT, WIDTH) if orientation > 4 else (WIDTH, HEIGHT))
        assert photo.stored_size == (WIDTH, HEIGHT)
        assert np.array_equal(photo.upright(block(SPAN)), expected(photo))
        [[x1, y1, x2, y2]] = photo.upright_boxes([SPAN]).astype(int)
        assert np.array_equal(block((x1, y1, x2, y2), size=photo.image.size), expected(photo))


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_check_sees_a_wrong_turn(tmp_path, orientation, turn):
    photo = open_photo(made.photo(tmp_path / "a.png", orientation=orientation))
    assert np.array_equal(turn(photo, block(SPAN)), expected(photo))


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_is_none(tmp_path, orientation):
    assert open_photo(made.photo(tmp_path / "a.png", orientation=orientation)).orientation == 1


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_what_fits_the_upright_photograph_alone_was_made_upright(tmp_path, orientation):
    photo = open_photo(made.photo(tmp_path / "a.png", orientation=orientation))
    upright = block(SPAN, size=(HEIGHT, WIDTH))
    assert np.array_equal(photo.upright(upright), upright)
    assert photo.upright_boxes([SPAN], (HEIGHT, WIDTH)).tolist() == [list(SPAN)]
    for said in (None, (WIDTH, HEIGHT), (500, 375), (0, 0)):  # what else a file says of the size is not believed
        assert photo.upright_boxes([SPAN], said).tolist() != [list(SPAN)]
    with pytest.raises(DataError, match=r"the mask is 5x4 and its image 24x16"):
        photo.upright(np.zeros((4, 5), bool))


def test_a_reader_turns_boxes(tmp_path):
    made.imagenet(tmp_path)
    file = made.photo(tmp_path / "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG", orientation=6)
    item = open_data(f"imagenet:{tmp_path}")[0]
    assert item.image.size == (HEIGHT, WIDTH)
    assert item.boxes.tolist() == [[10, 0, 14, 10], [0, 12, 8, 24]]
    made.xml(
        tmp_path / f"ILSVRC/Annotations/CLS-LOC/val/{file.stem}.xml", [(made.DOG, 0, 2, 9, 5, 0)], size=(HEIGHT, WIDTH)
    )
    assert open_data(f"imagenet:{tmp_path}")[0].boxes.tolist() == [[0, 2, 10, 6]]


def test_a_reader_turns_masks(tmp_path):
    base = made.coco(tmp_path)
    photo = open_photo(made.photo(base / "val2017/000000000007.jpg", orientation=8))
    person = open_data(f"coco:{base}")[0]
    assert person.image.size == (HEIGHT, WIDTH)
    assert np.array_equal(person.mask, photo.upright(block((2, 2, 8, 7))))
    [[x1, y1, x2, y2]] = person.boxes.astype(int)
    assert np.array_equal(person.mask, block((x1, y1, x2, y2), size=(HEIGHT, WIDTH)))
