"""What flows from the data modules to the modules: rows of text that look at videos.

A batch holds B records, R rows of text and V videos (V <= B: a record may be text alone). Every video is encoded
once; `video_index` says which one a row sees, so the chosen and the rejected answer of a pair, and the options of a
question, share theirs.
"""

from typing import Any, Literal, NotRequired, TypedDict

from torch import Tensor

IGNORE = -100  # label of every position that is not part of a response


class Rows(TypedDict):
    """R rows of text over V videos."""

    input_ids: Tensor  # (R, S) long, right-padded (left-padded in a PromptBatch)
    attention_mask: Tensor  # (R, S) long
    video_index: Tensor  # (R,) long: which of the V videos the row sees, -1 for none
    media: dict[str, Tensor]  # the processor's video tensors, concatenated over the videos on dimension 0
    mm_token_type_ids: NotRequired[Tensor]  # (R, S) long, for families that place video tokens by it
    records: list[dict[str, Any]]  # the B records, in order; V <= B, as some may be text alone


class InstructionBatch(Rows):
    """Answers to learn: R = B."""

    kind: Literal["instruction"]
    labels: Tensor  # (R, S) long: the token itself on response positions, IGNORE elsewhere
    weight: Tensor  # (B,) float


class PreferenceBatch(Rows):
    """Pairs: B chosen rows, then B rejected rows, then (has_ground_truth) B ground-truth rows."""

    kind: Literal["preference"]
    labels: Tensor  # (R, S) long, as above
    has_ground_truth: bool


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
