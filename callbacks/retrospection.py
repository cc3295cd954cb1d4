"""ISR-DPO's iterations: the policy answers twice, looks back at what it saw, and judges its own answers by that."""

import json
from typing import Any, Literal, TypeAlias

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from lit_vpo.atomic import read_lines, write_lines
from lit_vpo.preferences.comparisons import (
    ask_judge,
    check_enough,
    comparisons,
    judged_pairs,
    questions,
    read_replies,
    verdict_counts,
    verdict_rows,
)
from lit_vpo.preferences.contexts import (
    ContextSource,
    JudgeContexts,
    Oracle,
    RetrospectionPrompts,
    check_source,
    context_prompts,
    context_rows,
    true_events,
)
from lit_vpo.preferences.judges.pairwise import PairwiseJudge

from .resample import Resampler
from .round_sampling import RoundSampling

Row: TypeAlias = dict[str, Any]


class SelfRetrospectiveResampler(Resampler):
    """Makes every iteration's pairs by iterative self-retrospective judgment (ISR-DPO, arXiv 2406.11280).

    For every prompt the policy draws two answers; for every video it writes a context from the one before (c_0 from a
    plain prompt); then it judges the answers by video, question and context, in both orders. Prompts whose two verdicts
    agree are the iteration's pairs, on the prompt alone. The first iteration's pairs are made before the first step,
    so that one `fit` is the whole method, and all iterations come about in the same way: `data.train` then only names
    the shards. Answers are samples, contexts and verdicts the likeliest ones.

    Of round k (iteration k + 1) lie in `<default_root_dir>/rounds/k/`: `candidates`, `contexts`, `replies` and
    `verdicts`, a file for each rank, and `contexts.jsonl`, the state of all videos so far. A video that no earlier
    iteration asked about begins with c_0; how many did is logged. Each video is encoded once for all that is asked
    about it with `feature_cache`, and without it once for both orders, once for the answers and once for the context.

    Args:
        judge: Who prefers one of two answers; null is the policy itself.
        by: How the policy judges: by the `likelihood` of the two verdicts, or by the `text` that it writes.
        context: What the judge reads about the video: `own` (the method), `none` (self-rewarding, the paper's
            baseline), `stale` (always the first), `other` (that of another video), or `oracle` (the truth).
        oracle: Gives the true description of a record's video; a dotted path.
        prompts: Wordings.
        temperature: Of the answers.
        top_p: Of the answers.
        min_pairs: Least number of verdicts that both orders agree in, over all ranks, to train on.
        max_length_ratio: Leave out pairs whose chosen answer has more than so many times the words of the rejected one
            (`cap_length_ratio`); null keeps all.

    Raises:
        ValueError: At construction for settings out of range; in `setup` as `Resampler`. Where a round's pairs are
            made: too few of them (it names the judge's bias towards a place), a video without its previous context, or
            a context longer than the model takes.
    """

    def __init__(
        self,
        judge: PairwiseJudge | None = None,
        by: Literal["likelihood", "text"] = "likelihood",
        context: ContextSource = "own",
        oracle: Oracle = true_events,
        prompts: RetrospectionPrompts | None = None,
        temperature: float = 1.0,
        top_p: float = 0.95,
        min_pairs: int = 1,
        max_length_ratio: float | None = None,
    ) -> None:
        super().__init__()
        check_source(context)
        if by not in ("likelihood", "text"):
            raise ValueError(f"by must be likelihood or text, got {by!r}")
        if not temperature > 0 or not 0 < top_p <= 1 or min_pairs < 1:
            raise ValueError(
                "SelfRetrospectiveResampler needs temperature > 0, top_p in (0, 1] and min_pairs >= 1, got "
                f"{temperature}, {top_p} and {min_pairs}"
            )
        if max_length_ratio is not None and not max_length_ratio >= 1:
            raise ValueError(f"max_length_ratio must be >= 1 or null, got {max_length_ratio}")
        self.judge, self.by, self.context, self.oracle = judge, by, context, oracle
        self.prompts = prompts or RetrospectionPrompts()
        self.temperature, self.top_p = temperature, top_p
        self.min_pairs, self.max_length_ratio = min_pairs, max_length_ratio

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.global_step == 0:
            self.resample(trainer, pl_module, 0)

    @override
    def make_pairs(self, sampling: RoundSampling) -> tuple[list[Row], list[Row]]:
        candidates = sampling.candidates(2, self.temperature, self.top_p)
        contexts = JudgeContexts(self.context, self._contexts(sampling), self.oracle)
        compared = comparisons(candidates, contexts, sampling.round_index + 1)
        verdicts = self._verdicts(sampling, compared)
        sampling.write("verdicts", verdicts)
        everyone = sampling.gathered("verdicts")
        rank_zero_info(f"iteration {sampling.round_index + 1}: {verdict_counts(everyone)}")
        check_enough(everyone, self.min_pairs)
        return judged_pairs(verdicts, sampling.round_index, self.max_length_ratio)

    def _contexts(self, sampling: RoundSampling) -> dict[str, Row]:
        """The contexts of all videos so far, those of the round's videos new."""
        if self.context in ("none", "oracle"):
            return {}
        keys = {row["key"] for row in sampling.gathered("candidates")}
        previous = self._previous(sampling, keys)
        asked = context_prompts(sorted(keys), previous, self.prompts, self.context)
        sampling.answers("contexts", asked, rank=sampling.rank, world=sampling.world)
        answers = sampling.gathered("contexts")
        contexts = previous | context_rows(answers, sampling.round_index + 1)
        if sampling.rank == 0:
            write_lines(sampling.folder / "contexts.jsonl", (json.dumps(contexts[key]) for key in sorted(contexts)))
        anew, cut = sum(row["context_prev"] is None for row in answers), sum(not row["finished"] for row in answers)
        rank_zero_info(f"contexts: {len(answers)} new, {anew} of them first ones, {cut} cut at max_new_tokens")
        return contexts

    def _previous(self, sampling: RoundSampling, keys: set[str]) -> dict[str, Row]:
        """The contexts after the iteration before.

        Raises:
            ValueError: The file is gone, or lacks a video whose answers were judged then.
        """
        if sampling.round_index == 0:
            return {}
        path = sampling.folder_of(sampling.round_index - 1) / "contexts.jsonl"
        if not path.is_file():
            raise ValueError(f"{path} is missing: the previous contexts stand there; restore it, or begin the run anew")
        contexts = {row["key"]: row for row in map(json.loads, read_lines(path))}
        parts = [part for part in path.parent.glob("verdicts.*-*.jsonl") if part.is_file()]
        judged = {json.loads(line)["key"] for part in parts for line in read_lines(part)}
        if lost := sorted((keys & judged) - contexts.keys()):
            raise ValueError(f"{path} holds no context of video {lost[0]!r}, which was judged by one; restore the file")
        return contexts

    def _verdicts(self, sampling: RoundSampling, compared: list[Row]) -> list[Row]:
        if self.judge is not None:
            return verdict_rows(compared, ask_judge(compared, self.judge), self.judge.identity)
        asked = questions(compared, self.prompts)
        replies = sampling.answers("replies", asked, questions=self.by == "likelihood", together=2)
        identity = {"judge": "self", "by": self.by, "context": self.context}
        return verdict_rows(compared, read_replies(replies, asked, self.prompts, whole=False), identity)
