"""The one door. `fit`, `validate`, `test` and `predict` go to LightningCLI; plain commands are parsed here.

Nothing heavy is imported before a command is known: `--version` and `--help` answer at once.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import lit_vpo
from lit_vpo.cli_pairs import add_pairs
from lit_vpo.cli_runs import add_results, add_run, pair
from lit_vpo.cli_select import add_select

TRAINING = {
    "fit": "train: fit -c CONFIG.yaml [--ckpt_path last] [--KEY VALUE ...]",
    "validate": "evaluate a checkpoint on the validation data",
    "test": "evaluate a checkpoint on the test data",
    "predict": "let a model answer prompts and write the answers",
}
Command = Callable[[argparse.Namespace], int | None]


def main(args: Sequence[str] | None = None) -> None:
    """Runs one command; tests call it with a list.

    Raises:
        SystemExit: With the command's status if it is not 0, or 2 for a wrong command line or a ValueError, whose
            message is printed without a traceback.
    """
    words = list(sys.argv[1:] if args is None else args)
    try:
        status = _train(words) if words and words[0] in TRAINING else _plain(words)
    except ValueError as error:
        if args is not None:
            raise  # called from Python: let the caller see it
        sys.exit(f"error: {error}")
    if status:
        sys.exit(status)


def _train(words: list[str]) -> int | None:
    from lit_vpo.lightning_cli import run

    run(words)
    return None


def _plain(words: list[str]) -> int | None:
    namespace = _parser().parse_args(words)
    command: Command = namespace.command
    return command(namespace)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lit_vpo",
        description="Teach video LLMs to prefer the answer that the video supports.",
        epilog="`fit --help` and its siblings show the options of training.",
    )
    parser.add_argument("--version", action="version", version=f"lit_vpo {lit_vpo.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, text in TRAINING.items():
        commands.add_parser(name, help=text, add_help=False)
    add_run(commands)
    _add_data(commands)
    add_pairs(commands)
    add_results(commands)
    _add_export(commands)
    return parser


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="make, index, check and show data").add_subparsers(
        metavar="WHAT", required=True
    )
    _add_folders(data)
    _add_world(data)
    add_select(data)


def _add_folders(data: Any) -> None:
    pack = data.add_parser("pack", help="shards from a folder of videos, and an overlay from a JSON/JSONL of records")
    pack.add_argument("--videos", required=True, metavar="DIR")
    pack.add_argument(
        "--annotations",
        metavar="FILES",
        help="JSON or JSONL of any known format: a file, several with commas between, a glob, or the name whose shards "
        "ranks wrote (NAME.jsonl.0-8 ...); default: the videos alone",
    )
    pack.add_argument("--out", required=True, metavar="DIR")
    pack.add_argument(
        "--rename",
        default="",
        metavar="OLD=NEW",
        help="replace the prefix OLD of the annotations' media names by NEW; empty renames nothing",
    )
    pack.set_defaults(command=_pack)
    index = data.add_parser(
        "index",
        help="a manifest over shards, whoever wrote them, or over videos where they lie (one file = one sample)",
    )
    index.add_argument("dir")
    index.set_defaults(command=_index)
    check = data.add_parser(
        "check", help="verify shards, checksums, clips and records, print every problem; status 1 if there is any"
    )
    check.add_argument("dir")
    check.add_argument("--overlay", metavar="FILE")
    check.set_defaults(command=_check)
    show = data.add_parser("show", help="one self-contained page of pairs: frames, prompt, chosen, rejected, scores")
    show.add_argument("overlay")
    show.add_argument("--shards", metavar="DIR", help="where the videos are; default: the overlay's folder")
    show.add_argument("--n", type=int, default=20)
    show.add_argument("--out", default="pairs.html")
    show.add_argument(
        "--blind", action="store_true", help="hide which answer is chosen; a CSV to fill in goes beside the page"
    )
    show.add_argument("--seed", type=int, default=0, help="of the sides on a blind page; keep it from the raters")
    show.set_defaults(command=_show)


def _add_world(data: Any) -> None:
    world = data.add_parser("world", help="clips of MotionWorld, the synthetic world whose truth is known")
    world.add_argument("out")
    world.add_argument("--split", default="train")
    world.add_argument("--num", type=int, default=1000)
    world.add_argument("--seed", type=int, default=0)
    world.add_argument(
        "--mix", action="append", default=[], help="also write this mix of tasks as an overlay (repeatable)"
    )
    world.add_argument("--rows-per-clip", type=int, default=1)
    world.add_argument("--num-workers", type=int, default=0)
    world.add_argument(
        "--shots", type=int, metavar="N", help="join N clips to each video, so that its shots are known (no --mix)"
    )
    world.set_defaults(command=_world)
    tasks = data.add_parser("tasks", help="overlays of tasks for clips of MotionWorld that are there")
    tasks.add_argument("dir")
    tasks.add_argument("--mix", action="append", default=[], required=True, help="such as intervals (repeatable)")
    tasks.add_argument("--rows-per-clip", type=int, default=1)
    tasks.set_defaults(command=_tasks)


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help="a checkpoint's policy as a folder for plain transformers or PEFT")
    export.add_argument("ckpt")
    export.add_argument("dir", help="the folder to write")
    export.add_argument(
        "--to", required=True, metavar="peft|hf", help="an adapter of the base, or the whole network and its processor"
    )
    export.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16; default: as trained")
    export.set_defaults(command=_export)


def _pack(args: argparse.Namespace) -> int | None:
    from lit_vpo.datamodules.check import pack

    rename = pair(args.rename, "--rename") if args.rename else None
    pack(args.videos, args.annotations, args.out, rename=rename)
    return None


def _index(args: argparse.Namespace) -> int | None:
    from lit_vpo.datamodules.check import index

    index(args.dir)
    return None


def _check(args: argparse.Namespace) -> int | None:
    from lit_vpo.datamodules.check import check

    return 1 if check(args.dir, args.overlay) else 0


def _show(args: argparse.Namespace) -> int | None:
    from lit_vpo.show import show

    show(args.overlay, args.shards, args.n, args.out, args.blind, args.seed)
    return None


def _world(args: argparse.Namespace) -> int | None:
    from lit_vpo.datamodules.motion_world.joined import write_joined
    from lit_vpo.datamodules.motion_world.shards import write_world

    if args.shots is not None:
        if args.mix:
            raise ValueError("--mix asks about single clips; leave it or --shots out")
        write_joined(args.out, args.split, args.num, args.seed, args.shots, num_workers=args.num_workers)
        return None
    write_world(args.out, args.split, args.num, args.seed, args.mix, args.rows_per_clip, num_workers=args.num_workers)
    return None


def _tasks(args: argparse.Namespace) -> int | None:
    from lit_vpo.datamodules.motion_world.shards import write_tasks

    write_tasks(args.dir, args.mix, args.rows_per_clip)
    return None


def _export(args: argparse.Namespace) -> int | None:
    from lit_vpo.export import export

    export(args.ckpt, args.to, args.dir, args.dtype)
    return None
