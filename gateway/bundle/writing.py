"""A bundle appears as a whole, or not at all."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from gateway.bundle.archive import write_archive
from gateway.bundle.errors import TargetRejected
from gateway.bundle.manifest import Manifest, Member, bundle_digest
from gateway.bundle.reading import MANIFEST_FILE, Bundle, load_bundle


def member(file: str, content: bytes) -> Member:
    """The entry by which a manifest names a file with this content."""
    return Member(file=file, sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def check_target(path: str | Path, *, replace: bool = False) -> None:
    """Raises TargetRejected where write_bundle could not write; to ask before long work.

    replace: a bundle that stands there already may be replaced. Anything else that stands there never is.
    """
    path = Path(path)
    if path.is_symlink() or path.exists():
        if not path.is_dir() or path.is_symlink() or not (path / MANIFEST_FILE).is_file():
            raise TargetRejected(f"{path} exists and is no bundle", hint="Choose another path.")
        if not replace:
            raise TargetRejected(f"{path} exists", hint="Choose another path, or replace the bundle with --force.")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise TargetRejected(f"{path} cannot be written: {parent} is no folder", hint="Choose another path.")
    if not os.access(parent, os.W_OK | os.X_OK):
        hint = "Choose another path, or ask for the right to write there."
        raise TargetRejected(f"{path} cannot be written: no permission in {parent}", hint=hint)


def write_bundle(path: str | Path, manifest: Manifest, files: Mapping[str, bytes], *, replace: bool = False) -> Bundle:
    """Writes the bundle beside its place, synchronized to the medium, then renames it there, and loads it.

    files: name to content, exactly the manifest's members. With replace, the old bundle is renamed away first and
    comes back if the new one cannot take its place. Raises TargetRejected; ValueError where files and manifest
    do not belong together, which is a mistake of the program.
    """
    path = Path(path).absolute()
    members = {item.file: item for item in manifest.members().values()}
    if set(members) != set(files) or any(member(n, c).sha256 != members[n].sha256 for n, c in files.items()):
        raise ValueError("the files are not those that the manifest names")
    check_target(path, replace=replace)
    content = manifest.model_dump(mode="json")
    text = json.dumps({"digest": bundle_digest(content), **content}, indent=1, ensure_ascii=False) + "\n"
    missing = [parent for parent in path.parents if not parent.exists()]
    token = secrets.token_hex(4)
    new, old = path.with_name(f".{path.name}.new-{token}"), path.with_name(f".{path.name}.old-{token}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.mkdir()
        for name, data in {**files, MANIFEST_FILE: text.encode()}.items():
            _write_durably(new / name, data)
        _sync_folder(new)
        if path.exists():
            path.rename(old)
        new.rename(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise TargetRejected(f"{path} cannot be written: {error.strerror}", hint="Choose another path.") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(old, ignore_errors=True)
        with suppress(OSError):
            for parent in missing if not path.exists() else ():
                parent.rmdir()
    return load_bundle(path)


def pack_bundle(bundle: Bundle, out: str | Path, *, replace: bool = False) -> Bundle:
    """Writes the bundle as one .zip and loads it from there; the same bundle makes the same bytes.

    replace: a file that stands there may be replaced. Raises TargetRejected, BundleRejected; the file appears as a
    whole or not at all.
    """
    out = Path(out).absolute()
    if out.suffix.lower() != ".zip":
        raise TargetRejected(f"{out}: expected a name that ends in .zip", hint="Choose another name.")
    if out.is_symlink() or (out.exists() and not out.is_file()):
        raise TargetRejected(f"{out} exists and is no file", hint="Choose another path.")
    if out.exists() and not replace:
        raise TargetRejected(f"{out} exists", hint="Choose another path, or replace it with --force.")
    files = bundle.files()
    new = out.with_name(f".{out.name}.new-{secrets.token_hex(4)}")
    try:
        write_archive(new, files)
        descriptor = os.open(new, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        new.replace(out)
        _sync_folder(out.parent)
    except OSError as error:
        raise TargetRejected(f"{out} cannot be written: {error.strerror}", hint="Choose another path.") from error
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)
    return load_bundle(out)


def _write_durably(file: Path, content: bytes) -> None:
    with file.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
