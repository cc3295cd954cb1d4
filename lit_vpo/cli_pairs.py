"""The words of `pairs`: how preference pairs come to be. Nothing heavy is imported before a command runs."""

import argparse
from typing import Any


def add_pairs(commands: Any) -> None:
    """Add the command and what it can do to the command line.

    Args:
        commands: Of the main parser.
    """
    pairs = commands.add_parser("pairs", help="how preference pairs come to be").add_subparsers(
        metavar="WHAT", required=True
    )
    prompts = pairs.add_parser(
        "prompts", help="an overlay that asks for captions of the clean and the perturbed videos"
    )
    prompts.add_argument("shards")
    prompts.add_argument("--out", required=True)
    prompts.add_argument(
        "--kind", action="append", default=[], help="drop, shuffle, reverse or a dotted path (repeatable)"
    )
    prompts.add_argument(
        "--r", action="append", type=int, default=[], help="divisor, 16 (easy) to 2 (hard) (repeatable)"
    )
    prompts.add_argument("--num-frames", type=int, default=16)
    prompts.add_argument("--prompt", action="append", default=[], help="one is drawn per video (repeatable)")
    prompts.add_argument("--seed", type=int, default=0)
    prompts.set_defaults(command=_prompts)
    build = pairs.add_parser("build", help="pairs from the answers to those prompts, filtered")
    build.add_argument("generations")
    build.add_argument("--out", required=True)
    build.add_argument("--scorer", help="dotted path of a caption scorer: report how often chosen really is better")
    build.add_argument("--validation", type=int, default=0, metavar="N", help="hold out the pairs of the last N videos")
    build.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="NAME_OR_PATH",
        help="drop pairs by this rule, shipped or a dotted path (repeatable); default: all that are shipped",
    )
    build.add_argument("--max-pairs-per-video", type=int, metavar="N", help="keep N pairs of a video, drawn at random")
    build.add_argument("--seed", type=int, default=0, help="of that draw")
    build.set_defaults(command=_build)
    select = pairs.add_parser("select", help="best and worst of several candidates, by a caption scorer")
    select.add_argument("generations", help="of `pairs sample`, or of predict with --model.init_args.num_candidates")
    select.add_argument("--out", required=True)
    select.add_argument("--scorer", required=True, help="dotted path of a caption scorer")
    select.add_argument("--margin", type=float, default=0.05, help="least difference in errors per event")
    select.add_argument(
        "--validation", type=int, default=0, metavar="N", help="hold out the pairs of the last N videos"
    )
    select.set_defaults(command=_select)
    best = pairs.add_parser("best", help="the best of several answers to each prompt, by a caption scorer (best-of-k)")
    best.add_argument("generations", nargs="+", help="of predict, the answers of all files together")
    best.add_argument("--out", required=True)
    best.add_argument("--scorer", required=True, help="dotted path of a caption scorer")
    best.set_defaults(command=_best)
    _add_sample(pairs)
    questions = pairs.add_parser("questions", help="the right answer to each question against a wrong one")
    questions.add_argument("questions", help="overlay with ground_truth and meta.options")
    questions.add_argument("--out", required=True)
    questions.add_argument("--seed", type=int, default=0, help="of the draw of the wrong one")
    questions.set_defaults(command=_questions)
    captions = pairs.add_parser("captions", help="what a policy said, as records to learn from (rebirth tuning)")
    captions.add_argument("generations", help="of predict")
    captions.add_argument("--out", required=True)
    captions.set_defaults(command=_captions)
    corrupt = pairs.add_parser("corrupt", help="also reject the chosen text on a corrupted video (mDPO)")
    corrupt.add_argument("pairs", help="overlay of pairs")
    corrupt.add_argument("--out", required=True)
    corrupt.add_argument("--kind", default="reverse", help="drop, shuffle, reverse or a dotted path")
    corrupt.add_argument("--r", type=int, default=4, help="divisor, 16 (easy) to 2 (hard)")
    corrupt.add_argument("--num-frames", type=int, default=16)
    corrupt.add_argument("--seed", type=int, default=0)
    corrupt.set_defaults(command=_corrupt)


def _add_sample(pairs: Any) -> None:
    sample = pairs.add_parser(
        "sample",
        help="candidates from an OpenAI-compatible server (vLLM) that serves an exported policy; goes on where it was "
        "cut; a key stands in the environment variable LIT_VPO_API_KEY",
    )
    sample.add_argument("shards")
    sample.add_argument(
        "--overlay", metavar="FILES", help="prompts: a file, a comma list or a glob; default: the shards'"
    )
    sample.add_argument("--limit", type=int, metavar="N", help="ask the first N prompts only")
    sample.add_argument("--out", required=True)
    sample.add_argument("--endpoint", required=True, metavar="URL", help="such as http://localhost:8000/v1")
    sample.add_argument("--served", required=True, metavar="MODEL", help="the name under which the server has it")
    sample.add_argument("--num-candidates", type=int, default=2)
    sample.add_argument("--temperature", type=float, default=1.0)
    sample.add_argument("--top-p", type=float, default=0.9)
    sample.add_argument("--max-new-tokens", type=int, default=1024)
    sample.add_argument("--frames", type=int, metavar="N", help="send N frames as images; default: the video file")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--round", type=int, default=0, help="rounds that have ended; other rounds draw other answers")
    sample.add_argument("--concurrency", type=int, default=16, help="requests at the same time")
    sample.set_defaults(command=_sample)


def _prompts(args: argparse.Namespace) -> int | None:
    from lit_vpo.pair_commands import write_prompts

    write_prompts(args.shards, args.out, args.kind, args.r, args.num_frames, args.prompt, args.seed)
    return None


def _build(args: argparse.Namespace) -> int | None:
    from lit_vpo.pair_commands import write_pairs

    write_pairs(
        args.generations, args.out, args.scorer, args.validation, args.filter, args.max_pairs_per_video, args.seed
    )
    return None


def _select(args: argparse.Namespace) -> int | None:
    from lit_vpo.pair_commands import write_selected

    write_selected(args.generations, args.out, args.scorer, args.margin, args.validation)
    return None


def _best(args: argparse.Namespace) -> int | None:
    from lit_vpo.pair_commands import write_best

    write_best(args.generations, args.out, args.scorer)
    return None


def _sample(args: argparse.Namespace) -> int | None:
    from lit_vpo.endpoint import ChatEndpoint
    from lit_vpo.pair_sampling import Drawing, sample_candidates

    drawing = Drawing(
        args.num_candidates, args.temperature, args.top_p, args.max_new_tokens, args.seed, args.round, args.frames
    )
    endpoint = ChatEndpoint(args.endpoint, args.served)
    sample_candidates(args.shards, args.out, endpoint, drawing, args.overlay, args.limit, args.concurrency)
    return None


def _questions(args: argparse.Namespace) -> int | None:
    from lit_vpo.pair_commands import write_question_pairs

    write_question_pairs(args.questions, args.out, args.seed)
    return None


def _captions(args: argparse.Namespace) -> int | None:
    from lit_vpo.pair_commands import write_captions

    write_captions(args.generations, args.out)
    return None


def _corrupt(args: argparse.Namespace) -> int | None:
    from lit_vpo.pair_commands import write_corrupted

    write_corrupted(args.pairs, args.out, args.kind, args.r, args.num_frames, args.seed)
    return None
