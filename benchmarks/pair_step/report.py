"""Rows of the result, as JSON and as a table."""

import statistics
from typing import Any

import torch
from rich.table import Table

from pair_step.flops import Step, step_of
from pair_step.measure import Runner, Variant, ratios
from pair_step.workload import Case

PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # bf16 operations per second, dense, from the data sheets
COLUMNS = {
    "n_visual": "visual",
    "response_tokens": "response",
    "tuning": "tuning",
    "reference": "reference",
    "pairs_per_second": "pairs/s",
    "ratio_vs_trl": "vs TRL",
    "theoretical_ratio": "theory",
    "ratio_vs_trl_precomputed": "vs TRL given ref.",
    "theoretical_ratio_precomputed": "theory",
    "ratio_vs_k_rows": "vs rows",
    "peak_memory_ratio": "peak memory",
    "loss_difference": "d loss",
    "grad_norm_relative_difference": "d grad",
    "tokens_per_second": "tokens/s",
    "mfu": "MFU",
}
NOTES = (
    "vs TRL: always its step with a reference pass, because TRL refuses precomputed references for data it knows to be "
    "visual; given ref.: made to take them all the same. Peak memory on a CPU: growth during the step, without weights."
)
REQUIRED = {"online": 2.0, "cached": 2.6}  # pairs per second over TRL's; also 0.9 of the theory, and 0.6 of the memory


def judged(rows: list[dict[str, Any]]) -> list[str]:
    """Whether each row meets what is required of the quick shape on a CPU."""
    lines = []
    for values in rows:
        share = values["ratio_vs_trl"] / values["theoretical_ratio"]
        met = values["ratio_vs_trl"] >= REQUIRED[values["reference"]] and share >= 0.9
        text = f"{values['reference']}: {values['ratio_vs_trl']:.2f} (required {REQUIRED[values['reference']]}), "
        text += f"{100 * share:.0f} % of the theory (required 90)"
        if values["peak_memory_ratio"] is not None:
            met = met and values["peak_memory_ratio"] <= 0.6
            text += f", peak memory {values['peak_memory_ratio']:.2f} (required at most 0.60)"
        lines.append(f"{text}: {'met' if met else 'MISSED'}")
    return lines


def row(
    runner: Runner, seconds: dict[Variant, list[float]], reference: str, memory: dict[Variant, int]
) -> dict[str, Any]:
    """One shape with one kind of reference.

    `cached` is set against TRL's step with a reference pass, because TRL refuses `precompute_ref_log_probs` for data
    that it knows to be visual; `ratio_vs_trl_precomputed` is against TRL made to take it all the same.

    Raises:
        DisagreementError: If the sides did not compute the same.
    """
    case, online = runner.case, reference == "online"
    loss, norm = runner.differences(reference)
    own = seconds["ours", reference]
    against, low, high = ratios(seconds["trl", "online"], own)
    step, given = step_of(case), not online and ("trl", "cached") in seconds
    result = {
        "size": case.size,
        "n_visual": case.n_visual,
        "response_tokens": case.response,
        "reference": reference,
        "tuning": case.tuning,
        "pairs_per_second": 1 / statistics.median(own),
        "seconds": {" ".join(variant): _spread(values) for variant, values in seconds.items()},
        "ratio_vs_trl": against,
        "ratio_vs_trl_range": [low, high],
        "ratio_vs_k_rows": ratios(seconds["k_rows", reference], own)[0],
        "theoretical_ratio": _trl(step, case, True) / step.ours(online),
        "ratio_vs_trl_precomputed": ratios(seconds["trl", "cached"], own)[0] if given else None,
        "theoretical_ratio_precomputed": _trl(step, case, False) / step.ours(False) if given else None,
        "peak_memory_ratio": memory["ours", reference] / memory["trl", "online"] if memory else None,
        "peak_memory_bytes": {" ".join(variant): value for variant, value in memory.items()},
        "loss_difference": loss,
        "grad_norm_relative_difference": norm,
    }
    return result | _speed(case, step, online, statistics.median(own))


def _trl(step: Step, case: Case, reference: bool) -> float:
    return step.trl(reference, everywhere=case.device == "cpu")


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _speed(case: Case, step: Step, online: bool, seconds: float) -> dict[str, Any]:
    """Tokens of the packed row, and the share of the device's speed that useful operations take."""
    tokens = (case.prompt + 2 * case.response) / seconds
    name = torch.cuda.get_device_name() if case.device == "cuda" else ""
    peak = next((speed for part, speed in PEAK.items() if part in name), None)
    return {"tokens_per_second": tokens, "mfu": step.useful(online) / seconds / peak if peak else None}


def table(rows: list[dict[str, Any]]) -> Table:
    """What a reader wants to see of the rows."""
    shown = {key: head for key, head in COLUMNS.items() if any(r[key] is not None for r in rows)}
    result = Table(*shown.values())
    for values in rows:
        result.add_row(*(_cell(values[key]) for key in shown))
    return result


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < value < 0.01 else f"{value:.3g}"
    return "" if value is None else str(value)
