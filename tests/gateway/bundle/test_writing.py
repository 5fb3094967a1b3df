import errno
import json
import os

import pytest

from gateway.bundle import Manifest, TargetRejected, check_target, load_bundle, write_bundle
from gateway.bundle.reading import MANIFEST_FILE


@pytest.fixture
def manifest(content):
    return Manifest.model_validate(content())


def test_the_same_input_makes_the_same_bytes(manifest, files, tmp_path):
    a, b = (write_bundle(tmp_path / name, manifest, files) for name in "ab")
    assert a.digest == b.digest
    for file in (*files, MANIFEST_FILE):
        assert (a.path / file).read_bytes() == (b.path / file).read_bytes()


def test_files_other_than_the_manifest_names_are_not_written(manifest, files, tmp_path):
    for wrong in (files | {"dynamic.tflite": b"\x00\x02"}, files | {"more": b""}, {"model_card.md": b""}):
        with pytest.raises(ValueError, match="not those that the manifest names"):
            write_bundle(tmp_path / "a", manifest, wrong)
    assert list(tmp_path.iterdir()) == []


def test_parents_are_made_and_everyone_may_read(manifest, files, tmp_path):
    bundle = write_bundle(tmp_path / "x" / "y", manifest, files)
    mask = os.umask(0)
    os.umask(mask)
    assert bundle.path.stat().st_mode & 0o777 == 0o777 & ~mask


def test_what_stands_there_is_kept(bundle, manifest, files, tmp_path):
    with pytest.raises(TargetRejected, match="bundle exists") as caught:
        write_bundle(bundle.path, manifest, files)
    assert (caught.value.exit_code, "--force" in caught.value.hint) == (2, True)
    assert load_bundle(bundle.path) == bundle


def test_replacing_leaves_nothing_of_the_old_one(bundle, content, files):
    (bundle.path / "notes.txt").write_text("of the old one")
    made = write_bundle(bundle.path, Manifest.model_validate(content(hop=50)), files, replace=True)
    assert load_bundle(bundle.path) == made
    assert (made.manifest.hop, made.digest == bundle.digest) == (50, False)
    assert sorted(os.listdir(bundle.path)) == sorted([*files, MANIFEST_FILE])
    assert os.listdir(bundle.path.parent) == [bundle.path.name]


def test_only_a_bundle_is_ever_replaced(manifest, files, tmp_path, bundle):
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter").write_text("dear")
    for place in (home, home / "letter"):
        with pytest.raises(TargetRejected, match="exists and is no bundle"):
            write_bundle(place, manifest, files, replace=True)
    link = tmp_path / "link"
    link.symlink_to(bundle.path)
    with pytest.raises(TargetRejected, match="exists and is no bundle"):
        write_bundle(link, manifest, files, replace=True)
    assert (home / "letter").read_text() == "dear"


def test_a_place_that_cannot_be_written_is_refused(manifest, files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetRejected, match="file is no folder"):
        check_target(tmp_path / "file" / "bundle")
    with pytest.raises(TargetRejected, match=r"/proc/bundle cannot be written: (No such file|no permission)"):
        write_bundle("/proc/bundle", manifest, files)


def test_parents_that_were_made_go_again_where_the_bundle_cannot_be_written(manifest, files, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "stands").mkdir()
    with pytest.raises(TargetRejected, match="No space left on device"):
        write_bundle(tmp_path / "stands" / "x" / "y" / "bundle", manifest, files)
    assert list(tmp_path.rglob("*")) == [tmp_path / "stands"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(TargetRejected, match="no permission in"):
        check_target(tmp_path / "bundle")


@pytest.mark.parametrize("fails", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("replace", [False, True])
def test_a_failure_at_any_write_leaves_all_as_it_was(fails, at, replace, content, files, tmp_path, monkeypatch):
    """Six times the medium is asked to hold what was written: four files, their folder, its parent."""
    place = tmp_path / "bundle"
    old = write_bundle(place, Manifest.model_validate(content()), files) if replace else None
    calls = iter(range(6))
    fsync = os.fsync

    def full(descriptor):
        if next(calls) == at:
            raise fails
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    expected = TargetRejected if isinstance(fails, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_bundle(place, Manifest.model_validate(content(hop=50)), files, replace=replace)
    monkeypatch.undo()
    in_place = at == 5  # all is written and renamed; only that the rename is on the medium is not sure
    assert os.listdir(tmp_path) == (["bundle"] if replace or in_place else [])
    if in_place:
        assert load_bundle(place).manifest.hop == 50
    elif old:
        assert load_bundle(place) == old


def test_the_old_bundle_comes_back_where_the_new_one_cannot_take_its_place(bundle, content, files, monkeypatch):
    rename = os.rename
    calls = iter(("old away", "new into place", "old back"))

    def fails_once(source, target):
        if next(calls) == "new into place":
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_once)
    with pytest.raises(TargetRejected, match="cannot be written: Input/output error"):
        write_bundle(bundle.path, Manifest.model_validate(content(hop=50)), files, replace=True)
    assert next(calls, None) is None
    assert load_bundle(bundle.path) == bundle
    assert os.listdir(bundle.path.parent) == [bundle.path.name]


def test_a_manifest_on_the_medium_reads_as_people_expect(bundle):
    text = (bundle.path / MANIFEST_FILE).read_text()
    assert text.startswith('{\n "digest": "')
    assert list(json.loads(text))[:3] == ["digest", "schema_version", "model"]
