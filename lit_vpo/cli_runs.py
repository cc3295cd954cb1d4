"""`run`, and what reads its results: `compare`, `score`, `curves`, `rounds`, `verbosity` and `agreement`."""

import argparse
from pathlib import Path
from typing import Any


def add_run(commands: Any) -> None:
    """Adds `run`."""
    run = commands.add_parser("run", help="run a recipe: ordered stages, each an ordinary command")
    run.add_argument("file", help="the recipe's YAML")
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe's `set`"
    )
    run.add_argument("--seeds", metavar="N,N,...", help="instead of the recipe's `seed`")
    run.add_argument("--arms", default="", metavar="NAME,...", help="run these arms only")
    run.add_argument("--only", action="append", default=[], metavar="STAGE", help="run only this stage (repeatable)")
    run.set_defaults(command=_run)


def add_results(commands: Any) -> None:
    """Adds `compare`, `score`, `curves`, `rounds`, `verbosity` and `agreement`."""
    compare = commands.add_parser("compare", help="a table before/after with paired 95 %% intervals")
    compare.add_argument("before", help="generations, JSONL")
    compare.add_argument("after", nargs="+", help="generations for the same prompts; several are runs with other seeds")
    compare.add_argument("--scorer", required=True, help="dotted path of a caption scorer")
    compare.add_argument("--out", help="where to write the table (.md; a .json goes beside it)")
    compare.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    compare.add_argument("--results", metavar="FILE", help="append the finished arm to this JSONL, once")
    compare.add_argument("--arm", help="its name there")
    compare.add_argument("--seeds", metavar="N,N,...", help="the seeds of the files after, in their order")
    compare.add_argument("--run_dir", metavar="DIR", help="the recipe's, whose log says from what the files were made")
    compare.set_defaults(command=_compare)
    score = commands.add_parser("score", help="a table of each task's errors with 95 %% intervals")
    score.add_argument("files", nargs="+", metavar="FILE", help="generations, JSONL")
    score.add_argument("--scorer", required=True, help="dotted path of a caption scorer")
    score.add_argument("--out", help="where to write the table (.md; a .json goes beside it)")
    score.add_argument("--seed", type=int, default=0)
    score.set_defaults(command=_score)
    curves = commands.add_parser("curves", help="PNG curves of a run's metrics")
    curves.add_argument("run_dirs", nargs="+", metavar="RUN_DIR")
    curves.add_argument("--out", help="default: curves.png in the first RUN_DIR")
    curves.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="GLOB",
        help="draw these alone, one panel each, and print their means (repeatable)",
    )
    curves.set_defaults(command=_curves)
    rounds = commands.add_parser("rounds", help="PNG of event errors by round, and against KL from the base")
    rounds.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", help="of a fit in rounds with CaptionScores, BaseKL")
    rounds.add_argument("--base", metavar="DIR", help="of a validate of the base: the point before the first round")
    rounds.add_argument("--out", help="default: rounds.png in the first RUN_DIR")
    rounds.set_defaults(command=_rounds)
    _add_judging(commands)


def _add_judging(commands: Any) -> None:
    """What the verdicts of a run say about its answers and about its judge."""
    verbosity = commands.add_parser("verbosity", help="PNG of answer lengths and judging by iteration, of several runs")
    verbosity.add_argument(
        "run_dirs", nargs="+", metavar="RUN_DIR", help="of a fit whose resampler judges, or of *.verdicts.jsonl"
    )
    verbosity.add_argument("--scorer", help="dotted path of a caption scorer: also draw how often the judge is right")
    verbosity.add_argument("--out", help="default: verbosity.png in the first RUN_DIR; a .json goes beside it")
    verbosity.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    verbosity.set_defaults(command=_verbosity)
    agreement = commands.add_parser("agreement", help="how far a judge agrees with the exact one, or with people")
    agreement.add_argument("files", nargs="+", metavar="FILE", help="verdicts; with --labels the pairs that were shown")
    agreement.add_argument("--scorer", help="dotted path of a caption scorer: the exact event judge")
    agreement.add_argument("--labels", metavar="CSV", help="the sheet of `data show --blind`, filled in")
    agreement.add_argument("--out", help="where to write the table (.md; a .json goes beside it)")
    agreement.add_argument("--seed", type=int, default=0, help="of the bootstrap, and of the blind page's sides")
    agreement.set_defaults(command=_agreement)


def pair(text: str, option: str) -> tuple[str, str]:
    """Splits KEY=VALUE.

    Raises:
        ValueError: If it is none.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ValueError(f"{option} takes KEY=VALUE, got {text!r}")
    return key, value


def _run(args: argparse.Namespace) -> int | None:
    from lit_vpo.recipe import run_recipe

    overrides = dict(pair(item, "--set") for item in args.set)
    run_recipe(args.file, overrides, args.only, args.seeds, [name for name in args.arms.split(",") if name])
    return None


def _compare(args: argparse.Namespace) -> int | None:
    seeds = _seeds(args)
    from lit_vpo.compare import compare
    from lit_vpo.recipe_log import made_from, read_log
    from lit_vpo.results import append_result

    # before the bootstrap: a file that no stage made is said at once
    made = made_from(read_log(Path(args.run_dir)), [args.before, *args.after]) if args.run_dir else None
    found = compare(args.before, args.after, args.scorer, args.out, args.seed)
    if args.results:
        is_new = append_result(args.results, args.arm, seeds, found, made)
        print(f"{args.arm}: {'appended to' if is_new else 'stands already in'} {args.results}")
    return None


def _seeds(args: argparse.Namespace) -> list[int]:
    """The seeds of the files after; checks what belongs together."""
    if not args.results:
        if args.arm or args.seeds or args.run_dir:
            raise ValueError("--arm, --seeds and --run_dir say what goes to --results FILE; give it too")
        return []
    seeds = (args.seeds or "").split(",")
    if not args.arm or not all(seed.isdecimal() for seed in seeds) or len(seeds) != len(args.after):
        raise ValueError(
            f"--results needs --arm NAME and --seeds with a number for each of the {len(args.after)} files after, such "
            f"as --seeds {','.join(map(str, range(len(args.after))))}"
        )
    return [int(seed) for seed in seeds]


def _score(args: argparse.Namespace) -> int | None:
    from lit_vpo.score import score

    score(args.files, args.scorer, args.out, args.seed)
    return None


def _curves(args: argparse.Namespace) -> int | None:
    from lit_vpo.curves import plot

    plot(args.run_dirs, args.out, args.metric)
    return None


def _rounds(args: argparse.Namespace) -> int | None:
    from lit_vpo.round_curves import plot_rounds

    plot_rounds(args.run_dirs, args.out, args.base)
    return None


def _verbosity(args: argparse.Namespace) -> int | None:
    from lit_vpo.verbosity_curves import plot_verbosity

    plot_verbosity(args.run_dirs, args.out, args.scorer, args.seed)
    return None


def _agreement(args: argparse.Namespace) -> int | None:
    from lit_vpo.judge_agreement import judge_agreement

    judge_agreement(args.files, args.scorer, args.labels, args.out, args.seed)
    return None
