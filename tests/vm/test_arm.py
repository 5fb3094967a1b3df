"""On arm64, with a Raspberry Pi 4's cores emulated: the pinned wheels are there and run, the bundle answers as it did
where it was made, and what is streamed arrives. What is measured there says nothing of a real one's speed."""

import asyncio
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from gateway.demo.account import windows_of
from tests.vm.image import pinned
from tests.vm.test_bluez import streaming
from tests.vm.test_short import PASSKEY, PYTHON, all_arrives, said

pytestmark = [
    pytest.mark.parametrize("image", ["trixie-arm64"], indirect=True, ids=["arm64"]),
    pytest.mark.timeout(1800),
]


@pytest.mark.parametrize("guest", [{"left": ""}], indirect=True, ids=["one"])
async def test_the_pinned_wheels_are_for_this_processor_and_the_bundle_passes_its_own_windows(guest: Any) -> None:
    """They have been unpacked outside, which takes seconds: here pip says whether any is missing, or of another
    platform. The daemon itself pip has installed here."""
    assert await guest.shell("uname -m") == "aarch64\n"
    assert await guest.shell(f"{PYTHON} -m pip check", 180) == "No broken requirements found.\n"
    listed = (line.split("==") for line in (await guest.shell(f"{PYTHON} -m pip list --format=freeze", 180)).split())
    installed = {canonicalize_name(name): version for name, version in listed}
    pins = {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in pinned()}
    assert {name for name, version in installed.items() if pins.get(name) != version} == {"fidget-gateway", "pip"}
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
