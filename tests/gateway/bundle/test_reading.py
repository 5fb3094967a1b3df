import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.bundle import BundleRejected, Manifest, load_bundle, pack_bundle, write_bundle
from gateway.bundle.manifest import bundle_digest
from tests.gateway.bundle.conftest import with_reference


def rewrite(bundle, *, signed=True, **changes):
    """Changes the manifest on the medium; signed: with the digest that belongs to the change."""
    file = bundle.path / "manifest.json"
    content = json.loads(file.read_text()) | changes
    if signed:
        content["digest"] = bundle_digest(content)
    file.write_text(json.dumps(content))


def rejected(path):
    with pytest.raises(BundleRejected) as caught:
        load_bundle(path)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_bundle_is_read_as_it_was_written(bundle, files):
    loaded = load_bundle(str(bundle.path))
    assert loaded == bundle
    assert loaded.digest == json.loads((bundle.path / "manifest.json").read_text())["digest"]
    assert loaded.model_file() == loaded.model_file("float32") == files["float32.tflite"]
    assert loaded.model_file("dynamic") == files["dynamic.tflite"]
    assert loaded.manifest.labels == ("sitting", "nail_biting")


def test_an_unknown_variant_is_refused_with_the_ones_there_are(bundle):
    with pytest.raises(BundleRejected, match="variant: found int4, expected one of float32, dynamic"):
        bundle.model_file("int4")


