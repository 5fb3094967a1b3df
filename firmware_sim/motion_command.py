"""`firmware-sim motion`: motion to look at, synthetic or recorded, as a picture and as CSV."""

import argparse
import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.console import take_axes
from gateway.errors import GatewayError, InputRejected

if TYPE_CHECKING:
    from firmware_sim.plotting import Span
    from gateway.motion.samples import Float32

DESCRIPTION = """\
Show motion: of the synthetic generator by default, or of a recording. --plot, --csv or both say where it goes.
"""
EPILOG = """\
examples:
  firmware-sim motion --plot out.png
  firmware-sim motion --schedule nail_biting:20,rest:5,sitting:20 --wearer 3 --wrist right --plot out.png --csv out.csv
  firmware-sim motion --person drawn --wearer 7 --rest 4 --plot out.png
  firmware-sim motion --recording walk.csv --plot walk.png

The CSV has the columns timestamp_s, Ax, Ay, Az, Gx, Gy, Gz (m/s² and deg/s) and can be played again as a recording.
"""
SECONDS_MAX = 86_400.0
PERSON = ("wrist", "hand", "mounting", "tempo", "amplitude")
SYNTHETIC = ("schedule", "seconds", "rest", "wearer", "seed", "person", *PERSON)


class CannotWrite(GatewayError):
    pass


@dataclass(frozen=True, slots=True, eq=False)
class _Shown:
    """values: (n, 6), m/s² and deg/s. spans, gaps: as plotting.plot_motion takes them."""

    values: "Float32"
    title: str
    spans: "Sequence[Span]" = ()
    gaps: Sequence[tuple[int, int]] = ()


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "motion",
        help="plot motion, or write it as CSV",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    out = parser.add_argument_group("output")
    out.add_argument("--plot", type=Path, metavar="FILE.png", help="the picture (.png, .svg or .pdf)")
    out.add_argument("--csv", type=Path, metavar="FILE.csv", help="the samples")
    out.add_argument("--rate", type=float, default=50.0, metavar="HZ", help="samples a second (default: %(default)g)")
    made = parser.add_argument_group("synthetic motion")
    made.add_argument(
        "--schedule", metavar="NAME:S,...", help="activities, or `rest`, and their seconds (default: all)"
    )
    made.add_argument("--seconds", type=float, metavar="S", help="of each activity where no schedule is given (20)")
    made.add_argument("--rest", type=float, metavar="S", help="mean length of a rest between activities (0)")
    made.add_argument("--wearer", type=int, metavar="N", help="who performs (0)")
    made.add_argument("--seed", type=int, metavar="N", help="which performance (0)")
    made.add_argument(
        "--person",
        choices=("plain", "drawn"),
        help="drawn: hand, wrist, mounting, tempo and amplitude follow from the wearer's number (plain)",
    )
    made.add_argument("--wrist", choices=("left", "right"), help="that the case is on (left)")
    made.add_argument("--hand", choices=("left", "right"), help="the preferred one (the one that wears it)")
    made.add_argument(
        "--mounting",
        metavar="AXES",
        help="the case's axes in those of the wrist, x towards the hand, z out of its back (x,y,z; or -x,-y,z)",
    )
    made.add_argument("--tempo", type=float, metavar="FACTOR", help="faster or slower than the number draws (1)")
    made.add_argument("--amplitude", type=float, metavar="FACTOR", help="likewise (1)")
    played = parser.add_argument_group("recorded motion")
    played.add_argument(
        "--recording", type=Path, nargs="+", metavar="FILE", help="one .csv or .parquet, or two .xlsx (a sensor each)"
    )
    played.add_argument("--acc-unit", choices=("m_s2", "mg", "g"), help="(what the format usually has)")
    played.add_argument("--gyro-unit", choices=("deg_s", "rad_s"), help="(what the format usually has)")
    take_axes(parser)
    parser.set_defaults(obey=run)


