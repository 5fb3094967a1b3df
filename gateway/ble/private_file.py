"""A small file of JSON that only the gateway's own user reads: bonds and their keys."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.errors import InputRejected

BYTES_MAX = 1 << 20


class FileDamaged(InputRejected):
    """It is there and cannot be used; it is left as it is."""


def read_private(file: Path, check: Callable[[Any], bool], hint: str) -> Any:
    """Its content; None where there is none. Raises FileDamaged."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileDamaged(f"{file}: {error.strerror}", hint="Run this command as the gateway's user.") from None
    try:
        found = json.loads(content) if len(content) <= BYTES_MAX else None
    except (ValueError, RecursionError):
        found = None
    try:
        good = found is not None and check(found)
    except (KeyError, TypeError, ValueError, AttributeError):
        good = False
    if not good:
        raise FileDamaged(f"{file}: not what the gateway wrote there", hint=hint)
    return found


def write_private(file: Path, content: Any) -> None:
    """As a whole and on the medium, mode 0600; it belongs to whom the folder belongs, also where root writes it.

    Raises InputRejected.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            if os.geteuid() == 0:
                folder = file.parent.stat()
                os.fchown(stream.fileno(), folder.st_uid, folder.st_gid)
            json.dump(content, stream, indent=1, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputRejected(f"{file}: {error.strerror}", hint="Is the state directory this user's?") from None
