"""The radio: one adapter through bleak, and a runner for each wearable. Names are imported where they are used."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from gateway.ble.errors import RadioRejected

if TYPE_CHECKING:
    from gateway.ble.radio import Radio


def open_radio(
    backend: Literal["bluez", "bumble"],
    *,
    adapter: str = "hci0",
    transport: str | None = None,
    on_status: Callable[[str], None] = lambda _status: None,
) -> "Radio":
    """The radio that the settings name, not yet running. Raises RadioRejected."""
    from gateway.ble.radio import Radio

    if backend == "bluez":
        from gateway.ble.bluez_backend import BluezAdapter

        return Radio(BluezAdapter(adapter), on_status)
    if find_spec("bumble") is None:
        hint = "pip install 'fidget-gateway[bumble]'"
        raise RadioRejected('radio backend "bumble": the package bumble is not installed', hint=hint)
    if transport is None:
        raise RadioRejected('radio backend "bumble" needs a transport', hint="Such as serial:/dev/ttyACM0,1000000.")
    from gateway.ble.bumble_backend import BumbleAdapter

    return Radio(BumbleAdapter(transport), on_status)
