"""Shared by every test: lit_vpo comes first (the torchvision guard), no hub, one thread, a small world on disk."""

import lit_vpo  # noqa: F401  isort: skip

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

import pathlib

import pytest
import torch

torch.set_num_threads(1)
PROCESSORS = {}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Eight clips of the train split with every mix of tasks as an overlay, two rows per clip."""
    from lit_vpo.datamodules.motion_world.shards import write_world
    from lit_vpo.datamodules.motion_world.tasks import MIXES

    out = tmp_path_factory.mktemp("world") / "train"
    write_world(out, "train", 8, 0, list(MIXES), 2)
    return out


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real clips and annotations beside the checkout; tests that need it skip where it is absent."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "videos").is_dir():
        pytest.skip("the real clips are not beside this checkout")
    return folder


def record(index, **more):
    return {
        "id": f"clip-{index}",
        "key": f"clip-{index}",
        "media": {},
        "prompt": ["Describe the video.", "What happens in the video, in detail?"][index % 2],
        "history": [],
        "ground_truth": f"a red circle moves left {index} times",
        "chosen": f"a blue square grows, then {index} spins",
        "rejected": "a star",
        "mode": "dpo",
        "weight": 1.0,
        "meta": {"options": ["left", f"a red circle moves left {index} times"], "kind": "direction"},
    } | more


@pytest.fixture
def make_batch():
    """Batches by the project's own collator, over clips of noise.

    `fps` holds the clips' rates in turn, `each` what single records have besides `more`.
    """
    from lit_vpo.datamodules import Clip, Collator
    from lit_vpo.models import load_processor

    def make(kind, name="tiny_llava_onevision", size=2, first=0, num_frames=4, **more):
        if name not in PROCESSORS:
            PROCESSORS[name] = load_processor(name)
        options = {"with_ground_truth": more.pop("with_ground_truth", False)}
        options["num_negatives"] = more.pop("num_negatives", 1)
        rates, silent = more.pop("fps", [2.0]), more.pop("text_alone", ())
        one_clip, each = more.pop("one_clip", False), more.pop("each", [{}] * size)
        rng = torch.Generator().manual_seed(first)
        examples = []
        for index in range(first, first + size):
            frames = torch.randint(0, 256, (num_frames, 3, 60, 60), generator=rng, dtype=torch.uint8)
            fps = rates[index % len(rates)]
            if index == first or not one_clip:
                clip = Clip(frames, [i / fps for i in range(num_frames)], fps)
            examples.append((record(index, **more | each[index - first]), None if index in silent else clip))
        return Collator(PROCESSORS[name], kind, **options)(examples)

    return make


@pytest.fixture
def make_verdict():
    """Verdict rows of two answers: by choices of both orders, or by the reason why nobody was asked."""

    def make(name, answers, choices=(1, 1), reason=None, **more):
        first, second = choices
        if reason is None:
            unread = None in choices
            reason = "unparsable" if unread else "inconsistent" if first != second else None
        row = {"key": name, "id": name, "prompt": "What happens?", "iteration": 1, "context": "A star spins."}
        row |= {"context_prev": None, "answers": list(answers), "finished": [True, True], "reason": reason}
        row |= {"choice": first if reason is None else None, "choices": list(choices), "raw": ["", ""], "scores": None}
        row |= {"lengths": [len(text.split()) for text in answers], "judge": {"judge": "self"}, "model": "abc"}
        return row | {"sampling": {}} | more

    return make
