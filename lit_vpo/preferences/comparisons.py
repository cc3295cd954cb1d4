"""Two answers to a prompt, judged in both orders: questions for the judge, rows of verdicts, and pairs.

Only a verdict that both orders agree in makes a pair; every other prompt keeps its row, with the reason.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from lit_vpo.metrics import verbosity_metrics
from lit_vpo.preferences.contexts import JudgeContexts, RetrospectionPrompts
from lit_vpo.preferences.judges.pairwise import Duel, Opinion, PairwiseJudge
from lit_vpo.preferences.judges.verdicts import parse_verdict
from lit_vpo.preferences.length_cap import cap_length_ratio

Row: TypeAlias = dict[str, Any]
ORDERS = ("12", "21")
_OF_AN_ANSWER = ("candidate", "response", "finished")
_OF_A_PAIR = ("key", "prompt", "history", "media", "ground_truth")
_OF_A_VERDICT = ("iteration", "choices", "scores", "raw")


def comparisons(candidates: Sequence[Row], contexts: JudgeContexts, iteration: int) -> list[Row]:
    """Rows of verdicts that are still to be given, one for each prompt.

    Args:
        candidates: Two rows of every prompt, as `predict` writes them with two candidates.
        contexts: What the judge may read.
        iteration: From 1.

    Returns:
        The prompt's record with `iteration`, `context`, `context_prev`, `answers`, `finished` and `lengths` (words) of
        both, and `reason`: `empty` or `equal` where there is nothing to compare, else None.

    Raises:
        ValueError: A prompt without two answers, or without its context.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in candidates:
        groups[row["prompt_id"] if "prompt_id" in row else row["id"]].append(row)
    for prompt_id, group in groups.items():
        if len(group) != 2:
            raise ValueError(f"prompt {prompt_id} has {len(group)} answers; a comparison needs two (num_candidates: 2)")
    return [_comparison(prompt_id, group, contexts, iteration) for prompt_id, group in groups.items()]


def _comparison(prompt_id: str, group: list[Row], contexts: JudgeContexts, iteration: int) -> Row:
    group = sorted(group, key=lambda row: int(row["candidate"]))
    answers = [row["response"].strip() for row in group]
    record = {name: value for name, value in group[0].items() if name not in _OF_AN_ANSWER} | {"id": prompt_id}
    context, previous = contexts.of(record)
    reason = "empty" if not all(answers) else "equal" if answers[0] == answers[1] else None
    return record | {
        "prompt_id": prompt_id,
        "iteration": iteration,
        "context": context,
        "context_prev": previous,
        "answers": answers,
        "finished": [row["finished"] for row in group],
        "lengths": [len(answer.split()) for answer in answers],
        "reason": reason,
    }


def questions(compared: Sequence[Row], prompts: RetrospectionPrompts) -> list[Row]:
    """Overlay rows that ask the policy about each comparison in both orders, one after the other.

    Args:
        compared: From `comparisons`; those with a reason are not asked about.
        prompts: Wordings. The two verdicts are the options, for a policy that scores them in place of answering.
    """
    rows = []
    for row in compared:
        if row["reason"] is not None:
            continue
        kept = {name: row[name] for name in ("key", "media", "history") if row.get(name)}
        for order in ORDERS:
            first, second = (row["answers"][int(number) - 1] for number in order)
            own = {"id": f"{row['id']}/order-{order}", "prompt_id": row["id"], "mode": "sft"}
            own["prompt"] = prompts.question(row["prompt"], row["context"], first, second)
            # a question needs a right option among its options; here nobody knows it, and nobody reads it
            options = prompts.options(first, second)
            own |= {"meta": {"options": options}, "ground_truth": options[0]}
            rows.append(kept | own)
    return rows


def read_replies(
    replies: Sequence[Row], asked: Sequence[Row], prompts: RetrospectionPrompts, whole: bool = True
) -> dict[str, Opinion]:
    """The policy's opinions on `questions`, by their ids: of scored options the likelier, else the parsed reply.

    Args:
        replies: Rows of `predict` with `response`, and `option_logps` and `option_tokens` where options were scored.
        asked: The questions.
        prompts: Their wordings, which say how options of different lengths compare.
        whole: Refuse a question without a reply; else it has no opinion (the loader put it aside, with its reason).

    Raises:
        ValueError: A question without a reply, or whose reply answers another wording, context or answer.
    """
    found = {row["id"]: row for row in replies}
    for row in asked:
        if row["id"] not in found and whole:
            raise ValueError(f"question {row['id']} has no reply; was predict cut, or its video quarantined?")
        if row["id"] in found and found[row["id"]]["prompt"] != row["prompt"]:
            raise ValueError(
                f"the reply to {row['id']} answers another question: ask anew with these answers and contexts"
            )
    answered = {name: _opinion(row, prompts) for name, row in found.items()}
    return {row["id"]: answered.get(row["id"], Opinion(None, None)) for row in asked}


def _opinion(row: Row, prompts: RetrospectionPrompts) -> Opinion:
    if "option_logps" not in row:
        return Opinion(parse_verdict(row["response"]), row["response"])
    first, second = prompts.scores(row["option_logps"], row["option_tokens"])
    return Opinion(None if first == second else 1 if first > second else 2, row["response"], (first, second))


