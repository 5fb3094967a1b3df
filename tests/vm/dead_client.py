"""Runs in the guest: holds a wearable's link until that is gone, and says how calls on its client end then.

    python dead_client.py ADDRESS

Prints `connected`, then for each call a line of JSON: its name, the error in which it ended or null, and the seconds
that it took.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable

from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData

from gateway.ble.bluez_backend import BluezAdapter
from gateway.link.rules import OPERATION_S
from gateway.profiles.reference import CONTROL, INFO, LIVE, SERVICE

HEARD_WITHIN_S, CONNECTED_WITHIN_S = 30.0, 30.0


async def main(address: str) -> None:
    adapter = BluezAdapter()
    await adapter.attach([address])
    heard: asyncio.Future[BLEDevice] = asyncio.get_running_loop().create_future()

    def note(device: BLEDevice, _data: AdvertisementData) -> None:
        if device.address == address and not heard.done():
            heard.set_result(device)

    async with asyncio.timeout(HEARD_WITHIN_S), adapter.listening(note):
        await heard
    lost = asyncio.Event()
    client = adapter.client(heard.result(), lambda _: lost.set(), [SERVICE], CONNECTED_WITHIN_S)
    await client.connect()

    async def read_on() -> None:
        while True:
            await client.read_gatt_char(INFO)

    reading = asyncio.create_task(read_on())
    print("connected", flush=True)
    await lost.wait()
    await ends("under way", reading)
    await ends("read", client.read_gatt_char(INFO))
    await ends("write", client.write_gatt_char(CONTROL, b"\0", response=True))
    await ends("subscribe", client.start_notify(LIVE, lambda *_: None, bluez={"use_start_notify": False}))
    await ends("disconnect", client.disconnect())
    await adapter.detach()


async def ends(name: str, call: Awaitable[object]) -> None:
    loop, error = asyncio.get_running_loop(), None
    began_s = loop.time()
    try:
        async with asyncio.timeout(OPERATION_S):
            await call
    except Exception as caught:  # not CancelledError, which would end whoever awaits the call
        error = f"{type(caught).__name__}: {caught}"
    print(json.dumps({"call": name, "error": error, "took_s": loop.time() - began_s}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