def run(args: argparse.Namespace) -> int:
    """Raises GatewayError."""
    from firmware_sim import plotting

    if args.plot is None and args.csv is None:
        raise InputRejected("nowhere to put the motion", hint="Give --plot out.png, --csv out.csv or both.")
    if not 1 <= args.rate <= 1000:
        raise InputRejected(f"rate {args.rate:g} Hz: expected 1 to 1000")
    if args.plot is not None:
        plotting.check_format(args.plot)
    shown = _recorded(args) if args.recording else _synthetic(args)
    if not len(shown.values):
        raise InputRejected("not one sample in it", hint="Make the schedule longer or the rate higher.")
    if args.csv is not None:
        _write_csv(args.csv, shown.values, args.rate)
        print(f"{args.csv}: {len(shown.values):,} samples at {args.rate:g} Hz")
    if args.plot is not None:
        plotting.plot_motion(args.plot, shown.values, args.rate, title=shown.title, spans=shown.spans, gaps=shown.gaps)
        print(f"{args.plot}: {len(shown.values) / args.rate:,.1f} s, {shown.title}")
    return 0


def _synthetic(args: argparse.Namespace) -> _Shown:
    from firmware_sim.playback import SECONDS_EACH
    from firmware_sim.plotting import spans_of
    from firmware_sim.scenario import parse_schedule
    from firmware_sim.synthesis import ACTIVITIES, Person, synthesize, with_rests

    if args.acc_unit or args.gyro_unit:
        raise InputRejected("units are for a recording", hint="Synthetic motion is in m/s² and deg/s.")
    if args.schedule is not None and not args.schedule.strip():
        raise InputRejected("schedule: it is empty", hint="Such as nail_biting:30,sitting:20, or none for all.")
    if args.schedule and args.seconds is not None:
        raise InputRejected("--seconds is for the default schedule", hint="The schedule has its own: NAME:SECONDS.")
    wearer, seed = args.wearer or 0, args.seed or 0
    if wearer < 0 or seed < 0:
        raise InputRejected("wearer and seed are numbers from 0 on")
    each_s = SECONDS_EACH if args.seconds is None else args.seconds
    schedule = parse_schedule(args.schedule) if args.schedule else [(name, each_s) for name in ACTIVITIES]
    schedule = with_rests(schedule, args.rest or 0.0, seed=seed)
    if sum(seconds for _, seconds in schedule) > SECONDS_MAX:
        raise InputRejected(f"more than {SECONDS_MAX:g} s", hint="A day is the most that is made at once.")
    person = Person.drawn(wearer) if args.person == "drawn" else Person()
    known = {key: getattr(args, key) for key in PERSON}
    given = {key: value for key, value in known.items() if value is not None}
    if given and args.person == "drawn":
        raise InputRejected(f"--{next(iter(given))} and --person drawn: one of them")
    person = Person(**given) if given else person
    values = synthesize(schedule, wearer=wearer, seed=seed, rate_hz=args.rate, person=person)
    hand = "" if person.hand is None else f", {person.hand}-handed"
    title = (
        f"wearer {wearer}, seed {seed}: {person.wrist} wrist{hand}, mounted {person.mounting}, "
        f"tempo {person.tempo:g}, amplitude {person.amplitude:g}"
    )
    return _Shown(values, title, spans_of(schedule))


def _recorded(args: argparse.Namespace) -> _Shown:
    from gateway.recording import read_recording

    for key in SYNTHETIC:
        if getattr(args, key) is not None:
            raise InputRejected(f"--{key} is for synthetic motion", hint="Leave it out beside --recording.")
    grid = read_recording(args.recording, acc_unit=args.acc_unit, gyro_unit=args.gyro_unit).on_grid(args.rate)
    return _Shown(grid.values, ", ".join(path.name for path in args.recording), gaps=grid.gaps)


def _write_csv(path: Path, values: "Float32", rate_hz: float) -> None:
    """Beside it first, so that it is whole or as it was, whenever this is stopped.

    A link (such as /dev/stdout), a device or a pipe is written to as it stands: a file must not take its place.
    """
    from firmware_sim.truth import CHANNELS

    in_place = path.is_symlink() or (path.exists() and not path.is_file())
    part = path if in_place else path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="ascii", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("timestamp_s", *CHANNELS))
            writer.writerows([index / rate_hz, *map(str, row)] for index, row in enumerate(values))  # shortest float32
        if not in_place:
            part.replace(path)
    except OSError as error:
        raise CannotWrite(f"{path}: {error.strerror or error}") from None
    finally:
        if not in_place:
            part.unlink(missing_ok=True)
