"""Kill a run again and again, and look whether it saw what a run that nobody killed would have seen.

    python benchmarks/soak.py [--kills 20] [--seed 0] [--ranks 1] [--json]

A real run (`tests/datamodules/resuming.py`: Lightning, the data module, a module without a model) over clips made here
gets SIGKILL at random moments after its first step, also while it writes a checkpoint. It goes on from its last one,
with another number of decode workers. Every step writes down the ids of its batch; a step that is done again must see
the same, and all steps together must be the sequence that the plan gives. Prints a table; exits with 1 where they
differ.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lit_vpo.datamodules as data
from lit_vpo.datamodules.motion_world.shards import write_world
from lit_vpo.models.loading import load_processor

ROOT = Path(__file__).resolve().parents[1]
PAUSE_S = 0.05
LONGEST_S = 0.8
LONGEST_STEPS = round(LONGEST_S / PAUSE_S) + 2  # of a life: the one that is waited for, and one while it is noticed


def make_data(folder: Path) -> tuple[Path, Path]:
    """Twelve clips in shards, and an overlay of 60 rows over them; returns both paths."""
    write_world(folder / "world", "train", 12, 0, [], 1)
    keys = sorted(data.Manifest.load(folder / "world").by_key)
    texts = {"prompt": "What happens?", "ground_truth": "a cat"}
    rows = [{"key": keys[number % 12], "id": f"r{number}", **texts} for number in range(60)]
    data.write_overlay(folder / "rows.jsonl", rows)
    return folder / "world", folder / "rows.jsonl"


def expected(shards: Path, overlay: Path, batches: int) -> tuple[int, list[str]]:
    """The epochs that hold so many batches or more, and the ids of every batch of theirs, read off the plan."""
    reader = data.RecordReader(data.Manifest.load(shards), data.read_overlay(overlay))
    collator = data.Collator(load_processor("tiny_llava_onevision"), "instruction")
    plan = data.ShardLoader(reader, collator, batch_size=2, num_frames=2, size=16).plan
    epochs = -(-batches // plan.num_batches)
    rows = [batch for epoch in range(epochs) for batch in plan.batches(epoch)]
    return epochs, [",".join(reader.rows[row]["id"] for row in batch) for batch in rows]


def seen(folder: Path, rank: int = 0) -> list[tuple[int, str]]:
    """What a rank has written down so far; a line cut by a kill is left out."""
    path = folder / f"seen.{rank}.txt"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [(int(step), ids) for step, ids in (line.split(" ") for line in lines)]


def start(command: list[str], workers: int) -> "subprocess.Popen[bytes]":
    """Start the run, or go on with it, in a session of its own."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(
        [*command, "--workers", str(workers)],
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        **quiet,
    )


def killed(command: list[str], folder: Path, draw: random.Random, workers: int) -> dict[str, Any]:
    """One life of the run: at least one step, then SIGKILL after a random time."""
    before = len(seen(folder))
    run = start(command, workers)
    while len(seen(folder)) == before and run.poll() is None:
        time.sleep(0.01)
    time.sleep(draw.uniform(0.0, LONGEST_S))
    alive = run.poll() is None
    if alive:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    # none where the run failed before its first step
    steps = [step for step, _ in seen(folder)[before:]] or [None]
    return {"workers": workers, "first": steps[0], "last": steps[-1], "killed": alive}


def soak(kills: int, seed: int, ranks: int) -> dict[str, Any]:
    """Kill, resume, compare."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        root, run = Path(name), Path(name) / "run"
        run.mkdir()
        shards, overlay = make_data(root)
        # so many that the last kill comes before the end
        epochs, truth = expected(shards, overlay, kills * ranks * LONGEST_STEPS)
        script = [sys.executable, str(ROOT / "tests/datamodules/resuming.py"), str(shards), str(overlay), str(run)]
        command = [*script, "--epochs", str(epochs), "--pause", str(PAUSE_S), "--ranks", str(ranks)]
        lives = [killed(command, run, draw, draw.randrange(3)) for _ in range(kills)]
        ending = start(command, 0).wait()
        lines = [(step * ranks + rank, ids) for rank in range(ranks) for step, ids in seen(run, rank)]
    wrong = [number for number, ids in lines if truth[number : number + 1] != [ids]]
    survived = [life for life in lives if not life["killed"]]
    batches = {number for number, _ in lines}
    equal = ending == 0 and not wrong and not survived and batches == set(range(len(truth)))
    return {"kills": kills - len(survived), "batches": len(batches), "equal": equal, "lives": lives}


def main() -> None:
    """Parses the options, kills, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = soak(args.kills, args.seed, args.ranks)
    if args.json:
        print(json.dumps(result))
    else:
        print("life  workers  first step  last step")
        for number, life in enumerate(result["lives"]):
            print(f"{number:4d}  {life['workers']:7d}  {life['first']!s:>10}  {life['last']!s:>9}")
        words = "equal to the straight run" if result["equal"] else "NOT EQUAL to the straight run"
        print(f"{result['kills']} kills, {result['batches']} batches: {words}")
    sys.exit(0 if result["equal"] else 1)


if __name__ == "__main__":
    main()
