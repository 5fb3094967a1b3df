"""From a folder, or a .zip of it, to a checked Bundle. No model runtime here: a variant's bytes are only handed on."""

import base64
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from gateway.bundle.archive import check_archive, read_archived
from gateway.bundle.errors import BundleRejected
from gateway.bundle.manifest import SCHEMA_VERSION, Manifest, Member, Variant, bundle_digest

MANIFEST_FILE = "manifest.json"
_MANIFEST_BYTES_MAX = 4 << 20
_SKETCHES = TypeAdapter(dict[str, str])


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose digests agreed when it was loaded.

    path: its folder or .zip. digest: hex, names manifest and members together.
    """

    path: Path
    manifest: Manifest
    digest: str

    def variant(self, name: str | None = None) -> tuple[str, Variant]:
        """The variant of this name, or the default one. Raises BundleRejected where there is none."""
        name = self.manifest.default_variant if name is None else name
        if name not in self.manifest.variants:
            raise BundleRejected(
                "variant",
                name,
                "one of " + ", ".join(self.manifest.variants),
                bundle=self.path,
                hint="Choose one of these, or none for the bundle's default.",
            )
        return name, self.manifest.variants[name]

    def model_file(self, variant: str | None = None) -> bytes:
        """The variant's .tflite, checked again as it is read. Raises BundleRejected."""
        name, member = self.variant(variant)
        return _read_member(self.path, f"variants.{name}", member)

    def files(self) -> dict[str, bytes]:
        """Every file by its name, the manifest first, checked again as they are read. Raises BundleRejected."""
        try:
            manifest = _read_file(self.path, MANIFEST_FILE, _MANIFEST_BYTES_MAX + 1)
        except OSError as error:
            raise BundleRejected(MANIFEST_FILE, error.strerror, "a readable file", bundle=self.path) from None
        members = self.manifest.members()
        return {MANIFEST_FILE: manifest} | {m.file: _read_member(self.path, field, m) for field, m in members.items()}

    def self_test_windows(self) -> NDArray[np.float32]:
        """(n, window, channels), m/s² and deg/s: those of manifest.self_test. Raises BundleRejected."""
        test = self.manifest.self_test
        if test is None:
            raise BundleRejected("self_test", "none", "windows with known answers", bundle=self.path)
        count = len(next(iter(test.probabilities.values())))
        expected = (count, self.manifest.window, len(self.manifest.channels))
        content = io.BytesIO(_read_member(self.path, "self_test", test))
        try:
            windows: NDArray[np.float32] = np.load(content, allow_pickle=False)
            found = (windows.dtype, windows.shape)
        except (ValueError, EOFError, OSError, AttributeError, MemoryError) as error:
            raise BundleRejected("self_test", f"no .npy array ({error})", expected, bundle=self.path) from None
        if found != (np.dtype("<f4"), expected) or not np.isfinite(windows).all():
            raise BundleRejected("self_test", f"{found[0]} {found[1]}", f"finite float32 {expected}", bundle=self.path)
        return windows

    def drift_sketches(self) -> dict[str, bytes]:
        """By feature, serialized; none where the bundle has none. Nothing says yet that they can be read as sketches.

        Raises BundleRejected.
        """
        field, data = "reference_data.sketches", self.manifest.reference_data
        if data is None or data.sketches is None:
            return {}
        content = _read_member(self.path, field, data.sketches)
        try:
            entries: dict[str, str] = _SKETCHES.validate_json(content)
            sketches = {name: base64.b64decode(text, validate=True) for name, text in entries.items()}
        except ValueError as error:
            found = f"no JSON object of base64 texts ({type(error).__name__})"
            raise BundleRejected(field, found, "a sketch by feature", bundle=self.path) from None
        expected = {name for name, entry in (self.manifest.drift_reference or {}).items() if entry.of == "windows"}
        if set(sketches) != expected:
            found = f"{len(sketches)} of other features than drift_reference has"
            raise BundleRejected(field, found, f"these {len(expected)}", bundle=self.path)
        return sketches


def load_bundle(path: str | Path) -> Bundle:
    """Reads a bundle (folder or .zip) and checks every digest in it. Raises BundleRejected (exit code 2)."""
    path = Path(path)
    if path.is_file() and path.suffix.lower() == ".zip":
        check_archive(path)
    content = _read_manifest(path)
    digest = content.get("digest")
    try:
        computed = bundle_digest(content)
    except ValueError as error:  # NaN, infinity and half surrogates, which Python's JSON reader lets through
        raise BundleRejected(MANIFEST_FILE, f"no JSON ({error})", "the manifest", bundle=path) from None
    if digest != computed:
        raise BundleRejected("digest", computed, digest, bundle=path)
    manifest = _validated(path, {key: value for key, value in content.items() if key != "digest"})
    for field, member in manifest.members().items():
        _read_member(path, field, member)
    return Bundle(path, manifest, computed)


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir() and not (path.is_file() and path.suffix.lower() == ".zip"):
        found = "a file" if path.exists() else "nothing"
        hint = "Give the path of a bundle: the folder that `converter convert` wrote, or its .zip."
        raise BundleRejected("folder", found, f"a folder with {MANIFEST_FILE}", bundle=path, hint=hint)
    try:
        text = _read_file(path, MANIFEST_FILE, _MANIFEST_BYTES_MAX + 1)
        if len(text) > _MANIFEST_BYTES_MAX:
            expected = f"at most {_MANIFEST_BYTES_MAX} bytes"
            raise BundleRejected(MANIFEST_FILE, "a longer file", expected, bundle=path)
        content = json.loads(text, object_pairs_hook=_without_doubles)
    except OSError as error:
        raise BundleRejected(MANIFEST_FILE, error.strerror, "a readable file", bundle=path) from None
    except (ValueError, RecursionError) as error:
        raise BundleRejected(MANIFEST_FILE, f"no JSON ({error})", "the manifest", bundle=path) from None
    if not isinstance(content, dict):
        raise BundleRejected(MANIFEST_FILE, f"a JSON {type(content).__name__}", "a JSON object", bundle=path)
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        hint = "Update this program, or build the bundle again with the converter that belongs to it."
        raise BundleRejected("schema_version", repr(version), SCHEMA_VERSION, bundle=path, hint=hint)
    return content


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers of JSON may keep different ones of two equal keys; then a digest would not name one content."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return made


def _validated(path: Path, content: dict[str, Any]) -> Manifest:
    try:
        return Manifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = repr(".".join(map(str, first["loc"])) or MANIFEST_FILE)[1:-1]  # a key may hold a line break
        value = first["input"]
        found = f"{type(value).__name__} of {len(value)}" if isinstance(value, (dict, list)) else repr(value)
        raise BundleRejected(field, found, first["msg"], bundle=path) from None


def _read_file(path: Path, name: str, limit: int) -> bytes:
    """At most limit bytes. Raises OSError, BundleRejected."""
    if not path.is_dir():
        return read_archived(path, name, limit)
    with (path / name).open("rb") as file:
        return file.read(limit)


def _read_member(path: Path, field: str, member: Member) -> bytes:
    try:
        content = _read_file(path, member.file, member.size + 1)
    except OSError as error:
        raise BundleRejected(f"{field}.file {member.file}", error.strerror, "a readable file", bundle=path) from None
    if len(content) != member.size:
        found = len(content) if len(content) < member.size else f"more than {member.size}"
        raise BundleRejected(f"{field}.size of {member.file}", found, member.size, bundle=path)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != member.sha256:
        raise BundleRejected(f"{field}.sha256 of {member.file}", sha256, member.sha256, bundle=path)
    return content
