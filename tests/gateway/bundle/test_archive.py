"""The bundle as one .zip, and zips that are damaged, hostile or of something else."""

import io
import os
import stat
import struct
import subprocess
import tracemalloc
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.bundle import BundleRejected, TargetRejected, load_bundle, pack_bundle
from gateway.bundle.archive import ARCHIVE_BYTES_MAX


@pytest.fixture
def packed(bundle, tmp_path):
    return pack_bundle(bundle, tmp_path / "bundle.zip")


def rejected(path):
    with pytest.raises(BundleRejected) as caught:
        load_bundle(path)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_zip_holds_what_the_folder_holds(bundle, packed, files):
    assert (packed.digest, packed.manifest) == (bundle.digest, bundle.manifest)
    assert packed.model_file("dynamic") == files["dynamic.tflite"]
    assert packed.files() == bundle.files()
    listed = subprocess.run(["python3", "-m", "zipfile", "-t", packed.path], capture_output=True, text=True, check=True)
    assert "Done testing" in listed.stdout


def test_the_same_bundle_makes_the_same_bytes(bundle, packed, tmp_path):
    os.utime(bundle.path / "manifest.json", (0, 0))
    again = pack_bundle(packed, tmp_path / "again.zip")
    assert again.path.read_bytes() == packed.path.read_bytes()
    with zipfile.ZipFile(packed.path) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_targets_that_cannot_be_are_refused_and_nothing_is_left(bundle, packed, tmp_path):
    with pytest.raises(TargetRejected, match=r"bundle\.zip exists") as caught:
        pack_bundle(bundle, packed.path)
    assert "--force" in caught.value.hint
    assert pack_bundle(bundle, packed.path, replace=True).digest == bundle.digest
    (tmp_path / "folder.zip").mkdir()
    for out, words in [("folder.zip", "is no file"), ("none/x.zip", "No such file"), ("x.tar", r"ends in \.zip")]:
        with pytest.raises(TargetRejected, match=words):
            pack_bundle(bundle, tmp_path / out, replace=True)
    assert sorted(os.listdir(tmp_path)) == ["bundle", "bundle.zip", "folder.zip"]


def test_a_failure_leaves_the_old_zip(bundle, packed, tmp_path, monkeypatch):
    before = packed.path.read_bytes()

    def stopped(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        pack_bundle(bundle, packed.path, replace=True)
    assert packed.path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["bundle", "bundle.zip"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_truncated_zip_is_refused(packed, data):
    whole = packed.path.read_bytes()
    packed.path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    try:
        assert "no intact zip" in rejected(packed.path)
    finally:
        packed.path.write_bytes(whole)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_refused_or_changes_nothing(packed, data):
    whole = packed.path.read_bytes()
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    packed.path.write_bytes(changed)
    try:
        loaded = load_bundle(packed.path)
        assert (loaded.digest, loaded.files()) == (packed.digest, packed.files())  # a date, a mode: nobody reads them
    except BundleRejected:
        rejected(packed.path)
    finally:
        packed.path.write_bytes(whole)


def rezipped(packed, change, **options):
    """The zip written again, with members that `change` gives for (name, content)."""
    with zipfile.ZipFile(packed.path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", **options) as archive:
        change(archive, members)
    packed.path.write_bytes(made.getvalue())


def write_all(archive, members):
    for name, content in members.items():
        archive.writestr(name, content)


def test_a_zip_that_another_program_compressed_is_read(packed, bundle):
    rezipped(packed, write_all, compression=zipfile.ZIP_DEFLATED)
    assert load_bundle(packed.path).digest == bundle.digest


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "bundle/manifest.json", "a\\b", "C:x", "", ".hidden", "a\0b"]
)
def test_a_member_that_is_no_plain_file_beside_the_manifest_is_refused(name, packed):
    def change(archive, members):
        entry = zipfile.ZipInfo("x")
        entry.filename = name
        write_all(archive, members)
        archive.writestr(entry, b"")

    rezipped(packed, change)
    assert "plain files beside manifest.json" in rejected(packed.path)


def test_members_of_other_kinds_are_refused(packed):
    whole = packed.path.read_bytes()
    for options, words in [({"compression": zipfile.ZIP_LZMA}, "packed otherwise"), ({}, "a member twice")]:
        rezipped(packed, write_all, **options)
        if not options:
            with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(packed.path, "a") as archive:
                archive.writestr("manifest.json", b"{}")
        assert words in rejected(packed.path)
        packed.path.write_bytes(whole)
    with zipfile.ZipFile(packed.path, "a") as archive:
        for number in range(100):
            archive.writestr(f"more{number}", b"")
    assert "members, expected at most 100" in rejected(packed.path)
    packed.path.write_bytes(whole.replace(b"manifest.json", b"manifest.jsox"))
    assert "manifest.json: found No such file in the zip" in rejected(packed.path)


def test_a_link_in_the_zip_is_read_as_its_text_and_refused(packed):
    def change(archive, members):
        for name, content in members.items():
            entry = zipfile.ZipInfo(name)
            if name == "model_card.md":
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
                content = b"/etc/passwd"
            archive.writestr(entry, content)

    rezipped(packed, change)
    assert "model_card.size" in rejected(packed.path)


def test_a_bomb_is_refused_before_it_goes_off(packed):
    """A kilobyte for every megabyte: the size of what comes out is bounded before anything does."""

    def change(archive, members):
        write_all(archive, members)
        with archive.open("more", "w") as file:
            for _ in range((ARCHIVE_BYTES_MAX >> 20) + 1):
                file.write(bytes(1 << 20))

    rezipped(packed, change, compression=zipfile.ZIP_DEFLATED)
    assert packed.path.stat().st_size < 1 << 20
    assert f"expected at most {ARCHIVE_BYTES_MAX} unpacked" in rejected(packed.path)


def test_a_bomb_that_lies_about_its_size_gives_no_more_than_was_asked_for(packed, files):
    """model_card.md holds 66 MB, and both its headers say that it has its 20 bytes."""
    card, size = len(files["model_card.md"]), 0x03F1A7B3

    def change(archive, members):
        write_all(archive, members | {"model_card.md": bytes(size)})

    rezipped(packed, change, compression=zipfile.ZIP_DEFLATED)
    content = packed.path.read_bytes()
    assert content.count(struct.pack("<I", size)) == 2
    packed.path.write_bytes(content.replace(struct.pack("<I", size), struct.pack("<I", card)))
    tracemalloc.start()
    try:
        assert "model_card" in rejected(packed.path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + bytes(18), b"<html>not found</html>"])
def test_what_is_no_zip_of_a_bundle_is_refused(content, tmp_path):
    (tmp_path / "x.zip").write_bytes(content)
    assert "bundle" in rejected(tmp_path / "x.zip")
