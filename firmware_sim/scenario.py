"""What the simulator plays: a list of wearables from a TOML file, or one from the command line as `key=value; ...`."""

import difflib
import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from firmware_sim.device import CAPACITY_MIN
from firmware_sim.families import FAMILIES
from firmware_sim.faults import Fault, parse_faults
from gateway.errors import InputRejected

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

NAME_BYTES_MAX = 29
"""What a scan response has room for."""
SCENARIO_BYTES_MAX = 1 << 20
DURATION_S_MAX = 7 * 86_400.0
REFERENCE = "reference"
PROFILES = (REFERENCE, *FAMILIES)


class ScenarioRejected(InputRejected):
    hint = "`firmware-sim run --help` lists the keys of a wearable."


def _schedule(given: object) -> object:
    """From `nail_biting:30, sitting:20`; what is a list already stays."""
    if not isinstance(given, str):
        return given
    try:
        return parse_schedule(given)
    except ScenarioRejected as rejected:
        raise ValueError(str(rejected).removeprefix("schedule: ")) from None


def _faults(given: object) -> object:
    """From `loss=0.02, reboot@120`; what is a tuple already stays."""
    return parse_faults(given) if isinstance(given, str) else given


def _profile(given: str) -> str:
    if given not in PROFILES:
        raise ValueError(f"no wearable profile {given!r}, expected one of {', '.join(PROFILES)}")
    return given


