"""The commands under `pairs`: plain stages between a folder of shards and an overlay to train on."""

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table

from lit_vpo.atomic import write_lines
from lit_vpo.datamodules.mix import Mix
from lit_vpo.datamodules.overlay import Overlay
from lit_vpo.generations import load_scorer, read_generations
from lit_vpo.preferences.candidates import best_answers, select_pairs
from lit_vpo.preferences.captions import caption_records
from lit_vpo.preferences.corruption import corrupted
from lit_vpo.preferences.judges import ExactJudge
from lit_vpo.preferences.pairs import DEFAULT_FILTERS, build_pairs, pair_quality
from lit_vpo.preferences.questions import question_pairs
from lit_vpo.preferences.sharpening import against_clean

Row: TypeAlias = dict[str, Any]


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
        generations: JSONL that `predict` wrote for `pairs prompts` or `pairs lists`.
        out: The overlay; dropped pairs go to `<out stem>.dropped.jsonl` with their reasons. A name with `{r}` stands
            for one overlay of each divisor, which all hold out the same videos.
        scorer: Dotted path of a caption scorer; with it the share of pairs whose chosen really is better is printed.
        num_validation: The pairs of this many videos (the last ones) go to `<out stem>.validation.jsonl` instead.
        filters: Names or dotted paths of pair filters; empty means the released ones.
        max_pairs_per_video: Keep at most this many pairs of a video, drawn at random; None keeps all.
        seed: Address of that draw.

    Raises:
        ValueError: As `read_generations`; if a filter is unknown, no pair is left, or num_validation leaves no video to
            train on.
    """
    rows = list(read_generations(generations).values())
    pairs, dropped = build_pairs(rows, tuple(filters) or DEFAULT_FILTERS, max_pairs_per_video, seed)
    held_out = _held_out(pairs, dropped, num_validation)
    records = {row["id"]: row for row in rows}
    for path, own, lost in _by_divisor(pairs, dropped, out):
        _save(own, lost, path, held_out)
        if scorer and own:
            quality = pair_quality(own, load_scorer(scorer), records)
            path.with_name(path.stem + ".quality.json").write_text(json.dumps(quality, indent=1))
            _print_quality(quality)


def write_corrupted(pairs: str, out: str, kind: str, r: int, num_frames: int, seed: int, unit: str) -> None:
    """Writes an overlay whose pairs also reject the chosen text on a corrupted video, as `MDPOLoss` compares it.

    Args:
        pairs: Overlay of pairs.
        out: The new overlay.
        kind: Perturbation by name or dotted path.
        r: Its divisor.
        num_frames: Frames that will be sampled.
        seed: Address of the draws.
        unit: What is perturbed: `frames`, or `clips` of two frames.

    Raises:
        ValueError: As `lit_vpo.preferences.corruption.corrupted`.
    """
    rows = corrupted(Overlay.load(pairs).rows, kind, r, num_frames, seed, unit)
    Overlay(tuple(rows)).save(out)
    Console().print(f"{len(rows)} pairs with a corrupted video as second negative: {out}")


def write_against_clean(pairs: Sequence[str], answers: str, out: str, seed: int) -> None:
    """Writes the same pairs with rejected replaced by another answer to the clean video.

    Args:
        pairs: Overlays of pairs.
        answers: JSONL that `predict` wrote for the same questions about the clean videos (`prompts --clean-only`).
        out: Folder of the new overlays, which keep their names; pairs left out go to `<stem>.dropped.jsonl`.
        seed: Address of the draws.

    Raises:
        ValueError: As `read_generations`; if two overlays have one name, or one has no pair left.
    """
    paths = [Path(name) for name in pairs]
    if len({path.name for path in paths}) < len(paths):
        raise ValueError(f"overlays keep their names in {out}, so each name can stand once; got {', '.join(pairs)}")
    rows = list(read_generations(answers).values())
    for path in paths:
        kept, dropped = against_clean(Overlay.load(path).rows, rows, seed)
        _check_any(kept, dropped)
        _save(kept, dropped, Path(out) / path.name)


def _held_out(pairs: list[Row], dropped: list[Row], num_validation: int) -> set[str]:
    """The last videos that have pairs; a video is held out of every overlay, or of none."""
    _check_any(pairs, dropped)
    keys = list(dict.fromkeys(pair["key"] for pair in pairs))
    if not 0 <= num_validation < len(keys):
        raise ValueError(
            f"--validation must be >= 0 and leave a video to train on: got {num_validation} of the {len(keys)} videos "
            "that have pairs"
        )
    return set(keys[len(keys) - num_validation :])


def _check_any(pairs: list[Row], dropped: list[Row]) -> None:
    if not pairs:
        reasons = sorted({row["reason"] for row in dropped})
        raise ValueError(f"no pair left of {len(dropped)}; look at the reasons: {reasons}")


def _by_divisor(pairs: list[Row], dropped: list[Row], out: str) -> list[tuple[Path, list[Row], list[Row]]]:
    """Each overlay to write, with its pairs and those dropped; easy ones (large r) first."""
    if "{r}" not in out:
        return [(Path(out), pairs, dropped)]
    divisors = {row["r"] for row in [*pairs, *dropped]}
    if None in divisors:
        raise ValueError(f"{out} stands for one overlay of each divisor, and there are answers without `r`")
    if old := sorted(_written(out) - {out.replace("{r}", str(r)) for r in divisors}):
        raise ValueError(f"{', '.join(old)}: of an earlier run, and no divisor of this one; remove what is old")
    return [
        (Path(out.replace("{r}", str(r))), [p for p in pairs if p["r"] == r], [d for d in dropped if d["r"] == r])
        for r in sorted(divisors, reverse=True)
    ]


def _written(out: str) -> set[str]:
    """The overlays of any divisor that lie there."""
    path = Path(out)
    pattern = re.escape(path.name).replace(re.escape("{r}"), "[0-9]+")
    return {str(found) for found in path.parent.glob("*") if "{r}" in path.name and re.fullmatch(pattern, found.name)}


def _save(pairs: list[Row], dropped: list[Row], path: Path, held_out: Collection[str] | None = None) -> None:
    """Write pairs, those of videos held out apart (None where that cannot be), and what gave none; print the counts."""
    held = held_out or ()
    _write(path, [pair for pair in pairs if pair["key"] not in held])
    if held_out is not None:
        _write(path.with_name(path.stem + ".validation.jsonl"), [pair for pair in pairs if pair["key"] in held])
    write_lines(path.with_name(path.stem + ".dropped.jsonl"), (json.dumps(row) for row in dropped))
    _print_counts(pairs, dropped, path)


def _write(path: Path, rows: list[Row]) -> None:
    """An overlay; without rows there is none, nor is one of an earlier run left."""
    if rows:
        Overlay(tuple(rows)).save(path)
    else:
        path.unlink(missing_ok=True)


def _print_counts(pairs: list[Row], dropped: list[Row], path: Path) -> None:
    table = Table("pairs", "number", title=f"{path.name}: pairs kept and dropped")
    table.add_row("kept", str(len(pairs)))
    difficulties = sorted({row["difficulty"] for row in [*pairs, *dropped] if row.get("difficulty") is not None})
    if difficulties:
        table.add_row("difficulty", ", ".join(f"{value:.2f}" for value in difficulties))
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
        ValueError: As `read_generations`; if the rows have no candidates, no pair is left, or num_validation leaves no
            video to train on.
    """
    rows = list(read_generations(generations).values())
    if "prompt_id" not in rows[0]:
        raise ValueError(f"{generations} has one answer per prompt; predict with --model.init_args.num_candidates 2")
    pairs, dropped = select_pairs(rows, ExactJudge(load_scorer(scorer)), margin)
    _save(pairs, dropped, Path(out), _held_out(pairs, dropped, num_validation))


def write_best(generations: Sequence[str], out: str, scorer: str) -> None:
    """Writes the best answer to each prompt, for `compare`: best-of-k, which needs the truth at test time.

    Args:
        generations: JSONL that `predict` wrote for the same prompts, with several candidates or one each.
        out: The best rows, under the prompts' ids.
        scorer: Dotted path of a caption scorer.

    Raises:
        ValueError: As `read_generations` and `lit_vpo.preferences.candidates.best_answers`.
    """
    rows = [row for path in generations for row in read_generations(path).values()]
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
    pairs, dropped = question_pairs(Mix.load(questions).overlay.rows, seed)
    _check_any(pairs, dropped)
    _save(pairs, dropped, Path(out))


def write_captions(generations: str, out: str) -> None:
    """Writes what a policy said as records to learn from, for rebirth tuning, and prints what was left out.

    Args:
        generations: JSONL that `predict` wrote.
        out: The overlay; rows left out go to `<out stem>.dropped.jsonl` with their reasons.

    Raises:
        ValueError: As `read_generations`, or if no caption is left.
    """
    rows = list(read_generations(generations).values())
    kept, dropped = caption_records(rows)
    _check_any(kept, dropped)
    _save(kept, dropped, Path(out))
