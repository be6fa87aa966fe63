"""From a clip to an explanation, and from there to each frame."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from captum_vit import AGCAM, Clip, explain, load_model
from captum_vit.colours import LOOK
from captum_vit.errors import InputError, OptionError, PreprocessingError
from captum_vit.explanation.explaining import Explainer
from captum_vit.frames import Frames
from tests.families.hf import small
from tests.helpers import assert_close
from tests.images.made_clips import clip, write_video

CLASSES = dict(enumerate(["run", "jump", "sit", "eat", "wave", "fall", "turn"]))


def model():
    return small("VideoMAEForVideoClassification", "VideoMAEConfig", num_frames=4, id2label=CLASSES)()


def processor():
    return transformers.VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def test_a_clip_is_explained_as_its_tensor_is(tmp_path):
    mine, prepare = model(), processor()
    write_video(tmp_path / "clip.mp4", clip())
    e = explain(tmp_path / "clip.mp4", mine, preprocess=prepare)
    frames = e.frames
    tensor = prepare([list(frames.images)], return_tensors="pt")["pixel_values"]
    assert tensor.shape == (1, 4, 3, 32, 32)
    assert_close(e.maps, AGCAM(mine).attribute(tensor, e.targets[0].index))
    assert frames.names == ("frame 0, 0.00 s", "frame 2, 0.25 s", "frame 4, 0.50 s", "frame 6, 0.75 s")
    assert frames.places == (-0.25, 0.25, 0.75, 1.25)  # two frames make a cell
    assert "frames: 4 of 8, evenly spread (0, 2, 4, 6)" in e.notes
    assert e.view.window == (8.0, 0.0, 40.0, 32.0)  # the middle of 48 x 32
    already = explain(tensor[0], mine, preprocess=prepare, target=e.targets[0].index)
    assert_close(already.maps, e.maps)
    assert [image.size for image in already.frames.images] == [(32, 32)] * 4


def test_a_list_is_of_several_videos_and_a_clip_of_frames_is_one():
    mine, prepare = model(), processor()
    frames = [Image.fromarray(frame) for frame in clip()]
    one = explain(Clip(frames), mine, preprocess=prepare)
    (alone,) = explain([Clip(frames)], mine, preprocess=prepare)
    assert_close(one.maps, alone.maps)
    for wrong in (frames, list(clip()), [clip(), frames[0]]):  # a frame by itself might be a video in greys
        with pytest.raises(InputError, match=r"none: .* are passed as captum_vit.Clip\(\[frame, ...\]\)"):
            explain(wrong, mine, preprocess=prepare)
    for nothing in ([], "clip.mp4", clip()):
        with pytest.raises(InputError, match="a Clip is of a list of frames"):
            Clip(nothing)
    both = explain([clip(), clip()[::-1].copy()], mine, preprocess=prepare)
    assert_close(one.maps, both[0].maps)
    assert not torch.allclose(both[0].maps, both[1].maps)
    with pytest.raises(InputError, match="one picture is no video"):
        explain(Image.fromarray(clip()[0]), mine, preprocess=prepare)


def test_a_folder_of_transformers_is_loaded_with_its_processor(tmp_path):
    model().save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    loaded = load_model(f"hf/{tmp_path}")
    assert type(loaded.model).__name__ == "VideoMAEForVideoClassification"
    assert loaded.class_names[1] == "jump"
    assert "VideoMAEVideoProcessor" in str(loaded.preprocess)
    e = explain(clip(), loaded)
    assert_close(e.maps, explain(clip(), model(), preprocess=processor()).maps)
    with pytest.raises(PreprocessingError, match=r"pass preprocess=AutoVideoProcessor.from_pretrained"):
        explain(clip(), model())


def test_the_whole_size_is_that_of_each_processor(tmp_path):
    """What the attributes of each family's processor say is compared with what becomes of a frame."""
    for name in ("VivitVideoProcessor", "VJEPA2VideoProcessor", "TimesformerVideoProcessor", "VideoMAEImageProcessor"):
        made = getattr(transformers, name)()
        explainer = Explainer(model(), preprocess=made)
        side = dict(made.crop_size)["height"]
        assert explainer.preprocess.view((640, 480)).size == (side, side)
        frame = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
        whole = next(iter(made([[frame, frame]], return_tensors="pt").values()))
        assert torch.allclose(explainer.preprocess(frame), whole[0, 1], atol=1e-5)


def test_a_frame_lies_between_its_cells_in_the_colours_of_all():
    e = explain(clip(), model(), preprocess=processor(), method=["agcam", "rollout"])
    for frame, (low, high, share) in {0: (0, 1, 0.0), 1: (0, 1, 0.25), 2: (0, 1, 0.75), -1: (0, 1, 1.0)}.items():
        still = e.still(frame)
        assert still.image is e.frames.images[frame]
        for whole, part in zip(e, still, strict=True):
            expected = (1 - share) * whole.flow[:, low] + share * whole.flow[:, high]
            assert_close(part.flow, expected, 1e-6)
            assert still.scale(part, LOOK) == e.scale(whole, LOOK)
            assert still.scale(part, LOOK).high == whole.map.max()
    assert e.strongest in (0, 3)  # at an end, where nothing is mixed
    peaks = [e.still(i).attributions[0].map.max() for i in range(4)]
    assert e.strongest == int(np.argmax(peaks))
    with pytest.raises(OptionError, match="frame must be 0 to 3, of 4 frames, got 4"):
        e.still(4)
    with pytest.raises(OptionError, match="frame=1 is for videos"):
        e.still(0).still(1)


def test_frames_of_several_sizes_or_without_places_are_refused():
    pictures = tuple(Image.new("RGB", (8, side)) for side in (8, 9))
    with pytest.raises(InputError, match="all frames must be of one size"):
        Frames(pictures, (0.0, 1.0))
    with pytest.raises(InputError, match="an image, a place and a name each, got 2 and 1"):
        Frames(pictures, (0.0,))


def test_a_strip_is_cut_into_what_it_was_made_of():
    frames = Frames(tuple(map(Image.fromarray, clip())), Frames.spread(8, 4))
    back = Frames.cut(frames.strip(), 8)
    assert all(np.array_equal(a, b) for a, b in zip(frames.images, back, strict=True))
    with pytest.raises(InputError, match="256 pixels high cannot be cut into 7 frames"):
        Frames.cut(frames.strip(), 7)


def test_verdicts_are_given_of_videos():
    e = explain(clip(), model(), preprocess=processor(), verdict=True)
    verdict = e.attributions[0].verdict
    assert verdict.patches == 32
    assert verdict.draws == 7
    assert not verdict.painted


def test_what_is_for_images_is_refused():
    with pytest.raises(Exception, match="removals are of pictures"):
        explain(clip(), model(), preprocess=processor(), removals=True)
    with pytest.raises(OptionError, match="attention is kept of images"):
        explain(clip(), model(), preprocess=processor(), attention=True)
