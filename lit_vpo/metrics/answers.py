"""Accuracy of multiple-choice questions whose options were scored, overall and by kind; and of answers in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

_NAME_BYTES = 48


def plain_answer(text: str) -> str:
    """A text without case, white space and full stops; two answers whose plain forms are equal are the same."""
    return "".join(text.lower().replace(".", " ").split())


def is_question(row: Mapping[str, Any]) -> bool:
    """Whether a row has options to choose from."""
    return bool(row.get("meta", {}).get("options"))


def is_right(row: Mapping[str, Any]) -> bool:
    """Whether the response is the ground truth but for case, white space and full stops."""
    return plain_answer(row["response"]) == plain_answer(row["ground_truth"])


def is_answered(row: Mapping[str, Any]) -> bool:
    """Whether the response is one of the options but for case, white space and full stops."""
    return plain_answer(row["response"]) in map(plain_answer, row["meta"]["options"])


def _option_accuracy_update(scores: Tensor, question_index: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    """Credit and chance of each question, (B,) float32; see `OptionAccuracy.update`."""
    num_options = torch.bincount(question_index, minlength=len(answer))
    if len(num_options) != len(answer) or bool((num_options == 0).any()):
        raise ValueError(f"{len(answer)} answers, but question_index counts {num_options.tolist()} options")
    if bool(((answer < 0) | (answer >= num_options)).any()):
        raise ValueError(f"answer {answer.tolist()} must name one of {num_options.tolist()} options")
    credit = []
    for number, right in enumerate(answer.tolist()):
        options = scores[question_index == number]
        best = options == options.max()
        # a tie earns what a fair draw among the tied would; taking the first would reward the order of options
        credit.append(best[right].float() / best.sum())
    return torch.stack(credit).float() if credit else scores.new_zeros(0).float(), 1.0 / num_options.float()


def _option_accuracy_compute(credit: Tensor, chance: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """Means over all questions, and over those of each kind."""
    values = {"accuracy": credit.mean(), "chance": chance.mean()}
    for kind in sorted(set(kinds)):
        of_kind = torch.tensor([each == kind for each in kinds], device=credit.device)
        values[f"accuracy/{kind}"], values[f"chance/{kind}"] = credit[of_kind].mean(), chance[of_kind].mean()
    return values


def option_accuracy(scores: Tensor, question_index: Tensor, answer: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """Accuracy of one set of questions; the functional form of `OptionAccuracy`, with its arguments and results."""
    return _option_accuracy_compute(*_option_accuracy_update(scores, question_index, answer), kinds)


class OptionAccuracy(Metric):
    """Share of questions whose right option scores highest, beside the share that guessing would get.

    Kinds need not be declared: they travel with the questions, so ranks may see different ones. Ties earn the share
    that a fair draw among the best would.
    """

    is_differentiable = False
    full_state_update = False
    credit: list[Tensor]
    chance: list[Tensor]
    names: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        # flat floats all three: a rank without any question contributes an empty float vector when torchmetrics gathers
        for state in ("credit", "chance", "names"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, question_index: Tensor, answer: Tensor, kinds: Sequence[str]) -> None:
        """Adds B questions with R options in all.

        Args:
            scores: (R,) float, the higher the better: logps of the options.
            question_index: (R,) long, which of the B questions an option belongs to; options keep their order.
            answer: (B,) long, the right option's place among its question's.
            kinds: B names of kinds, at most 48 bytes each.

        Raises:
            ValueError: If the numbers of questions differ, a question has no option, or an answer names none.
        """
        if len(kinds) != len(answer):
            raise ValueError(f"{len(answer)} answers, but {len(kinds)} kinds")
        credit, chance = _option_accuracy_update(scores, question_index, answer)
        self.credit.append(credit)
        self.chance.append(chance)
        self.names.append(torch.tensor([code for kind in kinds for code in _encode(kind)]).to(credit))

    def compute(self) -> dict[str, Tensor]:
        """() float32 each; nan before the first question.

        Returns:
            `accuracy` (over all questions), `chance` (mean of 1 / number of options), and both by kind:
            `accuracy/<kind>`, `chance/<kind>`.
        """
        if not len(self.credit):
            empty = torch.zeros(0, device=self.device)
            return _option_accuracy_compute(empty, empty, [])
        codes = dim_zero_cat(self.names).reshape(-1, _NAME_BYTES).long().tolist()
        return _option_accuracy_compute(
            dim_zero_cat(self.credit), dim_zero_cat(self.chance), [bytes(row).rstrip(b"\0").decode() for row in codes]
        )


def _encode(kind: str) -> bytes:
    name = kind.encode()
    if len(name) > _NAME_BYTES:
        raise ValueError(f"a kind of question has at most {_NAME_BYTES} bytes, got {kind!r}")
    return name.ljust(_NAME_BYTES, b"\0")
