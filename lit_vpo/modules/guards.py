"""Guards that stop a wrong run at its first step; each says what is wrong and where to look."""

import math
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn

from lit_vpo.models.registry import video_token


def check_finite(logps: Tensor, name: str) -> None:
    """Refuse infinite or undefined log-probabilities.

    Args:
        logps: Any shape.
        name: Whose they are, for the message.

    Raises:
        ValueError: If one is not finite.
    """
    wrong = int((~torch.isfinite(logps)).sum())
    if wrong:
        raise ValueError(
            f"{wrong} of {logps.numel()} log-probabilities of the {name} are not finite; check the base's weights and "
            "dtype (float16 overflows where bfloat16 does not)"
        )


def check_same_as_reference(policy: Tensor, reference: Tensor, tolerance: float) -> None:
    """A fresh adapter changes nothing: policy and reference agree on every token.

    Args:
        policy: (N,) logps of response tokens.
        reference: (N,) the reference's.
        tolerance: Largest difference allowed.

    Raises:
        ValueError: If they differ by more.
    """
    largest = float((policy - reference).abs().max())
    if not largest <= tolerance:
        raise ValueError(
            f"policy and reference differ by {largest:.2e} on a token before the first step (tolerance "
            f"{tolerance:.0e}), so the reference is not the policy's starting point: is an adapter stacked unmerged, a "
            "dropout on, or are weights trained outside the adapter? (Only where bf16 kernels round by batch shape, "
            "raise reference_tolerance.)"
        )


def check_ln2(loss: float, tolerance: float) -> None:
    """Equal policy and reference give -log sigmoid(0).

    Args:
        loss: Mean DPO loss of the first batch.
        tolerance: Largest difference allowed.

    Raises:
        ValueError: If it is not ln 2.
    """
    if not abs(loss - math.log(2)) <= tolerance:
        raise ValueError(
            f"loss/dpo is {loss:.6f} before the first step, and should be ln 2 = 0.693147: the reference is wrong"
        )


def check_video_matters(logps: Tensor, blank_logps: Tensor) -> None:
    """Blanking the video must change the log-probabilities, or the model does not see it.

    Args:
        logps: (N,) with the video.
        blank_logps: (N,) with every pixel blank.

    Raises:
        ValueError: If nothing changes.
    """
    if torch.equal(logps, blank_logps):
        raise ValueError(
            "blanking the video changes no log-probability: the model does not see it; check that the prompts hold "
            "video placeholders and that the processor belongs to the model"
        )


def check_frozen(before: str, after: str) -> None:
    """Frozen weights keep their hash.

    Args:
        before: Hash when training began.
        after: Hash now.

    Raises:
        ValueError: If they differ.
    """
    if before != after:
        raise ValueError(
            f"frozen weights changed during training (hash {before[:12]} became {after[:12]}): something writes to "
            "them; the reference and the checkpoint would be wrong"
        )


def check_ranks_agree(own: str, first: str) -> None:
    """Every rank starts from the frozen weights of rank 0, which under LoRA are the reference too.

    Args:
        own: This rank's hash.
        first: Rank 0's.

    Raises:
        ValueError: If they differ.
    """
    if own != first:
        raise ValueError(
            f"the frozen weights of this rank (hash {own[:12]}) are not those of rank 0 ({first[:12]}): give every "
            "node the same model, adapter and init_from"
        )


def switch_dropout_off(net: nn.Module) -> int:
    """Set every dropout of a network to 0, as policy = reference at step 0 needs.

    Returns:
        How many were above 0.
    """
    changed = 0
    for module in net.modules():
        # transformers keeps attention dropout as a float attribute of the layer, under one of these names
        for name in ("p", "attention_dropout", "dropout"):
            value = getattr(module, name, None)
            if isinstance(value, float) and value > 0 and (name != "p" or isinstance(module, nn.Dropout)):
                setattr(module, name, 0.0)
                changed += 1
    return changed


def check_rows(batch: Any, features: list[Tensor], config: Any, needs_token_types: bool) -> None:
    """Every row holds as many placeholders as its video has features, and fits the model whole.

    Args:
        batch: Rows (`lit_vpo.batch.Rows`).
        features: (num_tokens, ...) of each of the V videos.
        config: Of the network.
        needs_token_types: Whether the family places videos by `mm_token_type_ids`.

    Raises:
        ValueError: If they differ, if a row was cut or is longer than the model's positions, or if token types are
            missing where the family places videos by them.
    """
    lengths = [len(each) for each in features]
    expected = [lengths[video] if video >= 0 else 0 for video in batch["video_index"].tolist()]
    found = (batch["input_ids"] == video_token(config)).sum(1).tolist()
    if found != expected:
        raise ValueError(
            f"rows hold {found} video placeholders where their videos make {expected} features: was a row truncated? "
            "Media must never be cut; lower num_frames or size instead"
        )
    longest, most = batch["input_ids"].shape[1], config.get_text_config().max_position_embeddings
    if longest > most:
        raise ValueError(
            f"a row of {longest} tokens is longer than the model's {most} positions; lower num_frames or size (videos "
            f"take {max(lengths)} tokens here), leave out the longest responses, or shorten contexts (max_new_tokens)"
        )
    if needs_token_types and features and "mm_token_type_ids" not in batch:
        raise ValueError(
            "the batch has no mm_token_type_ids, without which this family's positions are silently those of text; "
            "let the model's own processor make them (lit_vpo.datamodules.Collator does)"
        )


def check_windows(trainer: Trainer) -> None:
    """Batches carry what their optimizer step holds, which the loader knows for a fixed accumulation alone.

    Args:
        trainer: When training starts.

    Raises:
        ValueError: If the accumulation changes in the course of training, or an epoch is limited within a step.
    """
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise ValueError(
            "means over an optimizer step need a fixed accumulation: set trainer.accumulate_grad_batches instead of a "
            "GradientAccumulationScheduler that changes it"
        )
    accumulate, num_batches = trainer.accumulate_grad_batches, trainer.num_training_batches
    if trainer.limit_train_batches != 1.0 and num_batches % accumulate:
        raise ValueError(
            f"trainer.limit_train_batches cuts the epoch to {num_batches} batches, no multiple of "
            f"accumulate_grad_batches ({accumulate}), so its last step would be weighed wrongly; make it a multiple"
        )
