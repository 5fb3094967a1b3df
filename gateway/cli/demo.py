"""`gateway demo`: the whole path at work on this machine, with faults, and the account."""

import argparse
import importlib.util
import os
from pathlib import Path

from gateway.demo.faults import MEANING, Fault
from gateway.errors import InputRejected

NEEDED = ("bumble", "amqtt", "rich")
DURATION_S_MIN = 10.0


class ExtraMissing(InputRejected):
    hint = "pip install 'fidget-gateway[demo]'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    faults = "; ".join(f"{fault}: {meaning}" for fault, meaning in MEANING.items())
    parser.description = (
        "Starts simulated wearables, an MQTT broker, the daemon and an independent subscriber as separate processes, "
        "breaks the path in several places, lets it recover, and prints the account: every sample that the wearables "
        "made and every window due from them, against what the subscriber received. Exit code 0 only if every number "
        "adds up. Ctrl-C ends the sampling early and still takes the account; a second Ctrl-C aborts."
    )
    parser.formatter_class = argparse.HelpFormatter  # most options have no default worth naming
    parser.add_argument("--wearables", type=int, default=2, metavar="N", help="how many, 1 to 8 (default: %(default)s)")
    parser.add_argument(
        "--duration", type=float, default=60.0, metavar="S", help="seconds, not simulated ones (default: %(default)g)"
    )
    parser.add_argument(
        "--speed", type=float, default=4.0, metavar="X", help="simulated seconds in a real one (default: %(default)g)"
    )
    parser.add_argument(
        "--faults", default="all", metavar="LIST", help=f"all (default), none, or some, comma-separated. {faults}"
    )
    parser.add_argument(
        "--recording",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="what the wearables play instead of synthetic motion: ACC.xlsx GYRO.xlsx, or one CSV",
    )
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="model bundle (default: the demonstration model)")
    parser.add_argument(
        "--broker",
        metavar="HOST:PORT",
        help="an MQTT broker instead of an embedded one (plain TCP; the daemon reaches it through a proxy)",
    )
    parser.add_argument("--username", default="", metavar="NAME", help="for --broker")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="for --broker; its first line")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep logs, database and truth here (a new directory)")
    parser.add_argument("--plain", action="store_true", help="lines instead of a live table, also on a terminal")


def run(args: argparse.Namespace) -> int:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ExtraMissing(f"the demo needs packages that are not installed: {', '.join(missing)}")
    from gateway.bundle import load_bundle
    from gateway.demo.play import Plan, perform

    bundle = args.bundle or demo_bundle()
    load_bundle(bundle)
    return perform(
        Plan(
            wearables=_wearables(args.wearables),
            duration_s=_at_least("--duration", args.duration, DURATION_S_MIN),
            speed=_speed(args.speed),
            faults=_faults(args.faults),
            recording=_recording(args.recording or []),
            bundle=bundle,
            broker=_host_and_port(args.broker),
            username=args.username,
            password=_password(args.password_file),
            keep=_new_directory(args.keep),
            plain=args.plain,
        )
    )


def demo_bundle() -> Path:
    """The bundle that ships: beside the package where it is installed, in models/ in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "demo_bundle", package.parent / "models" / "demo"):
        if (folder / "manifest.json").is_file():
            return folder
    raise InputRejected("the demo's own bundle is not installed", hint="Give one with --bundle DIR.")


def _wearables(count: int) -> int:
    if not 1 <= count <= 8:
        raise InputRejected(f"--wearables {count}: expected 1 to 8")
    return count


def _speed(speed: float) -> float:
    if not 1 <= speed <= 50:
        raise InputRejected(f"--speed {speed:g}: expected 1 to 50")
    return speed


def _at_least(option: str, value: float, least: float) -> float:
    if not value >= least:
        raise InputRejected(f"{option} {value:g}: expected at least {least:g}")
    return value


def _faults(text: str) -> tuple[Fault, ...]:
    if text in ("all", "none"):
        return tuple(Fault) if text == "all" else ()
    known = {str(fault): fault for fault in Fault}
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise InputRejected(f"--faults: {name!r}; expected all, none, or some of {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names))


def _recording(files: list[Path]) -> tuple[Path, ...]:
    if len(files) > 2:
        raise InputRejected(f"--recording: {len(files)} files; expected an Excel pair or one CSV")
    for file in files:
        if not file.is_file() or not os.access(file, os.R_OK):
            raise InputRejected(f"--recording {file}: no such file, or not readable")
    return tuple(file.resolve() for file in files)


def _host_and_port(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputRejected(f"--broker {text}: expected HOST:PORT")
    return host.strip("[]"), int(port)


def _password(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputRejected(f"--password-file {file}: {error}") from None
    return lines[0] if lines else ""


def _new_directory(folder: Path | None) -> Path | None:
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputRejected(f"--keep {folder}: exists and is not an empty directory")
    return folder
