"""Videos of several shots out of clips that no one here made: `python tests/footage.py CLIPS OUT`.

CLIPS is the folder of real clips beside the checkout. A shot is 24 frames of one of them, 128 x 96.
"""

import pathlib
import sys

import av
import numpy as np

SHOT_FRAMES = 24
PLACES = (
    "sam2_01_dog.mp4", "llamafactory_1.mp4", "llamafactory_3.mp4", "intel_car-detection.mp4",
    "intel_bottle-detection.mp4", "llamafactory_2.avi", "torchcodec_nasa_13013.mp4", "llamafactory_4.mp4",
)  # fmt: skip
VIDEOS = {
    "home": PLACES[:5],
    "work": PLACES[7:2:-1],
    "all": PLACES,
    "returns": PLACES[:2] * 3,
    "single": PLACES[:1],
}


def shot(path):
    """(T, H, W, 3) uint8 RGB: the first frames of a video."""
    with av.open(str(path)) as container:
        frames = [frame for frame, _ in zip(container.decode(video=0), range(SHOT_FRAMES), strict=False)]
    return np.stack([frame.reformat(128, 96, format="rgb24").to_ndarray() for frame in frames])


def encode(path, shots, fps=8):
    """A video of shots, each (T, H, W, 3) uint8."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "18"})
        stream.height, stream.width = shots[0].shape[1:3]
        for picture in np.concatenate(shots):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def join(clips, out, names=tuple(VIDEOS)):
    """Write some of `VIDEOS` to a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        encode(out / f"{name}.mp4", [shot(clips / place) for place in VIDEOS[name]])


if __name__ == "__main__":
    join(*map(pathlib.Path, sys.argv[1:]))
