"""How long texts are, and how far their lengths spread."""

from collections.abc import Sequence

import torch
from torch import Tensor


def word_lengths(texts: Sequence[str]) -> dict[str, Tensor]:
    """Statistics of the number of words (parts between white space) of texts.

    Args:
        texts: At least one.

    Returns:
        () float32 each: `mean`, `p10`, `p90` (quantiles, linearly interpolated) and `spread` = p90 / p10 (inf where
        p10 is 0).

    Raises:
        ValueError: Without any text.
    """
    if not texts:
        raise ValueError("word_lengths needs at least one text")
    words = torch.tensor([float(len(text.split())) for text in texts])
    p10, p90 = torch.quantile(words, torch.tensor([0.1, 0.9])).unbind()
    return {"mean": words.mean(), "p10": p10, "p90": p90, "spread": p90 / p10}
