"""Floating-point operations of one preference step, by formula (a multiplication and an addition are two).

    c        = 2 L (h q + 2 h k + q h + 3 h f)            one token through the layers; q, k: width of queries, of keys
    A(pairs) = 4 L q pairs                                attention; causal S has S (S + 1) / 2 pairs
    F_rows   = K [(P + R) c + A(causal(P + R))]
    F_shared = (P + K R) c + A(causal(P)) + K A(R P + causal(R))
    H        = 2 h V per position that is scored
    step     = (1 + b) F + (1 + b') H + [F + H]_reference + n E      b' = 1 (adapter: gradients of inputs), 2 (full)
                                                          b = b', + 1 with checkpointing;  E: one encoding of the video

P: prompt with video, R: each response, K = 2 responses; n = 4 encodings in TRL (two rows, policy and reference) or 2
without a reference pass, 1 in this project. The adapter's own operations are left out, on every side.
"""

from dataclasses import dataclass
from typing import Any

from pair_step.workload import GRIDS, Case, configuration

K = 2


@dataclass(frozen=True)
class Step:
    """Operations of the parts of a step."""

    rows: float  # language model, every row on its own
    shared: float  # language model, prompt once
    head: float  # output head on the positions of the responses
    head_everywhere: float  # output head on every position
    encode: float  # tower and projector, once
    backward: int  # b'
    checkpointing: int  # 1 if the forward pass is done again

    def total(self, language_model: float, head: float, reference: bool, encodings: int) -> float:
        """Operations of a step made of these parts."""
        forward = language_model + head if reference else 0.0
        trained = (1 + self.backward + self.checkpointing) * language_model + (1 + self.backward) * head
        return trained + forward + encodings * self.encode

    def ours(self, reference: bool) -> float:
        """This project: prompt and video once."""
        return self.total(self.shared, self.head, reference, 1)

    def trl(self, reference: bool, everywhere: bool) -> float:
        """TRL: the video of each row encoded anew in each pass.

        Args:
            reference: Whether the step has a reference pass.
            everywhere: Whether its head scores every position (it does where Triton does not run).
        """
        head = self.head_everywhere if everywhere else self.head
        return self.total(self.rows, head, reference, 4 if reference else 2)

    def useful(self, reference: bool) -> float:
        """What a step cannot do without: ours, nothing computed a second time."""
        return self.ours(reference) - self.checkpointing * self.shared


def step_of(case: Case) -> Step:
    """Operations of a case."""
    config = configuration(case.size)
    text: Any = config.text_config
    p, r = case.prompt, case.response
    token = _token(text)
    queries = text.hidden_size
    pair = 4 * text.num_hidden_layers * queries
    head = 2 * text.hidden_size * text.vocab_size
    return Step(
        rows=K * ((p + r) * token + pair * causal(p + r)),
        shared=(p + K * r) * token + pair * (causal(p) + K * (r * p + causal(r))),
        head=K * r * head,
        head_everywhere=K * (p + r - 1) * head,
        encode=encoding(config.vision_config, case.n_visual),
        backward=1 if case.tuning == "lora" else 2,
        checkpointing=int(case.checkpointing),
    )


def causal(length: int) -> float:
    """Query-key pairs of a causal sequence."""
    return length * (length + 1) / 2


def _token(text: Any) -> float:
    keys = text.hidden_size // text.num_attention_heads * text.num_key_value_heads
    per_layer = 2 * text.hidden_size**2 + 2 * text.hidden_size * keys + 3 * text.hidden_size * text.intermediate_size
    return 2.0 * text.num_hidden_layers * per_layer


def encoding(vision: Any, n_visual: int) -> float:
    """Tower and projector of one video.

    Args:
        vision: Configuration of the tower.
        n_visual: Tokens that come out.
    """
    merge = vision.spatial_merge_size**2
    patches, h = merge * n_visual, vision.hidden_size
    full = len(vision.fullatt_block_indexes)
    window = (vision.window_size // vision.patch_size) ** 2
    frame = patches // GRIDS[n_visual][0]
    linear = vision.depth * (2 * 4 * h * h + 2 * 3 * h * vision.intermediate_size) * patches
    attention = 4 * h * patches * (full * frame + (vision.depth - full) * min(window, frame))
    embedding = 2 * vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * h * patches
    merger = n_visual * 2 * (merge * h) * (merge * h + vision.out_hidden_size)
    return float(linear + attention + embedding + merger)
