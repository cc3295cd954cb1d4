"""Frames with per-patch labels: what the tiny base's vision tower learns to see before it learns to speak."""

import random
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset
from typing_extensions import override

from .render import look, render
from .scene import COLOURS, GRID, SHAPES, Scene, sample_scene

NUM_CLASSES = {"colour": len(COLOURS), "shape": len(SHAPES)}
NUM_TARGETS = 5  # size, x, y (frame = -1 .. 1), cos and sin of the turn
_COLOURS = list(COLOURS)


def label_patches(scene: Scene, t: float, patches: int) -> dict[str, Any]:
    """What each patch should tell about the actor in its cell of the 3 x 3 grid at `t` seconds.

    All patches of a cell carry the same labels, because the language model sees them pooled.

    Args:
        scene: The clip.
        t: Seconds.
        patches: Patches per side, a multiple of 3.

    Returns:
        presence (P,) float, colour and shape (P,) long with -1 where nobody is, targets (P, 5) float; P = patches**2.
    """
    presence = np.zeros((GRID, GRID), np.float32)
    classes = {name: np.full((GRID, GRID), -1) for name in NUM_CLASSES}
    targets = np.zeros((GRID, GRID, NUM_TARGETS), np.float32)
    for index in range(len(scene.actors)):
        state = look(scene, index, t)
        if state.visible:
            cell = tuple(min(GRID - 1, max(0, int(v * GRID))) for v in (state.y, state.x))
            presence[cell] = 1
            classes["colour"][cell] = _COLOURS.index(state.colour)
            classes["shape"][cell] = SHAPES.index(state.shape)
            targets[cell] = (state.size, 2 * state.x - 1, 2 * state.y - 1, *state.turned)
    spread = patches // GRID
    flat = {
        name: torch.from_numpy(a.repeat(spread, 0).repeat(spread, 1).reshape(patches**2, *a.shape[2:]))
        for name, a in {"presence": presence, "targets": targets, **classes}.items()
    }
    return {"presence": flat["presence"], "targets": flat["targets"], "labels": {n: flat[n].long() for n in NUM_CLASSES}}


class _PatchStream(IterableDataset[dict[str, Any]]):
    """Endless batches; worker w of W takes the scenes w, w + W, ... of the split."""

    def __init__(self, module: "PatchDataModule", split: Any) -> None:
        from lit_vpo.models.loading import load_processor

        self.module, self.split = module, split
        self.processor = load_processor(module.model).video_processor

    @override
    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = torch.utils.data.get_worker_info()
        index, stride = (info.id, info.num_workers) if info else (0, 1)
        while True:
            frames, labels = [], []
            for _ in range(self.module.clips_per_batch):
                scene = sample_scene(self.split, self.module.seed, index)
                rng = random.Random(f"patches/{scene.key}")
                video = render(scene, self.module.size)
                picks = rng.sample(range(len(video)), self.module.frames_per_clip)
                frames += [video[i] for i in picks]
                labels += [label_patches(scene, i / 8, self.module.patches) for i in picks]
                index += stride
            yield self._batch(np.stack(frames), labels)

    def _batch(self, frames: Any, labels: list[dict[str, Any]]) -> dict[str, Any]:
        video = torch.from_numpy(frames).permute(0, 3, 1, 2)
        pixels = self.processor([video], return_tensors="pt", do_sample_frames=False)["pixel_values_videos"][0]
        return {
            "pixel_values": pixels,
            "presence": torch.stack([x["presence"] for x in labels]),
            "targets": torch.stack([x["targets"] for x in labels]),
            "labels": {name: torch.stack([x["labels"][name] for x in labels]) for name in NUM_CLASSES},
        }


class PatchDataModule(pl.LightningDataModule):
    """Endless rendered frames with per-patch labels for `TowerModule`.

    Args:
        model: Whose video processor prepares the frames; the command line links it to the module's.
        patches: Patches per frame side, a multiple of 3.
        size: Side of the rendered frames in pixels, before the processor.
        clips_per_batch: Clips in a batch.
        frames_per_clip: Random frames of each.
        seed: Which clips of the train split.
        num_workers: Processes that render.

    Raises:
        ValueError: If `patches` is not a positive multiple of 3.
    """

    def __init__(
        self,
        model: str,
        patches: int = 6,
        size: int = 64,
        clips_per_batch: int = 32,
        frames_per_clip: int = 4,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if patches < GRID or patches % GRID:
            raise ValueError(f"patches must be a positive multiple of {GRID} (the grid of the world), got {patches}")
        self.model, self.patches, self.size, self.seed = model, patches, size, seed
        self.clips_per_batch, self.frames_per_clip, self.num_workers = clips_per_batch, frames_per_clip, num_workers

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_PatchStream(self, "train"), batch_size=None, num_workers=self.num_workers)
