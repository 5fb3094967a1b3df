"""Pairing on real BlueZ: by passkey, by comparing numbers, just so; and what becomes of who has no bond."""

import asyncio
import json
from typing import Any

import pytest

from tests.e2e.test_path import due_ids
from tests.vm.machine import GuestFailed
from tests.vm.test_bluez import alike, both, streaming
from tests.vm.test_short import CONFIG, GATEWAY, PASSKEY, all_arrives, said


@both
@pytest.mark.parametrize("guest", [{"left": PASSKEY}], indirect=True, ids=["passkey"])
async def test_a_passkey_pairs_beside_the_running_daemon_and_then_all_arrives(guest: Any) -> None:
    await guest.configure()
    await guest.start()
    await guest.until("journalctl -u fidget-gateway | grep -q 'wants to be paired'", "the daemon refuses to pair")
    assert guest.path.prediction_ids() == set()
    code, text = await said(guest, "pair left --passkey 123457")
    assert (code, "pairing failed: another passkey" in text) == (1, True), text
    code, text = await said(guest, "pair left", "123456\\n")
    assert (code, "left: paired" in text) == (0, True), text
    assert "yes" in (await said(guest, "wearables"))[1]
    assert await said(guest, "forget left") == (0, "left: forgotten\n")
    code, text = await said(guest, "pair left --passkey 123456")
    assert (code, "left: paired" in text) == (0, True), f"the wearable still has the old bond: {text}"
    await guest.path.until(lambda: len(guest.path.prediction_ids()) >= 4, 120, "windows arrive")
    await guest.shell("systemctl restart bluetooth")
    seen = len(guest.path.prediction_ids())
    await guest.path.until(lambda: len(guest.path.prediction_ids()) >= seen + 4, 120, "the bond survives bluetoothd")
    await all_arrives(guest)


@pytest.mark.parametrize("guest", [{"left": 'pairing = "numeric"'}], indirect=True, ids=["numeric"])
async def test_numbers_that_are_compared_pair_and_such_that_are_not_do_not(guest: Any) -> None:
    await guest.configure()
    code, text = await said(guest, "pair left", "n\\n")
    assert (code, "does it show" in text, "pairing failed" in text) == (1, True, True), text
    code, text = await said(guest, "pair left", "y\\n")
    assert (code, "left: paired" in text) == (0, True), text
    assert await said(guest, "forget left") == (0, "left: forgotten\n")


@pytest.mark.parametrize("guest", [{"left": 'pairing = "just_works"'}], indirect=True, ids=["just works"])
async def test_nobody_pairs_just_so_unless_it_is_allowed(guest: Any) -> None:
    await guest.configure()
    code, text = await said(guest, "pair left")
    assert (code, "it pairs without digits" in text, "allow_just_works = true" in text) == (1, True, True), text
    await guest.shell(f"sed -i '/^id = \"left\"/a allow_just_works = true' {CONFIG}")
    code, text = await said(guest, "pair left")
    assert (code, "left: paired, without digits" in text) == (0, True), text
    await guest.start()
    await guest.path.until(lambda: len(guest.path.prediction_ids()) >= 2, 120, "windows arrive")
    await all_arrives(guest)


@both
@pytest.mark.parametrize("guest", [{"left": PASSKEY}], indirect=True, ids=["passkey"])
async def test_an_impostor_is_not_believed_and_the_wearable_is_when_it_is_back(guest: Any) -> None:
    await guest.configure()
    code, text = await said(guest, "pair left --passkey 123456")
    assert code == 0, text
    await guest.start()
    await guest.path.until(lambda: len(guest.path.prediction_ids()) >= 2, 120, "windows arrive")
    await guest.path.control.impostor("left", on=True)
    before = due_ids(await guest.path.made())
    await asyncio.sleep(30)
    assert guest.path.prediction_ids() <= before, "nothing of an impostor is taken for the wearable's"
    await guest.path.control.impostor("left", on=False)
    await guest.path.until(lambda: bool(guest.path.prediction_ids() - before), 120, "the bond still holds")
    await all_arrives(guest)


@both
@pytest.mark.parametrize("guest", [{"left": PASSKEY}], indirect=True, ids=["passkey"])
async def test_a_wearable_that_forgot_its_keys_is_told_of_and_not_paired_again(guest: Any) -> None:
    await guest.configure()
    code, text = await said(guest, "pair left --passkey 123456")
    assert code == 0, text
    await guest.start()
    await guest.path.until(lambda: len(guest.path.prediction_ids()) >= 2, 120, "windows arrive")
    await guest.path.control.forget_bonds("left")
    await asyncio.sleep(40)
    seen = guest.path.prediction_ids()
    with pytest.raises(GuestFailed):
        await guest.shell(f"{GATEWAY} wearables --config {CONFIG} --json | grep -q '\"connected\": true'")
    assert guest.path.prediction_ids() == seen
    _, text = await said(guest, "status")
    assert "it does not know its bond any more" in text, text
    assert (await said(guest, "forget left"))[0] == 0
    code, text = await said(guest, "pair left --passkey 123456")
    assert code == 0, text
    await all_arrives(guest)


