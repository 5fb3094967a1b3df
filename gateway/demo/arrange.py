"""What the processes of a run are given: command lines, configuration, scenario, and where each file lies."""

import json
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.demo.simulator import WearableTruth

ACTIVITY_S = 20.0
"""Of device time that a simulated wearer keeps to one activity."""
MOUNTING = "x,y,z"
"""The simulated case is worn as the model's frame has it."""


@dataclass(frozen=True, slots=True)
class Files:
    """All that a run leaves is in one folder."""

    folder: Path

    @property
    def scenario(self) -> Path:
        return self.folder / "scenario.toml"

    @property
    def configuration(self) -> Path:
        return self.folder / "gateway.toml"

    @property
    def password(self) -> Path:
        return self.folder / "password"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def database(self) -> Path:
        return self.state / "gateway.db"

    @property
    def status(self) -> Path:
        return self.folder / "status.json"

    @property
    def received(self) -> Path:
        return self.folder / "received.jsonl"

    @property
    def account(self) -> Path:
        return self.folder / "account.json"

    def truth(self, wearable: str) -> Path:
        return self.folder / f"truth-{wearable}.csv"


@dataclass(frozen=True, slots=True)
class Broker:
    host: str
    port: int
    username: str = ""
    password: str = ""


def simulated_time(speed: float) -> str:
    """EPOCH_NS:SPEED:T0_NS, from now on, in UTC as the host has it."""
    return f"{time.time_ns()}:{speed}:{time.monotonic_ns()}"


def wearable_names(count: int) -> tuple[str, ...]:
    return ("left", "right")[:count] if count <= 2 else tuple(f"wearable{n}" for n in range(1, count + 1))


def write_scenario(
    files: Files, wearables: Sequence[str], activities: Sequence[str], duration_s: float, recording: Sequence[Path]
) -> None:
    """duration_s: of device time. recording: an Excel pair, or one file; empty for synthetic motion."""
    tables = []
    for place, name in enumerate(wearables):
        table: dict[str, object] = {"name": name, "truth": files.truth(name).name, "duration_s": duration_s}
        if len(recording) == 2:
            table |= {"accelerometer": str(recording[0]), "gyroscope": str(recording[1])}
        elif recording:
            table["recording"] = str(recording[0])
        else:
            turned = [*activities[3 * place :], *activities[: 3 * place]]
            table["schedule"] = ", ".join(f"{activity}:{ACTIVITY_S:g}" for activity in turned)
            table |= {"wearer": 100 + place, "seed": place}
        tables.append("[[wearable]]\n" + _toml(table))
    _write_toml(files.scenario, "\n".join(tables))


def simulator_argv(files: Files, sim_time: str) -> tuple[str, ...]:
    listen = ("--listen", "127.0.0.1:0", "--control", "127.0.0.1:0")
    return ("-m", "firmware_sim", "run", *listen, "--scenario", str(files.scenario), "--time", sim_time)


def write_configuration(
    files: Files,
    *,
    gateway_id: str,
    bundle: Path,
    radio: tuple[str, int] | None,
    broker: Broker,
    wearables: Sequence[WearableTruth],
    settings: dict[str, dict[str, object]] | None = None,
) -> None:
    """settings: more keys for the tables of the configuration."""
    files.state.mkdir(exist_ok=True)
    sync: dict[str, object] = {"host": broker.host, "port": broker.port, "client_id": client_ids(gateway_id)[0]}
    if broker.username:
        files.password.touch(mode=0o600)
        files.password.write_text(broker.password + "\n")
        sync |= {"username": broker.username, "password_file": files.password.name}
    tables: dict[str, dict[str, object]] = {
        "gateway": {"id": gateway_id, "state_dir": files.state.name},
        "radio": {"backend": "bumble", "transport": f"tcp-client:{radio[0]}:{radio[1]}"} if radio else {},
        "bundle": {"path": str(bundle.resolve())},
        "sync": sync,
    }
    for name, more in (settings or {}).items():
        tables[name] = {**tables.get(name, {}), **more}
    text = "".join(f"[{name}]\n{_toml(table)}\n" for name, table in tables.items())
    for wearable in wearables:
        table: dict[str, object] = {
            "id": wearable.name,
            "address": wearable.address,
            "profile": wearable.profile,
            "mounting": MOUNTING,
        }
        text += "[[wearable]]\n" + _toml(table) + "\n"
    _write_toml(files.configuration, text)


def daemon_argv(files: Files, sim_time: str) -> tuple[str, ...]:
    where = ("--config", str(files.configuration), "--status", str(files.status))
    return ("-m", "gateway", "run", *where, "--sim-time", sim_time)


def client_ids(gateway_id: str) -> tuple[str, str]:
    """The daemon's and the subscriber's, on the broker."""
    return gateway_id, f"{gateway_id}-subscriber"


def subscriber_argv(files: Files, gateway_id: str, broker: Broker) -> tuple[str, ...]:
    where = ("--host", broker.host, "--port", str(broker.port), "--topic", f"fidget/v1/{gateway_id}/#")
    more = ("--client-id", client_ids(gateway_id)[1], "--username", broker.username)
    return ("-m", "gateway.demo.subscriber", *where, *more, "--out", str(files.received))


def write_account(files: Files, bundle: Path, wearables: Sequence[WearableTruth]) -> None:
    """The account's own file: where its evidence lies, and the simulator's counts."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    content = {
        "window": manifest["window"],
        "hop": manifest["hop"],
        "database": str(files.database.relative_to(files.folder)),
        "received": files.received.name,
        "wearables": [
            {
                "id": wearable.name,
                "session": wearable.session,
                "truth": files.truth(wearable.name).name,
                "made": wearable.made,
                "acknowledged": wearable.acknowledged,
            }
            for wearable in wearables
        ],
    }
    files.account.write_text(json.dumps(content, indent=1) + "\n")


def _toml(table: dict[str, object]) -> str:
    """A table of texts and numbers; JSON's form of these is TOML's."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def _write_toml(path: Path, text: str) -> None:
    tomllib.loads(text)
    path.write_text(text)
