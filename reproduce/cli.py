"""`entroflow fit|validate|test|predict`: LightningCLI behind a front that answers at once."""

import gc
import sys
from collections.abc import Sequence

__all__ = ["main"]

COMMANDS = ("fit", "validate", "test", "predict")
HELP = """\
usage: entroflow {fit,validate,test,predict} -c CONFIG [--KEY VALUE ...]

Train or evaluate one model of the suite from one YAML file; any key of the file can be
given as an option and wins over the file and over a checkpoint.

commands:
  fit         train; last.ckpt, weights at marks, and logs/ go to trainer.default_root_dir
  validate    the validation loss of a checkpoint (--ckpt_path .../last.ckpt)
  test        what the paper measures, on held-out data
  predict     predictions.pt: a number for each held-out point (Neural Entropy: a bound on its
              log-density in nats)

examples:
  entroflow fit -c reproduce/neural_entropy/configs/neural_entropy.smoke.yaml
  entroflow fit -c FILE --trainer.max_steps 5 --model.init_args.lr 0.001
  entroflow fit -c FILE --trainer.strategy ddp --trainer.devices 2
  entroflow validate -c FILE --ckpt_path last.ckpt --data.init_args.batch_size 7

entroflow fit --help lists every key; entroflow fit -c FILE --print_config shows the whole.
Tables, figures and verdicts: make help, or python -m reproduce --help.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. 0: done; 1: the run failed; 2: a wrong request, told in one line."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if args[0] == "--version":
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"entroflow {version('entroflow')}")
        except PackageNotFoundError:
            print("entroflow, not installed: pip install -e .")
        return 0
    if args[0] not in COMMANDS:
        print(
            f"error: unknown command {args[0]!r}: choose one of {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    gc.disable()  # seconds of imports make millions of objects, and no garbage
    from reproduce.training import run_command

    gc.enable()
    gc.freeze()
    return run_command(args)


if __name__ == "__main__":
    sys.exit(main())
