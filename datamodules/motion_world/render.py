"""Scenes as pixels, sound and files: numpy frames, 16 kHz mono PCM, H.264 + AAC mp4 through PyAV."""

import io
from dataclasses import dataclass
from math import cos, radians, sin
from typing import Any

import numpy as np
import numpy.typing as npt

from .scene import COLOURS, DIRECTIONS, GRID, Actor, Event, Scene

Frames = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000
RADIUS = 0.105  # of the frame side
GROWN, SHRUNK = 1.5, 0.6
SPIN_DEGREES = 300.0  # not a multiple of any shape's symmetry: the end still shows that it turned
_SYMMETRY = {"square": 4, "circle": 0, "triangle": 3, "cross": 4}


@dataclass(frozen=True)
class Look:
    """One actor at one instant; x, y in units of the frame side (camera included), size 1 = as it began."""

    colour: str
    shape: str
    x: float
    y: float
    size: float
    degrees: float
    visible: bool

    @property
    def turned(self) -> tuple[float, float]:
        """(cos, sin) of the angle modulo the shape's symmetry; (0, 0) for a circle."""
        k = _SYMMETRY[self.shape]
        return (cos(k * radians(self.degrees)), sin(k * radians(self.degrees))) if k else (0.0, 0.0)


def look(scene: Scene, index: int, t: float) -> Look:
    """The state of actor `index` at `t` seconds."""
    actor = scene.actors[index]
    state = _State(actor)
    for event in scene.of():
        if event.actor == index:
            state.apply(event, t)
    progress = t / scene.duration_s
    x = (state.x + 0.5) / GRID + scene.pan[0] * (progress - 0.5)
    y = (state.y + 0.5) / GRID + scene.pan[1] * (progress - 0.5)
    return Look(state.colour, actor.shape, x, y, state.size, state.degrees, state.visible)


class _State:
    """Folds the events of one actor up to a time."""

    def __init__(self, actor: Actor) -> None:
        self.x, self.y = float(actor.cell[0]), float(actor.cell[1])
        self.colour, self.size, self.degrees, self.visible = actor.colour, 1.0, 0.0, True

    def apply(self, event: Event, t: float) -> None:
        done = min(1.0, max(0.0, (t - event.start_s) / (event.end_s - event.start_s)))
        verb, _, what = event.act.partition(" ")
        if verb == "move":
            dx, dy = DIRECTIONS[what]
            self.x, self.y = self.x + dx * event.distance * done, self.y + dy * event.distance * done
        elif verb in ("grow", "shrink"):
            self.size *= 1 + ((GROWN if verb == "grow" else SHRUNK) - 1) * done
        elif verb == "spin":
            self.degrees += SPIN_DEGREES * done
        elif verb == "turn" and done >= 0.5:
            self.colour = what
        elif verb == "blink":  # dark for two spells, each long enough for two frames a second to see one of them
            self.visible &= not (0.1 <= done < 0.42 or 0.58 <= done < 0.9)
        elif verb == "appear":
            self.visible &= done >= 0.5
        elif verb == "disappear":
            self.visible &= done < 0.5


def render_frame(scene: Scene, t: float, size: int = 64, backdrop: Floats | None = None) -> Frames:
    """The picture at `t` seconds: uint8 (size, size, 3)."""
    frame = (background(scene, size) if backdrop is None else backdrop).copy()
    if any(scene.pan):
        progress = t / scene.duration_s - 0.5
        frame = np.roll(frame, (round(scene.pan[1] * progress * size), round(scene.pan[0] * progress * size)), (0, 1))
    for index in range(len(scene.actors)):
        state = look(scene, index, t)
        if state.visible:
            _draw(frame, state, size)
    return frame.clip(0, 255).astype(np.uint8)


def render(scene: Scene, size: int = 64, fps: int = 8) -> Frames:
    """All frames of the clip: uint8 (T, size, size, 3)."""
    backdrop = background(scene, size)
    times = np.arange(round(scene.duration_s * fps)) / fps
    return np.stack([render_frame(scene, float(t), size, backdrop) for t in times])


