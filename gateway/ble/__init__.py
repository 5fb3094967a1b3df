"""The radio: one adapter through bleak, and a runner for each wearable. Names are imported where they are used."""

from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, TypedDict

from gateway.ble.errors import RadioRejected
from gateway.link.seats import WEARABLES_MAX

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.ble.bluez_agent import Answers
    from gateway.ble.bluez_backend import BluezAdapter
    from gateway.ble.bumble_backend import BumbleAdapter
    from gateway.ble.bumble_keys import KeyFile
    from gateway.ble.radio import Radio
    from gateway.ble.radios import Radios


TRANSPORTS = (
    *("serial", "usb", "pyusb", "hci-socket", "vhci", "pty", "file"),
    *("tcp-client", "tcp-server", "udp", "ws-client", "ws-server", "unix", "unix-client", "unix-server"),
    *("android-emulator", "android-netsim"),
)
"""What Bumble's open_transport knows (https://google.github.io/bumble/transports/)."""
_WITHOUT_DETAILS = {"hci-socket", "vhci", "pty", "android-emulator", "android-netsim"}


class _Which(TypedDict, total=False):
    adapter: str
    transport: str


def check_transport(transport: str) -> None:
    """Whether Bumble knows such a transport; it is not opened. Raises RadioRejected."""
    scheme, _, details = transport.partition(":")
    if scheme not in TRANSPORTS:
        raise RadioRejected(
            f"radio.transport {transport!r}: {scheme!r} is no transport of Bumble",
            hint=f"Known are {', '.join(TRANSPORTS)}; such as serial:/dev/ttyACM0,1000000.",
        )
    if not details and scheme not in _WITHOUT_DETAILS:
        raise RadioRejected(
            f"radio.transport {transport!r}: nothing follows {scheme!r}",
            hint="Say which, such as serial:/dev/ttyACM0,1000000, usb:0 or tcp-client:HOST:PORT.",
        )


def open_adapter(
    backend: Literal["bluez", "bumble"],
    name: str,
    *,
    answers: "Answers | None" = None,
    keys: "KeyFile | None" = None,
    legacy: bool = True,
) -> "BluezAdapter | BumbleAdapter":
    """Not attached. keys: as open_keys gives them. legacy: whether pairing without LE Secure Connections will do on
    bumble. Raises RadioRejected."""
    if backend == "bluez":
        from gateway.ble.bluez_backend import BluezAdapter

        return BluezAdapter(name, answers)
    _need_bumble()
    from gateway.ble.bumble_backend import BumbleAdapter

    return BumbleAdapter(name, keys, answers, legacy=legacy)


def open_keys(backend: Literal["bluez", "bumble"], file: "Path") -> "KeyFile | None":
    """The bonds that this program keeps itself; BlueZ keeps its own. Raises RadioRejected and FileDamaged."""
    if backend == "bluez":
        return None
    _need_bumble()
    from gateway.ble.bumble_keys import KeyFile

    return KeyFile(file)


def _need_bumble() -> None:
    if find_spec("bumble") is None:
        hint = "pip install 'fidget-gateway[bumble]'"
        raise RadioRejected('radio backend "bumble": the package bumble is not installed', hint=hint)


def open_radio(
    backend: Literal["bluez", "bumble"],
    *,
    adapter: str = "hci0",
    transport: str | None = None,
    just_works: Collection[str] = (),
    wearables_max: int = WEARABLES_MAX,
    on_status: Callable[[str], None] = lambda _status: None,
    keys: "KeyFile | None" = None,
    legacy: bool = True,
) -> "Radio":
    """One adapter's radio, not yet running. just_works: addresses that may pair without anybody having seen a number.
    wearables_max: links that the adapter holds. keys, legacy: as open_adapter has them. Raises
    RadioRejected."""
    from gateway.ble.bluez_agent import Refusals
    from gateway.ble.radio import Radio
    from gateway.link import rules

    name = adapter if backend == "bluez" else transport
    if name is None:
        raise RadioRejected('radio backend "bumble" needs a transport', hint="Such as serial:/dev/ttyACM0,1000000.")
    answers = Refusals(
        just_works,
        refused=lambda address: radio.leave_alone(address),
        allowed=lambda address: radio.notice(address, rules.Asked()),
    )
    made = open_adapter(backend, name, answers=answers, keys=keys, legacy=legacy)
    radio = Radio(made, on_status, wearables_max)
    return radio


def open_radios(
    backend: Literal["bluez", "bumble"],
    names: Sequence[str],
    *,
    wearables_max: int = WEARABLES_MAX,
    just_works: Collection[str] = (),
    only: Mapping[str, str] | None = None,
    keys: "KeyFile | None" = None,
    legacy: bool = True,
) -> "Radios":
    """The radios of all these adapters, or transports, not yet running. only: the name of the one that may hold a
    wearable, by its address. Raises RadioRejected."""
    from gateway.ble.radios import Radios

    made = []
    for name in names:
        which: _Which = {"adapter": name} if backend == "bluez" else {"transport": name}
        made.append(
            open_radio(backend, **which, just_works=just_works, wearables_max=wearables_max, keys=keys, legacy=legacy)
        )
    return Radios(made, only)
