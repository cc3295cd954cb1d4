"""Glimpses: neighbouring frames with labels for each visual token, to teach a tower to see before anyone speaks."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from typing_extensions import override

from .render import Look, background, look, render_frame
from .scene import COLOURS, GRID, SHAPES, Scene, sample_scene

STEPS = ("none", "appear", "disappear", "turn", "left", "right", "up", "down", "grow", "shrink", "spin")
"""What may be seen to happen between two frames. As classes, since a language model reads a direction that is one of
the large directions of a feature, and passes over a small displacement in it."""
NUM_CLASSES = {
    "colour_before": len(COLOURS),
    "colour_after": len(COLOURS),
    "shape": len(SHAPES),
    "step": len(STEPS),
    "cell": GRID**2,
}
NUM_TARGETS = 9
SEEN = 0.06  # the smallest change that is called a step, in cells (a pixel of a 60 pixel frame is 0.05)
"""Visible before, visible after, size after; steps in x, y (cells) and size; cos, sin of the turn after, cos before."""

_COLOURS = list(COLOURS)


def label_tokens(scene: Scene, before_s: float, after_s: float) -> dict[str, Tensor]:
    """What each cell of the 3 x 3 grid should tell about a step from one frame to the next.

    Args:
        scene: The clip.
        before_s: Time of the step's first frame.
        after_s: Time of its last frame; the same where a token sees one frame only.

    Returns:
        presence (9,) float; colour_before, colour_after, shape, step, cell (9,) long with -1 where there is none;
        targets (9, NUM_TARGETS) float. Cells in row order. Who moves between two cells is in both.
    """
    presence = np.zeros((GRID, GRID), np.float32)
    classes = {name: np.full((GRID, GRID), -1) for name in NUM_CLASSES}
    targets = np.zeros((GRID, GRID, NUM_TARGETS), np.float32)
    for index in range(len(scene.actors)):
        before, after = look(scene, index, before_s), look(scene, index, after_s)
        for state in (before, after):
            if state.visible:
                cell = tuple(min(GRID - 1, max(0, int(v * GRID))) for v in (state.y, state.x))
                presence[cell] = 1
                classes["shape"][cell] = SHAPES.index(state.shape)
                classes["colour_before"][cell] = _COLOURS.index(before.colour) if before.visible else -1
                classes["colour_after"][cell] = _COLOURS.index(after.colour) if after.visible else -1
                classes["step"][cell] = STEPS.index(step_between(before, after))
                classes["cell"][cell] = cell[0] * GRID + cell[1]
                targets[cell] = _targets(before, after)
    arrays = {"presence": presence, "targets": targets, **classes}
    return {name: torch.from_numpy(a.reshape(GRID**2, *a.shape[2:])) for name, a in arrays.items()}


def _targets(before: Look, after: Look) -> tuple[float, ...]:
    steps = ((after.x - before.x) * GRID, (after.y - before.y) * GRID, (after.size - before.size) * GRID)
    return (before.visible, after.visible, after.size, *steps, *after.turned, before.turned[0])


def step_between(before: Look, after: Look) -> str:
    """The largest change from one frame to the next."""
    if before.visible != after.visible:
        return "appear" if after.visible else "disappear"
    if before.colour != after.colour:
        return "turn"
    x, y, size = (after.x - before.x) * GRID, (after.y - before.y) * GRID, (after.size - before.size) * GRID
    turn = abs(after.turned[0] - before.turned[0]) + abs(after.turned[1] - before.turned[1])
    changes = {"left": -x, "right": x, "up": -y, "down": y, "grow": size, "shrink": -size, "spin": turn / 2}
    name = max(changes, key=changes.__getitem__)
    return name if changes[name] > SEEN else "none"


class GlimpseDataModule(pl.LightningDataModule):
    """Endless glimpses for `TowerModule`: neighbours among the frames that a uniform sampling would pick.

    Args:
        model: Whose video processor prepares the frames; the command line links it to the module's.
        frames_per_token: Frames that one visual token sees: 2 for Qwen2.5-VL, 1 for LLaVA-OneVision.
        num_frames: Frames that a clip is sampled at.
        size: Side of the rendered frames in pixels, before the processor.
        clips_per_batch: Clips in a batch.
        glimpses_per_clip: Glimpses of each.
        seed: Which clips of the train split.
        num_workers: Processes that render.

    Raises:
        ValueError: If `frames_per_token` does not divide `num_frames`, or a clip has fewer glimpses than are asked.
    """

    def __init__(
        self,
        model: str,
        frames_per_token: int = 2,
        num_frames: int = 16,
        size: int = 64,
        clips_per_batch: int = 32,
        glimpses_per_clip: int = 3,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if num_frames % frames_per_token or glimpses_per_clip > num_frames // frames_per_token:
            raise ValueError(
                f"frames_per_token must divide num_frames and leave glimpses_per_clip steps; got {frames_per_token}, "
                f"{num_frames}, {glimpses_per_clip}"
            )
        self.model, self.size, self.seed, self.num_workers = model, size, seed, num_workers
        self.frames_per_token, self.num_frames = frames_per_token, num_frames
        self.clips_per_batch, self.glimpses_per_clip = clips_per_batch, glimpses_per_clip

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_Glimpses(self), batch_size=None, num_workers=self.num_workers)


class _Glimpses(IterableDataset[dict[str, Any]]):
    """Endless batches; worker w of W takes the scenes w, w + W, ... of the train split."""

    def __init__(self, module: GlimpseDataModule) -> None:
        from lit_vpo.models.loading import load_processor

        self.module = module
        self.processor: Any = load_processor(module.model)

    @override
    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = torch.utils.data.get_worker_info()
        index, stride = (info.id, info.num_workers) if info else (0, 1)
        while True:
            glimpses: list[tuple[Tensor, dict[str, Tensor]]] = []
            for _ in range(self.module.clips_per_batch):
                glimpses += self._of(sample_scene("train", self.module.seed, index))
                index += stride
            yield self._batch([frames for frames, _ in glimpses], [labels for _, labels in glimpses])

    def _of(self, scene: Scene) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        module, backdrop = self.module, background(scene, self.module.size)
        frames = np.linspace(0, round(scene.duration_s * 8) - 1, module.num_frames).round() / 8
        steps = frames.reshape(-1, module.frames_per_token)
        for step in random.Random(f"glimpses/{scene.key}").sample(range(len(steps)), module.glimpses_per_clip):
            times = [float(t) for t in steps[step]]
            pictures = np.stack([render_frame(scene, t, module.size, backdrop) for t in times])
            yield torch.from_numpy(pictures).permute(0, 3, 1, 2), label_tokens(scene, times[0], times[-1])

    def _batch(self, videos: Sequence[Tensor], labels: list[dict[str, Tensor]]) -> dict[str, Any]:
        media = self.processor.video_processor(videos, return_tensors="pt", do_sample_frames=False)
        stacked = {name: torch.stack([x[name] for x in labels]) for name in labels[0]}
        return {
            "media": {name: value for name, value in media.items() if isinstance(value, Tensor)},
            "presence": stacked["presence"],
            "targets": stacked["targets"],
            "labels": {name: stacked[name].long() for name in NUM_CLASSES},
        }
