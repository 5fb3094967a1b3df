"""Wearables from the command line and from TOML, and what is refused in a sentence."""

from contextlib import suppress
from pathlib import Path

import pytest

from firmware_sim.scenario import PROFILES, ScenarioRejected, check_distinct, parse_wearable, read_scenario


def test_the_two_ways_to_describe_a_wearable_agree(tmp_path: Path) -> None:
    text = "name=left; schedule=nail_biting:30, sitting:20.5; seed=3; wearer=4; ring=9000; duration_s=60; truth=t.csv"
    file = tmp_path / "two.toml"
    file.write_text(
        """
        [[wearable]]
        name = "left"
        schedule = [["nail_biting", 30], ["sitting", 20.5]]
        seed = 3
        wearer = 4
        ring = 9000
        duration_s = 60
        truth = "t.csv"
        [[wearable]]
        name = "right"
        accelerometer = "/somewhere/acc.xlsx"
        gyroscope = "gyro.xlsx"
        """
    )
    left, right = read_scenario(file)
    assert left == parse_wearable(text).model_copy(update={"truth": tmp_path / "t.csv"})
    assert left.schedule == (("nail_biting", 30.0), ("sitting", 20.5))
    assert right.recorded == (Path("/somewhere/acc.xlsx"), tmp_path / "gyro.xlsx")


def test_address_and_serial_come_from_the_name_and_stay() -> None:
    one, again, other = (parse_wearable(f"name={name}") for name in ("left", "left", "right"))
    assert one.ble_address() == again.ble_address() != other.ble_address()
    assert one.serial_number() == again.serial_number() != other.serial_number()
    assert int(one.ble_address()[:2], 16) >> 6 == 3  # random static: Core Specification, vol. 6, part B, 1.3.2.1
    assert parse_wearable("name=left; address=f0:00:00:00:00:0a").ble_address() == "F0:00:00:00:00:0A"


REFUSED = [
    ("name=left; sede=1", "unknown key 'sede' (did you mean 'seed'?)"),
    ("name=left; seed", "'seed' is not key=value"),
    ("name=left; name=right", "name is given twice, as 'left' and 'right'"),
    ("name=left; seed=1;seed = 1", "seed is given twice, as '1' and '1'"),
    ("name=left; seed=x", "seed: expected a whole number, found 'x'"),
    ("name=left; seed=1.5", "seed: expected a whole number, found '1.5'"),
    ("name=left; serial=18446744073709551616", "serial: expected less than 18446744073709551616, found"),
    ("name=left; wearer=-1", "wearer: expected at least 0, found '-1'"),
    ("name=left; tempo=fast", "tempo: expected a number, found 'fast'"),
    ("name=left; drift_ppm=10001", "drift_ppm: expected at most 10000, found '10001'"),
    ("name=left; wrist=up", "wrist: expected 'left' or 'right', found 'up'"),
    ("seed=1", "name: it is missing, and each wearable has one"),
    ("name=" + "x" * 30, "more than 29 bytes do not fit the scan response"),
    ("name=left; ring=100", "ring: expected at least 800, found '100'"),
    ("name=left; duration_s=0", "duration_s: expected more than 0, found '0'"),
    ("name=left; duration_s=nan", "duration_s: expected a finite number, found 'nan'"),
    (
        "name=left; schedule=sitting",
        "schedule: expected NAME:SECONDS, as in nail_biting:30,sitting:20, found 'sitting'",
    ),
    ("name=left; schedule=sitting:1,lying:x", "schedule: expected NAME:SECONDS, as in"),
    ("name=left; address=00:11:22:33:44:55", "address: expected a random static address, such as C3:11:22:33:44:55"),
    ("name=left; accelerometer=a.xlsx", "both files of the pair are needed"),
    ("name=left; recording=a.csv; schedule=sitting:9", "a recording is played, there is nothing to schedule"),
    ("name=left; recording=a.csv; accelerometer=b; gyroscope=c", "not both"),
    ("name=left; profile=movesens", "no wearable profile 'movesens', expected one of reference, movesense, polar"),
    ("name=left; profile=thingy52; ring=900", "ring: thingy52 keeps no samples"),
    ("name=left; profile=thingy52; faults=loss=0.1,step@9=1", "faults: thingy52 cannot have 'step': it sends no time"),
    (
        "name=left; profile=movesense; faults=overrun@9=5",
        "faults: movesense cannot have 'overrun': it does not number its samples",
    ),
    ("name=left; profile=xsens-dot; faults=full@9=800", "faults: xsens-dot cannot have 'full': it keeps no samples"),
]


@pytest.mark.parametrize(("text", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_a_wrong_wearable_is_refused_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(ScenarioRejected) as rejected:
        parse_wearable(text)
    assert said in str(rejected.value)
    assert "\n" not in str(rejected.value)
    assert rejected.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[[wearable]\n", "not TOML"),
        ("[wearable]\nname = 'x'\n", "expected [[wearable]] tables and nothing else"),
        ("speed = 3\n[[wearable]]\nname = 'x'\n", "expected [[wearable]] tables and nothing else"),
        ("[[wearable]]\nname = 'x'\n[[wearable]]\nnam = 'y'\n", "wearable 2: unknown key 'nam' (did you mean 'name'?)"),
    ],
)
def test_a_wrong_scenario_is_refused_with_its_place(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "scenario.toml"
    file.write_text(content)
    with pytest.raises(ScenarioRejected) as rejected:
        read_scenario(file)
    assert str(rejected.value).startswith(f"{file}: ")
    assert said in str(rejected.value)


def test_a_missing_scenario_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioRejected, match=r"none\.toml: No such file or directory"):
        read_scenario(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("texts", "what"),
    [
        (("name=a", "name=a"), "name 'a'"),
        (("name=a; truth=t", "name=b; truth=./t"), "truth"),
        (("name=a; address=F0:00:00:00:00:01", "name=b; address=f0:00:00:00:00:01"), "address 'F0:00:00:00:00:01'"),
    ],
)
def test_two_wearables_are_told_apart(texts: tuple[str, ...], what: str) -> None:
    with pytest.raises(ScenarioRejected) as rejected:
        check_distinct([parse_wearable(text) for text in texts])
    assert f"two wearables have the {what}" in str(rejected.value)


CLOCKLESS = {"thingy52", "witmotion-bwt901ble", "arduino-nano33-ble-sense"}
"""Of the vendors' layouts the three whose frames have no field for a time."""


@pytest.mark.parametrize("profile", PROFILES)
def test_a_family_takes_the_faults_that_it_can_have_and_no_others(profile: str) -> None:
    values = {"overrun": "5", "full": "800", "step": "1", "reboot": "lost", "drift": "50", "battery": "9"}
    taken = set()
    for name, value in values.items():
        with suppress(ScenarioRejected):
            parse_wearable(f"name=left; profile={profile}; faults={name}@9={value}")
            taken.add(name)
    expected = {"reboot", "drift", "battery"} | ({"step"} if profile not in CLOCKLESS else set())
    assert taken == (expected | {"overrun", "full"} if profile == "reference" else expected)
