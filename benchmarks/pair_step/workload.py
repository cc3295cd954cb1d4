"""The same work for every side: network sizes, weights by seed, one pair of one video."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

import lit_vpo  # noqa: F401  (guards torchvision before anything imports it)
from lit_vpo.batch import IGNORE, PreferenceBatch
from lit_vpo.lora import LoRASettings, lora_layers, reset_adapter
from lit_vpo.modules.start import mark_trainable

LORA = LoRASettings(r=8, alpha=16)
BETA = 0.1
TEXT = 48  # tokens of the prompt beside the video
VIDEO, START, END = 5, 6, 7  # token ids; text is drawn from above FIRST
FIRST = 10
GRIDS = {16: (1, 8, 8), 512: (8, 16, 16), 1568: (8, 28, 28), 4096: (16, 32, 32)}  # patches in time, height, width


@dataclass(frozen=True)
class Case:
    """One shape: a pair of responses to one video.

    Attributes:
        size: Name in `SIZES`.
        n_visual: Visual tokens, one of `GRIDS`.
        response: Tokens of each response.
        tuning: What is trained: an adapter, or the language model with its head.
        device: `cpu` (fp32) or `cuda` (bf16).
        checkpointing: Gradient checkpointing, on every side.
        seed: Of weights and tokens.
    """

    size: str
    n_visual: int
    response: int
    tuning: Literal["lora", "full"]
    device: str = "cpu"
    checkpointing: bool = False
    seed: int = 0

    @property
    def prompt(self) -> int:
        """Tokens of the prompt, the video's among them."""
        return self.n_visual + 2 + TEXT

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return torch.bfloat16 if self.device == "cuda" else torch.float32


def _size(hidden: int, layers: int, heads: int, kv: int, ff: int, vocab: int, tower: dict[str, Any]) -> dict[str, Any]:
    half = hidden // heads // 2
    sections = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    text = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    text |= {"num_key_value_heads": kv, "intermediate_size": ff, "vocab_size": vocab, "rope_parameters": rope}
    text |= {"max_position_embeddings": 32768, "attention_dropout": 0.0, "tie_word_embeddings": False}
    fixed = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112}
    vision = fixed | {"tokens_per_second": 2, "out_hidden_size": hidden} | tower
    return {"text_config": text, "vision_config": vision}


def _tower(hidden: int, ff: int, depth: int, heads: int, full: list[int]) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": ff,
        "depth": depth,
        "num_heads": heads,
        "fullatt_block_indexes": full,
    }


_QWEN = _tower(1280, 3420, 32, 16, [7, 15, 23, 31])  # the tower of Qwen2.5-VL-3B and -7B
SIZES = {
    "tiny": _size(64, 2, 4, 2, 128, 500, _tower(32, 64, 2, 2, [1])),
    "60m": _size(512, 8, 8, 2, 1408, 32000, _tower(256, 512, 6, 4, [2, 5])),
    "3b": _size(2048, 36, 16, 2, 11008, 151936, _QWEN),
    "7b": _size(3584, 28, 28, 4, 18944, 152064, _QWEN),
}


def configuration(size: str) -> Any:
    """Qwen2.5-VL of a size."""
    from transformers import Qwen2_5_VLConfig

    tokens = {"image_token_id": VIDEO - 1, "video_token_id": VIDEO, "vision_start_token_id": START}
    return Qwen2_5_VLConfig(**SIZES[size], **tokens, vision_end_token_id=END, tie_word_embeddings=False)


def network(case: Case) -> Any:
    """Random weights, the same for one seed."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    with torch.random.fork_rng(), torch.device(case.device):
        torch.manual_seed(case.seed)
        net: Any = Qwen2_5_VLForConditionalGeneration._from_config(
            configuration(case.size), dtype=case.dtype, attn_implementation="sdpa"
        )
    return net


def train_language_model(net: Any) -> None:
    """Full tuning: language model and head; the tower stays frozen on every side."""
    mark_trainable(net, ["model.language_model", "lm_head"])


@torch.no_grad()
def step_away(net: Any, case: Case) -> None:
    """Give the policy weights of its own, the same on every side: against itself every margin would be 0."""
    if case.tuning == "full":
        for parameter in trained(net):
            parameter.mul_(1.01)
        return
    reset_adapter(net, case.seed)
    for index, (_, layer) in enumerate(lora_layers(net)):
        weight = layer.lora_B["default"].weight
        fresh = torch.randn(weight.shape, generator=torch.Generator().manual_seed(index)) * 0.02
        weight.copy_(fresh)


def trained(net: Any) -> Iterator[torch.nn.Parameter]:
    """Parameters with gradients."""
    return (p for p in net.parameters() if p.requires_grad)


def pair(case: Case) -> PreferenceBatch:
    """One preference batch: chosen, rejected, one video of noise."""
    draw = torch.Generator().manual_seed(case.seed)
    vocabulary = SIZES[case.size]["text_config"]["vocab_size"]

    def text(length: int) -> torch.Tensor:
        return torch.randint(FIRST, vocabulary, (length,), generator=draw)

    video = torch.tensor([START, *[VIDEO] * case.n_visual, END])
    prompt = torch.cat([video, text(TEXT)])
    ids = torch.stack([torch.cat([prompt, text(case.response)]) for _ in range(2)])
    labels = ids.clone()
    labels[:, : len(prompt)] = IGNORE
    grid = GRIDS[case.n_visual]
    pixels = torch.randn(4 * case.n_visual, 3 * 2 * 14 * 14, generator=draw).to(case.dtype)
    media = {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([grid])}
    media["second_per_grid_ts"] = torch.tensor([1.0])
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    rows |= {"mm_token_type_ids": (ids == VIDEO).long() * 2, "video_index": torch.zeros(2, dtype=torch.long)}
    rows |= {"weight": torch.ones(1), "is_pair": torch.ones(1)}
    move = {name: value.to(case.device) for name, value in rows.items()}
    media = {name: value.to(case.device) for name, value in media.items()}
    return PreferenceBatch(
        **move, media=media, records=[{}], video_keys=["0"], kind="preference", has_ground_truth=False
    )
