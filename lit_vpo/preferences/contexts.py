"""Contexts: what the policy said about each video when it last looked, written anew in every iteration (ISR-DPO).

c_t ~ policy(video, c_{t-1}) and c_0 from a plain prompt (arXiv 2406.11280; methods.md 2.1 of the design). The paper's
prompts are not public: the defaults are ours, from the criteria of VLM-RLAIF's judge by the same group.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, Literal, TypeAlias, get_args

Row: TypeAlias = dict[str, Any]
Oracle: TypeAlias = Callable[[dict[str, Any]], str]
"""The true description of a record's video."""
ContextSource: TypeAlias = Literal["own", "none", "stale", "other", "oracle"]
SOURCES: tuple[ContextSource, ...] = get_args(ContextSource)


@dataclass(frozen=True)
class RetrospectionPrompts:
    """Wordings; texts stand in the place of names in braces.

    Attributes:
        first_context: Asks for c_0.
        next_context: Asks for c_t; `{context}` is c_{t-1}.
        description: How a judge is told the `{context}`; left out where it has none.
        judge: Asks for a verdict; `{description}`, `{question}`, `{first}` and `{second}`.
        verdicts: The verdict for the first response and for the second one, whose log-likelihoods are compared. They
            may quote `{first}` and `{second}`, or be nothing else: a small model learns to write the better text where
            it does not learn to name its number.
        length_penalty: Log-likelihoods are divided by the verdicts' numbers of tokens to this power, as in the beam
            search of transformers: 0 compares sums, 1 means per token. It matters where verdicts differ in length.

    Raises:
        ValueError: A name in braces that is missing or unknown, two equal verdicts, or a penalty outside [0, 1].
    """

    first_context: str = (
        "Describe this video in detail: people and objects, attributes, actions in temporal order, visible text, scene."
    )
    next_context: str = (
        "Here is a previous description of the video: {context}\nWatch the video again, correct mistakes, remove what "
        "is not visible, add missing details. Write the improved description."
    )
    description: str = "Video description: {context}\n"
    judge: str = (
        "{description}Question: {question}\nResponse 1: {first}\nResponse 2: {second}\nWhich response is better "
        "grounded in the video (accurate, helpful, natural, concise)? Answer with 'My choice is Response 1' or 'My "
        "choice is Response 2'."
    )
    verdicts: tuple[str, str] = ("My choice is Response 1", "My choice is Response 2")
    length_penalty: float = 0.0

    def __post_init__(self) -> None:
        slots: dict[str, set[str]] = {"first_context": set(), "next_context": {"context"}, "description": {"context"}}
        slots["judge"] = {"description", "question", "first", "second"}
        for name, wanted in slots.items():
            if (found := _slots(getattr(self, name))) != wanted:
                raise ValueError(f"prompts.{name} must have the slots {sorted(wanted)}, got {sorted(found)}")
        for verdict in self.verdicts:
            if unknown := _slots(verdict) - {"first", "second"}:
                raise ValueError(f"prompts.verdicts may have the slots first and second, got {sorted(unknown)}")
        if self.verdicts[0].strip() == self.verdicts[1].strip() or not all(map(str.strip, self.verdicts)):
            raise ValueError(f"prompts.verdicts must be two different texts, got {self.verdicts}")
        if not 0 <= self.length_penalty <= 1:
            raise ValueError(f"prompts.length_penalty must be in [0, 1], got {self.length_penalty}")

    def context(self, previous: str | None) -> str:
        """Asks for a description, or for a better one than the previous."""
        return self.first_context if previous is None else self.next_context.format(context=previous)

    def question(self, question: str, context: str | None, first: str, second: str) -> str:
        """Asks which of two responses is better."""
        description = "" if context is None else self.description.format(context=context)
        return self.judge.format(description=description, question=question, first=first, second=second)

    def options(self, first: str, second: str) -> list[str]:
        """The two verdicts on two responses."""
        return [verdict.format(first=first, second=second) for verdict in self.verdicts]

    def scores(self, logps: Sequence[float], num_tokens: Sequence[int]) -> tuple[float, float]:
        """What the verdicts are compared by, of their log-likelihoods and lengths."""
        first, second = (logp / num**self.length_penalty for logp, num in zip(logps, num_tokens, strict=True))
        return first, second


