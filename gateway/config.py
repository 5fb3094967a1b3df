"""The configuration file: TOML in, frozen settings of every room out, or every error in it at once.

Each room declares its own settings; this module composes them. Relative paths are taken from the file's folder.
docs/configuration.md is the reference for people.
"""

import difflib
import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from gateway.errors import GatewayError, InputRejected
from gateway.link import seats
from gateway.monitoring.drift import DriftSettings
from gateway.motion.axes import parse_axes
from gateway.profiles import usable_profile_of
from gateway.store.settings import StoreSettings
from gateway.stream.stream import StreamSettings
from gateway.sync.settings import SyncSettings

CONFIG_BYTES_MAX = 1 << 20
WEARABLES_MAX = 32
"""More than one adapter can hold links to; a longer list is a mistake."""
ADAPTERS_MAX = 8

Loc = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One error. where: the TOML path, such as sync.port or wearable[1].address. found: empty where it is secret."""

    where: str
    found: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        found = f"found {self.found}, " if self.found and self.expected else self.found
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.where}: {found}{self.expected}{hint}"


class ConfigRejected(InputRejected):
    """The configuration cannot be used; every error in it is in `problems` and in the message, one a line."""

    hint = "`gateway check --config FILE` explains a configuration; docs/configuration.md lists every key."

    def __init__(self, file: Path, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = "1 error" if len(problems) == 1 else f"{len(problems)} errors"
        super().__init__("\n  - ".join([f"{file}: {count}", *map(str, problems)]))


def _checked(check: Callable[[str], object]) -> AfterValidator:
    """A text that this function takes; what it raises is what a person is told."""

    def validate(text: str) -> str:
        try:
            check(text)
        except GatewayError as error:
            raise ValueError(f"{error}. {error.hint}") from None
        return text

    return AfterValidator(validate)


def _address(text: str) -> str:
    if not text.strip("0:"):
        raise ValueError("that is no wearable's address; its label or a scan tells it")
    return text.upper()


_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_ADDRESS = r"^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$"
_ADAPTER = r"^hci[0-9]{1,3}$"
_MEANING = {
    _NAME: "expected 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit",
    _ADDRESS: "expected a Bluetooth address such as C0:FF:EE:00:00:01",
    _ADAPTER: "expected an adapter such as hci0",
}
"""What a person is told instead of a regular expression."""

Name = Annotated[str, StringConstraints(pattern=_NAME)]
"""Stands in MQTT topics and in URNs, so it is plain."""
Address = Annotated[str, StringConstraints(pattern=_ADDRESS), AfterValidator(_address)]


AdapterName = Annotated[str, StringConstraints(pattern=_ADAPTER)]
TransportName = Annotated[str, StringConstraints(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GatewaySettings(_Section):
    """state_dir: where the store lives, on a medium that keeps what is synchronized to it."""

    id: Name
    state_dir: Path = Path("/var/lib/fidget-gateway")


class RadioSettings(_Section):
    """transport: an HCI transport in Bumble's notation, such as serial:/dev/ttyACM0,1000000 or tcp-client:HOST:PORT.

    adapters, transports: several of them, in place of the one. wearables_max: links that each of them holds.
    secure_connections: whether pairing by anything else than LE Secure Connections will do.
    """

    backend: Literal["bluez", "bumble"] = "bluez"
    adapter: AdapterName = "hci0"
    adapters: Annotated[tuple[AdapterName, ...], Field(max_length=ADAPTERS_MAX)] | None = None
    transport: TransportName | None = None
    transports: Annotated[tuple[TransportName, ...], Field(max_length=ADAPTERS_MAX)] | None = None
    wearables_max: Annotated[int, Field(ge=1, le=WEARABLES_MAX)] = seats.WEARABLES_MAX
    secure_connections: Literal["preferred", "only"] = "preferred"

    @property
    def names(self) -> tuple[str, ...]:
        """Of all adapters, or transports, the first of them first."""
        if self.backend == "bumble":
            return self.transports or ((self.transport,) if self.transport is not None else ())
        return self.adapters or (self.adapter,)

    @model_validator(mode="after")
    def _names_belong_to_the_backend(self) -> Self:
        if self.backend == "bumble" and not self.names:
            raise ValueError('backend "bumble" needs transport, such as "serial:/dev/ttyACM0,1000000"')
        if self.backend == "bluez" and (self.transport is not None or self.transports is not None):
            raise ValueError('transport is for backend "bumble"; with "bluez" give adapter')
        if self.backend == "bumble" and {"adapter", "adapters"} & self.model_fields_set:
            raise ValueError('adapter is for backend "bluez"; with "bumble" give transport')
        for one, several in (("adapter", "adapters"), ("transport", "transports")):
            if {one, several} <= self.model_fields_set:
                raise ValueError(f"give {one} or {several}, not both")
            if getattr(self, several) == ():
                raise ValueError(f"{several} names none")
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} stands twice among them")
        return self


class LocalSettings(_Section):
    """socket: by which commands reach the daemon; group: whose members may use it too."""

    socket: Path | None = None
    group: Annotated[str, StringConstraints(min_length=1)] | None = None


class BundleSettings(_Section):
    """variant: one of the bundle's; without it the default that its measured gate chose."""

    path: Path
    variant: str | None = None


