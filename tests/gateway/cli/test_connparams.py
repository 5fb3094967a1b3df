"""`gateway connparams` beside a stand-in for the kernel's end of the control channel."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.cli import connparams, main

LEFT, RIGHT = "C0:FF:EE:00:00:01", "00:F1:D9:00:00:02"


@dataclass
class Kernel:
    """Answers as doc/mgmt-api.txt says, after an event that has nothing to do with it. statuses: by controller."""

    revision: int = 23
    statuses: dict[int, int] = field(default_factory=dict)
    silent: bool = False
    loaded: list[tuple[int, bytes]] = field(default_factory=list)
    """Controller and parameters of each list that was loaded."""

    def __post_init__(self) -> None:
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(0.2 if self.silent else 5.0)
        self._thread = threading.Thread(target=self._serve, args=(theirs,))
        self._thread.start()

    def _serve(self, theirs: socket.socket) -> None:
        with theirs:
            while command := theirs.recv(70_000):
                code, index, size = struct.unpack_from("<HHH", command)
                assert size == len(command) - 6
                if self.silent:
                    continue
                theirs.send(struct.pack("<HHHI", 0x0006, index, 4, 0))  # New Settings
                answer = struct.pack("<BH", 1, self.revision) if code == 1 else b""
                if code == 0x35:
                    self.loaded.append((index, command[6:]))
                status = self.statuses.get(index, 0)
                kind = 2 if status else 1
                theirs.send(struct.pack("<HHHHB", kind, index, 3 + len(answer), code, status) + answer)

    def close(self) -> None:
        self.ours.close()
        self._thread.join(10)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Kernel]]:
    made: list[Kernel] = []

    def make(**settings: object) -> Kernel:
        made.append(Kernel(**settings))  # type: ignore[arg-type]
        monkeypatch.setattr(connparams, "_control", lambda: made[0].ours)
        return made[0]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "gateway.toml"
    file.write_text(
        '[gateway]\nid = "home-1"\n[radio]\nadapters = ["hci0", "hci2"]\n[bundle]\npath = "bundle"\n[sync]\n'
        f'host = "broker.example"\n[[wearable]]\nid = "left"\naddress = "{LEFT}"\nadapter = "hci0"\n'
        f'[[wearable]]\nid = "right"\naddress = "{RIGHT}"\n'
    )
    return file


def addresses_in(parameters: bytes) -> list[tuple[str, int]]:
    (count,) = struct.unpack_from("<H", parameters)
    entries = [parameters[2 + 15 * n : 17 + 15 * n] for n in range(count)]
    return [(entry[:6][::-1].hex(":").upper(), entry[6]) for entry in entries]


def test_each_adapter_is_told_of_the_wearables_that_it_may_hold(
    kernel: Callable[..., Kernel], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = kernel()
    assert main(["connparams", "--config", str(config)]) == 0
    assert [(index, addresses_in(parameters)) for index, parameters in told.loaded] == [
        (0, [(LEFT, 1)]),
        (0, [(LEFT, 2)]),
        (0, [(RIGHT, 1)]),
        (2, [(RIGHT, 1)]),
    ]
    assert {parameters[9:] for _, parameters in told.loaded} == {struct.pack("<HHHH", 24, 40, 0, 500)}
    out, err = capsys.readouterr()
    said = "2 wearables: interval 30 to 50 ms, latency 0, supervision timeout 5 s, from the next connection on\n"
    assert (out, err) == (said, "")


def test_an_older_kernel_is_told_all_of_an_adapter_at_once(kernel: Callable[..., Kernel], config: Path) -> None:
    told = kernel(revision=22)
    assert main(["connparams", "--config", str(config)]) == 0
    assert [(index, addresses_in(parameters)) for index, parameters in told.loaded] == [
        (0, [(LEFT, 1), (LEFT, 2), (RIGHT, 1)]),
        (2, [(RIGHT, 1)]),
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"statuses": {2: 0x11}}, "error: hci2: there is no such adapter\n  `bluetoothctl list` shows"),
        ({"statuses": {0: 0x14}}, "error: hci0: the kernel lets only CAP_NET_ADMIN set connection parameters\n"),
        ({"silent": True}, "error: Bluetooth: the kernel does not answer within 5 s"),
    ],
)
def test_what_the_kernel_refuses_is_one_sentence(
    kernel: Callable[..., Kernel],
    config: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, object],
    said: str,
) -> None:
    kernel(**settings)
    assert main(["connparams", "--config", str(config)]) == 1
    assert capsys.readouterr().err.startswith(said)


def test_a_bumble_radio_needs_none_of_it(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = config.read_text().replace('adapters = ["hci0", "hci2"]', 'backend = "bumble"\ntransport = "usb:0"')
    config.write_text(text.replace('adapter = "hci0"\n', ""))
    assert main(["connparams", "--config", str(config)]) == 2
    assert "[radio] backend is 'bumble'" in capsys.readouterr().err


def test_a_machine_without_bluetooth_is_told_so(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the real kernel, where that has none."""
    try:
        socket.socket(connparams.AF_BLUETOOTH, socket.SOCK_RAW, connparams.BTPROTO_HCI).close()
    except OSError:
        assert main(["connparams", "--config", str(config)]) == 1
        assert capsys.readouterr().err.startswith("error: this kernel offers no Bluetooth (")
    else:
        pytest.skip("this machine has Bluetooth, whose settings are its owner's")
