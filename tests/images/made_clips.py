"""A tiny clip, and how it is written as a video file."""

from pathlib import Path

import numpy as np

FRAMES, HEIGHT, WIDTH = 8, 32, 48


def clip() -> np.ndarray:
    """A red square that moves to the right over grey noise, uint8 (8, 32, 48, 3)."""
    frames = np.random.default_rng(0).integers(60, 100, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for t, frame in enumerate(frames):
        frame[8:24, 4 * t : 4 * t + 16] = (220, 60, 40)
    return frames


def write_video(path: Path, frames: np.ndarray) -> None:
    """Eight frames a second, as MPEG-4."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = (
            frames.shape[2],
            frames.shape[1],
            "yuv420p",
            10**7,
        )
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
