import math
import time

import pytest
import torch

from lit_vpo.metrics import bootstrap_ratio, paired_bootstrap
from lit_vpo.metrics.bootstrap import resampled_clips, resampled_runs


def counts(n, seed):
    generator = torch.Generator().manual_seed(seed)
    denominators = torch.randint(1, 6, (n,), generator=generator)
    return (denominators * torch.rand(n, generator=generator)).round(), denominators


def quantile(values, q):
    """Linear interpolation between order statistics, in plain Python."""
    values = sorted(values)
    place = q * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def test_paired_equals_a_plain_loop_over_the_same_draws():
    before, after = counts(37, 0), counts(37, 1)
    differences = []
    for draw in torch.cat(list(resampled_clips(37, 500, seed=3))).tolist():
        ratios = [sum(float(num[i]) for i in draw) / sum(float(den[i]) for i in draw) for num, den in (before, after)]
        differences.append(ratios[1] - ratios[0])
    found = paired_bootstrap(before, after, seed=3, num_resamples=500)
    whole = [float(num.sum() / den.sum()) for num, den in (before, after)]
    assert found.estimate == pytest.approx(whole[1] - whole[0], abs=1e-7)
    assert found.low == pytest.approx(quantile(differences, 0.025), abs=1e-12)
    assert found.high == pytest.approx(quantile(differences, 0.975), abs=1e-12)
    assert found.num_undefined == 0


def test_one_sample_equals_a_plain_loop():
    numerators, denominators = counts(20, 2)
    draws = torch.cat(list(resampled_clips(20, 300, seed=0))).tolist()
    ratios = [float(numerators[d].sum()) / float(denominators[d].sum()) for d in draws]
    found = bootstrap_ratio(numerators, denominators, seed=0, num_resamples=300, confidence=0.8)
    assert found.low == pytest.approx(quantile(ratios, 0.1), abs=1e-7)
    assert found.high == pytest.approx(quantile(ratios, 0.9), abs=1e-7)


def test_runs_and_clips_equal_a_plain_loop_over_the_same_draws():
    before, runs = counts(11, 0), [counts(11, 1), counts(11, 2), counts(11, 3)]
    clips = torch.cat(list(resampled_clips(11, 400, seed=3))).tolist()
    draws = resampled_runs(3, 400, seed=3, side=1).tolist()  # side 1 is after
    differences = []
    for drawn, of_runs in zip(clips, draws, strict=True):
        after = [sum(float(runs[run][part][i]) for run in of_runs for i in drawn) for part in (0, 1)]
        base = [sum(float(before[part][i]) for i in drawn) for part in (0, 1)]
        differences.append(after[0] / after[1] - base[0] / base[1])
    found = paired_bootstrap(before, tuple(map(torch.stack, zip(*runs, strict=True))), seed=3, num_resamples=400)
    whole = [sum(float(run[part].sum()) for run in runs) for part in (0, 1)]
    assert found.estimate == pytest.approx(whole[0] / whole[1] - float(before[0].sum() / before[1].sum()), abs=1e-7)
    assert found.low == pytest.approx(quantile(differences, 0.025), abs=1e-12)
    assert found.high == pytest.approx(quantile(differences, 0.975), abs=1e-12)


def test_one_run_in_a_row_of_runs_is_that_run():
    before, after = counts(20, 0), counts(20, 1)
    one = paired_bootstrap(before, tuple(part.unsqueeze(0) for part in after), seed=1, num_resamples=300)
    assert one == paired_bootstrap(before, after, seed=1, num_resamples=300)


def test_the_spread_between_runs_widens_the_interval():
    """Runs that differ by a constant: what is left after pairing is the spread of a mean of two of them, 0 or 1."""
    numerators, ones = counts(50, 0)[0], torch.ones(50)
    runs = torch.stack([numerators, numerators + 1])
    found = paired_bootstrap((numerators, ones), (runs, torch.stack([ones, ones])), seed=0)
    assert (found.estimate, found.low, found.high) == pytest.approx((0.5, 0.0, 1.0))


def test_pairing_removes_what_both_share():
    numerators, _ = counts(100, 0)
    shift = torch.full((100,), 2.0)
    found = paired_bootstrap((numerators, torch.ones(100)), (numerators + shift, torch.ones(100)), seed=0)
    assert (found.estimate, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_interval_of_a_mean_covers_the_truth_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for trial in range(400):
        sample = torch.randn(60, generator=generator) + 1.0
        found = bootstrap_ratio(sample, torch.ones(60), seed=trial, num_resamples=500)
        hits += found.low <= 1.0 <= found.high
    # nominal 380; percentile intervals at n = 60 run about a point low, and the binomial deviation is 4.4
    assert 362 <= hits <= 393


def test_width_is_that_of_the_normal_theory():
    sample = torch.randn(2000, generator=torch.Generator().manual_seed(1))
    found = bootstrap_ratio(sample, torch.ones(2000), seed=0)
    width = 2 * 1.96 * float(sample.std(correction=0)) / 2000**0.5
    assert found.high - found.low == pytest.approx(width, rel=0.05)


def test_the_seed_decides_and_chunks_do_not_matter(monkeypatch):
    before, after = counts(50, 0), counts(50, 1)
    first = paired_bootstrap(before, after, seed=0, num_resamples=200)
    assert first == paired_bootstrap(before, after, seed=0, num_resamples=200)
    assert first != paired_bootstrap(before, after, seed=1, num_resamples=200)
    monkeypatch.setattr("lit_vpo.metrics.bootstrap._CELLS", 50 * 7)
    assert first == paired_bootstrap(before, after, seed=0, num_resamples=200)


def test_resamples_without_a_denominator_are_counted_not_averaged():
    numerators, denominators = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0, 0, 2])
    found = bootstrap_ratio(numerators, denominators, seed=0, num_resamples=3000)
    assert found.num_undefined / 3000 == pytest.approx((2 / 3) ** 3, abs=0.03)
    assert (found.estimate, found.low, found.high) == (0.5, 0.5, 0.5)
    empty = bootstrap_ratio(numerators, torch.zeros(3), seed=0, num_resamples=10)
    assert math.isnan(empty.estimate) and math.isnan(empty.low) and empty.num_undefined == 10


def test_sides_of_other_clips_are_refused():
    with pytest.raises(ValueError, match="same clips"):
        paired_bootstrap(counts(3, 0), counts(4, 0), seed=0)


def test_speed():
    before, after = counts(5000, 0), counts(5000, 1)
    start = time.perf_counter()
    paired_bootstrap(before, after, seed=0)
    assert time.perf_counter() - start < 5  # 0.4 s on an idle core; room for a loaded one


@pytest.mark.parametrize("bad", [{"num_resamples": 0}, {"confidence": 1.0}, {"denominators": torch.ones(2)}])
def test_bad_input_is_refused(bad):
    with pytest.raises(ValueError):
        bootstrap_ratio(**{"numerators": torch.ones(3), "denominators": torch.ones(3), "seed": 0, **bad})
