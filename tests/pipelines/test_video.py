"""The pipeline of videos says what `explain` says."""

import numpy as np
import pytest
import torch
from transformers import pipeline

import captum_vit.video_pipelines  # noqa: F401  registers the task
from captum_vit import explain
from captum_vit.errors import OptionError
from tests.explanation.test_videos import model, processor
from tests.helpers import assert_close
from tests.images.made_clips import clip, write_video


@pytest.fixture(scope="module")
def pipe():
    return pipeline("video-attribution", model=model(), video_processor=processor(), device="cpu")


def test_a_video_gives_maps_of_its_frames(pipe, tmp_path):
    write_video(tmp_path / "clip.mp4", clip())
    (found,) = pipe(str(tmp_path / "clip.mp4"))
    e = explain(tmp_path / "clip.mp4", model(), preprocess=processor())
    assert found["label"] == e.targets[0].title
    assert abs(found["score"] - e.targets[0].score) < 1e-6
    assert_close(torch.from_numpy(found["grid"]), e.attributions[0].map)
    assert found["map"].shape == (4, 32, 48)
    assert [image.size for image in found["frames"]] == [(48, 32)] * 4
    for frame in range(4):
        still = e.still(frame)
        wanted = still.view.place(still.attributions[0].map, (48, 32))
        np.testing.assert_allclose(found["map"][frame], wanted, rtol=1e-4)
    assert np.isnan(found["map"][:, :, :8]).all(), "the processor cuts the left edge off"


def test_several_videos_methods_and_targets(pipe):
    both = pipe([clip(), clip()[::-1].copy()], method=["agcam", "rollout"], target=["jump", "sit"])
    assert [[one["label"] for one in each] for each in both] == [["jump", "sit", both[0][2]["label"]]] * 2
    assert not np.allclose(both[0][0]["grid"], both[1][0]["grid"])
    (rolled,) = pipe(clip(), method="gradient_rollout", discard_ratio=0.5)
    assert rolled["explanation"].options == {"gradient_rollout": {"discard_ratio": 0.5}}
    with pytest.raises(OptionError, match="no option 'nothing'"):
        pipe(clip(), nothing=3)
