"""`data select`: which videos are worth asking about, their shots, and two frames of each merged group.

Workers decode and find shots; this process holds the one vision encoder, groups the shots and writes. Every row says by
which detector, encoder and rules it came to be, so a run that was cut goes on and never mixes two kinds.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

import torch
from rich.console import Console
from rich.progress import track

from lit_vpo.atomic import append_line, read_lines, write_lines
from lit_vpo.datamodules.manifest import Manifest, Sample
from lit_vpo.datamodules.quarantine import read_quarantine
from lit_vpo.models.image_features import ImageEncoder, load_image_encoder
from lit_vpo.preferences.selection import select_frames
from lit_vpo.preferences.selection_rules import NotSelected, SelectionRules
from lit_vpo.video_scan import Scanned, Scanner

Row: TypeAlias = dict[str, Any]


def select_videos(
    folder: str | Path,
    out: str | Path,
    vision: str,
    rules: SelectionRules | None = None,
    threshold: float | None = None,
    transnet: str | None = None,
    num_workers: int = 0,
    device: str = "cpu",
) -> None:
    """Selects the videos of a folder and writes an overlay row for each that stays.

    Rows go to `<out>.part` as they come, and in the manifest's order to `out` and, with the reason, to
    `<out stem>.dropped.jsonl` at the end. Videos that any of these files names with the same bytes are not done again.

    Args:
        folder: Shards or loose videos with their manifest.
        out: The overlay; `meta.selection.frame_indices` holds two frame numbers for each merged group.
        vision: Encoder by which shots are compared; see `load_image_encoder`.
        rules: The numbers; None takes the defaults.
        threshold: Of the shot detector; None takes its own.
        transnet: File of TransNetV2's weights; None detects with PySceneDetect.
        num_workers: Processes that decode; 0 does it in this one.
        device: Where the encoder runs.

    Raises:
        ValueError: An argument out of range, a missing manifest, model or extra, files of a run with other options, or
            no video selected.
    """
    if num_workers < 0:
        raise ValueError(f"num_workers must be >= 0, got {num_workers}")
    manifest, rules = Manifest.load(folder), rules or SelectionRules()
    scanner = Scanner(manifest.root, rules, threshold, transnet)
    made_by = {"detector": scanner.detector().identity, "rules": asdict(rules)}
    encoder = load_image_encoder(vision, device)
    results = Results(Path(out), made_by | {"similarity": encoder.identity}, manifest)
    missing = [sample for sample in manifest.samples if sample.key not in results.rows]
    scanned = _each(scanner, missing, num_workers)
    for each in track(scanned, "videos", total=len(missing)):
        results.add(each.key, _row(each, encoder, rules))
    results.finish()
    results.report(len(missing), len(read_quarantine(folder)))
    results.check_any()


class Results:
    """The rows of a selection on their way to its files.

    Args:
        out: The overlay.
        made_by: Detector, rules and encoder.
        manifest: Of the videos.

    Attributes:
        rows: By key, those that are there already among them.

    Raises:
        ValueError: If the files hold rows of other options.
    """

    def __init__(self, out: Path, made_by: Row, manifest: Manifest) -> None:
        self.out, self.part = out, out.with_name(out.name + ".part")
        self.dropped = out.with_name(out.stem + ".dropped.jsonl")
        self.made_by, self.manifest = made_by, manifest
        self.rows = {row["key"]: row for path in (out, self.dropped, self.part) for row in self._known(path)}

    def add(self, key: str, found: Row) -> None:
        """Note what became of a video.

        Args:
            key: The video's.
            found: What is known of it; with `reason` it is dropped.
        """
        why: Row = {name: found[name] for name in ("reason", "detail") if name in found}
        known: Row = {name: value for name, value in found.items() if name not in why}
        selection: Row = {**known, **self.made_by, "crc32": _checksum(self.manifest.by_key[key])}
        row: Row = {"key": key, "id": key, **why, "media": {}, "meta": {"selection": selection}}
        self.rows[key] = row
        append_line(self.part, json.dumps(row))

    def finish(self) -> None:
        """Write both files in the manifest's order; the overlay is there only if it has a row."""
        rows = [self.rows[sample.key] for sample in self.manifest.samples]
        kept, dropped = [row for row in rows if "reason" not in row], [row for row in rows if "reason" in row]
        write_lines(self.dropped, map(json.dumps, dropped))
        if kept:
            write_lines(self.out, map(json.dumps, kept))
        self.part.unlink(missing_ok=True)
        if not kept:
            self.out.unlink(missing_ok=True)

    def check_any(self) -> None:
        """Refuse an empty selection.

        Raises:
            ValueError: No video is selected.
        """
        if all("reason" in row for row in self.rows.values()):
            first = next(iter(self.rows.values()))
            raise ValueError(
                f"none of {len(self.rows)} videos is selected; the first: {first['reason']}, {first['detail']} "
                f"({self.dropped} has all)"
            )

    def report(self, num_new: int, num_quarantined: int) -> None:
        """Print how many videos stay, and how many go for which reason.

        Args:
            num_new: Videos of this run.
            num_quarantined: Videos that never reached the manifest.
        """
        reasons = Counter(row["reason"] for row in self.rows.values() if "reason" in row)
        lines = [f"{len(self.rows) - reasons.total()} of {len(self.rows)} videos selected, {num_new} new: {self.out}"]
        lines += [f"dropped {number}: {reason}" for reason, number in sorted(reasons.items())]
        if num_quarantined:
            lines.append(f"left out {num_quarantined}: in the quarantine of {self.manifest.root}")
        Console().print(*lines, sep="\n", soft_wrap=True, markup=False)

    def _known(self, path: Path) -> Iterator[Row]:
        """Rows about the videos as they are now; a line that a kill cut is left out."""
        for line in read_lines(path) if path.is_file() else []:
            try:
                row = json.loads(line)
                selection = row["meta"]["selection"]
            except json.JSONDecodeError:
                continue
            except (KeyError, TypeError) as error:
                raise ValueError(f"{path} holds other rows than a selection's; give another --out") from error
            _check_same(path, {name: selection.get(name) or {} for name in self.made_by}, self.made_by)
            sample = self.manifest.by_key.get(row["key"])
            if sample is not None and selection["crc32"] == _checksum(sample):
                yield row


