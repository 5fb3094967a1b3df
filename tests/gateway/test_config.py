"""A configuration is taken whole, or refused with every error in it."""

import copy
import json
import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from gateway.config import Config, ConfigRejected, load_config, validated

SMALLEST = """
[gateway]
id = "home-1"
[bundle]
path = "bundles/demo"
[sync]
host = "broker.example"
[[wearable]]
id = "left"
address = "c0:ff:ee:00:00:01"
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        file = tmp_path / "gateway.toml"
        file.write_text(text)
        return file

    return write


def problems(file):
    with pytest.raises(ConfigRejected) as caught:
        load_config(file)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


def test_the_smallest_configuration_gets_sensible_defaults(written):
    file = written(SMALLEST)
    config = load_config(file)
    assert config.radio.backend == "bluez"
    assert config.radio.adapter == "hci0"
    assert config.stream.backlog_wait_s == 86400
    assert config.stream.interpolate_samples_max == 5
    assert config.drift.period_s == 900
    assert config.store.path == Path("/var/lib/fidget-gateway/gateway.db")
    assert config.wearables[0].profile == "reference"
    assert config.wearables[0].address == "C0:FF:EE:00:00:01"
    assert config.wearables[0].mounting is None


def test_relative_paths_are_taken_from_the_files_folder(written, tmp_path):
    config = load_config(written(SMALLEST.replace('id = "home-1"', 'id = "home-1"\nstate_dir = "state"')))
    assert config.bundle.path == tmp_path / "bundles/demo"
    assert config.gateway.state_dir == tmp_path / "state"
    assert config.store.path == tmp_path / "state" / "gateway.db"


def test_the_local_socket_is_in_the_state_directory_unless_another_place_is_named(written, tmp_path):
    assert load_config(written(SMALLEST)).socket == Path("/var/lib/fidget-gateway/gateway.sock")
    placed = load_config(written(SMALLEST + '[local]\nsocket = "run/s"\ngroup = "operators"\n'))
    assert (placed.socket, placed.local.group) == (tmp_path / "run/s", "operators")
    assert problems(written(SMALLEST + '[radio]\nsecure_connections = "off"\n')) == [
        "radio.secure_connections: found 'off', expected 'preferred' or 'only'"
    ]


def test_every_error_is_told_at_once_with_its_place_and_the_way_out(written):
    text = """
    [gatway]
    [gateway]
    id = "my home"
    [radio]
    backend = "bumble"
    [bundle]
    pth = "b"
    [stream]
    backlog_wait = 5
    period_s = 5
    interpolate_samples_max = "5"
    [drift]
    period_s = nan
    [sync]
    port = 70000
    [[wearable]]
    id = "left"
    address = "C0:FF:EE:00:00:01"
    [[wearable]]
    id = "left"
    address = "c0:ff:ee:00:00:01"
    profile = "refrence"
    mounting = "y,x,z"
    wrist = "foot"
    """
    assert sorted(problems(written(text))) == sorted(
        [
            "gatway: unknown key (did you mean gateway?)",
            "gateway.id: found 'my home', expected 1 to 64 letters, digits, '.', '_' and '-', "
            "the first a letter or digit",
            'radio: backend "bumble" needs transport, such as "serial:/dev/ttyACM0,1000000"',
            "bundle.path: found nothing, expected a value",
            "bundle.pth: unknown key (did you mean path?)",
            "stream.backlog_wait: unknown key (did you mean backlog_wait_s?)",
            "stream.period_s: unknown key (period_s belongs in [drift])",
            "stream.interpolate_samples_max: found '5', expected a valid integer",
            "drift.period_s: found nan, expected a finite number",
            "sync.host: found nothing, expected a value",
            "sync.port: found 70000, expected less than or equal to 65535",
            "wearable[1].id: found 'left', expected another id than that of wearable[0]",
            "wearable[1].address: found 'c0:ff:ee:00:00:01', expected another address than that of wearable[0]",
            "wearable[1].profile: no wearable profile 'refrence'. Did you mean 'reference'?",
            "wearable[1].mounting: axes 'y,x,z': a mirror image, which no way of wearing a sensor gives. "
            "Change one sign or swap two axes: right-handed frames only differ by a rotation.",
            "wearable[1].wrist: found 'foot', expected 'left' or 'right'",
        ]
    )


def test_the_message_names_the_file_and_counts(written):
    file = written(SMALLEST + "colour = 1\n")
    with pytest.raises(ConfigRejected, match=r"gateway\.toml: 1 error\n  - wearable") as caught:
        load_config(file)
    assert "unknown key (there are: id, address," in str(caught.value)
    assert caught.value.hint


def test_an_address_that_no_wearable_has_is_refused(written):
    (found,) = problems(written(SMALLEST.replace("c0:ff:ee:00:00:01", "00:00:00:00:00:00")))
    assert found == "wearable[0].address: that is no wearable's address; its label or a scan tells it"


def test_missing_tables_are_named(written):
    assert "bundle: found nothing, expected a table [bundle]" in problems(written(""))


OWN = """
[gateway]
id = "home-1"
[sync]
host = "broker.example"
[[wearable]]
id = "left"
address = "C0:FF:EE:00:00:01"
bundle = "bundles/a"
variant = "float32"
[[wearable]]
id = "right"
address = "C0:FF:EE:00:00:02"
"""


def test_a_wearables_own_bundle_and_variant_count_before_the_common_one(written, tmp_path):
    text = OWN + '[[wearable]]\nid = "third"\naddress = "C0:FF:EE:00:00:03"\nvariant = "int8"\n'
    text += '[[wearable]]\nid = "fourth"\naddress = "C0:FF:EE:00:00:04"\nbundle = "bundles/b"\n'
    config = load_config(written(text + '[bundle]\npath = "bundles/demo"\nvariant = "mixed"\n'))
    common, own = tmp_path / "bundles/demo", tmp_path / "bundles"
    assert [(b.path, b.variant) for b in map(config.bundle_of, config.wearables)] == [
        (own / "a", "float32"),
        (common, "mixed"),
        (common, "int8"),
        (own / "b", None),  # a variant of another bundle says nothing of this one
    ]


def test_the_common_bundle_may_be_absent_only_where_each_wearable_names_its_own(written, tmp_path):
    own = [f"bundle: found nothing, expected a table [bundle], or a bundle of its own in wearable[{n}]" for n in (0, 1)]
    assert problems(written(OWN)) == [own[1]]
    assert problems(written(OWN.replace('bundle = "bundles/a"\n', "") + 'bundle = "b"\n')) == [own[0]]
    config = load_config(written(OWN + 'bundle = "bundles/b"\n'))
    assert config.bundle is None
    assert [settings.path for settings in config.bundles()] == [tmp_path / "bundles/a", tmp_path / "bundles/b"]


def test_a_bundle_that_two_wearables_name_is_one(written):
    assert len(load_config(written(OWN + 'bundle = "bundles/a"\nvariant = "float32"\n')).bundles()) == 1


def test_one_wearable_at_least_and_each_in_a_table_of_its_own(written):
    without = SMALLEST.split("[[wearable]]")[0]
    assert problems(written(without)) == ["wearable: found 0 tables, expected 1 to 32 tables [[wearable]]"]
    found = problems(written(SMALLEST.replace("[[wearable]]", "[wearable]")))
    assert found == ["wearable: found a single value or table, expected 1 to 32 tables [[wearable]]"]


@pytest.mark.parametrize("line", ['password = ["hunter2"]', 'pasword = "hunter2"', 'password_ = "hunter2"'])
def test_a_secret_is_never_repeated(written, line):
    found = problems(written(SMALLEST.replace("[[wearable]]", f"{line}\n[[wearable]]")))
    assert found
    assert "hunter2" not in "".join(found)


def test_a_transport_with_bluez_is_refused(written):
    found = problems(written(SMALLEST + '[radio]\ntransports = ["usb:0"]\n'))
    assert found == ['radio: transport is for backend "bumble"; with "bluez" give adapter']
    found = problems(written(SMALLEST + '[radio]\ntransport = "usb:0"\n'))
    assert found == ['radio: transport is for backend "bumble"; with "bluez" give adapter']


@pytest.mark.parametrize("named", ['adapter = "hci1"', 'adapters = ["hci0", "hci1"]'])
def test_an_adapter_of_bluez_with_bumble_is_refused(written, named):
    found = problems(written(SMALLEST + f'[radio]\nbackend = "bumble"\ntransport = "usb:0"\n{named}\n'))
    assert found == ['radio: adapter is for backend "bluez"; with "bumble" give transport']


def test_what_cannot_be_read_is_one_line(written, tmp_path):
    assert problems(tmp_path / "none.toml") == ["file: found No such file or directory, expected a readable file"]
    assert problems(tmp_path) == ["file: found Is a directory, expected a readable file"]
    assert "no TOML" in problems(written("a = "))[0]
    (tmp_path / "gateway.toml").write_bytes(b"\xff\xfe")
    assert "no TOML" in problems(tmp_path / "gateway.toml")[0]


def test_a_configuration_does_not_change(written):
    config = load_config(written(SMALLEST))
    with pytest.raises(ValueError, match="frozen"):
        config.gateway.id = "other"


# The documentation against the program.

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text()


def documented():
    """Table, key, default, as the page has them."""
    for table, text in re.findall(r"^## (\[.*?\]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL):
        for key, default in re.findall(r"^\| ([a-z_]+) \| (.*?) \|", text.split("|---|---|---|")[1], re.MULTILINE):
            yield table, key, default


def inner(field):
    """The settings that a key holds, None where it holds a value."""
    found = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)]
    return next((a for a in found if issubclass(a, BaseModel)), None)


def declared(model=Config, title=""):
    """Table, key, default, as the program has them."""
    for name, field in model.model_fields.items():
        if inner(field) is None:
            yield title, name, "state_dir/gateway.db" if (title, name) == ("[store]", "path") else shown(field)
        else:
            path = f"{title.strip('[]')}.{field.alias or name}".lstrip(".")
            path = f"[[{path}]]" if field.alias else f"[{path}]"
            yield from declared(inner(field), path)


def shown(field):
    if field.is_required():
        return "required"
    default = field.default
    return "none" if default is None else json.dumps(str(default) if isinstance(default, Path) else default)


def test_the_page_lists_every_key_with_its_default():
    assert sorted(documented()) == sorted(declared())


def test_the_pages_smallest_file_is_one(written):
    load_config(written(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]))


TOML_VALUES = st.recursive(
    st.one_of(st.integers(-5, 10**6), st.booleans(), st.text("abc/:-", max_size=6), st.floats()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=2)),
    max_leaves=4,
)
KEYS = st.sampled_from(["id", "path", "host", "port", "password", "address", "period_s", "tls", "mounting", "x"])
TABLES = st.sampled_from([*(f.alias or n for n, f in Config.model_fields.items()), "other"])
DOCUMENTS = st.dictionaries(
    TABLES,
    st.one_of(
        TOML_VALUES, st.dictionaries(KEYS, TOML_VALUES, max_size=4), st.lists(st.dictionaries(KEYS, TOML_VALUES))
    ),
)


@given(DOCUMENTS)
def test_whatever_toml_says_it_is_refused_in_words(document):
    """The documents never have all that is needed, so each must be refused, and never with anything else."""
    with pytest.raises(ConfigRejected) as caught:
        validated(copy.deepcopy(document), Path("gateway.toml"))
    assert all(problem.where for problem in caught.value.problems)


def with_radio(written, radio, wearable=""):
    return written(SMALLEST.replace("[bundle]", f"[radio]\n{radio}\n[bundle]") + wearable)


def test_one_adapter_or_several(written):
    assert load_config(written(SMALLEST)).radio.names == ("hci0",)
    assert load_config(with_radio(written, 'adapter = "hci1"')).radio.names == ("hci1",)
    several = load_config(with_radio(written, 'adapters = ["hci1", "hci0"]', 'adapter = "hci0"\n'))
    assert several.radio.names == ("hci1", "hci0")
    assert several.adapter_of(several.wearables[0]) == "hci0"
    usb = 'backend = "bumble"\ntransports = ["usb:0", "usb:1"]'
    assert load_config(with_radio(written, usb)).radio.names == ("usb:0", "usb:1")


@pytest.mark.parametrize(
    ("radio", "wearable", "problem"),
    [
        ('adapter = "hci0"\nadapters = ["hci1"]', "", "radio: give adapter or adapters, not both"),
        ("adapters = []", "", "radio: adapters names none"),
        ('adapters = ["hci0", "hci0"]', "", "radio: 'hci0' stands twice among them"),
        ('adapters = ["usb0"]', "", "radio.adapters[0]: found 'usb0', expected an adapter such as hci0"),
        ("wearables_max = 0", "", "radio.wearables_max: found 0, expected greater than or equal to 1"),
        (
            'adapters = ["hci0", "hci1"]',
            'adapter = "hci2"\n',
            "file: wearable[0].adapter 'hci2' is none of [radio]: hci0, hci1",
        ),
    ],
)
def test_adapters_that_cannot_be_meant_are_refused(written, radio, wearable, problem):
    assert problems(with_radio(written, radio, wearable)) == [problem]
