"""The benchmark of the preference step: its counts of operations, its rows, and that a wrong result stops it."""

import json
import pathlib
import sys

import pytest

pytest.importorskip("trl")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))

import dpo_step
from pair_step import sides, workload
from pair_step.flops import step_of
from pair_step.workload import Case

TINY = ["--size", "tiny", "--n-visual", "16", "--response", "8", "--tuning", "lora", "--repeats", "1", "--skip-memory"]
KEYS = {"n_visual", "response_tokens", "reference", "tuning", "ratio_vs_trl", "ratio_vs_k_rows", "theoretical_ratio"}
KEYS |= {"peak_memory_ratio", "loss_difference", "grad_norm_relative_difference"}


@pytest.mark.parametrize("tuning, trl, shared, cached", [("lora", 581, 281, 216), ("full", 704, 346, 281)])
def test_operations_are_those_of_the_table_worked_out_beforehand(monkeypatch, tuning, trl, shared, cached):
    # Qwen2.5-VL-7B, 4096 visual tokens, 128 others in the prompt, responses of 200, checkpointing: TFLOP per pair
    monkeypatch.setattr(workload, "TEXT", 126)
    step = step_of(Case("7b", 4096, 200, tuning, checkpointing=True))
    parts = [step.encode, step.rows, step.shared, step.head]
    assert [round(part / 1e12, 1) for part in parts] == [21.6, 123.3, 64.6, 0.4]
    totals = step.trl(True, everywhere=False), step.ours(True), step.ours(False)
    assert [total / 1e12 for total in totals] == pytest.approx([trl, shared, cached], abs=1)


def test_a_tiny_shape_has_a_row_for_each_reference(capsys):
    dpo_step.main([*TINY, "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["reference"] for row in rows] == ["online", "cached"]
    for row in rows:
        assert row.keys() >= KEYS
        assert row["loss_difference"] < 1e-5 and row["grad_norm_relative_difference"] < 1e-4
        assert row["ratio_vs_trl"] > 0 and row["theoretical_ratio"] > 1


def test_sides_that_compute_different_things_stop_it(monkeypatch):
    right = sides.trl_rows
    monkeypatch.setattr(sides, "trl_rows", lambda batch: right(batch | {"input_ids": batch["input_ids"].flip(0)}))
    with pytest.raises(SystemExit, match="disagree"):
        dpo_step.main(TINY)