def parse_schedule(text: str) -> list[tuple[str, float]]:
    """From `nail_biting:30, sitting:20`. Raises ScenarioRejected."""
    parts = [part.strip().rpartition(":") for part in text.split(",")]
    try:
        return [(activity, float(seconds)) for activity, _, seconds in parts]
    except ValueError:
        wrong = next(part for part in text.split(",") if not _is_number(part.rpartition(":")[2]))
        raise ScenarioRejected(
            f"schedule: expected NAME:SECONDS, as in nail_biting:30,sitting:20, found {wrong.strip()!r}",
            hint="Activities, each with its seconds, and commas between them.",
        ) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class WearableSpec(BaseModel):
    """One wearable. Where no recording is named it plays synthetic motion."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    profile: Annotated[str, AfterValidator(_profile)] = REFERENCE
    """The family as which it speaks."""
    address: Annotated[str, Field(pattern=r"^[C-Fc-f][0-9A-Fa-f](:[0-9A-Fa-f]{2}){5}$")] = ""
    """Random static (the two highest bits set); drawn from the name where none is given."""
    serial: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    schedule: Annotated[
        tuple[tuple[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]], ...], BeforeValidator(_schedule)
    ] = ()
    """Activities and for how many seconds each, repeated until the duration is over; all of them where it is empty."""
    wearer: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0)] = 0
    rest_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Mean length of a rest between two activities."""
    wrist: Literal["left", "right"] = "left"
    hand: Literal["left", "right"] | None = None
    mounting: str = "x,y,z"
    tempo: float = 1.0
    amplitude: float = 1.0
    """The five as firmware_sim.synthesis.Person has them."""
    recording: Path | None = None
    accelerometer: Path | None = None
    gyroscope: Path | None = None
    acc_unit: Literal["m_s2", "mg", "g"] | None = None
    gyro_unit: Literal["deg_s", "rad_s"] | None = None
    duration_s: Annotated[float, Field(gt=0, le=DURATION_S_MAX, allow_inf_nan=False)] | None = None
    truth: Path | None = None
    ring: Annotated[int, Field(ge=CAPACITY_MIN, lt=2**32)] = 500_000
    drift_ppm: Annotated[float, Field(ge=-10_000, le=10_000)] = 0.0
    pairing: Literal["none", "just_works", "passkey", "numeric", "keyboard", "refused", "legacy"] = "none"
    """As firmware_sim.pairing has it."""
    passkey: Annotated[int, Field(ge=0, le=999_999)] | None = None
    privacy_s: Annotated[float, Field(gt=0, le=DURATION_S_MAX, allow_inf_nan=False)] | None = None
    """Where its address changes: after how long, while it is not connected. `address` is the one that stays."""
    faults: Annotated[tuple[Fault, ...], BeforeValidator(_faults)] = ()
    """Written as one text (firmware_sim/faults.py); what of them is random follows from name and seed."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.name.encode()) > NAME_BYTES_MAX:
            raise ValueError(f"name {self.name!r}: more than {NAME_BYTES_MAX} bytes do not fit the scan response")
        if self.profile != REFERENCE and "ring" in self.model_fields_set:
            raise ValueError(f"ring: {self.profile} keeps no samples")
        cannot = {} if self.profile == REFERENCE else FAMILIES[self.profile].cannot()
        for fault in self.faults:
            if fault.name in cannot:
                raise ValueError(f"faults: {self.profile} cannot have {fault.name!r}: {cannot[fault.name]}")
        if (self.passkey is None) != (self.pairing not in {"passkey", "legacy"}):
            raise ValueError("passkey: six digits where pairing is passkey or legacy, and only there")
        if self.privacy_s is not None and self.pairing == "none":
            raise ValueError("privacy_s: only who is paired can know it by a changing address; say how it pairs")
        if (self.accelerometer is None) != (self.gyroscope is None):
            raise ValueError("accelerometer and gyroscope: both files of the pair are needed")
        if self.recording is not None and self.accelerometer is not None:
            raise ValueError("recording, or accelerometer and gyroscope: not both")
        if self.recorded and self.schedule:
            raise ValueError("schedule: a recording is played, there is nothing to schedule")
        return self

    @property
    def recorded(self) -> tuple[Path, ...]:
        """The files of the recording: one, the pair, or none."""
        return tuple(path for path in (self.recording, self.accelerometer, self.gyroscope) if path is not None)

    def ble_address(self) -> str:
        if self.address:
            return self.address.upper()
        drawn = bytearray(self._digest(6))
        drawn[0] |= 0xC0
        return drawn.hex(":").upper()

    def serial_number(self) -> int:
        return self.serial if self.serial is not None else int.from_bytes(self._digest(8))

    def _digest(self, size: int) -> bytes:
        return hashlib.blake2b(self.name.encode(), digest_size=size).digest()


def parse_wearable(text: str) -> WearableSpec:
    """From `name=left; schedule=nail_biting:30,sitting:20; seed=1`. Raises ScenarioRejected."""
    keys: dict[str, object] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        key, separator, value = part.partition("=")
        if not separator:
            raise ScenarioRejected(f"wearable {text!r}: {part!r} is not key=value")
        key = key.strip()
        if key in keys:
            raise ScenarioRejected(
                f"wearable {text!r}: {key} is given twice, as {keys[key]!r} and {value.strip()!r}",
                hint="Give it once; each wearable has a --wearable of its own.",
            )
        keys[key] = value.strip()
    return _wearable(keys, f"wearable {text!r}")


def read_scenario(path: Path) -> list[WearableSpec]:
    """The [[wearable]] tables of a TOML file; its relative paths are taken from its folder. Raises ScenarioRejected."""
    try:
        if path.stat().st_size > SCENARIO_BYTES_MAX:
            raise ScenarioRejected(f"{path}: larger than {SCENARIO_BYTES_MAX} bytes")
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioRejected(f"{path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioRejected(f"{path}: not TOML: {error}") from None
    listed = tables.get("wearable")
    if set(tables) != {"wearable"} or not isinstance(listed, list) or not all(isinstance(t, dict) for t in listed):
        raise ScenarioRejected(f"{path}: expected [[wearable]] tables and nothing else")
    specs = [_wearable(table, f"{path}: wearable {number}") for number, table in enumerate(listed, 1)]
    return [
        spec.model_copy(update={key: path.parent / value for key, value in spec if isinstance(value, Path)})
        for spec in specs
    ]


def check_distinct(specs: Sequence[WearableSpec]) -> None:
    """Raises ScenarioRejected where two share a name, an address or a truth file."""
    for what, values in {
        "name": [spec.name for spec in specs],
        "address": [spec.ble_address() for spec in specs],
        "truth": [str(spec.truth.absolute()) for spec in specs if spec.truth is not None],
    }.items():
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise ScenarioRejected(f"two wearables have the {what} {twice!r}")


def _wearable(keys: Mapping[str, object], where: str) -> WearableSpec:
    try:
        return WearableSpec.model_validate(keys)
    except ValidationError as error:
        # An unknown key is often why another one is missing.
        first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
        key = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, WearableSpec.model_fields, n=1)
            did_you_mean = f" (did you mean {near[0]!r}?)" if near else ""
            raise ScenarioRejected(f"{where}: unknown key {key!r}{did_you_mean}") from None
        said = _in_words(first)
        raise ScenarioRejected(f"{where}: {key}: {said}" if key else f"{where}: {said}") from None


def _in_words(error: "ErrorDetails") -> str:
    """What pydantic found, said to whoever wrote the value."""
    kind, found, limits = error["type"], error["input"], error.get("ctx", {})
    shown = f", found {found!r}"
    match kind:
        case "missing":
            return "it is missing, and each wearable has one"
        case "int_parsing" | "int_type" | "int_from_float":
            return f"expected a whole number{shown}"
        case "float_parsing" | "float_type":
            return f"expected a number{shown}"
        case "finite_number":
            return f"expected a finite number{shown}"
        case "greater_than":
            return f"expected more than {limits['gt']:g}{shown}"
        case "greater_than_equal":
            return f"expected at least {limits['ge']}{shown}"
        case "less_than":
            return f"expected less than {limits['lt']}{shown}"
        case "less_than_equal":
            return f"expected at most {limits['le']:g}{shown}"
        case "literal_error":
            return f"expected {limits['expected']}{shown}"
        case "string_pattern_mismatch":  # of the address alone
            return f"expected a random static address, such as C3:11:22:33:44:55, its first byte C0 to FF{shown}"
    said = re.sub(r"^Value error, ", "", error["msg"])
    return said[:1].lower() + said[1:]
