"""`pairs prompts` and `pairs build`: the two plain stages between a folder of shards and an overlay of pairs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lit_vpo.compare import load_scorer
from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.overlay import Overlay
from lit_vpo.preferences.pairs import DEFAULT_PROMPTS, build_pairs, pair_quality
from lit_vpo.preferences.perturbations import perturbed_prompts


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


def write_pairs(generations: str, out: str, scorer: str | None, num_validation: int = 0) -> None:
    """Builds pairs from generations, writes the overlay, and prints what was dropped and why.

    Args:
        generations: JSONL that `predict` wrote for `pairs prompts`.
        out: The overlay; dropped pairs go to `<out stem>.dropped.jsonl` with their reasons.
        scorer: Dotted path of a caption scorer; with it the share of pairs whose chosen really is better is printed.
        num_validation: The pairs of this many videos (the last ones) go to `<out stem>.validation.jsonl` instead.

    Raises:
        ValueError: If no pair is left.
    """
    rows = [json.loads(line) for line in Path(generations).read_text(encoding="utf-8").splitlines()]
    pairs, dropped = build_pairs(rows)
    if not pairs:
        raise ValueError(
            f"no pair left of {len(dropped)}; look at the reasons: {sorted({d['reason'] for d in dropped})}"
        )
    path = Path(out)
    keys = list(dict.fromkeys(pair["key"] for pair in pairs))
    held_out = set(keys[len(keys) - num_validation :])
    Overlay(tuple(pair for pair in pairs if pair["key"] not in held_out)).save(path)
    if num_validation:
        validation = Overlay(tuple(pair for pair in pairs if pair["key"] in held_out))
        validation.save(path.with_name(path.stem + ".validation.jsonl"))
    path.with_name(path.stem + ".dropped.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dropped))
    _print_counts(pairs, dropped)
    if scorer:
        quality = pair_quality(pairs, load_scorer(scorer), {row["key"]: row for row in rows})
        path.with_name(path.stem + ".quality.json").write_text(json.dumps(quality, indent=1))
        _print_quality(quality)


def _print_counts(pairs: list[dict[str, Any]], dropped: list[dict[str, Any]]) -> None:
    table = Table("pairs", "number", title="pairs kept and dropped")
    table.add_row("kept", str(len(pairs)))
    for reason in sorted({row["reason"] for row in dropped}):
        table.add_row(f"dropped: {reason}", str(sum(row["reason"] == reason for row in dropped)))
    Console().print(table)


def _print_quality(quality: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(quality.values())))
    table = Table("kind", *columns, title="how often chosen really is better")
    for kind, values in quality.items():
        table.add_row(kind, *(f"{values[c]:.3g}" for c in columns))
    Console().print(table)