def ask_judge(compared: Sequence[Row], judge: PairwiseJudge) -> dict[str, Opinion]:
    """A judge's opinions on both orders of each comparison, by the ids that `questions` gives them."""
    duels = {
        f"{row['id']}/order-{order}": Duel(
            row["prompt"], row["context"], (row["answers"][int(order[0]) - 1], row["answers"][int(order[1]) - 1]), row
        )
        for row in compared
        if row["reason"] is None
        for order in ORDERS
    }
    return dict(zip(duels, judge.compare(list(duels.values())), strict=True))


def verdict_rows(compared: Sequence[Row], opinions: Mapping[str, Opinion], judge: Row) -> list[Row]:
    """Comparisons with their verdicts.

    Args:
        compared: From `comparisons`.
        opinions: On both orders, by id.
        judge: Its identity.

    Returns:
        Each row with `raw` (the replies to orders 12 and 21), `choices` (the number of the answer that each prefers),
        `scores` (what the verdicts were compared by, by the answers' numbers in each order; None if nothing was
        scored), `choice` (of both orders; None without one) and its `reason`: also `unparsable` (an order named
        neither), `inconsistent`, and `unfinished` (the preferred answer was cut at the token limit, which nobody should
        learn from).
    """
    return [_judged(row, opinions) | {"judge": judge} for row in compared]


def _judged(row: Row, opinions: Mapping[str, Opinion]) -> Row:
    if row["reason"] is not None:
        return row | {"choice": None, "raw": [None, None], "choices": [None, None], "scores": None}
    straight, swapped = (opinions[f"{row['id']}/order-{order}"] for order in ORDERS)
    choices = [straight.choice, None if swapped.choice is None else 3 - swapped.choice]
    reason = None
    if None in choices:
        reason = "unparsable"
    elif choices[0] != choices[1]:
        reason = "inconsistent"
    elif not row["finished"][choices[0] - 1]:  # type: ignore[operator]
        reason = "unfinished"
    scores = None
    if straight.scores is not None and swapped.scores is not None:
        scores = [list(straight.scores), list(reversed(swapped.scores))]
    choice = choices[0] if reason is None else None
    raw = [straight.raw, swapped.raw]
    return row | {"choice": choice, "reason": reason, "raw": raw, "choices": choices, "scores": scores}


def judged_pairs(
    verdicts: Sequence[Row], round_index: int, max_length_ratio: float | None = None
) -> tuple[list[Row], list[Row]]:
    """Pairs of the verdicts with a choice; the prompt is the record's own, without any context.

    Args:
        verdicts: From `verdict_rows`.
        round_index: Written into the pairs.
        max_length_ratio: See `cap_length_ratio`.

    Returns:
        Pairs, as overlay rows, and prompts without one: {prompt_id, key, reason}.

    Raises:
        ValueError: If max_length_ratio is below 1.
    """
    pairs = {row["id"]: _pair(row, round_index) for row in verdicts if row["choice"]}
    kept, capped = cap_length_ratio(pairs.values(), max_length_ratio)
    reasons = {pair["id"]: pair["reason"] for pair in capped}
    dropped = [
        {"prompt_id": row["id"], "key": row["key"], "reason": row["reason"]} for row in verdicts if not row["choice"]
    ]
    dropped += [
        {"prompt_id": name, "key": pair["key"], "reason": reasons[pair["id"]]}
        for name, pair in pairs.items()
        if pair["id"] in reasons
    ]
    return kept, dropped


def _pair(row: Row, round_index: int) -> Row:
    better, worse = row["answers"][row["choice"] - 1], row["answers"][2 - row["choice"]]
    meta = {name: row.get(name) for name in ("context", "context_prev", "judge", "model")}
    meta["verdict"] = {name: row[name] for name in _OF_A_VERDICT}
    return {name: row[name] for name in _OF_A_PAIR if row.get(name)} | {
        "id": f"{row['id']}/round-{round_index}",
        "chosen": better,
        "rejected": worse,
        "mode": "dpo",
        "round": round_index,
        "meta": (row.get("meta") or {}) | meta,
    }


def verdict_counts(verdicts: Sequence[Row]) -> str:
    """How many verdicts there are, how many agree, why the others do not count, and the bias towards a place."""
    reasons = Counter(row["reason"] for row in verdicts if row["reason"] is not None)
    num = sum(row["choice"] is not None for row in verdicts)
    told = f"{num} of {len(verdicts)} prompts have a verdict that both orders agree in (others: {dict(reasons)})"
    share = verbosity_metrics(verdicts)["first_place"]
    return told if math.isnan(share) else f"{told}; the judge chose the first place in {share:.0%} of both orders"


def check_enough(verdicts: Sequence[Row], min_pairs: int) -> None:
    """Refuse to train on too few pairs.

    Args:
        verdicts: Of all ranks.
        min_pairs: Least number of verdicts with a choice.

    Raises:
        ValueError: There are fewer; it says why, and whether the judge goes by the place.
    """
    num = sum(row["choice"] is not None for row in verdicts)
    if num < min_pairs:
        raise ValueError(
            f"{num} pairs are fewer than min_pairs ({min_pairs}): {verdict_counts(verdicts)}. Ask about more prompts, "
            "or look at the rows of verdicts.*.jsonl (raw holds the replies)"
        )
