"""All files that Pillow tests itself with: each is an image, or one of our refusals."""

import io
import os
from pathlib import Path

import pytest

from captum_vit.errors import ImageLoadError
from captum_vit.images import read_image

FOLDER = "CAPTUM_VIT_PILLOW_IMAGES"  # Tests/images of Pillow's source distribution


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get(FOLDER), reason=f"{FOLDER} names no folder of images")
def test_each_is_an_image_or_a_refusal():
    files = [path for path in sorted(Path(os.environ[FOLDER]).rglob("*")) if path.is_file()]
    read = refused = 0
    for file in files:
        try:
            image = read_image(file).image
        except ImageLoadError:
            refused += 1
        else:
            assert (image.mode, image.info) == ("RGB", {}), file
            image.save(io.BytesIO(), "PNG")
            read += 1
    assert read > 500, f"{read} images and {refused} refusals of {len(files)} files"
