"""The `converter` command. Exit codes: 0 done, 1 not faithful or not possible here, 2 bad input; see signals.py too."""

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from converter import cli_help
from converter.cli_checks import add_inspect, add_pack, add_verify
from converter.tables import show_conversion
from gateway.bundle import Bundle
from gateway.bundle.manifest import is_signed_axes
from gateway.console import take_axes
from gateway.errors import GatewayError, InputRejected

if TYPE_CHECKING:
    from converter.gate import Times

_BAR = 30


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n  See: {self.prog} --help\n")


_PARSER: dict[str, Any] = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}


def command_line() -> argparse.ArgumentParser:
    parser = _Parser(prog="converter", description=cli_help.CONVERTER, epilog=cli_help.CONVERTER_END, **_PARSER)
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('fidget-gateway')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text, description, end, add_arguments in (
        ("convert", "make a bundle of a .keras or .h5 file", cli_help.CONVERT, cli_help.CONVERT_END, _add_convert),
        ("inspect", "show what is in a model or bundle", cli_help.INSPECT, cli_help.INSPECT_END, add_inspect),
        ("verify", "check a bundle, also against the Keras model", cli_help.VERIFY, cli_help.VERIFY_END, add_verify),
        ("pack", "make one .zip of a bundle", cli_help.PACK, cli_help.PACK_END, add_pack),
    ):
        add_arguments(commands.add_parser(name, help=text, description=description, epilog=end, **_PARSER))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = command_line().parse_args(argv)
    try:
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except GatewayError as error:
        print(error.in_words() + ("" if error.hint else f"\n  See: converter {args.command} --help"), file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed\n  pip install 'fidget-gateway[converter]'", file=sys.stderr)
        return 1
    except MemoryError:
        hint = "Compare on fewer windows (convert --parity-windows, verify --windows), or on a larger machine."
        print(f"error: not enough memory\n  {hint}", file=sys.stderr)
        return 1
    except OSError as error:  # of other files: those that were given are refused by name where they are read
        where = error.filename or "standard output"
        print(f"error: {where}: {error.strerror}\n  Is there room, and the right to write there?", file=sys.stderr)
        sys.stdout = io.StringIO()  # else the interpreter writes there once more at its end
        return 1


def _add_convert(parser: argparse.ArgumentParser) -> None:
    from converter.convert import PARITY_WINDOWS, PARITY_WINDOWS_MIN, VARIANTS, VariantName
    from converter.gate import MIN_AGREEMENT

    add = parser.add_argument
    add("model", metavar="MODEL.keras", type=Path, help="the model, .keras or .h5, as Keras 3 saved it")
    add("--scaler", metavar="CONFIG.json", type=Path, required=True, help="the training's JSON: scaler, labels, window")
    add("--out", metavar="BUNDLE/", type=Path, required=True, help="the folder to write; must not exist yet")
    add("--force", action="store_true", help="replace a bundle that stands there")
    add(
        "--variants",
        metavar="A,B",
        type=_names,
        help=f"which to write, of {', '.join(VariantName)} (default: {','.join(VARIANTS)}; int8 too with --calibrate); "
        "mixed is searched for, weight by weight, and takes the longest",
    )
    add(
        "--min-agreement",
        metavar="SHARE",
        type=float,
        default=MIN_AGREEMENT,
        help="of the windows with Keras's top class, in each set; the smallest variant that has it becomes the default "
        f"one (default: {MIN_AGREEMENT})",
    )
    add(
        "--probe",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="compare on the windows of this recording too (.csv, .parquet; .xlsx twice), in the model's frame",
    )
    add(
        "--calibrate",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="what the variant int8 takes the ranges of its numbers from: a recording (.csv, .parquet; .xlsx twice) or "
        "windows (.npy), in the model's frame, m/s² and deg/s (.xlsx: mg)",
    )
    add("--labels", metavar="A,B,...", type=_names, help="names of the outputs, in order (default: CONFIG.json's)")
    add(
        "--channels",
        metavar="A,B,...",
        type=_names,
        help="names of the channels, in order: Ax, Ay, Az (accelerometer, m/s^2), Gx, Gy, Gz (gyroscope, deg/s) or "
        "others (default: CONFIG.json's sensor_cols; six channels are Ax,Ay,Az,Gx,Gy,Gz where it has none)",
    )
    add(
        "--units",
        metavar="A,B,...",
        type=_names,
        default=[],
        help="of the channels, one for each, or NAME=UNIT for those that are none of these six",
    )
    add("--softmax", action="store_true", help="the model answers logits: add the softmax that makes probabilities")
    add("--name", help="of the model (default: the file's)")
    add("--frame", metavar="AXES", type=_axes, help="the model's axes as signed wrist axes: x,y,z or -y,x,z")
    take_axes(parser)
    add("--frame-description", metavar="TEXT", default="", help="the same in words")
    add("--wrist", choices=("left", "right", "either"), help="which wrist the model was trained on")
    add("--model-card", metavar="FILE.md", type=Path, help="use this card (default: a general one)")
    add(
        "--reference",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="what drift is measured against: a recording (.csv or .parquet, maybe with a column label; .xlsx twice), "
        "windows (.npy, or .npz with windows and labels) or the training's statistics (.json); in the model's frame, "
        "m/s² and deg/s (.xlsx: mg)",
    )
    add(
        "--parity-windows",
        metavar="N",
        type=int,
        default=PARITY_WINDOWS,
        help=f"random windows to compare on, {PARITY_WINDOWS_MIN} or more (default: {PARITY_WINDOWS})",
    )
    add("--seed", type=int, default=1, help="of the random windows (default: 1)")
    add(
        "--keep-times",
        action="store_true",
        help="write the measured times of a window into the manifest too; the bundle then differs from run to run",
    )
    add("--report", metavar="OUT.html", type=Path, help="write what was measured as one HTML page too")
    add("--json", action="store_true", help="print the result as JSON instead of a table")
    parser.set_defaults(run=_convert)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _axes(text: str) -> str:
    if not is_signed_axes(text):
        what = "does not name each of x, y and z once, right-handed, such as x,y,z or -y,x,z"
        raise argparse.ArgumentTypeError(f"{text!r} {what}")
    return text


def _convert(args: argparse.Namespace) -> int:
    from converter.bundling import Measured
    from converter.convert import convert
    from converter.report import check_report, report_html, write_report

    if args.report is not None:
        check_report(args.report)
    steps, measured = _Steps(), Measured()
    bundle = convert(
        args.model,
        args.scaler,
        args.out,
        variants=args.variants,
        labels=args.labels,
        channels=args.channels,
        units=args.units,
        add_softmax=args.softmax,
        name=args.name,
        frame=args.frame,
        frame_description=args.frame_description,
        wrist=args.wrist,
        parity_windows=args.parity_windows,
        min_agreement=args.min_agreement,
        probe=args.probe,
        calibrate=args.calibrate,
        seed=args.seed,
        card=None if args.model_card is None else _text(args.model_card),
        reference=args.reference,
        created_utc=_source_date(os.environ.get("SOURCE_DATE_EPOCH")),
        keep_times=args.keep_times,
        replace=args.force,
        progress=steps.begin,
        advanced=steps.advance,
        measured=measured,
    )
    if args.report is not None:
        steps.begin(f"writing {args.report}")
        page = report_html(bundle, keras=measured.keras, answers=measured.answers, times=measured.times)
        write_report(args.report, page)
    steps.begin("done")
    if args.json:
        print(json.dumps(_summary(bundle, measured.times), indent=1))
    else:
        show_conversion(bundle, measured.times)
    return 0


class _Steps:
    """On stderr, each with the time since the start; on a terminal with a bar for how far it is."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._drawn = False

    def begin(self, step: str) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr)
            self._drawn = False
        print(f"[{time.monotonic() - self._started_s:5.1f} s] {step}", file=sys.stderr, flush=True)

    def advance(self, done: int, total: int) -> None:
        if sys.stderr.isatty() and total:
            filled = round(_BAR * done / total)
            bar = "#" * filled + "." * (_BAR - filled)
            print(f"\r          [{bar}] {done} of {total}", end="", file=sys.stderr, flush=True)
            self._drawn = True


_CARD_HINT = "Give a Markdown file, or leave the option out for a general card."


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputRejected(f"--model-card {file}: {error.strerror}", hint=_CARD_HINT) from None
    except UnicodeDecodeError:
        raise InputRejected(f"--model-card {file} is no UTF-8 text", hint=_CARD_HINT) from None


def _source_date(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError):
        raise InputRejected(f"SOURCE_DATE_EPOCH is {text!r}, expected seconds since 1970") from None


def _summary(bundle: Bundle, times: Mapping[str, "Times"]) -> dict[str, object]:
    manifest = bundle.manifest
    return {
        "bundle": str(bundle.path),
        "digest": bundle.digest,
        "default_variant": manifest.default_variant,
        "default_reason": manifest.default_reason,
        "variants": {
            name: {
                **variant.model_dump(mode="json"),
                "warm_ms": round(times[name].warm_ms, 3),
                "cold_ms": round(times[name].cold_ms, 3),
            }
            for name, variant in manifest.variants.items()
        },
    }