class WearableSettings(_Section):
    """mounting: the model's axes as signed axes of the worn case; without it predictions are uncertain.

    wearer: a pseudonym, the subject of what is published; never a name. bundle, variant: as [bundle] has them, which is
    for wearables without a bundle of their own. allow_just_works: it may pair without anybody having seen a number.
    shared: other gateways in reach may hold it; which one does follows from how strongly each hears it. adapter: of
    [radio]'s adapters, or transports, the one that may hold it, such as the one that it is bonded with.
    """

    id: Name
    address: Address
    profile: Annotated[str, _checked(usable_profile_of)] = "reference"
    mounting: Annotated[str, _checked(parse_axes)] | None = None
    wrist: Literal["left", "right"] | None = None
    wearer: Name | None = None
    bundle: Path | None = None
    variant: str | None = None
    allow_just_works: bool = False
    shared: bool = False
    adapter: TransportName | None = None


class Config(_Section):
    """bundle: may be absent where every wearable names its own."""

    gateway: GatewaySettings
    radio: RadioSettings = RadioSettings()
    local: LocalSettings = LocalSettings()
    bundle: BundleSettings | None = None
    stream: StreamSettings = StreamSettings()
    drift: DriftSettings = DriftSettings()
    store: StoreSettings
    sync: SyncSettings
    wearables: tuple[WearableSettings, ...] = Field(alias="wearable")

    @model_validator(mode="after")
    def _adapters_are_there(self) -> Self:
        for index, wearable in enumerate(self.wearables):
            if wearable.adapter not in (None, *self.radio.names):
                there = ", ".join(self.radio.names)
                raise ValueError(f"wearable[{index}].adapter {wearable.adapter!r} is none of [radio]: {there}")
        return self

    def bundle_of(self, wearable: WearableSettings) -> BundleSettings:
        """What answers for it: its own bundle, else that of [bundle], of which its own variant counts first."""
        if wearable.bundle is not None:
            return BundleSettings(path=wearable.bundle, variant=wearable.variant)
        assert self.bundle is not None  # validated demands it then
        return self.bundle.model_copy(update={"variant": wearable.variant}) if wearable.variant else self.bundle

    def adapter_of(self, wearable: WearableSettings) -> str:
        """The one that it is paired with: its own, else the first."""
        return wearable.adapter or self.radio.names[0]

    @property
    def socket(self) -> Path:
        return self.local.socket or self.gateway.state_dir / "gateway.sock"

    @property
    def bonds_file(self) -> Path:
        """Whom this gateway has paired."""
        return self.gateway.state_dir / "bonds.json"

    @property
    def keys_file(self) -> Path:
        """The bonds' keys, where no BlueZ keeps them."""
        return self.gateway.state_dir / "bluetooth-keys.json"

    def wearable_named(self, name: str, file: Path) -> WearableSettings:
        """file: that this was read from. Raises InputRejected."""
        known = {wearable.id: wearable for wearable in self.wearables}
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"Did you mean {near[0]}? " if near else ""
            raise InputRejected(f"{file}: no wearable {name!r} in it", hint=f"{meant}There are: {', '.join(known)}.")
        return known[name]

    def bundles(self) -> tuple[BundleSettings, ...]:
        """Each distinct one that some wearable uses, in the wearables' order."""
        return tuple(dict.fromkeys(map(self.bundle_of, self.wearables)))


def load_config(file: str | Path) -> Config:
    """Reads and validates a configuration. Raises ConfigRejected (exit code 2) with every error in it."""
    return validated(_read(Path(file)), Path(file))


