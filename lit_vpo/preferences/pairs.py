"""Preference pairs from generations: the answer to the clean video against the answers to its perturbed forms.

One builder serves both forms. In video form the policy was asked the pair's prompt itself; in the released form it
wrote from a list of captions, and the row says in `meta.asked` which question about the video its answer stands for.
The rules are TEMPO's (arXiv 2503.16929 and its released conversion script). Lengths are in characters, as there.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from lit_vpo.metrics.answers import plain_answer
from lit_vpo.protocols import CaptionScorer
from lit_vpo.randomness import seed_of

from .registry import resolve

Row: TypeAlias = dict[str, Any]
Filter: TypeAlias = Callable[[Row, Row], bool]
"""(generation of the clean video, generation of a perturbed one) -> whether the pair must be dropped."""

_MAX_LENGTH_RATIO = 1.5  # of characters, released
_MATCHED_LENGTH = 1.1  # of words, ours


def unfinished(chosen: Row, rejected: Row) -> bool:
    """An answer was cut by the token limit."""
    return not (chosen["finished"] and rejected["finished"])


def empty(chosen: Row, rejected: Row) -> bool:
    """An answer has no text."""
    return not (_text(chosen) and _text(rejected))


def not_available(chosen: Row, rejected: Row) -> bool:
    """An answer is "N/A"."""
    return "N/A" in (_text(chosen), _text(rejected))


def no_option(chosen: Row, rejected: Row) -> bool:
    """The chosen answer to a question is none of its options; right or wrong is not looked at."""
    options = chosen.get("meta", {}).get("options")
    return options is not None and plain_answer(_text(chosen)) not in map(plain_answer, options)


def equal(chosen: Row, rejected: Row) -> bool:
    """Both answers are the same text."""
    return _text(chosen) == _text(rejected)


def drop_not_shorter(chosen: Row, rejected: Row) -> bool:
    """The answer to a video with dropped units is as long as the one to the whole video."""
    return _kind(rejected) == "drop" and len(_text(chosen)) <= len(_text(rejected))


def chosen_in_rejected(chosen: Row, rejected: Row) -> bool:
    """The rejected answer says all that the chosen one says, word for word."""
    return _text(chosen) in _text(rejected)


def length_ratio(chosen: Row, rejected: Row) -> bool:
    """Order alone was perturbed, yet one answer is more than 1.5 times as long as the other."""
    shorter, longer = sorted((len(_text(chosen)), len(_text(rejected))))
    return _kind(rejected) in ("shuffle", "reverse") and longer > _MAX_LENGTH_RATIO * shorter


def lengths_differ(chosen: Row, rejected: Row) -> bool:
    """One answer has over 10 % more words than the other: a control (ours), whose pairs cannot teach length."""
    fewer, more = sorted(len(_text(row).split()) for row in (chosen, rejected))
    return more > _MATCHED_LENGTH * fewer


_DEFAULT = (unfinished, empty, not_available, no_option, equal, drop_not_shorter, chosen_in_rejected, length_ratio)
FILTERS: dict[str, Filter] = {rule.__name__: rule for rule in (*_DEFAULT, lengths_differ)}
DEFAULT_FILTERS = tuple(rule.__name__ for rule in _DEFAULT)


def get_filter(name: str) -> Filter:
    """A shipped filter by name, or one of the user's own by dotted path.

    Raises:
        ValueError: If there is none of that name.
    """
    return resolve("pair filter", name, FILTERS)


def build_pairs(
    generations: Sequence[Row],
    filters: Sequence[str] = DEFAULT_FILTERS,
    max_pairs_per_video: int | None = None,
    seed: int = 0,
) -> tuple[list[Row], list[Row]]:
    """Pairs each perturbed video's answer with that of the clean video, for the same key and question.

    Args:
        generations: Rows of `predict`: a prompt's record with `response`, `finished`, `model` and `sampling`;
            `perturbation` is None on clean ones.
        filters: Names or dotted paths, tried in order; the first that objects drops the pair.
        max_pairs_per_video: Keep at most this many pairs of a key, drawn at random; None keeps all.
        seed: With the pair's id the address of that draw.

    Returns:
        Pairs, as overlay rows for training on the clean video, whatever the prompt showed ({key, id, prompt, chosen,
        rejected, mode, r, difficulty, perturbation, meta}; `meta` names the policy and its sampling), and dropped ones,
        the same rows with `reason`: the filter's name, `no_clean_answer` or `max_pairs_per_video`.

    Raises:
        ValueError: If a filter is unknown, a key and prompt have two clean answers, or max_pairs_per_video < 1.
    """
    if max_pairs_per_video is not None and max_pairs_per_video < 1:
        raise ValueError(f"max_pairs_per_video must be >= 1 or null, got {max_pairs_per_video}")
    rules = {name: get_filter(name) for name in filters}
    clean = _clean_answers(generations)
    pairs: list[Row] = []
    dropped: list[Row] = []
    for rejected in generations:
        if rejected.get("perturbation") is None:
            continue
        chosen = clean.get((rejected["key"], asked_about(rejected)))
        reason = "no_clean_answer" if chosen is None else _objection(chosen, rejected, rules)
        pair = _pair(chosen, rejected)
        if reason is None:
            pairs.append(pair)
        else:
            dropped.append({**pair, "reason": reason})
    if max_pairs_per_video is not None:
        pairs, surplus = _limit(pairs, max_pairs_per_video, seed)
        dropped += [{**pair, "reason": "max_pairs_per_video"} for pair in surplus]
    return pairs, dropped


def pair_quality(
    pairs: Sequence[Row], scorer: CaptionScorer, records: Mapping[str, Row]
) -> dict[str, dict[str, float]]:
    """How often chosen really is better than rejected: of captions by a scorer, of questions by the right option.

    Order error is discordant over matched pairs of events; where one of the captions has no matched pair, and in
    answers to questions, the comparison is undefined. Event error is missed + incorrect + hallucinated; that of a
    question is 1 where the answer is wrong. For each of the two the shares add up to 1.

    Args:
        pairs: Of `build_pairs`.
        scorer: Counts the errors of a caption against a record.
        records: By the pair's id, with the truth that the scorer needs; a question's has `ground_truth` and
            `meta.options`.

    Returns:
        For `all`, for the captions of each kind of perturbation and for `questions`: `num_pairs`, `order_better`,
        `order_tied`, `order_worse`, `order_undefined`, `error_better`, `error_tied`, `error_worse` (from chosen's point
        of view).

    Raises:
        ValueError: If there is no pair, or a pair's record is missing.
    """
    missing = sorted({pair["id"] for pair in pairs} - set(records))
    if missing or not pairs:
        raise ValueError(f"{len(missing)} of {len(pairs)} pairs have no record: {missing[:5]}; need all, and a pair")
    verdicts: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for pair in pairs:
        record = records[pair["id"]]
        is_question = "options" in record.get("meta", {})
        chosen, rejected = (_errors(pair[side], record, is_question, scorer) for side in ("chosen", "rejected"))
        verdict = f"order_{_verdict(chosen[0], rejected[0])}", f"error_{_verdict(chosen[1], rejected[1])}"
        verdicts["all"].append(verdict)
        verdicts["questions" if is_question else pair["perturbation"]["kind"]].append(verdict)
    return {kind: _shares(found) for kind, found in verdicts.items()}


def _text(row: Row) -> str:
    text: str = row["response"]
    return text.strip()


def asked_about(row: Row) -> str:
    """The question about the video that an answer stands for."""
    asked: str = row.get("meta", {}).get("asked") or row["prompt"]
    return asked


def _kind(row: Row) -> str:
    kind: str = row["perturbation"]["kind"]
    return kind


def _clean_answers(generations: Sequence[Row]) -> dict[tuple[str, str], Row]:
    clean: dict[tuple[str, str], Row] = {}
    for row in generations:
        if row.get("perturbation") is None:
            address = row["key"], asked_about(row)
            if address in clean:
                raise ValueError(
                    f"key {row['key']!r} has two clean answers to one prompt; generate one per key and prompt"
                )
            clean[address] = row
    return clean


def _objection(chosen: Row, rejected: Row, rules: Mapping[str, Filter]) -> str | None:
    return next((name for name, must_drop in rules.items() if must_drop(chosen, rejected)), None)


def _pair(chosen: Row | None, rejected: Row) -> Row:
    source = chosen or rejected
    meta = {**source.get("meta", {}), "model": source.get("model"), "sampling": source.get("sampling")}
    return {
        "key": rejected["key"],
        "id": rejected["id"],
        "prompt": asked_about(rejected),
        "chosen": None if chosen is None else _text(chosen),
        "rejected": _text(rejected),
        "mode": "dpo",
        "r": rejected.get("r"),
        "difficulty": rejected.get("difficulty"),
        "perturbation": rejected["perturbation"],
        "meta": meta,
    }


def _limit(pairs: list[Row], limit: int, seed: int) -> tuple[list[Row], list[Row]]:
    ranked: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for pair in pairs:
        lot = seed_of(seed, "max_pairs_per_video", pair["id"])
        ranked[pair["key"]].append((lot, pair["id"]))
    kept = {name for lots in ranked.values() for _, name in sorted(lots)[:limit]}
    return [p for p in pairs if p["id"] in kept], [p for p in pairs if p["id"] not in kept]


def _errors(text: str, record: Row, is_question: bool, scorer: CaptionScorer) -> tuple[float | None, float]:
    """Order error, None where it is undefined, and event error."""
    if is_question:
        return None, float(plain_answer(text) != plain_answer(record["ground_truth"]))
    counts = scorer(text, record)
    order = counts.discordant_pairs / counts.matched_pairs if counts.matched_pairs else None
    return order, counts.missed + counts.incorrect + counts.hallucinated


def _verdict(chosen: float | None, rejected: float | None) -> str:
    if chosen is None or rejected is None:
        return "undefined"
    return "tied" if chosen == rejected else "better" if chosen < rejected else "worse"


def _shares(verdicts: Sequence[tuple[str, str]]) -> dict[str, float]:
    order = ("order_better", "order_tied", "order_worse", "order_undefined")
    error = ("error_better", "error_tied", "error_worse")
    shares = {name: sum(name in found for found in verdicts) / len(verdicts) for name in (*order, *error)}
    return {"num_pairs": float(len(verdicts)), **shares}
