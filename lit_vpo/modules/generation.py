"""Answers to prompts, greedy or sampled; a sample's randomness belongs to its record, not to its batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_vpo.batch import IGNORE, PromptBatch
from lit_vpo.models import Family
from lit_vpo.randomness import generator


class Decoding(NamedTuple):
    """How answers are drawn.

    Attributes:
        max_new_tokens: Longest answer.
        temperature: None takes the likeliest token.
        top_p: Sample among the likeliest tokens that together have this probability.
        never: Tokens that are not drawn, whatever their probability.
        repetition_penalty: Divides the positive logits of tokens that stand in the prompt or in the answer so far, and
            multiplies the negative ones (CTRL, arXiv 1909.05858; as in transformers, where the prompt counts too); 1
            changes nothing.
    """

    max_new_tokens: int
    temperature: float | None = None
    top_p: float = 1.0
    never: tuple[int, ...] = ()
    repetition_penalty: float = 1.0


PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")


class AddressedSampling:
    """Logits processor that turns greedy search into sampling: argmax(logits / T + Gumbel noise) is a sample.

    Each row has a generator of its own, so a record's answer depends neither on its neighbours nor on the global
    generator. (Gumbel-max trick: Maddison et al., arXiv 1411.0030.)

    Args:
        addresses: One per row.
        temperature: Divides the logits.
        top_p: Keep the smallest set of tokens that has this probability.
    """

    def __init__(self, addresses: Sequence[tuple[object, ...]], temperature: float, top_p: float) -> None:
        self.generators = [generator(*address) for address in addresses]
        self.temperature, self.top_p = temperature, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (R, V) to noisy scores (R, V)."""
        scores = keep_top_p(scores.float() / self.temperature, self.top_p)
        uniform = torch.stack([torch.rand(scores.shape[1], generator=g, dtype=torch.float64) for g in self.generators])
        gumbel = -torch.log(-torch.log(uniform.clamp_min(1e-300)))
        return scores + gumbel.to(scores)


def keep_top_p(scores: Tensor, top_p: float) -> Tensor:
    """Minus infinity outside the smallest set of tokens whose probability reaches `top_p`.

    Args:
        scores: (R, V) logits.
        top_p: In (0, 1].
    """
    if top_p >= 1:
        return scores
    ordered, order = scores.sort(dim=-1, descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # probability of the tokens in front: the first has 0
    return scores.masked_fill(torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, before >= top_p), -torch.inf)


@torch.no_grad()
def generate(
    net: Any,
    family: Family,
    inputs: dict[str, Any],
    tokenizer: Any,
    decoding: Decoding,
    addresses: Sequence[tuple[object, ...]],
    num_candidates: int = 1,
) -> list[list[int]]:
    """Continue left-padded prompts; a prompt is computed once for all its candidates.

    Args:
        net: The network without adapter wrapper, in eval mode.
        family: Its family.
        inputs: Tokens and pre-encoded videos, as its forward takes them.
        tokenizer: Its eos token ends an answer.
        decoding: How they are drawn.
        addresses: One per prompt, of its first candidate's randomness; the others append their number.
        num_candidates: Answers to each prompt.

    Returns:
        Per candidate, those of a prompt together, the answer's tokens, the last one eos if it ended by itself.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,  # sampling is argmax of noisy logits, see above
        num_beams=1,
        # explicit: unset values would come from the checkpoint's generation_config; applied before the sampling's noise
        repetition_penalty=float(decoding.repetition_penalty),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad_token(tokenizer),
        suppress_tokens=list(decoding.never) or None,
    )
    processors = LogitsProcessorList()
    if decoding.temperature is not None:
        each = [(*address, c) if c else address for address in addresses for c in range(num_candidates)]
        processors.append(AddressedSampling(each, decoding.temperature, decoding.top_p))
    rows = prefilled(net, family, inputs, num_candidates, decoding.max_new_tokens)
    ids = net.generate(**rows, generation_config=settings, logits_processor=processors)
    answers: list[list[int]] = ids[:, inputs["input_ids"].shape[1] :].tolist()
    eos = tokenizer.eos_token_id
    return [answer[: answer.index(eos) + 1] if eos in answer else answer for answer in answers]


def answer_rows(record: dict[str, Any], answers: Sequence[tuple[str, bool]]) -> list[dict[str, Any]]:
    """A prompt's record with `response` and `finished`, once for each answer.

    Args:
        record: Of the prompt.
        answers: Text, and whether it ended by itself. Several give rows with an `id` of their own, the prompt's as
            `prompt_id`, and a number as `candidate`.
    """
    rows = []
    for number, (text, finished) in enumerate(answers):
        own = {"id": f"{record['id']}/candidate-{number}", "prompt_id": record["id"], "candidate": number}
        rows.append(record | (own if len(answers) > 1 else {}) | {"response": text, "finished": finished})
    return rows


def prefilled(
    net: Any, family: Family, inputs: dict[str, Any], num_candidates: int, max_new_tokens: int
) -> dict[str, Any]:
    """Prompts whose keys and values are known but for the last token, each repeated for its candidates.

    Args:
        net: As in `generate`.
        family: As in `generate`.
        inputs: Of R prompts.
        num_candidates: Rows of each prompt.
        max_new_tokens: As in `generate`.

    Returns:
        What `net.generate` goes on from, R * num_candidates rows.
    """
    from lit_vpo.models.roomy_cache import give_room

    positions = family.position_ids(net, inputs)  # (..., R, S)
    # the last token is left for generate(), which wants at least one; no video stands there
    known = {name: value[:, :-1] if name in PER_TOKEN else value for name, value in inputs.items()}
    cache = family.prefill(net, known | {"position_ids": positions[..., :-1]})
    give_room(cache, num_candidates, max_new_tokens + 1)
    rows = {name: inputs[name].repeat_interleave(num_candidates, 0) for name in ("input_ids", "attention_mask")}
    return rows | {"position_ids": positions.repeat_interleave(num_candidates, -2), "past_key_values": cache}


def pad_token(tokenizer: Any) -> int:
    """What fills rows up: the tokenizer's pad token, or eos where it has none."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def decoded(tokenizer: Any, answer: list[int]) -> tuple[str, bool]:
    """An answer's text without special tokens, and whether it ended by itself."""
    finished = answer[-1:] == [tokenizer.eos_token_id]
    return tokenizer.decode(answer[:-1] if finished else answer, skip_special_tokens=True), finished


def with_answers(batch: PromptBatch, answers: Sequence[list[int]], pad: int) -> dict[str, Any]:
    """Prompts and an answer to each as rows to score, token by token what was drawn (text might split otherwise).

    Args:
        batch: R prompts on the CPU.
        answers: Tokens of R answers.
        pad: The token that fills rows up.

    Returns:
        The batch with right-padded rows and labels.
    """
    given = batch["attention_mask"].bool()
    new = [torch.tensor(answer) for answer in answers]
    fill = {"input_ids": pad, "attention_mask": 0, "labels": IGNORE, "mm_token_type_ids": 0}
    ends = {"input_ids": new, "attention_mask": [torch.ones_like(each) for each in new], "labels": new}
    starts = dict[str, Any](batch) | {"labels": torch.full_like(batch["input_ids"], IGNORE)}
    rows = {}
    for name in fill.keys() & starts.keys():
        tails = ends.get(name, [torch.zeros_like(each) for each in new])
        joined = [torch.cat([row[kept], tail]) for row, kept, tail in zip(starts[name], given, tails, strict=True)]
        rows[name] = pad_sequence(joined, batch_first=True, padding_value=fill[name])
    return starts | rows