def _check_same(path: Path, there: Row, now: Row) -> None:
    old, new = ({f"{part}.{name}": own[part][name] for part in own for name in own[part]} for own in (there, now))
    differ = [name for name in new.keys() | old.keys() if old.get(name) != new.get(name)]
    if differ:
        changes = ", ".join(f"{name} was {old.get(name)!r} and is {new.get(name)!r}" for name in sorted(differ))
        raise ValueError(
            f"{path} was written with other options ({changes}); restore them, remove the file, or give another --out"
        )


def _row(scanned: Scanned, encoder: ImageEncoder, rules: SelectionRules) -> Row:
    found: Row = {"shots": scanned.shots}
    if scanned.reason is not None:
        return found | {"reason": scanned.reason, "detail": scanned.detail}
    features = encoder(torch.from_numpy(scanned.pictures).permute(0, 3, 1, 2))
    try:
        return found | select_frames(scanned.shots, features, scanned.clarities, rules)
    except NotSelected as refusal:
        return found | {"reason": refusal.reason, "detail": refusal.detail}


def _checksum(sample: Sample) -> int:
    return sample.members[sample.video_extension][2]


def _each(scan: Callable[[Sample], Scanned], samples: Iterable[Sample], num_workers: int) -> Iterator[Scanned]:
    """Scans in the order in which they are done; a few are on their way at a time, since their pictures are large."""
    if num_workers == 0:
        yield from map(scan, samples)
        return
    waiting = iter(samples)
    # spawn: a fork of a process that has run torch can hang in its threads
    with ProcessPoolExecutor(num_workers, get_context("spawn")) as pool:
        running: set[Future[Scanned]] = {pool.submit(scan, each) for each in islice(waiting, 2 * num_workers)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(scan, each) for each in islice(waiting, len(done))}
                yield from (future.result() for future in done)
        except BrokenProcessPool as error:
            raise ValueError(
                "a worker was killed (out of memory?); the same command goes on where it was cut"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