def _slots(template: str) -> set[str]:
    return {slot for _, slot, _, _ in Formatter().parse(template) if slot is not None}


def context_prompts(
    keys: Sequence[str], previous: Mapping[str, Row], prompts: RetrospectionPrompts, source: ContextSource
) -> list[Row]:
    """Overlay rows that ask for the contexts of an iteration.

    Args:
        keys: Of its videos.
        previous: Context rows of the iteration before, by key; a video without one begins with c_0.
        prompts: Wordings.
        source: `stale` asks about videos without a context alone, `none` and `oracle` about no video.
    """
    if source in ("none", "oracle"):
        return []
    asked = [key for key in sorted(set(keys)) if source != "stale" or key not in previous]
    before = {key: previous[key]["context"] if key in previous else None for key in asked}
    return [
        {"key": key, "id": key, "prompt": prompts.context(before[key]), "history": [], "context_prev": before[key]}
        for key in asked
    ]


def context_rows(answers: Sequence[Row], iteration: int) -> dict[str, Row]:
    """Context rows, by key, of the answers to `context_prompts`: an overlay that holds the per-video state.

    Args:
        answers: Rows with `response` and `finished`.
        iteration: From 1.
    """
    kept = ("key", "id", "context_prev", "finished", "model")
    return {
        row["key"]: {name: row[name] for name in kept if name in row}
        | {"context": row["response"].strip(), "iteration": iteration}
        for row in answers
    }


class JudgeContexts:
    """Which context a judge reads about each record's video.

    Args:
        source: `own` (the video's), `stale` (its first), `other` (that of the next video in the order of keys), `none`,
            or `oracle`.
        contexts: Context rows by key.
        oracle: Gives the true description.

    Raises:
        ValueError: An unknown source, or another video's context where there is but one.
    """

    def __init__(self, source: ContextSource, contexts: Mapping[str, Row], oracle: Oracle) -> None:
        check_source(source)
        self.source, self.contexts, self.oracle = source, contexts, oracle
        keys = sorted(contexts)
        if source == "other" and len(keys) < 2:
            raise ValueError(f"context: other needs the contexts of two videos or more, got {len(keys)}")
        self.others = dict(zip(keys, keys[1:] + keys[:1], strict=True))

    def of(self, record: Row) -> tuple[str | None, str | None]:
        """The context to judge a record's answers by, and the one before it.

        Raises:
            ValueError: There is none of its video.
        """
        if self.source == "none":
            return None, None
        if self.source == "oracle":
            return self.oracle(record), None
        key = record["key"]
        if key not in self.contexts:
            raise ValueError(f"video {key!r} has no context, so its answers cannot be judged by it; make it anew")
        row = self.contexts[self.others[key] if self.source == "other" else key]
        return row["context"], row.get("context_prev")


def check_source(source: str) -> None:
    """Refuse an unknown source of contexts.

    Raises:
        ValueError: It is unknown.
    """
    if source not in SOURCES:
        raise ValueError(f"context must be one of {', '.join(SOURCES)}, got {source!r}")


def true_events(record: Row) -> str:
    """A record's visible events, a sentence each in their order; its ground truth where it has no events.

    Raises:
        ValueError: It has neither.
    """
    events = record.get("events")
    if events is None and not record.get("ground_truth"):
        raise ValueError(f"context: oracle needs events or ground_truth; record {record.get('id')!r} has neither")
    if events is None:
        return str(record["ground_truth"])
    texts = [str(event["text"]).strip().rstrip(".") for event in events if event.get("modality") != "audio"]
    return " ".join(f"{text[:1].upper()}{text[1:]}." for text in texts) or "Nothing happens."