@pytest.mark.parametrize("name", ["float32.tflite", "dynamic.tflite", "model_card.md", "manifest.json"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_changed_byte_goes_unseen(name, bundle, data):
    file = bundle.path / name
    before = file.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    changed = bytearray(before)
    changed[at] ^= data.draw(st.integers(1, 255))
    file.write_bytes(changed)
    try:
        if name == "manifest.json":
            try:
                same = json.loads(changed) == json.loads(before)  # only white space was changed
            except ValueError:
                same = False
            if same:
                return
        assert name in rejected(bundle.path) or name == "manifest.json"
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("change", [b"", b"\x00", b"longer"])
def test_a_member_of_another_size_is_refused(change, bundle):
    (bundle.path / "dynamic.tflite").write_bytes(change)
    assert "variants.dynamic.size of dynamic.tflite: found" in rejected(bundle.path)


def test_a_member_exchanged_for_one_of_the_same_size_is_refused(bundle):
    (bundle.path / "dynamic.tflite").write_bytes(b"\x01\x00")
    assert "variants.dynamic.sha256 of dynamic.tflite: found" in rejected(bundle.path)


def test_a_change_after_loading_is_seen_when_the_file_is_used(bundle):
    (bundle.path / "float32.tflite").write_bytes(bytes(768))
    with pytest.raises(BundleRejected, match=r"variants\.float32\.sha256"):
        bundle.model_file()


def test_a_changed_label_is_refused_by_the_digest(bundle):
    rewrite(bundle, labels=["standing", "nail_biting"], signed=False)
    assert (
        f"digest: found {bundle_digest(json.loads((bundle.path / 'manifest.json').read_text()))}, expected "
        in rejected(bundle.path)
    )


def test_a_newer_schema_says_that_the_program_is_too_old(bundle):
    rewrite(bundle, schema_version=2)
    with pytest.raises(BundleRejected, match="schema_version: found 2, expected 1") as caught:
        load_bundle(bundle.path)
    assert "Update this program" in caught.value.hint


def test_a_field_that_is_wrong_is_named(bundle):
    rewrite(bundle, hop=0)
    assert "hop: found 0, expected Input should be greater than or equal to 1" in rejected(bundle.path)


def test_a_field_whose_name_breaks_the_line_is_named_in_one_line(bundle):
    content = json.loads((bundle.path / "manifest.json").read_text())
    rewrite(bundle, variants=content["variants"] | {"a\nb": content["variants"]["float32"]})
    assert "variants.a\\nb" in rejected(bundle.path)


def test_a_member_cannot_be_outside_of_the_bundle(bundle):
    (bundle.path.parent / "secret").write_bytes(b"x")
    card = {"file": "../secret", "sha256": "0" * 64, "size": 1}
    rewrite(bundle, model_card=card)
    assert "model_card.file: found '../secret'" in rejected(bundle.path)


MANIFESTS = [  # what it shows, manifest.json, words of the message
    ("empty", b"", "manifest.json: found no JSON"),
    ("no text", b"\xff\xfe\x00", "manifest.json: found no JSON"),
    ("no object", b"[1]", "found a JSON list"),
    ("nested without end", b"[" * 100_000, "manifest.json: found no JSON"),
    ("a key that stands twice", b'{"schema_version": 1, "schema_version": 1}', "a key stands twice"),
    ("NaN", b'{"schema_version": 1, "rate_hz": NaN}', "manifest.json: found no JSON"),
    ("half a surrogate pair", b'{"schema_version": 1, "frame": "\\ud800"}', "manifest.json: found no JSON"),
    ("too large", b" " * (4 << 20) + b"{}", "expected at most 4194304 bytes"),
]


@pytest.mark.parametrize(("shows", "manifest", "words"), MANIFESTS, ids=[row[0] for row in MANIFESTS])
def test_what_is_no_manifest_is_refused(shows, manifest, words, bundle):
    (bundle.path / "manifest.json").write_bytes(manifest)
    assert words in rejected(bundle.path)


SOMETHING = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just([]) | st.just({}) | st.floats()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_manifest_is_read_or_refused_in_a_sentence(bundle, data):
    """Whatever stands in place of one value, with the digest made to fit."""
    file = bundle.path / "manifest.json"
    before = file.read_text()
    content = json.loads(before)
    at = content
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(SOMETHING)
    try:
        content["digest"] = bundle_digest(content)
    except ValueError:
        pass
    file.write_text(json.dumps(content))
    try:
        load_bundle(bundle.path)
        refusal = ""
    except BundleRejected as error:
        refusal = str(error)
    finally:
        file.write_text(before)
    assert "\n" not in refusal


def test_a_missing_folder_manifest_or_member_is_refused(bundle, tmp_path):
    assert f"bundle {tmp_path / 'none'}: folder: found nothing" in rejected(tmp_path / "none")
    (bundle.path / "float32.tflite").unlink()
    assert "variants.float32.file float32.tflite: found No such file" in rejected(bundle.path)
    (bundle.path / "manifest.json").unlink()
    assert "manifest.json: found No such file or directory" in rejected(bundle.path)
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert "folder: found a file, expected a folder with manifest.json" in rejected(file)


@pytest.fixture
def with_sketches(tmp_path, content, files):
    """with_sketches(content of the sketches' file): a bundle whose manifest has a reference with it."""

    def write(sketches):
        manifest = Manifest.model_validate(content(**with_reference(sketches)))
        more = {} if sketches is None else {"drift_sketches.json": sketches}
        return write_bundle(tmp_path / "referenced", manifest, files | more)

    return write


def test_sketches_are_read_by_their_feature(with_sketches):
    """One for each feature of windows; nobody knows the windows behind a feature of samples."""
    bundle = with_sketches(b'{"Ax_mean_m_s2": "AAEC/w=="}')
    assert load_bundle(bundle.path).drift_sketches() == {"Ax_mean_m_s2": b"\x00\x01\x02\xff"}
    assert load_bundle(pack_bundle(bundle, bundle.path.with_suffix(".zip")).path).drift_sketches() != {}


def test_a_bundle_without_sketches_has_none(with_sketches, bundle):
    assert bundle.drift_sketches() == {}
    assert with_sketches(None).drift_sketches() == {}


def test_sketches_are_covered_by_the_digest(with_sketches):
    bundle = with_sketches(b'{"Ax_mean_m_s2": "AAEC/w=="}')
    (bundle.path / "drift_sketches.json").write_bytes(b'{"Ax_mean_m_s2": "AAEC/A=="}')
    assert "reference_data.sketches.sha256 of drift_sketches.json" in rejected(bundle.path)
    (bundle.path / "drift_sketches.json").unlink()
    assert "reference_data.sketches.file drift_sketches.json" in rejected(bundle.path)


BAD_SKETCHES = [  # what it shows, the file, words of the message
    ("no JSON", b"{", "no JSON object of base64 texts"),
    ("a list", b"[]", "no JSON object of base64 texts"),
    ("numbers", b'{"Ax_mean_m_s2": 1}', "no JSON object of base64 texts"),
    ("no base64", b'{"Ax_mean_m_s2": "AA*="}', "no JSON object of base64 texts"),
    ("no ASCII", '{"Ax_mean_m_s2": "é"}'.encode(), "no JSON object of base64 texts"),
    ("no UTF-8", b'{"\xff": ""}', "no JSON object of base64 texts"),
    ("none", b"{}", "found 0 of other features than drift_reference has, expected these 1"),
    ("another feature", b'{"Ay_mean_m_s2": ""}', "found 1 of other features"),
    ("one of samples", b'{"Ax_mean_m_s2": "", "Gx_mean_deg_s": ""}', "found 2 of other features"),
]


@pytest.mark.parametrize(("sketches", "words"), [row[1:] for row in BAD_SKETCHES], ids=[row[0] for row in BAD_SKETCHES])
def test_a_file_that_holds_no_sketches_is_refused(sketches, words, with_sketches):
    with pytest.raises(BundleRejected, match=words) as caught:
        with_sketches(sketches).drift_sketches()
    assert "reference_data.sketches: found" in str(caught.value)
    assert "\n" not in str(caught.value)
