"""Passwords, keys and certificates in files: where they are, who else can read them, and whether they have changed."""

import os
import ssl
import stat
from pathlib import Path

from gateway.errors import InputRejected
from gateway.sync.settings import BrokerSettings, TlsSettings

CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Where systemd puts what LoadCredential= names (systemd.exec(5), CREDENTIALS)."""

Fingerprint = tuple[tuple[int, int, int] | None, ...]


def credential(key: str, name: str) -> Path:
    """The file of a systemd credential. Raises InputRejected where this process was given none."""
    folder = os.environ.get(CREDENTIALS)
    if not folder:
        raise InputRejected(
            f"{key} {name!r}: ${CREDENTIALS} is not set",
            hint=f"systemd sets it for a unit that has LoadCredential={name}:FILE.",
        )
    return Path(folder) / name


def password_file(settings: BrokerSettings) -> Path | None:
    """Raises InputRejected."""
    if settings.password_credential is not None:
        return credential("sync.password_credential", settings.password_credential)
    return settings.password_file


def key_file(settings: TlsSettings) -> Path | None:
    """Raises InputRejected."""
    if settings.key_credential is not None:
        return credential("sync.tls.key_credential", settings.key_credential)
    return settings.key


def read_password(settings: BrokerSettings) -> str | None:
    """Raises InputRejected where its file cannot be read, or others can read it."""
    if settings.password is not None:
        return settings.password.get_secret_value()
    file = password_file(settings)
    if file is None:
        return None
    key = "sync.password_file" if settings.password_credential is None else "sync.password_credential"
    try:
        password = file.read_text(encoding="utf-8").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputRejected(
            f"{key} {file}: {getattr(error, 'strerror', None) or 'no UTF-8 text'}",
            hint="A text file with nothing but the password, readable for the gateway's user.",
        ) from None
    if settings.password_credential is None:
        check_private(key, file)
    return password


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """Raises InputRejected where a file cannot be used, or others can read the key."""
    hint = "A PEM file, readable for the gateway's user; a key without passphrase that belongs to its certificate."
    try:
        context = ssl.create_default_context(cafile=settings.ca)
    except OSError as error:
        raise InputRejected(f"sync.tls.ca {settings.ca}: {error.strerror or error}", hint=hint) from None
    if settings.cert is not None:
        key = key_file(settings)
        try:
            context.load_cert_chain(settings.cert, key, password=lambda: "")
        except OSError as error:
            raise InputRejected(f"sync.tls.cert {settings.cert}: {error.strerror or error}", hint=hint) from None
        if settings.key_credential is None:
            check_private("sync.tls.key" if key else "sync.tls.cert", key or settings.cert)
    return context


def check_private(key: str, file: Path) -> None:
    """Nobody but its owner may read it; of root's files a group may, such as the service's. Raises InputRejected."""
    try:
        found = file.stat()
    except OSError:  # whoever reads it says so
        return
    allowed = 0o640 if found.st_uid == 0 else 0o600
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077 & ~allowed:
        raise InputRejected(f"{key} {file}: others can read it (mode {mode:04o})", hint=f"chmod {allowed:o} {file}")


def files(settings: BrokerSettings) -> tuple[Path, ...]:
    """All that a connection is made with. Raises InputRejected."""
    tls = settings.tls
    named = [password_file(settings), *((tls.ca, tls.cert, key_file(tls)) if tls else ())]
    return tuple(file for file in named if file is not None)


def fingerprint(files: tuple[Path, ...]) -> Fingerprint:
    """Another one once any of them was written, replaced, or given other permissions, also behind a link."""

    def of(file: Path) -> tuple[int, int, int] | None:
        try:
            found = file.stat()
        except OSError:
            return None
        return found.st_ctime_ns, found.st_size, found.st_ino

    return tuple(map(of, files))
