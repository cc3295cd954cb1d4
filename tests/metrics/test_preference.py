import math

import pytest
import torch

from lit_vpo.metrics import PreferenceMetrics, preference_metrics

# two pairs, worked by hand: logratios chosen +2, -1; rejected -1, -1; rewards at beta 0.5 are +1, -0.5 and -0.5, -0.5
PAIRS = {
    "policy_chosen": torch.tensor([-8.0, -21.0]),
    "policy_rejected": torch.tensor([-11.0, -6.0]),
    "reference_chosen": torch.tensor([-10.0, -20.0]),
    "reference_rejected": torch.tensor([-10.0, -5.0]),
    "chosen_lengths": torch.tensor([4, 8]),
    "rejected_lengths": torch.tensor([5, 3]),
}
EXPECTED = {
    "rewards/chosen": 0.25,
    "rewards/rejected": -0.5,
    "rewards/margins": 0.75,
    "rewards/accuracies": 0.5,
    "rewards/ties": 0.5,
    "logps/chosen": -14.5,
    "logps/rejected": -8.5,
    "logps_drift/chosen": 0.5,
    "logps_drift/rejected": -1.0,
    "kl": (2 - 1 - 1 - 1) / 20,
    "length_ratio": 12 / 8,
}


def rows(indices):
    return {name: tensor[indices] for name, tensor in PAIRS.items()}


def test_hand_worked_pairs():
    values = preference_metrics(**PAIRS, beta=0.5)
    assert {name: pytest.approx(float(value)) for name, value in values.items()} == EXPECTED


def test_uneven_batches_and_ranks_equal_one_batch():
    generator = torch.Generator().manual_seed(0)
    logps = {n: -50 * torch.rand(7, generator=generator) for n in PAIRS if "lengths" not in n}
    lengths = {n: torch.randint(1, 30, (7,), generator=generator) for n in PAIRS if "lengths" in n}
    data = {**logps, **lengths}
    metric = PreferenceMetrics()
    ranks = PreferenceMetrics(), PreferenceMetrics()
    for number, (start, end) in enumerate(((0, 1), (1, 5), (5, 7))):
        batch = {name: tensor[start:end] for name, tensor in data.items()}
        metric.update(**batch, beta=0.1)
        ranks[number % 2].update(**batch, beta=0.1)
    ranks[0].sums += ranks[1].sums  # what dist_reduce_fx="sum" does
    ranks[0].counts += ranks[1].counts
    whole = preference_metrics(**data, beta=0.1)
    for name, value in whole.items():
        torch.testing.assert_close(metric.compute()[name], value)
        torch.testing.assert_close(ranks[0].compute()[name], value)


def test_states_reduce_by_sum():
    assert set(PreferenceMetrics()._reductions) == {"sums", "counts"}
    assert all(reduce.__name__ == "dim_zero_sum" for reduce in PreferenceMetrics()._reductions.values())


def test_equal_policy_and_reference_has_no_margin_no_drift_no_kl():
    same = {**PAIRS, "reference_chosen": PAIRS["policy_chosen"], "reference_rejected": PAIRS["policy_rejected"]}
    values = preference_metrics(**same, beta=0.1)
    for name in ("rewards/margins", "rewards/accuracies", "kl", "logps_drift/chosen", "logps_drift/rejected"):
        assert float(values[name]) == 0
    assert float(values["rewards/ties"]) == 1


def test_beta_scales_rewards_only():
    one, two = preference_metrics(**PAIRS, beta=0.1), preference_metrics(**PAIRS, beta=0.2)
    for name in one:
        scale = 2 if name in ("rewards/chosen", "rewards/rejected", "rewards/margins") else 1
        torch.testing.assert_close(two[name], scale * one[name])


def test_small_drift_survives_large_logps_in_bfloat16_states_stay_float32():
    metric = PreferenceMetrics()
    batch = {n: t.bfloat16() if "lengths" not in n else t for n, t in PAIRS.items()}
    metric.update(**batch, beta=0.5)
    assert metric.sums.dtype == torch.float32
    assert float(metric.compute()["rewards/margins"]) == 0.75


def test_kl_estimate_has_the_documented_mean():
    # one-token responses drawn from the policy itself: the k1 estimate is unbiased
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    drawn = torch.multinomial(policy, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    logps, logps_reference, ones = policy.log()[drawn], reference.log()[drawn], torch.ones_like(drawn)
    value = preference_metrics(logps, logps, logps_reference, logps_reference, ones, ones, 0.1)["kl"]
    truth = float((policy * (policy / reference).log()).sum())
    assert float(value) == pytest.approx(truth, abs=0.01)


def test_empty_metric_is_nan():
    assert math.isnan(float(PreferenceMetrics().compute()["rewards/margins"]))


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        preference_metrics(**{**PAIRS, "policy_chosen": torch.zeros(2, 1)}, beta=0.1)
