"""Profiles by name: this package's own, and those that other installed packages bring."""

import re
import sys

import pytest

from gateway.errors import InputRejected
from gateway.profiles import PROFILES, _installed, profile_of, recognised
from gateway.profiles.conversation import Connected, Disconnected, Fault, Kind, Notified, Observe, Received
from gateway.profiles.errors import FrameError

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def test_every_family_is_registered_under_its_name():
    assert all(profile.name == name for name, profile in PROFILES.items())
    assert set(PROFILES) >= {
        "reference",
        "movesense",
        "polar-verity-sense",
        "xsens-dot",
        "witmotion-bwt901ble",
        "thingy52",
        "arduino-nano33-ble-sense",
    }
    services = [profile.service_uuid for profile in PROFILES.values()]
    assert all(UUID.fullmatch(uuid) for uuid in services)
    assert len(set(services)) == len(services)


def test_a_name_that_is_nearly_right_is_suggested():
    with pytest.raises(InputRejected, match="no wearable profile 'movesens'") as refused:
        profile_of("movesens")
    assert refused.value.hint == "Did you mean 'movesense'?"


def test_the_arduino_is_recognised_and_refused_in_one_sentence():
    conversation = profile_of("arduino-nano33-ble-sense").conversation({})
    told = conversation.handle(Connected(), 0)
    assert told[0] == Observe(Kind.CONNECTED, b"")
    assert told[1:] == [
        Fault(
            "too_slow",
            "the Arduino sends 10 samples a second, which is too slow for the model: it needs 50",
            fatal=True,
        )
    ]
    assert conversation.handle(Notified("555a0011-0000-467a-9538-01f0652c74e8", bytes(12)), 1) == []
    assert conversation.handle(Disconnected(), 2) == [Observe(Kind.DISCONNECTED, b"")]
    with pytest.raises(FrameError, match="too slow"):
        profile_of("arduino-nano33-ble-sense").decoder().decode(Kind.FRAME, bytes(12), Received(1, "b", 0))


# Other packages: really installed ones, as pip leaves them, in a folder of their own on sys.path.

SOUND = """
from gateway.profiles.movesense import MovesenseProfile
class Other(MovesenseProfile):
    name = "other-band"
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lays down a module and the metadata by which it is found."""

    def lay(module, value="other_band_{n}:Other", name="other-band"):
        n = len(list(tmp_path.glob("*.py")))
        value = value.format(n=n)
        (tmp_path / f"other_band_{n}.py").write_text(module)
        info = tmp_path / f"other_band_{n}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: other-band-{n}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[fidget_gateway.profiles]\n{name} = {value}\n")
        (info / "RECORD").write_text("")
        monkeypatch.syspath_prepend(str(tmp_path))

    _installed.cache_clear()
    yield lay
    _installed.cache_clear()
    for loaded in [m for m in sys.modules if m.startswith("other_band_")]:
        del sys.modules[loaded]


def test_an_installed_package_brings_a_profile(install):
    install(SOUND)
    profile = profile_of("other-band")
    assert (profile.name, profile.rate_hz) == ("other-band", 52.0)
    assert profile.decoder().state()["session"] is None


def test_it_is_recognised_by_what_it_advertises_as_ours_are_and_one_that_is_broken_disturbs_nobody(install):
    service = "b0b00000-5a5a-4c4c-8d8d-0123456789ab"
    install(f'{SOUND}    service_uuid = "{service.upper()}"\n')
    install("raise RuntimeError", name="broken-band")
    assert recognised("any name", {service}) == "other-band"
    assert recognised("Thingy", set()) == "thingy52"
    assert recognised(None, set()) is None


def test_its_name_is_suggested_and_listed_like_the_others(install):
    install(SOUND)
    with pytest.raises(InputRejected) as near:
        profile_of("other-bant")
    assert near.value.hint == "Did you mean 'other-band'?"
    with pytest.raises(InputRejected) as far:
        profile_of("zzz")
    assert far.value.hint == f"There are: {', '.join(PROFILES)}, other-band."


def test_a_package_cannot_take_a_name_of_ours(install):
    install("raise SystemError('imported')", name="movesense")
    assert profile_of("movesense") is PROFILES["movesense"]


def test_what_is_not_asked_for_is_not_imported(install):
    install("raise SystemError('imported')")
    assert profile_of("thingy52").name == "thingy52"


@pytest.mark.parametrize(
    ("module", "value", "message"),
    [
        ("import no_such_module", "other_band_{n}:Other", "cannot be loaded: ModuleNotFoundError: No module named"),
        ("def f(:", "other_band_{n}:Other", "cannot be loaded: SyntaxError"),
        ("raise SystemExit('bye')", "other_band_{n}:Other", "cannot be loaded: SystemExit: bye"),
        ("1 / 0", "other_band_{n}:Other", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("", "other_band_{n}:Other", "cannot be loaded: AttributeError"),
        ("Other = 3", "other_band_{n}:Other", "cannot be loaded: TypeError: 'int' object is not callable"),
        ("class Other:\n    def __init__(self): raise OSError('no')", "other_band_{n}:Other", "OSError: no"),
        ("", "no_such_package.at_all:Other", "cannot be loaded: ModuleNotFoundError"),
        (
            "class Other:\n    name = 'other-band'\n    rate_hz = 50.0",
            "other_band_{n}:Other",
            "has no service_uuid, retention, sensor_frame, silence_s, conversation, decoder",
        ),
        (SOUND.replace("other-band", "something"), "other_band_{n}:Other", "calls itself 'something'"),
    ],
    ids=[
        "import",
        "syntax",
        "ends",
        "runs",
        "no class",
        "no callable",
        "constructor",
        "no module",
        "too little",
        "name",
    ],
)
def test_a_broken_package_is_refused_in_a_sentence_that_names_it(install, module, value, message):
    install(module, value)
    with pytest.raises(InputRejected, match=message) as refused:
        profile_of("other-band")
    assert str(refused.value).startswith("wearable profile 'other-band': ")
    assert "of the package other-band-0" in str(refused.value)
    assert refused.value.hint.startswith("Update or remove the package other-band-0")
