"""A bundle as one .zip file (PKWARE APPNOTE 6.3), for transport: the folder's files, without the folder.

Nothing is ever unpacked to the medium: members are read into memory, up to the size that was asked for.
"""

import lzma
import re
import struct
import zipfile
import zlib
from pathlib import Path

from gateway.bundle.errors import BundleRejected

ARCHIVE_BYTES_MAX = 256 << 20
"""Of the file, and of all its members unpacked. Models of this field have a hundredth of it."""
MEMBERS_MAX = 100
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the zero of the format's clock: the same bundle makes the same bytes at any time
_MODE = 0o644 << 16
_UNIX = 3
_ENCRYPTED = 0x1
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error),
    *(RuntimeError, NotImplementedError, ValueError, KeyError, MemoryError),
)
_HINT = "Fetch it again, or make it again with `converter pack`."


def write_archive(file: Path, members: dict[str, bytes]) -> None:
    """Stored, not compressed: weights hardly shrink, and another zlib would give other bytes. Raises OSError."""
    with zipfile.ZipFile(file, "x") as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.external_attr, entry.create_system = _MODE, _UNIX
            archive.writestr(entry, content)


def check_archive(path: Path) -> None:
    """Raises BundleRejected for what is no intact zip of plain files, or unpacks to more than a bundle can be."""
    try:
        size = path.stat().st_size
        if size > ARCHIVE_BYTES_MAX:
            raise _rejected(path, f"{size} bytes", f"at most {ARCHIVE_BYTES_MAX}")
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except OSError as error:
        raise _rejected(path, error.strerror or "an unreadable file", "a zip file") from None
    except _DAMAGED as error:
        raise _rejected(path, f"no intact zip ({_words(error)})", "a zip file") from None
    names = [entry.filename for entry in entries]
    if len(names) > MEMBERS_MAX:
        raise _rejected(path, f"{len(names)} members", f"at most {MEMBERS_MAX}")
    for entry in entries:
        shown = repr(entry.orig_filename[:100])
        if not _PLAIN.fullmatch(entry.filename) or entry.filename != entry.orig_filename:
            raise _rejected(path, f"the member {shown}", "plain files beside manifest.json, in no folder")
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _rejected(path, f"the member {shown} encrypted or packed otherwise", "stored or deflated members")
    if len(set(names)) != len(names):
        raise _rejected(path, "a member twice", "each name once")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > ARCHIVE_BYTES_MAX:
        raise _rejected(path, f"members of {unpacked} bytes", f"at most {ARCHIVE_BYTES_MAX} unpacked")


def read_archived(path: Path, name: str, limit: int) -> bytes:
    """At most limit bytes of a member. Raises BundleRejected; FileNotFoundError where there is none of this name."""
    try:
        with zipfile.ZipFile(path) as archive:
            if name not in archive.namelist():
                raise FileNotFoundError(2, "No such file in the zip")
            with archive.open(name) as file:
                return file.read(limit)
    except _DAMAGED as error:
        raise _rejected(path, f"{name} damaged ({_words(error)})", "an intact zip") from None


def _rejected(path: Path, found: str, expected: str) -> BundleRejected:
    return BundleRejected("archive", found, expected, bundle=path, hint=_HINT)


def _words(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__
