"""On arm64, with a Raspberry Pi 4's cores emulated: the wheels install, the bundle answers as it did where it was made,
and what is streamed arrives. What is measured there says nothing of a real one's speed."""

import asyncio
from typing import Any

import pytest

from gateway.demo.account import windows_of
from tests.vm.test_bluez import streaming
from tests.vm.test_short import PASSKEY, all_arrives, said

pytestmark = [
    pytest.mark.parametrize("image", ["trixie-arm64"], indirect=True, ids=["arm64"]),
    pytest.mark.timeout(1800),
]


@pytest.mark.parametrize("guest", [{"left": ""}], indirect=True, ids=["one"])
async def test_the_bundle_loads_and_passes_its_own_windows(guest: Any) -> None:
    assert await guest.shell("uname -m") == "aarch64\n"
    await guest.configure()
    code, text = await said(guest, "check")
    assert (code, "self-test" in text) == (0, True), text


@pytest.mark.parametrize("guest", [{"left": PASSKEY}], indirect=True, ids=["passkey"])
async def test_what_streams_arrives_over_a_kill_of_the_daemon(guest: Any) -> None:
    await guest.configure()
    code, text = await said(guest, "pair left --passkey 123456")
    assert (code, "left: paired" in text) == (0, True), text
    await guest.start()
    await streaming(guest, 2)
    await guest.shell("systemctl kill --signal=KILL fidget-gateway")
    await asyncio.sleep(1)
    await streaming(guest, 2)
    await all_arrives(guest, 300)
    assert all(windows_of(event, "left") for event in guest.path.predictions())
