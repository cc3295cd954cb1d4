"""The commands under `pairs`: plain stages between a folder of shards and an overlay to train on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lit_vpo.atomic import read_lines, write_lines
from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.mix import Mix
from lit_vpo.datamodules.overlay import Overlay
from lit_vpo.generations import load_scorer
from lit_vpo.preferences.candidates import best_answers, select_pairs
from lit_vpo.preferences.captions import caption_records
from lit_vpo.preferences.corruption import corrupted
from lit_vpo.preferences.judges import ExactJudge
from lit_vpo.preferences.pairs import DEFAULT_FILTERS, DEFAULT_PROMPTS, build_pairs, pair_quality
from lit_vpo.preferences.perturbations import perturbed_prompts
from lit_vpo.preferences.questions import question_pairs


def write_prompts(
    shards: str,
    out: str,
    kinds: Sequence[str],
    divisors: Sequence[int],
    num_frames: int,
    prompts: Sequence[str],
    seed: int,
) -> None:
    """Writes the overlay that asks for a caption of each clean video and of each perturbed one.

    Args:
        shards: Folder with a manifest.
        out: The overlay.
        kinds: Perturbations; empty means drop, shuffle and reverse.
        divisors: Values of r; empty means 4.
        num_frames: Frames that will be sampled; perturbations act on them before decoding.
        prompts: One is drawn per video; empty means a few caption instructions.
        seed: Address of the draws.

    Raises:
        ValueError: If a kind is unknown or a divisor below 2.
    """
    keys = [sample.key for sample in Manifest.load(shards).samples]
    rows = perturbed_prompts(
        keys, prompts or DEFAULT_PROMPTS, kinds or ("drop", "shuffle", "reverse"), divisors or (4,), num_frames, seed
    )
    Overlay(tuple(rows)).save(out)
    Console().print(f"{len(rows)} prompts for {len(keys)} videos: {out}")


def write_pairs(
    generations: str,
    out: str,
    scorer: str | None = None,
    num_validation: int = 0,
    filters: Sequence[str] = (),
    max_pairs_per_video: int | None = None,
    seed: int = 0,
) -> None:
    """Builds pairs from generations, writes the overlay, and prints what was dropped and why.

    Args:
        generations: JSONL that `predict` wrote for `pairs prompts`.
        out: The overlay; dropped pairs go to `<out stem>.dropped.jsonl` with their reasons.
        scorer: Dotted path of a caption scorer; with it the share of pairs whose chosen really is better is printed.
        num_validation: The pairs of this many videos (the last ones) go to `<out stem>.validation.jsonl` instead.
        filters: Names or dotted paths of pair filters; empty means all that are shipped.
        max_pairs_per_video: Keep at most this many pairs of a video, drawn at random; None keeps all.
        seed: Address of that draw.

    Raises:
        ValueError: If a filter is unknown, no pair is left, or num_validation leaves no video to train on.
    """
    rows = [json.loads(line) for line in read_lines(Path(generations)) if line.strip()]
    pairs, dropped = build_pairs(rows, tuple(filters) or DEFAULT_FILTERS, max_pairs_per_video, seed)
    path = Path(out)
    _save(pairs, dropped, path, num_validation)
    if scorer:
        quality = pair_quality(pairs, load_scorer(scorer), {row["key"]: row for row in rows})
        path.with_name(path.stem + ".quality.json").write_text(json.dumps(quality, indent=1))
        _print_quality(quality)


def write_corrupted(pairs: str, out: str, kind: str, r: int, num_frames: int, seed: int) -> None:
    """Writes an overlay whose pairs also reject the chosen text on a corrupted video, as `MDPOLoss` compares it.

    Args:
        pairs: Overlay of pairs.
        out: The new overlay.
        kind: Perturbation by name or dotted path.
        r: Its divisor.
        num_frames: Frames that will be sampled.
        seed: Address of the draws.

    Raises:
        ValueError: As `lit_vpo.preferences.corruption.corrupted`.
    """
    rows = corrupted(Overlay.load(pairs).rows, kind, r, num_frames, seed)
    Overlay(tuple(rows)).save(out)
    Console().print(f"{len(rows)} pairs with a corrupted video as second negative: {out}")


def _save(pairs: list[dict[str, Any]], dropped: list[dict[str, Any]], path: Path, num_validation: int) -> None:
    """Write pairs and what gave none, and print the counts."""
    if not pairs:
        raise ValueError(
            f"no pair left of {len(dropped)}; look at the reasons: {sorted({d['reason'] for d in dropped})}"
        )
    _split(pairs, path, num_validation)
    write_lines(path.with_name(path.stem + ".dropped.jsonl"), (json.dumps(row) for row in dropped))
    _print_counts(pairs, dropped)


def _split(pairs: list[dict[str, Any]], path: Path, num_validation: int) -> None:
    keys = list(dict.fromkeys(pair["key"] for pair in pairs))
    if not 0 <= num_validation < len(keys):
        raise ValueError(
            f"--validation must be >= 0 and leave a video to train on: got {num_validation} of the {len(keys)} videos "
            "that have pairs"
        )
    held_out = set(keys[len(keys) - num_validation :])
    Overlay(tuple(pair for pair in pairs if pair["key"] not in held_out)).save(path)
    if num_validation:
        validation = Overlay(tuple(pair for pair in pairs if pair["key"] in held_out))
        validation.save(path.with_name(path.stem + ".validation.jsonl"))


def _print_counts(pairs: list[dict[str, Any]], dropped: list[dict[str, Any]]) -> None:
    table = Table("pairs", "number", title="pairs kept and dropped")
    table.add_row("kept", str(len(pairs)))
    for reason in sorted({row["reason"] for row in dropped}):
        table.add_row(f"dropped: {reason}", str(sum(row["reason"] == reason for row in dropped)))
    Console().print(table)


def _print_quality(quality: dict[str, dict[str, float]]) -> None:
    """Kinds are columns: few and short, where the statistics are many and long."""
    table = Table("share of pairs", *quality, title="how often chosen really is better")
    for name in next(iter(quality.values())):
        table.add_row(name, *(f"{values[name]:.3g}" for values in quality.values()))
    Console().print(table)


def write_selected(generations: str, out: str, scorer: str, margin: float, num_validation: int = 0) -> None:
    """Selects the best and the worst candidate of each prompt, writes the overlay, and prints what gave no pair.

    Args:
        generations: JSONL that `predict` wrote with several candidates (`model.num_candidates`).
        out: The overlay; prompts without a pair go to `<out stem>.dropped.jsonl` with their reasons.
        scorer: Dotted path of a caption scorer.
        margin: Least difference in errors per event.
        num_validation: The pairs of this many videos (the last ones) go to `<out stem>.validation.jsonl` instead.

    Raises:
        ValueError: If the rows have no candidates, no pair is left, or num_validation leaves no video to train on.
    """
    rows = [json.loads(line) for line in read_lines(Path(generations)) if line.strip()]
    if not rows or "prompt_id" not in rows[0]:
        raise ValueError(f"{generations} has one answer per prompt; predict with --model.init_args.num_candidates 2")
    pairs, dropped = select_pairs(rows, ExactJudge(load_scorer(scorer)), margin)
    _save(pairs, dropped, Path(out), num_validation)


def write_best(generations: Sequence[str], out: str, scorer: str) -> None:
    """Writes the best answer to each prompt, for `compare`: best-of-k, which needs the truth at test time.

    Args:
        generations: JSONL that `predict` wrote for the same prompts, with several candidates or one each.
        out: The best rows, under the prompts' ids.
        scorer: Dotted path of a caption scorer.

    Raises:
        ValueError: As `lit_vpo.preferences.candidates.best_answers`.
    """
    rows = [json.loads(line) for path in generations for line in read_lines(Path(path)) if line.strip()]
    best = best_answers(rows, ExactJudge(load_scorer(scorer)))
    write_lines(Path(out), (json.dumps(row, ensure_ascii=False) for row in best))
    Console().print(f"the best of {len(rows)} answers to {len(best)} prompts: {out}")


def write_question_pairs(questions: str, out: str, seed: int = 0) -> None:
    """Writes pairs of the right answer and a wrong one, and prints what gave no pair.

    Args:
        questions: Overlay of questions with options: a file, a comma list or a glob.
        out: The overlay; questions without a pair go to `<out stem>.dropped.jsonl` with their reasons.
        seed: Address of the draws.

    Raises:
        ValueError: If no pair is left.
    """
    _save(*question_pairs(Mix.load(questions).overlay.rows, seed), Path(out), 0)


def write_captions(generations: str, out: str) -> None:
    """Writes what a policy said as records to learn from, for rebirth tuning, and prints what was left out.

    Args:
        generations: JSONL that `predict` wrote.
        out: The overlay; rows left out go to `<out stem>.dropped.jsonl` with their reasons.

    Raises:
        ValueError: If no caption is left.
    """
    rows = [json.loads(line) for line in read_lines(Path(generations)) if line.strip()]
    _save(*caption_records(rows), Path(out), 0)
