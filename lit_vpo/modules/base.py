"""A video LLM that answers: prompts to texts, questions to choices, and what evaluation makes of them."""

from typing import Any, Literal

import torch
from typing_extensions import override

from lit_vpo.batch import Batch, PromptBatch, QuestionBatch
from lit_vpo.ledger import policy_hash
from lit_vpo.metrics import OptionAccuracy
from lit_vpo.modules.generation import Decoding, answer_rows, decoded, generate
from lit_vpo.modules.policy import IGNORED, NO_GENERATION, PolicyModule
from lit_vpo.modules.scoring import video_inputs


class VideoLMModule(PolicyModule):
    """Base of the modules that train a video LLM.

    Args:
        model: See `PolicyModule`.
        max_new_tokens: Longest answer that is generated.
        temperature: Of sampled answers; null takes the likeliest token.
        top_p: Sample among the likeliest tokens that together have this probability.
        num_candidates: Answers to each prompt of `predict`; more than one need a temperature.
        repetition_penalty: Above 1 makes tokens of the prompt and of the answer so far less likely, as in transformers
            (TEMPO's release writes with 1.05); 1 changes nothing.
        kwargs: The other arguments of `PolicyModule`.

    Raises:
        ValueError: As `PolicyModule`, or for settings of generation that are out of range.
    """

    purpose = "generate"

    def __init__(
        self,
        model: str,
        max_new_tokens: int = 128,
        temperature: float | None = None,
        top_p: float = 1.0,
        num_candidates: int = 1,
        repetition_penalty: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, **kwargs)
        self.save_hyperparameters(ignore=IGNORED)
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be >= 1, got {max_new_tokens}")
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature must be > 0, or null for the likeliest token, got {temperature}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {top_p}")
        if num_candidates < 1 or (num_candidates > 1 and temperature is None):
            raise ValueError(
                f"num_candidates must be 1, or more with a temperature (without one all are the likeliest answer), got "
                f"{num_candidates}"
            )
        if not repetition_penalty > 0:
            raise ValueError(f"repetition_penalty must be > 0 (1 changes nothing), got {repetition_penalty}")
        self.decoding = Decoding(max_new_tokens, temperature, top_p, repetition_penalty=repetition_penalty)
        self.num_candidates = num_candidates
        self.answers = torch.nn.ModuleDict({stage: OptionAccuracy() for stage in ("val", "test")})

    def generate(
        self, batch: PromptBatch, num_candidates: int = 1, decoding: Decoding | None = None
    ) -> list[tuple[str, bool]]:
        """Answer prompts; a prompt's video is encoded once, and the prompt read once, for all its candidates.

        Args:
            batch: Prompts.
            num_candidates: Answers to each; more than one need a temperature.
            decoding: In place of the module's own.

        Returns:
            Per candidate, those of a prompt together, the text, and whether it ended by itself (was not cut at
            `max_new_tokens`).

        Raises:
            ValueError: If candidates could not differ, or weights are sharded.
        """
        decoding = decoding or self.decoding
        if num_candidates > 1 and decoding.temperature is None:
            raise ValueError("without a temperature all candidates are the likeliest answer; set temperature: 1.0")
        answers = self.answer_tokens(batch, decoding, self.purpose, num_candidates)
        return [decoded(self.processor.tokenizer, answer) for answer in answers]

    def answer_tokens(
        self, batch: PromptBatch, decoding: Decoding, purpose: str, num_candidates: int = 1
    ) -> list[list[int]]:
        """The tokens of answers, see `lit_vpo.modules.generation.generate`.

        Args:
            batch: Prompts.
            decoding: How answers are drawn.
            purpose: Of the draws, a part of their address.
            num_candidates: Answers to each prompt.

        Raises:
            ValueError: If weights are sharded.
        """
        if self.device_mesh is not None:
            raise ValueError(NO_GENERATION)
        inputs = video_inputs(self.family, batch, self.encode(batch))
        addresses = [(self.seed, purpose, record["id"]) for record in batch["records"]]
        was_training = self.net.training
        self.net.eval()
        try:
            return generate(
                self.base, self.family, inputs, self.processor.tokenizer, decoding, addresses, num_candidates
            )
        finally:
            if was_training:
                self.policy_mode()

    def generations(
        self, batch: PromptBatch, num_candidates: int = 1, decoding: Decoding | None = None
    ) -> list[dict[str, Any]]:
        """Each prompt's record with `response` and `finished`.

        Args:
            batch: Prompts.
            num_candidates: Rows of each prompt, see `answer_rows`.
            decoding: In place of the module's own.
        """
        answers = self.generate(batch, num_candidates, decoding)
        groups = [answers[first : first + num_candidates] for first in range(0, len(answers), num_candidates)]
        pairs = zip(batch["records"], groups, strict=True)
        return [row for record, group in pairs for row in answer_rows(record, group)]

    @torch.no_grad()
    def choices(self, batch: QuestionBatch) -> list[dict[str, Any]]:
        """Each question's record with the likeliest option as its `response`; nothing is drawn.

        Beside it stand `option_logps` (log-likelihoods) and `option_tokens` (how many tokens each is the sum of).
        """
        scores = self.logps(batch, self.encode(batch))
        rows = []
        for number, record in enumerate(batch["records"]):
            own = batch["question_index"] == number
            logps, lengths = scores.sums[own], scores.lengths[own]
            row = {"response": record["meta"]["options"][int(logps.argmax())], "finished": True}
            rows.append(record | row | {"option_logps": logps.tolist(), "option_tokens": lengths.tolist()})
        return rows

    @override
    def on_predict_start(self) -> None:
        self.model_identity = {"name": self.model, "hash": self.policy_hash(), "base": self.base_hash}

    def policy_hash(self) -> str:
        """Content hash of the plain network that the policy is now; see `lit_vpo.ledger.policy_hash`."""
        return policy_hash(self.net)

    def generation_identity(self) -> dict[str, Any]:
        """What makes the answers of `predict` beside their prompts: `model`, and `sampling` with its seed."""
        names = ("max_new_tokens", "temperature", "top_p", "repetition_penalty")
        settings = {name: getattr(self.decoding, name) for name in names}
        settings |= {"num_candidates": self.num_candidates, "seed": self.seed}
        return {"model": self.model_identity, "sampling": settings}

    @override
    def predict_step(
        self, batch: PromptBatch | QuestionBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> list[dict[str, Any]]:
        identity = self.generation_identity()
        if batch["kind"] == "question":
            return [row | identity for row in self.choices(batch)]
        return [row | identity for row in self.generations(batch, self.num_candidates)]

    @override
    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        return self.evaluate(batch, "val")

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        return self.evaluate(batch, "test")

    def evaluate(self, batch: Batch, stage: Literal["val", "test"]) -> dict[str, Any]:
        """One evaluation batch of any kind.

        Returns:
            What callbacks read: `generations` of prompts, `choices` of questions, or the subclass's own.
        """
        if batch["kind"] == "prompt":
            return {"generations": self.generations(batch)}
        if batch["kind"] == "question":
            return self.answer(batch, stage)
        return self.evaluate_objective(batch, stage)

    def evaluate_objective(self, batch: Any, stage: Literal["val", "test"]) -> dict[str, Any]:
        """The subclass's own kind of batch."""
        raise ValueError(f"{type(self).__name__} cannot evaluate a batch of kind {batch['kind']!r}")

    def answer(self, batch: QuestionBatch, stage: str) -> dict[str, Any]:
        """Choose the option that is likeliest as a whole response."""
        scores = self.logps(batch, self.encode(batch)).sums
        kinds = [str(record.get("meta", {}).get("kind", "question")) for record in batch["records"]]
        answers: Any = self.answers[stage]
        answers.update(scores, batch["question_index"], batch["answer"], kinds)
        return {"option_logps": scores}

    @override
    def on_validation_epoch_end(self) -> None:
        self.log_metrics("val")

    @override
    def on_test_epoch_end(self) -> None:
        self.log_metrics("test")

    def log_metrics(self, stage: str) -> None:
        """Log what an evaluation gathered, and start afresh."""
        answers: Any = self.answers[stage]
        if answers.update_called:
            self.log_dict({f"{stage}/questions/{name}": value for name, value in answers.compute().items()})
        answers.reset()