def validated(raw: dict[str, Any], file: Path) -> Config:
    """From the file's parsed content, which is the function's to change. Raises ConfigRejected."""
    problems = {problem.where: problem for problem in (*_not_finite(raw), *_wearables(raw), *_without_bundle(raw))}
    _give_store_its_default_path(raw)
    try:
        # JSON mode: strict on types ("5" is no number), while a text may still become a path or a secret
        config = Config.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        for found in map(_problem, error.errors(include_url=False)):
            problems.setdefault(found.where, found)
    if problems:
        raise ConfigRejected(file, list(problems.values()))
    return _with_absolute_paths(config, file.absolute().parent)


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            content = stream.read(CONFIG_BYTES_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        found = getattr(error, "strerror", None) or str(error)
        raise ConfigRejected(file, [Problem("file", found, "expected a readable file")]) from None
    if len(content) > CONFIG_BYTES_MAX:
        raise ConfigRejected(file, [Problem("file", f"more than {CONFIG_BYTES_MAX} bytes", "expected a configuration")])
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigRejected(file, [Problem("file", f"no TOML ({error})", "expected TOML 1.0 in UTF-8")]) from None


def _give_store_its_default_path(raw: dict[str, Any]) -> None:
    gateway, store = raw.get("gateway"), raw.setdefault("store", {})
    state_dir = gateway.get("state_dir") if isinstance(gateway, dict) else None
    if not isinstance(state_dir, str):
        state_dir = str(GatewaySettings.model_fields["state_dir"].default)
    if isinstance(store, dict):
        store.setdefault("path", str(Path(state_dir) / "gateway.db"))


_M = TypeVar("_M", bound=BaseModel)


def _with_absolute_paths(model: _M, folder: Path) -> _M:
    """Every path of every room's settings, taken from the folder where it is relative; ~ is the user's home."""

    def placed(value: Any) -> Any:
        if isinstance(value, Path):
            return folder / value.expanduser()
        if isinstance(value, BaseModel):
            return _with_absolute_paths(value, folder)
        return tuple(map(placed, value)) if isinstance(value, tuple) else value

    return model.model_copy(update={name: placed(getattr(model, name)) for name in type(model).model_fields})


# From what is wrong to what a person is told.


def _not_finite(value: Any, loc: Loc = ()) -> Iterator[Problem]:
    """TOML has nan and inf; no setting can be one."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _not_finite(inner, (*loc, key))
    if isinstance(value, float) and not math.isfinite(value):
        yield Problem(_path(loc), str(value), "expected a finite number")


def _wearables(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """How many there are, and which have the id or the address of an earlier one."""
    wearables = raw.get("wearable", [])
    if not isinstance(wearables, list) or not 1 <= len(wearables) <= WEARABLES_MAX:
        found = f"{len(wearables)} tables" if isinstance(wearables, list) else "a single value or table"
        yield Problem("wearable", found, f"expected 1 to {WEARABLES_MAX} tables [[wearable]]")
        return
    for key in ("id", "address"):
        seen: dict[str, int] = {}
        for index, wearable in enumerate(wearables):
            value = wearable.get(key) if isinstance(wearable, dict) else None
            if isinstance(value, str):
                first = seen.setdefault(value.upper() if key == "address" else value, index)
                if first != index:
                    where = _path(("wearable", index, key))
                    yield Problem(where, repr(value), f"expected another {key} than that of wearable[{first}]")


def _without_bundle(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """Which wearable has nothing that answers for it."""
    wearables = raw.get("wearable", [])
    if "bundle" in raw or not isinstance(wearables, list):
        return
    own = [isinstance(wearable, dict) and "bundle" in wearable for wearable in wearables]
    if not any(own):
        yield Problem("bundle", "nothing", "expected a table [bundle]")
    elif not all(own):
        without = f"wearable[{own.index(False)}]"
        yield Problem("bundle", "nothing", f"expected a table [bundle], or a bundle of its own in {without}")


def _problem(error: ErrorDetails) -> Problem:
    """From one error of pydantic's."""
    loc: Loc = error["loc"]
    where, context = _path(loc), error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return Problem(where, "unknown key", "", _suggestion(loc))
        case "missing":
            table = f"expected a table [{where}]"
            return Problem(where, "nothing", table if _model_at(loc) is not None else "expected a value")
        case "value_error":
            return Problem(where, "", str(context["error"]))
        case "string_pattern_mismatch" if context["pattern"] in _MEANING:
            return Problem(where, _shown(loc, error["input"]), _MEANING[context["pattern"]])
        case _:
            expected = error["msg"].replace("Input should be", "expected").replace("valid string", "text")
            return Problem(where, _shown(loc, error["input"]), expected[:1].lower() + expected[1:])


def _path(loc: Loc) -> str:
    """wearable[1].address: tables are counted from 0, as in the file's order."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "file"


def _shown(loc: Loc, value: object) -> str:
    """The value as it was found; nothing of a secret, and no more than a line."""
    if any("password" in str(part) for part in loc):
        return ""
    if isinstance(value, dict):
        return ""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _suggestion(loc: Loc) -> str:
    """The near key of the same table, else the table that has this very key."""
    table = _model_at(loc[:-1])
    key = str(loc[-1])
    near = difflib.get_close_matches(key, _keys(table), 1) if table else []
    if near:
        return f"did you mean {near[0]}?"
    homes = [name for name, model in _tables() if key in _keys(model) and model is not table]
    if homes:
        return f"{key} belongs in [{homes[0]}]"
    return f"there are: {', '.join(_keys(table))}" if table else ""


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _tables() -> Iterator[tuple[str, type[BaseModel]]]:
    for key in _keys(Config):
        model = _model_at((key,))
        if model is not None:
            yield key, model


def _model_at(loc: Loc) -> type[BaseModel] | None:
    """The settings class that validates what stands at this path; None where that is no table."""
    model: type[BaseModel] | None = Config
    for part in loc:
        if isinstance(part, int) or model is None:
            continue
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        model = _model_in(fields[part].annotation) if part in fields else None
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for arg in get_args(annotation) if (model := _model_in(arg)) is not None), None)
