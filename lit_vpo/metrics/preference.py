"""How a policy tells chosen from rejected, against its reference (names of Rafailov et al., arXiv 2305.18290)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class PairSums(NamedTuple):
    """Sufficient statistics of a set of pairs; all () and additive.

    `sums` (6,) float: logps and logratios of chosen and rejected, rewards of both; `counts` (5,) long: pairs, pairs
    won, pairs tied, tokens of chosen, tokens of rejected.
    """

    sums: Tensor
    counts: Tensor


def _preference_update(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    beta: float,
    rewards: tuple[Tensor, Tensor] | None = None,
) -> PairSums:
    """Reduces one batch; see `PreferenceMetrics.update`."""
    given = (policy_chosen, policy_rejected, reference_chosen, reference_rejected, chosen_lengths, rejected_lengths)
    shapes = [tuple(tensor.shape) for tensor in given]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1:
        raise ValueError(f"logps and lengths must all have one shape (batch,), got {shapes}")
    # the difference comes before the sum: logps are hundreds of nats, their drift is a fraction of one
    chosen = policy_chosen.detach().float() - reference_chosen.detach().float()
    rejected = policy_rejected.detach().float() - reference_rejected.detach().float()
    logps = (policy_chosen.detach().float(), policy_rejected.detach().float())
    first, second = (beta * chosen, beta * rejected) if rewards is None else (each.detach().float() for each in rewards)
    sums = torch.stack([t.sum() for t in (*logps, chosen, rejected, first, second)])
    wins, ties = (first > second).sum(), (first == second).sum()
    counts = torch.stack([torch.tensor(len(chosen)).to(wins), wins, ties, chosen_lengths.sum(), rejected_lengths.sum()])
    return PairSums(sums, counts)


def _preference_compute(totals: PairSums) -> dict[str, Tensor]:
    """Means and ratios of the totals, () float32 each; nan without any pair."""
    logps_chosen, logps_rejected, drift_chosen, drift_rejected, chosen, rejected = totals.sums.unbind()
    num_pairs, wins, ties, chosen_tokens, rejected_tokens = totals.counts.unbind()
    return {
        "rewards/chosen": chosen / num_pairs,
        "rewards/rejected": rejected / num_pairs,
        "rewards/margins": (chosen - rejected) / num_pairs,
        "rewards/accuracies": wins / num_pairs,
        "rewards/ties": ties / num_pairs,
        "logps/chosen": logps_chosen / num_pairs,
        "logps/rejected": logps_rejected / num_pairs,
        "logps_drift/chosen": drift_chosen / num_pairs,
        "logps_drift/rejected": drift_rejected / num_pairs,
        "kl": (drift_chosen + drift_rejected) / (chosen_tokens + rejected_tokens),
        "length_ratio": chosen_tokens / rejected_tokens,
    }


def preference_metrics(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    beta: float,
    rewards: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Metrics of one batch of pairs; the functional form of `PreferenceMetrics`, with its arguments and results."""
    return _preference_compute(
        _preference_update(
            policy_chosen,
            policy_rejected,
            reference_chosen,
            reference_rejected,
            chosen_lengths,
            rejected_lengths,
            beta,
            rewards,
        )
    )


class PreferenceMetrics(Metric):
    r"""Rewards, logps, drift and a KL estimate over a set of pairs; states are sums, so uneven batches are right.

    The implicit reward of a response is :math:`\beta (\log \pi(y|x) - \log \pi_{ref}(y|x))`, its logps summed over
    tokens.

    Note:
        *Drift.* `logps_drift/*` is the mean of policy minus reference logps, not a difference to an earlier window: two
        windows hold different pairs, whose logps differ by far more than training moves them. Policy and reference are
        equal at step 0 of a round (a guard checks it), so on each pair this difference is exactly the drift since then.

        *KL.* `kl` is the k1 (log-ratio) estimate, summed over all responses and divided by their tokens. It is
        unbiased for the per-token KL(policy || reference) only if the responses were drawn from the policy of this
        moment. They are a fixed set: drawn from the reference they would give minus KL(reference || policy), which is
        never positive, and being trained on adds a bias of its own. So it may be negative, and says how far the policy
        has moved on these texts; it is no bound on the divergence.
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(6), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(5, dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self,
        policy_chosen: Tensor,
        policy_rejected: Tensor,
        reference_chosen: Tensor,
        reference_rejected: Tensor,
        chosen_lengths: Tensor,
        rejected_lengths: Tensor,
        beta: float,
        rewards: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Adds a batch of pairs.

        Args:
            policy_chosen: (B,) logps of the chosen responses, summed over tokens.
            policy_rejected: (B,) the same of the rejected ones.
            reference_chosen: (B,) logps under the reference.
            reference_rejected: (B,) the same of the rejected ones.
            chosen_lengths: (B,) long, number of response tokens.
            rejected_lengths: (B,) long, the same of the rejected ones.
            beta: Scale of the rewards.
            rewards: (B,) of chosen and of rejected, where a loss has others than beta times the summed logratio.

        Raises:
            ValueError: If the shapes differ.
        """
        batch = _preference_update(
            policy_chosen,
            policy_rejected,
            reference_chosen,
            reference_rejected,
            chosen_lengths,
            rejected_lengths,
            beta,
            rewards,
        )
        self.sums += batch.sums
        self.counts += batch.counts

    def compute(self) -> dict[str, Tensor]:
        """() float32 each; nan before the first pair.

        Returns:
            `rewards/chosen`, `rewards/rejected`, `rewards/margins` (means over pairs), `rewards/accuracies` and
            `rewards/ties` (shares of pairs whose chosen reward is higher, and equal), `logps/chosen`, `logps/rejected`,
            `logps_drift/chosen`, `logps_drift/rejected` (means over pairs), `kl` (nats per token) and `length_ratio`
            (tokens of chosen over tokens of rejected).
        """
        return _preference_compute(PairSums(self.sums, self.counts))
