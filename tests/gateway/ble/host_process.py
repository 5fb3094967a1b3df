"""A gateway's radio side as a process that can be killed: TRANSPORT ADDRESS...

Prints `streaming ADDRESS` once for each.
"""

import asyncio
import sys
import time
from functools import partial

from gateway.ble import open_radio
from gateway.ble.runner import LinkRunner
from gateway.profiles import profile_of


async def main(transport: str, *addresses: str) -> None:
    radio = open_radio("bumble", transport=transport)
    profile = profile_of("reference")

    streaming = set()

    def entered(address: str, state: str) -> None:
        if state == "streaming" and address not in streaming:
            streaming.add(address)
            print(f"streaming {address}", flush=True)

    async with asyncio.TaskGroup() as tasks:
        for address in addresses:
            runner = LinkRunner(
                address,
                profile.conversation({}),
                radio,
                services=[profile.service_uuid],
                silence_s=profile.silence_s,
                now_ns=time.monotonic_ns,
                real_delay_s=lambda span_ns: span_ns / 1e9,
                observe=lambda _kind, _payload: None,
                on_state=partial(entered, address),
                on_fault=lambda name, detail: print(name, detail, file=sys.stderr),
            )
            tasks.create_task(runner.run())
        tasks.create_task(radio.run())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
