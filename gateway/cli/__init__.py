"""The `gateway` command: one module a command, imported only when it is asked for.

A command module has `add_arguments(parser)` and `run(args) -> int`. Exit codes: 0 done, 1 the world would not
(no broker, no radio, a check failed), 2 the input was wrong, 130 stopped by Ctrl-C,
141 nobody reads the output any more.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

from gateway.console import until_closed
from gateway.errors import GatewayError

COMMANDS = {
    "run": "collect, infer and publish until stopped: the daemon",
    "status": "what the running daemon is doing, and whether all is well",
    "check": "validate a configuration and explain every error in it",
    "scan": "list the wearables that advertise near here, and which profile they speak",
    "pair": "pair with a wearable, by the six digits that it shows or asks for",
    "forget": "forget the pairing with a wearable",
    "wearables": "list the configured wearables, and which of them are paired, connected or refused",
    "retry": "have the daemon try a wearable now that it tries seldom",
    "events": "list what the event log holds: predictions, drift, states, by wearable, kind and time",
    "export": "write predictions or raw samples of a range of time as CSV or Parquet",
    "rescore": "derive predictions with another bundle from the samples that are still kept",
    "replay": "send again what is still stored of some time, same ids and bytes",
    "connparams": "have the kernel connect to the configured wearables with the parameters that they need",
    "mount": "find how a wearable is worn by three postures, and write it to the configuration",
    "score": "predict from a recording or an array of windows, without radio or broker",
    "demo": "show the whole path at work on this machine, with faults, and account for every sample",
}


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Tells defaults where there is one to tell."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def main(argv: Sequence[str] | None = None) -> int:
    return until_closed(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="gateway", description="Recognise fidgeting from wrist wearables, on the device.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('fidget-gateway')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    module = None
    for name, text in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            allow_abbrev=False,
            formatter_class=_Help,
        )
        if name == chosen:
            module = importlib.import_module(f"gateway.cli.{name}")
            module.add_arguments(sub)
    args = parser.parse_args(words)
    assert module is not None  # argparse has refused every other word
    try:
        return int(module.run(args))
    except GatewayError as error:
        print(error.in_words(), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
