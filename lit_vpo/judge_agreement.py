"""Whether a judge is right: its verdicts against the exact event judge's, or its pairs against what people said."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lit_vpo.datamodules.overlay import Overlay
from lit_vpo.generations import Row, finite, load_scorer
from lit_vpo.preferences.agreement import Agreement, Choices, agreement, exact_choices, length_matched
from lit_vpo.preferences.blind import check_shown, chosen_side, read_sheet
from lit_vpo.preferences.judges import ExactJudge
from lit_vpo.preferences.verdict_rows import read_verdicts
from lit_vpo.protocols import CaptionScorer


@dataclass(frozen=True)
class Line:
    """The agreement on one group of pairs.

    Args:
        iteration: Of the verdicts; None for pairs that people rated.
        context: `with` or `without`; empty for pairs that people rated.
        judge: Its name in the footer; several where people rated the pairs of several.
        pairs: `all`, or those `matched` in length (the longer answer has at most 10 % more words).
        found: The agreement.
        num_rows: Verdicts or ratings of the group, those without a choice among them.
    """

    iteration: int | None
    context: str
    judge: str
    pairs: str
    found: Agreement
    num_rows: int


def judge_agreement(
    files: Sequence[str],
    scorer: str | CaptionScorer | None = None,
    labels: str | None = None,
    out: str | None = None,
    seed: int = 0,
) -> list[Line]:
    """Prints how far a judge agrees with the exact event judge, or with people, and writes the tables.

    With a scorer the files hold verdict rows, and each iteration has lines of its own, with and without context. With
    labels they hold the pairs that `data show --blind` was given, whose judge prefers the chosen answer.

    Args:
        files: JSONL; several are taken together.
        scorer: Caption scorer or its dotted path.
        labels: The CSV that a rater filled in.
        out: Where the Markdown goes (.md); a .json with everything goes beside it. None only prints.
        seed: Of the bootstrap, and of the sides that `data show --blind --seed` drew.

    Returns:
        The lines.

    Raises:
        ValueError: If neither or both of scorer and labels are given, a file is given twice or cannot be read,
            or the sheet is about other pairs or another seed's sides.
    """
    if (scorer is None) == (labels is None):
        raise ValueError("agreement is with a caption scorer (--scorer) or with people (--labels); give one of the two")
    if len(set(files)) < len(files):
        raise ValueError(f"a file is given twice: {', '.join(files)}; its verdicts would count twice")
    if labels is not None:
        lines, footer = _with_people(files, labels, seed)
    else:
        assert scorer is not None
        lines, footer = _with_scorer(files, load_scorer(scorer) if isinstance(scorer, str) else scorer, seed)
    footer.append("matched: the longer answer has at most 10 % more words; ties count in neither number")
    footer.append(f"bootstrap over clips, seed {seed}")
    _print(lines, footer)
    if out is not None:
        path = Path(out).with_suffix(".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_markdown(lines, footer), encoding="utf-8")
        content = finite({"lines": [asdict(line) for line in lines], "footer": footer})
        path.with_suffix(".json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return lines


def _with_scorer(files: Sequence[str], scorer: CaptionScorer, seed: int) -> tuple[list[Line], list[str]]:
    rows = [row for file in files for row in read_verdicts(file)]
    judges = _names(row["judge"] for row in rows)
    groups: dict[tuple[int, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        context = "without" if row.get("context") is None else "with"
        groups[row["iteration"], context, judges[_identity(row["judge"])]].append(row)
    lines: list[Line] = []
    for name, group in sorted(groups.items(), key=lambda item: item[0]):
        num_matched = sum(length_matched(*row["answers"]) for row in group)
        lines += _lines(name, exact_choices(group, scorer), (len(group), num_matched), seed)
    exact = f"exact judge: {ExactJudge(scorer).identity['judge']}"
    return lines, [exact, *_in_words(judges)]


def _with_people(files: Sequence[str], labels: str, seed: int) -> tuple[list[Line], list[str]]:
    ratings, pairs = read_sheet(labels), _pairs(files)
    check_shown(ratings, pairs, seed)
    rated = [pairs[name] for name in ratings]
    choices = [
        Choices(row["key"], chosen_side(seed, row["id"]), better, _is_matched(row))
        for row in rated
        if (better := ratings[row["id"]].better) is not None
    ]
    judges = _names((row.get("meta") or {}).get("judge") for row in rated)
    lines = _lines((None, "", ", ".join(judges.values())), choices, (len(rated), sum(map(_is_matched, rated))), seed)
    unanswered = f"{labels}: {len(rated)} pairs, {len(rated) - len(choices)} of them unanswered"
    return lines, [unanswered, *_in_words(judges)]


def _is_matched(pair: Row) -> bool:
    return length_matched(pair["chosen"], pair["rejected"])


def _pairs(files: Sequence[str]) -> dict[str, Row]:
    pairs: dict[str, Row] = {}
    for row in (row for file in files for row in Overlay.load(file).rows):
        name = row.get("id")
        if not name or not row.get("chosen") or not row.get("rejected"):
            raise ValueError(f"{', '.join(files)}: row {name!r} needs id, chosen and rejected; labels are about pairs")
        if name in pairs:
            raise ValueError(f"{', '.join(files)}: id {name!r} stands twice; give each overlay once")
        pairs[name] = row
    return pairs


def _lines(
    group: tuple[int | None, str, str], choices: Sequence[Choices], num_rows: tuple[int, int], seed: int
) -> list[Line]:
    """All pairs, and those whose answers are about as long."""
    matched = [each for each in choices if each.length_matched]
    return [
        Line(*group, "all", agreement(choices, seed), num_rows[0]),
        Line(*group, "matched", agreement(matched, seed), num_rows[1]),
    ]


def _names(judges: Iterable[Mapping[str, object] | None]) -> dict[str, str]:
    """Short names for the different identities, which stand in the footer."""
    found = dict.fromkeys(_identity(judge) for judge in judges)
    return {identity: str(number) for number, identity in enumerate(found, 1)}


def _in_words(judges: Mapping[str, str]) -> list[str]:
    return [f"judge {name}: {identity}" for identity, name in judges.items()]


def _identity(judge: Mapping[str, object] | None) -> str:
    return "unnamed" if judge is None else json.dumps(judge, sort_keys=True, ensure_ascii=False)


_COLUMNS = ("iteration", "context", "judge", "pairs", "agreement [95 %]", "kappa", "rows / chosen / tied")


def _cells(line: Line) -> tuple[str, ...]:
    found, interval = line.found, line.found.accuracy
    share = f"{100 * interval.estimate:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    counts = f"{line.num_rows} / {found.num_pairs} / {found.num_tied}"
    kappa = "-" if math.isnan(found.kappa) else f"{found.kappa:.2f}"
    iteration = "" if line.iteration is None else str(line.iteration)
    return iteration, line.context, line.judge, line.pairs, share if found.num_clips else "-", kappa, counts


def _markdown(lines: Sequence[Line], footer: Sequence[str]) -> str:
    rows = [_COLUMNS, (*["---"] * 4, *["---:"] * 3), *map(_cells, lines)]
    table = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    return table + "\n" + "".join(f"- {line}\n" for line in footer)


def _print(lines: Sequence[Line], footer: Sequence[str]) -> None:
    console = Console()
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for number, column in enumerate(_COLUMNS):
        table.add_column(escape(column), justify="left" if number < 4 else "right")
    for line in lines:
        table.add_row(*map(escape, _cells(line)))
    console.print(table)
    for text in footer:
        console.print(escape(text), soft_wrap=True)
