"""`results.jsonl`: one line per finished arm, with its intervals and what it was made from."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lit_vpo.atomic import read_lines, write_lines
from lit_vpo.compare import Comparison
from lit_vpo.generations import finite


def append_result(
    path: str | Path, arm: str, seeds: list[int], found: Comparison, made_from: dict[str, Any] | None = None
) -> bool:
    """Appends a finished arm, unless the very same line stands there already but for its date.

    An arm with other numbers is another line: nothing that was once found is removed.

    Args:
        path: The JSONL file; made where missing.
        arm: Name of the arm.
        seeds: Of its runs.
        found: What the comparison found.
        made_from: From `recipe_log.made_from`; None if the arm was made by hand.

    Returns:
        Whether a line was appended.

    Raises:
        ValueError: If the file holds a line that is no JSON.
    """
    path = Path(path)
    lines = read_lines(path) if path.exists() else []
    facts = asdict(found)
    statistics = {line.pop("name"): line for line in facts.pop("lines")}
    row = finite({"arm": arm, "seeds": seeds, "statistics": statistics, **facts, "made_from": made_from})
    if row in [_undated(line, path) for line in lines]:
        return False
    write_lines(path, [*lines, json.dumps({**row, "date": datetime.now(UTC).date().isoformat()})])
    return True


def _undated(line: str, path: Path) -> dict[str, Any]:
    try:
        return {key: value for key, value in json.loads(line).items() if key != "date"}
    except ValueError as error:
        raise ValueError(f"{path} has a line that is no JSON ({line[:60]!r}); remove it") from error
