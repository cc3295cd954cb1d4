"""The words of `pairs`: how preference pairs come to be. Nothing heavy is imported before a command runs."""

import argparse
from typing import Any

from lit_vpo.cli_judging import add_judging

_KINDS = "drop, shuffle, reverse, freeze, splice or a dotted path"


def add_pairs(commands: Any) -> None:
    """Add the command and what it can do to the command line.

    Args:
        commands: Of the main parser.
    """
    pairs = commands.add_parser("pairs", help="how preference pairs come to be").add_subparsers(
        metavar="WHAT", required=True
    )
    _add_prompts(pairs)
    _add_released(pairs)
    _add_sample(pairs)
    _add_choosing(pairs)
    add_judging(pairs)
    _add_rewriting(pairs)


def _add_prompts(pairs: Any) -> None:
    prompts = pairs.add_parser(
        "prompts", help="an overlay that asks for captions of the clean and the perturbed videos"
    )
    prompts.add_argument("shards")
    prompts.add_argument("--out", required=True)
    _add_choices(prompts)
    prompts.add_argument("--unit", default="frames", help="what is perturbed: frames, or clips of two frames")
    prompts.add_argument("--num-frames", type=int, default=16)
    prompts.add_argument("--selection", metavar="FILE", help="show the frames of selected clips of selected videos")
    prompts.add_argument("--prompt", action="append", default=[], help="one is drawn per video (repeatable)")
    prompts.add_argument("--questions", metavar="OVERLAY", help="ask its rows' questions instead of for captions")
    prompts.add_argument("--clean-only", action="store_true", help="ask about the clean videos alone")
    prompts.add_argument("--seed", type=int, default=0)
    prompts.set_defaults(command=_prompts)


def _add_choosing(pairs: Any) -> None:
    """Pairs, or the best alone, from several answers."""
    build = pairs.add_parser("build", help="pairs from the answers to the prompts of `prompts` or `lists`, filtered")
    build.add_argument("generations")
    build.add_argument("--out", required=True, help="with {r} in its name: one overlay for each divisor")
    build.add_argument("--scorer", help="dotted path of a caption scorer: report how often chosen really is better")
    build.add_argument("--validation", type=int, default=0, metavar="N", help="hold out the pairs of the last N videos")
    build.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="NAME_OR_PATH",
        help="drop pairs by this rule, shipped or a dotted path (repeatable); default: the released ones",
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


def _add_rewriting(pairs: Any) -> None:
    """Overlays made of what is there, without a judge."""
    questions = pairs.add_parser("questions", help="the right answer to each question against a wrong one")
    questions.add_argument("questions", help="overlay with ground_truth and meta.options")
    questions.add_argument("--out", required=True)
    questions.add_argument("--seed", type=int, default=0, help="of the draw of the wrong one")
    questions.set_defaults(command=_questions)
    against = pairs.add_parser("against", help="rejected replaced by another answer to the clean video (a control)")
    against.add_argument("pairs", nargs="+", help="overlays of pairs")
    against.add_argument("--answers", required=True, help="of predict, for `prompts --clean-only`")
    against.add_argument("--out", required=True, help="folder of the new overlays")
    against.add_argument("--seed", type=int, default=0, help="of the draw among several answers")
    against.set_defaults(command=_against)
    captions = pairs.add_parser("captions", help="what a policy said, as records to learn from (rebirth tuning)")
    captions.add_argument("generations", help="of predict")
    captions.add_argument("--out", required=True)
    captions.set_defaults(command=_captions)
    corrupt = pairs.add_parser("corrupt", help="also reject the chosen text on a corrupted video (mDPO)")
    corrupt.add_argument("pairs", help="overlay of pairs")
    corrupt.add_argument("--out", required=True)
    corrupt.add_argument("--kind", default="reverse", help=_KINDS)
    corrupt.add_argument("--r", type=int, default=4, help="divisor, 16 (easy) to 2 (hard)")
    corrupt.add_argument("--unit", default="frames", help="what is perturbed: frames, or clips of two frames")
    corrupt.add_argument("--num-frames", type=int, default=16)
    corrupt.add_argument("--seed", type=int, default=0)
    corrupt.set_defaults(command=_corrupt)


def _add_choices(parser: Any) -> None:
    parser.add_argument("--kind", action="append", default=[], help=f"{_KINDS} (repeatable)")
    parser.add_argument(
        "--r", action="append", type=int, default=[], help="divisor, 16 (easy) to 2 (hard) (repeatable)"
    )


def _add_released(pairs: Any) -> None:
    """TEMPO's released form: captions of clips, and the whole video's caption from lists of them."""
    clips = pairs.add_parser("clips", help="an overlay that asks for a caption of each clip of selected videos")
    clips.add_argument("selection", help="overlay of selected videos")
    clips.add_argument("--shards", required=True, help="folder of the videos")
    clips.add_argument("--out", required=True)
    clips.set_defaults(command=_clips)
    lists = pairs.add_parser(
        "lists", help="an overlay that asks for the video's caption, from the clean and the perturbed lists of those"
    )
    lists.add_argument("generations", help="of predict, for the prompts of `clips`")
    lists.add_argument("--out", required=True)
    _add_choices(lists)
    lists.add_argument(
        "--prompt", action="append", default=[], help="of the pairs; one is drawn per video (repeatable)"
    )
    lists.add_argument("--seed", type=int, default=0)
    lists.set_defaults(command=_lists)


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
    from lit_vpo.prompt_commands import write_prompts

    choices = args.kind, args.r, args.num_frames, args.prompt, args.seed
    write_prompts(
        args.shards,
        args.out,
        *choices,
        unit=args.unit,
        selection=args.selection,
        questions=args.questions,
        clean_only=args.clean_only,
    )
    return None


def _clips(args: argparse.Namespace) -> int | None:
    from lit_vpo.prompt_commands import write_clip_prompts

    write_clip_prompts(args.selection, args.shards, args.out)
    return None


def _lists(args: argparse.Namespace) -> int | None:
    from lit_vpo.prompt_commands import write_list_prompts

    write_list_prompts(args.generations, args.out, args.kind, args.r, args.prompt, args.seed)
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


def _against(args: argparse.Namespace) -> int | None:
    from lit_vpo.pair_commands import write_against_clean

    write_against_clean(args.pairs, args.answers, args.out, args.seed)
    return None


def _captions(args: argparse.Namespace) -> int | None:
    from lit_vpo.pair_commands import write_captions

    write_captions(args.generations, args.out)
    return None


def _corrupt(args: argparse.Namespace) -> int | None:
    from lit_vpo.pair_commands import write_corrupted

    write_corrupted(args.pairs, args.out, args.kind, args.r, args.num_frames, args.seed, args.unit)
    return None
