"""What flows from the data modules to the modules: rows of text that look at videos.

A batch holds B records, R rows of text and V videos. Every video is encoded
once; `video_index` says which one a row sees, so the chosen and the rejected answer of a pair, and the options of a
question, share theirs. A rejected response may look at a view of its own (a corrupted one), which is then one more of
the V videos.
"""

from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

from torch import Tensor

IGNORE = -100  # label of every position that is not part of a response


class Count(NamedTuple):
    """How much of a role an accumulation window holds, over A batches on each of W ranks, divided by A W.

    Counted from the texts before anything is decoded: a sample whose *video* turns out unusable, and a spare that
    stands in for an empty batch, are counted as planned.
    """

    sample: float  # weights of the responses (1 each, where records have none)
    token: float  # their tokens times their weights


class Rows(TypedDict):
    """R rows of text over V videos."""

    input_ids: Tensor  # (R, S) long, right-padded (left-padded in a PromptBatch)
    attention_mask: Tensor  # (R, S) long
    video_index: Tensor  # (R,) long: which of the V videos the row sees, -1 for none
    media: dict[str, Tensor]  # the processor's video tensors, concatenated over the videos on dimension 0
    video_keys: list[str]  # V hashes of the videos' frames and times, in hexadecimal
    mm_token_type_ids: NotRequired[Tensor]  # (R, S) long, for families that place video tokens by it
    records: list[dict[str, Any]]  # the B records, in order; some may be text alone


class InstructionBatch(Rows):
    """Answers to learn: R = B."""

    kind: Literal["instruction"]
    labels: Tensor  # (R, S) long: the token itself on response positions, IGNORE elsewhere
    weight: Tensor  # (B,) float
    window: NotRequired[dict[str, Count]]  # of ground_truth; training batches alone belong to a window


class PreferenceBatch(Rows):
    """Roles in blocks of B rows: chosen, rejected 1 to K - 1, then (has_ground_truth) ground truth.

    Every record of a batch has K - 1 rejected responses, the data module's `num_negatives`.
    """

    kind: Literal["preference"]
    labels: Tensor  # (R, S) long, as above
    weight: Tensor  # (B,) float
    is_pair: Tensor  # (B,) float: 1, or 0 for records of mode sft, whose ground truth stands in every role
    has_ground_truth: bool
    window: NotRequired[dict[str, Count]]  # of chosen and sft, and of ground_truth where it has rows


class PromptBatch(Rows):
    """Prompts to continue: R = B, left-padded."""

    kind: Literal["prompt"]


class QuestionBatch(Rows):
    """Questions with options: one row per option."""

    kind: Literal["question"]
    labels: Tensor  # (R, S) long, as above
    question_index: Tensor  # (R,) long: which question the row is an option of
    answer: Tensor  # (B,) long: the right option of each question


Batch = InstructionBatch | PreferenceBatch | PromptBatch | QuestionBatch
