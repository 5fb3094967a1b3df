"""BlueZ's own settings of pairing, which hold for a whole adapter and stand in a file that bluetoothd reads when it
starts (src/main.conf in BlueZ's source; doc/settings-storage.txt)."""

import configparser
from pathlib import Path

from gateway.errors import InputRejected

MAIN_CONF = Path("/etc/bluetooth/main.conf")
KEY = "SecureConnections"
DEFAULT = "on"
"""By which a wearable that cannot do better still pairs the old way, LE Legacy."""

NO_WAY = (
    f"{KEY} = only makes Linux (seen with 6.12) end every encrypted LE link, also those of LE Secure Connections, so "
    'no wearable that pairs can be used. Ways out: [radio] backend = "bumble", where the gateway itself refuses to '
    f'pair the old way; or secure_connections = "preferred", with {KEY} = {DEFAULT} in BlueZ'
)


def must_be_secure(file: Path = MAIN_CONF) -> str:
    """In words, that BlueZ pairs by LE Secure Connections alone, or that nobody here can tell. Raises InputRejected
    where it does not."""
    try:
        found, where = _setting(file), f"{file} says {KEY} = "
    except PermissionError:
        return f"whether by LE Secure Connections alone is not known: {file} is not readable for this user"
    if found == "only":
        return f"by LE Secure Connections alone ({where}only)"
    said = f"{where}{found}" if found is not None else f"{file} does not say {KEY}, so it is {DEFAULT}"
    raise InputRejected(
        f'radio.secure_connections "only": BlueZ lets wearables pair without: {said}',
        hint=f"That it should is no way: {NO_WAY}.",
    )


def _setting(file: Path) -> str | None:
    """Raises PermissionError."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys and values have a case, as in GLib's files
    try:
        parser.read_string(file.read_text(errors="replace"))
    except PermissionError:
        raise
    except (OSError, configparser.Error):
        return None
    value = parser.get("General", KEY, fallback=None)
    return value.strip() if value is not None else None
