"""What callbacks may rely on, so that they need not know the modules."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from lit_vpo.batch import PreferenceBatch, PromptBatch
from lit_vpo.metrics.captions import CaptionCounts
from lit_vpo.metrics.difficulty import Group


@runtime_checkable
class HasNetwork(Protocol):
    """A module around one Hugging Face network."""

    model: str  # name or path whose processor prepares the network's inputs

    @property
    def network(self) -> Any:
        """The network (a `PeftModel` around it where there is an adapter); None before `configure_model`."""


@runtime_checkable
class HasAdapter(HasNetwork, Protocol):
    """A module whose policy is a frozen network and a LoRA adapter."""

    @property
    def has_adapter(self) -> bool:
        """Whether the network carries an adapter now."""


@runtime_checkable
class SharesPrefix(HasNetwork, Protocol):
    """A module that trains a language model on rows of text, which may share what they begin with."""

    share_prefix: bool  # whether they do


@runtime_checkable
class HasReference(Protocol):
    """A module that compares its policy with a reference."""

    def reference_hash(self) -> str:
        """Content hash of the reference's weights."""


@runtime_checkable
class HasRounds(HasReference, Protocol):
    """A module that trains in rounds; callbacks say what a round's end brings, the module knows when and how."""

    round: int  # rounds that have ended

    def plan_rounds(self, steps: int | Sequence[int]) -> None:
        """Say how many optimizer steps every round has, or one after the other.

        Raises:
            ValueError: If the module was configured otherwise.
        """

    def plan_boundary(self, merge: bool = False, new_weight: float | None = None) -> None:
        """Say what shall happen at the end of every round.

        Raises:
            ValueError: If the module cannot do it.
        """

    def round_is_over(self) -> bool:
        """Whether the last optimizer step was a round's last, and its boundary was not yet crossed."""

    def end_round(self) -> None:
        """Cross the planned boundary if the last optimizer step was a round's last; else do nothing."""


@runtime_checkable
class HasMargins(Protocol):
    """A module that prefers, and can say how much without being trained or validated."""

    def margins(self, batch: PreferenceBatch) -> Tensor:
        """Rewards of chosen minus those of rejected, (B,)."""


@runtime_checkable
class HasBase(Protocol):
    """A module that can compare its policy with what it was before training."""

    def check_base(self) -> None:
        """Refuse to compare where the base's weights are lost.

        Raises:
            ValueError: They are.
        """

    def base_logratios(self, batches: Sequence[PromptBatch]) -> Tensor:
        """log policy(y|x) - log base(y|x) of an answer y that the policy draws to each of N prompts x: (N,)."""


@runtime_checkable
class HasCandidates(Protocol):
    """A data module that trains on the pairs of a round, and knows prompts for the next one's."""

    def check_candidates(self) -> None:
        """Refuse to sample without prompts, or to mix in what makes no pairs.

        Raises:
            ValueError: There are none, or they make none.
        """

    def candidate_loader(self, round_index: int, done: Collection[str] = (), rank: int = 0, world: int = 1) -> Any:
        """Batches of a round's prompts on a rank, but for those that are done."""

    def prompt_loader(
        self,
        rows: Sequence[dict[str, Any]],
        done: Collection[str] = (),
        rank: int = 0,
        world: int = 1,
        questions: bool = False,
        together: int = 1,
    ) -> Any:
        """Batches of further prompts about the same videos, or of questions whose options are scored."""

    def write_pairs(self, path: str, pairs: list[dict[str, Any]], rank: int, world: int) -> str:
        """Write a rank's pairs as (a part of) an overlay; returns the name of the whole."""

    def begin_round(self, overlay: str, round_index: int) -> None:
        """Train on a round's overlay, of which all ranks have written their part, from the next batch on."""


@runtime_checkable
class Answers(Protocol):
    """A module that answers prompts in `predict`."""

    def generation_identity(self) -> dict[str, Any]:
        """What makes the answers beside their prompts: the policy (`model`) and its `sampling`; plain values."""


@runtime_checkable
class HasPlan(Protocol):
    """A loader that knows its batches before it makes any."""

    def prompt_identity(self) -> dict[str, Any]:
        """What makes its batches: rows, how they are cut, and what is seen of their videos; plain values."""

    def begin_after(self, answered: Collection[str]) -> set[str]:
        """Let the next iteration begin with the batch that holds the last of these records.

        Returns:
            Ids of the records of the batches before it, which are left out.
        """


@runtime_checkable
class HasDifficulty(Protocol):
    """A data module whose pairs name their divisor r, and that trains on one stage of them after another."""

    def groups(self, source: Literal["train", "val"]) -> list[Group]:
        """The divisors and kinds of perturbation of a source's pairs; none where there is no source.

        Raises:
            ValueError: A training pair has no r.
        """

    def plan_stages(self, divisors: Sequence[int], mixed: bool = False) -> list[int]:
        """Divide the training pairs into stages and stand before the first.

        Args:
            divisors: A stage for each, of its pairs, in this order.
            mixed: Stages as large, but of pairs of all these divisors, each pair in one of them.

        Returns:
            Batches of an epoch of each on this rank.

        Raises:
            ValueError: A stage has no pair.
        """

    def begin_stage(self, stage: int) -> None:
        """Train on a stage (0-based) from the next batch on."""

    def held_out(self, r: int) -> Iterable[PreferenceBatch]:
        """Batches of the validation pairs of a divisor, all of them on every rank.

        Raises:
            ValueError: There are none.
        """


@runtime_checkable
class HasWriters(Protocol):
    """A data module that knows whose answers its training pairs are."""

    def check_writers(self, policy_hash: Callable[[], str]) -> str:
        """Refuse answers of another policy where they were not asked for; says whose they are.

        Args:
            policy_hash: Of the policy under training; called only where pairs name their writer.

        Raises:
            ValueError: Another policy wrote them.
        """


CaptionScorer = Callable[[str, dict[str, Any]], CaptionCounts]
"""Counts the errors of a caption (first argument) against what a record says about its video."""

__all__ = [
    "Answers",
    "CaptionScorer",
    "HasAdapter",
    "HasBase",
    "HasCandidates",
    "HasDifficulty",
    "HasMargins",
    "HasNetwork",
    "HasPlan",
    "HasReference",
    "HasRounds",
    "HasWriters",
    "SharesPrefix",
]