def background(scene: Scene, size: int) -> Floats:
    """Flat grey, or a smooth random texture."""
    frame = np.full((size, size, 3), float(scene.brightness), np.float32)
    if scene.texture:
        rng = np.random.default_rng([scene.seed, scene.index, len(scene.split)])
        coarse = rng.standard_normal((8, 8, 1)).astype(np.float32) * scene.texture
        repeats = -(-size // 8)
        frame += coarse.repeat(repeats, 0).repeat(repeats, 1)[:size, :size]
    return frame


def _draw(frame: Floats, state: Look, size: int) -> None:
    radius = RADIUS * size * state.size
    cx, cy, reach = state.x * size, state.y * size, radius * 1.5 + 1
    x0, x1 = max(0, int(cx - reach)), min(size, int(cx + reach) + 1)
    y0, y1 = max(0, int(cy - reach)), min(size, int(cy + reach) + 1)
    x, y = np.arange(x0, x1)[None] + 0.5 - cx, np.arange(y0, y1)[:, None] + 0.5 - cy
    c, s = cos(radians(state.degrees)), sin(radians(state.degrees))
    alpha = np.clip(0.5 - _distance(state.shape, c * x + s * y, c * y - s * x, radius), 0, 1)[..., None]
    patch = frame[y0:y1, x0:x1]
    patch += alpha * (np.asarray(COLOURS[state.colour], np.float32) - patch)


def _distance(shape: str, x: Any, y: Any, radius: float) -> Any:
    """Signed distance (pixels) to the outline, negative inside."""
    ax, ay = np.abs(x), np.abs(y)
    if shape == "square":
        return np.maximum(ax, ay) - 0.9 * radius
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "triangle":
        return np.maximum(y - 0.65 * radius, 0.866 * ax - 0.5 * y - 0.65 * radius)
    bar = 0.36 * radius
    return np.minimum(np.maximum(ax - 1.1 * radius, ay - bar), np.maximum(ay - 1.1 * radius, ax - bar))


def sound(scene: Scene) -> npt.NDArray[np.int16]:
    """The audio track: int16 (samples,), 16 kHz mono, silence where no sound event is."""
    track = np.zeros(round(scene.duration_s * SAMPLE_RATE), np.float32)
    for event in scene.of(("audio",)):
        t = np.arange(round((event.end_s - event.start_s) * SAMPLE_RATE)) / SAMPLE_RATE
        first = round(event.start_s * SAMPLE_RATE)
        wave = _wave(event.act, t)[: len(track) - first]
        track[first : first + len(wave)] += wave
    pcm: npt.NDArray[np.int16] = (track.clip(-1, 1) * 20_000).astype(np.int16)
    return pcm


def _wave(name: str, t: Any) -> Any:
    if name == "high beep":
        return np.sin(2 * np.pi * 1760 * t)
    if name == "low beep":
        return np.sin(2 * np.pi * 220 * t)
    if name == "click train":
        return np.where((t * 12) % 1 < 0.05, 1.0, 0.0)
    return np.sin(2 * np.pi * (300 * t + 700 * t**2 / max(t[-1], 1e-3)))  # sweep 300 -> 1,700 Hz


def encode(scene: Scene, size: int = 64, fps: int = 8) -> bytes:
    """The clip as an mp4 file: H.264 yuv420p (GOP of 2 s) and AAC 16 kHz mono.

    Args:
        scene: What to show.
        size: Frame side in pixels, even and at least 32.
        fps: Frames per second; a clip has at least 16 frames.

    Raises:
        ValueError: If size or fps cannot make such a file.
    """
    check_pictures(size, fps)
    return encode_pictures(render(scene, size, fps), sound(scene), fps)


def check_pictures(size: int, fps: int) -> None:
    """Refuse what cannot be encoded.

    Raises:
        ValueError: If size or fps are out of range.
    """
    if size < 32 or size % 2 or fps < 4:
        raise ValueError(f"size must be even and >= 32, fps >= 4 (16 frames in 4 s); got size={size}, fps={fps}")


def encode_pictures(pictures: Frames, track: npt.NDArray[np.int16], fps: int) -> bytes:
    """The same file of pictures and sound that are there.

    Args:
        pictures: (T, size, size, 3) uint8.
        track: (samples,) int16, 16 kHz mono.
        fps: Frames per second.
    """
    import av

    size = pictures.shape[1]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        video = container.add_stream(
            "libx264", rate=fps, options={"preset": "veryfast", "crf": "20", "g": str(2 * fps)}
        )
        video.width = video.height = size
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(track[None], format="s16", layout="mono")
        samples.sample_rate = SAMPLE_RATE
        container.mux(audio.encode(samples))
        container.mux(audio.encode())
    return buffer.getvalue()