@alike
@pytest.mark.parametrize("guest", [{"left": PASSKEY}], indirect=True, ids=["passkey"])
async def test_a_bond_that_has_vanished_from_bluez_is_told_and_not_replaced_by_itself(guest: Any) -> None:
    (left,) = await guest.path.made()
    await guest.configure()
    code, text = await said(guest, "pair left --passkey 123456")
    assert code == 0, text
    await guest.start()
    await guest.path.until(lambda: len(guest.path.prediction_ids()) >= 2, 120, "windows arrive")
    await guest.shell(f"bluetoothctl remove {left.address}")
    await guest.until(f"{GATEWAY} status --config {CONFIG} | grep -q 'the bond is gone from this machine'", "told")
    code, text = await said(guest, "pair left --passkey 123456")
    assert code == 0, f"the wearable takes a new pairing: {text}"
    await all_arrives(guest)


@alike
@pytest.mark.parametrize("guest", [{"left": PASSKEY}], indirect=True, ids=["passkey"])
async def test_bluetoothd_that_has_restarted_finds_an_agent_again(guest: Any) -> None:
    """Without one a read that needs pairing never answers; with the daemon's it is refused at once, and told."""
    await guest.configure()
    await guest.start()
    await guest.until("journalctl -u fidget-gateway | grep -q 'wants to be paired'", "the agent refuses")
    await guest.shell("systemctl restart bluetooth")
    await guest.until("journalctl -u fidget-gateway | grep -A 99 'trying again' | grep -q 'ready'", "it is attached")
    assert (await said(guest, "retry left"))[0] == 0
    again = "journalctl -u fidget-gateway | grep -A 999 'trying again' | grep -q 'wants to be paired'"
    await guest.until(again, "the agent refuses again", 120)


@both
@pytest.mark.parametrize("guest", [{"left": f"{PASSKEY}\nprivacy_s = 3600"}], indirect=True, ids=["private"])
async def test_a_bonded_wearable_whose_address_changes_is_the_same_wearable(guest: Any) -> None:
    (left,) = await guest.path.made()
    await guest.configure()
    await guest.start()
    heard = ""
    for words in (f"scan --config {CONFIG}", "scan"):  # by the daemon, and beside it: its own scan has told of it
        scanned = json.loads(await guest.shell(f"{GATEWAY} {words} --seconds 5 --json"))
        (heard,) = (one["address"] for one in scanned if one["profile"] == "reference")
        assert heard != left.address
    code, text = await said(guest, f"pair left --passkey 123456 --heard-as {heard}")
    assert (code, "left: paired" in text) == (0, True), text
    await streaming(guest, 2)
    for _ in range(2):
        await guest.path.control.out_of_range("left", on=True)
        await guest.path.control.change_address("left")
        await guest.path.control.out_of_range("left", on=False)
        await streaming(guest, 2)
    await guest.shell("systemctl restart bluetooth")  # which knows it by another object from now on
    await streaming(guest, 2)
    assert heard not in await guest.shell("bluetoothctl devices"), "BlueZ tells its own address"
    await all_arrives(guest)


@pytest.mark.parametrize(
    "guest",
    [{"old": 'pairing = "legacy"\npasskey = 123456', "left": PASSKEY}],
    indirect=True,
    ids=["legacy and passkey"],
)
async def test_secure_connections_only_shuts_every_wearable_out_that_pairs(guest: Any) -> None:
    """What the kernel then asks of an encrypted link (hci_conn_check_link_mode in net/bluetooth/hci_conn.c) no LE link
    has, LE Secure Connections or not: so the setting is no way to refuse legacy pairing alone."""
    await guest.configure()
    for name in ("old", "left"):
        code, text = await said(guest, f"pair {name} --passkey 123456")
        assert (code, f"{name}: paired" in text) == (0, True), text
        assert await said(guest, f"forget {name}") == (0, f"{name}: forgotten\n")
    await guest.shell(
        "sed -i 's/^.*SecureConnections = .*/SecureConnections = only/' /etc/bluetooth/main.conf"
        " && grep -q '^SecureConnections = only' /etc/bluetooth/main.conf"
        " && systemctl stop virtual-adapter bluetooth"  # what the kernel has set of an adapter outlives bluetoothd
    )
    await guest.plug_in()
    for name in ("old", "left"):
        code, text = await said(guest, f"pair {name} --passkey 123456")
        assert (code, "pairing failed" in text) == (1, True), text
    assert "Device" not in await guest.shell("bluetoothctl devices Paired")
