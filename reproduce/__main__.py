"""The suite's command line: asks nothing heavy of the interpreter before it knows what to do."""

import argparse
import importlib
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduce.errors import RequestError

__all__ = ["main"]

# command -> (help, targets it takes, module that carries it out)
COMMANDS = {
    "list": ("the targets and their claims", "", "commands"),
    "run": ("train and measure what is missing, then judge", "+", "running"),
    "status": ("cells done, missing, failed and stale", "*", "commands"),
    "tables": ("rebuild the CSV tables from the records", "*", "commands"),
    "report": ("rebuild tables, figures, verdicts and report", "*", "commands"),
    "estimate": ("each model's parameters, FLOPs and the price of a run", "*", "commands"),
    "verify": ("run a published cell again and compare", "+", "running"),
    "repeat": ("draw a target of each paper, run them again and compare", "", "repeat"),
    "merge": ("take in records from another machine", "", "running"),
    "export": ("trained models as safetensors, each with its card", "+", "commands"),
    "data": ("fetch, read and verify data sources", "", "commands"),
    "weights": ("other people's weights: list, or fetch one and verify it", "", "commands"),
    "bench": ("speed against what a user has today, as ratios", "", "commands"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise RequestError(f"{message}; `python -m reproduce --help` shows the commands")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m reproduce", description="entroflow: targets to verdicts")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    sub = {}
    for name, (text, targets, _) in COMMANDS.items():
        sub[name] = commands.add_parser(name, help=text, description=text)
        if targets:
            sub[name].add_argument("targets", nargs=targets, metavar="TARGET", default=["all"])
        if name not in ("list", "data", "weights"):
            sub[name].add_argument("--results", default="results", type=Path, metavar="DIR")
        if name not in ("list", "data", "weights", "bench"):
            sub[name].add_argument("--tier", default="smoke", help="smoke, small, gpu or paper")
        if name in ("run", "status", "tables", "report", "export"):
            sub[name].add_argument("--label", metavar="NAME", help="a variant of your own")

    sub["list"].add_argument("--json", action="store_true")

    run = sub["run"]
    run.add_argument("--seeds", type=int, metavar="N", help="the first N of the paper's seeds")
    run.add_argument("--jobs", type=int, metavar="N", help="worker processes (default: cores)")
    run.add_argument("--launcher", default="local", metavar="WHERE", help="local or slurm")
    run.add_argument(
        "--slurm", action="append", default=[], metavar="KEY=VALUE", help="an option of sbatch"
    )
    run.add_argument("--print", action="store_true", help="only say what would run")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a config key; needs --label, and goes to results/variants/NAME",
    )

    sub["report"].add_argument("--board", type=Path, metavar="FILE", help="write the board there")
    sub["estimate"].add_argument("--flops", type=float, metavar="F", help="FLOP/s of your machine")
    sub["verify"].add_argument("--cell", metavar="CELL", help="default: the cheapest")
    sub["verify"].add_argument("--rtol", type=float, metavar="R", help="relative tolerance")
    repeat = sub["repeat"]
    repeat.add_argument("--seed", type=int, required=True, metavar="N", help="of the draw")
    repeat.add_argument("--into", type=Path, default="again", metavar="DIR", help="a new folder")
    repeat.add_argument("--jobs", type=int, metavar="N", help="worker processes (default: cores)")
    repeat.add_argument(
        "--minutes",
        type=float,
        default=math.inf,
        metavar="M",
        help="draw from targets whose published cells took less, one after another",
    )
    sub["merge"].add_argument("folder", type=Path, metavar="DIR", help="a results folder")
    sub["data"].add_argument("sources", nargs="+", metavar="SOURCE")
    sub["weights"].add_argument("name", nargs="?", metavar="NAME", help="default: list them all")
    sub["bench"].add_argument("workloads", nargs="*", metavar="WORKLOAD", help="w5, w6 or w7")
    sub["bench"].add_argument("--rounds", type=int, metavar="N", help="how often each is measured")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is that of the contract: 0 done, 1 a cell failed, 2 a wrong
    request, told in one line. A run that was stopped says 128 plus the signal."""
    try:
        args = _parser().parse_args(argv)
        module = importlib.import_module(f"reproduce.{COMMANDS[args.command][2]}")
        return getattr(module, f"{args.command}_command")(args)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on where it was", file=sys.stderr)
        return 130
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}: free some space or make the folder writable", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
