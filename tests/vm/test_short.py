"""Real kernel, bluetoothd, D-Bus and systemd: what is streamed arrives, window by window, whatever is killed."""

import json
from typing import Any

import pytest

from tests.e2e.test_path import due_ids

CONFIG = "/etc/fidget-gateway/gateway.toml"
PYTHON, GATEWAY = (f"/opt/fidget-gateway/bin/{name}" for name in ("python", "gateway"))
PASSKEY = 'pairing = "passkey"\npasskey = 123456'


async def said(guest: Any, words: str, answer: str = "") -> tuple[int, str]:
    """Exit code of a command of ours, and all that it says."""
    script = f"printf '{answer}' | {GATEWAY} {words} --config {CONFIG} 2>&1; echo exit $?"
    text, _, code = (await guest.shell(script, 180)).rpartition("exit ")
    return int(code), text


async def all_arrives(guest: Any, within_s: float = 120.0) -> None:
    """The wearables stop sampling; then each window due is received, and no other."""
    await guest.path.control.stop_sampling()
    made = await guest.path.made()
    due = due_ids(made)
    assert due
    await guest.path.until(lambda: guest.path.prediction_ids() >= due, within_s, "every window due is received")
    assert guest.path.prediction_ids() == due


@pytest.mark.parametrize("guest", [{"left": PASSKEY, "right": ""}], indirect=True, ids=["left is paired"])
async def test_what_streams_arrives_over_kills_of_the_daemon(guest: Any) -> None:
    await guest.configure()
    heard = await guest.shell(f"{GATEWAY} scan --seconds 4 --json")
    assert {(one["name"], one["profile"]) for one in json.loads(heard)} == {
        ("left", "reference"),
        ("right", "reference"),
    }
    code, text = await said(guest, "pair left --passkey 123456")
    assert (code, "left: paired" in text) == (0, True), text
    await guest.start()
    for _ in range(3):
        seen = guest.path.prediction_ids()

        def both(seen: set[tuple[str, str]] = seen) -> bool:
            return len({source for source, _ in guest.path.prediction_ids() - seen}) == 2

        await guest.path.until(both, 120, "windows of both wearables arrive")
        await guest.shell("systemctl kill --signal=KILL fidget-gateway")
    await all_arrives(guest)
