"""What an operator asks of the radio, in the daemon or beside none: to pair a wearable, and to forget it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.ble.adapter import Adapter, Listening
from gateway.ble.bluez_agent import Answers
from gateway.ble.bonds import Listed, Records
from gateway.ble.errors import RadioAway
from gateway.link.bonds import Remembered, refusal

Said = TypeVar("Said")

TRIES, AGAIN_S = 3, 2.0
"""Of what an operator asks right after a link was ended for it: bluetoothd 5.66 now and then dies of that, and is back
within seconds."""


def looking_for(name: str, address: str) -> str:
    return f"{name} ({address}): looking for it; it has to be near and ready to pair"


async def is_paired(adapter: Adapter, records: Records, wearable: Listed) -> bool:
    """So that it is connected. Raises RadioAway."""
    held = await adapter.held(wearable.address)
    remembered = records.of(wearable.name, wearable.address)
    return held.bonded and refusal(remembered, held, wearable.allow_just_works) is None


async def pair(
    adapter: Adapter,
    records: Records,
    wearable: Listed,
    answers: Answers,
    *,
    heard_as: str | None = None,
    listening: Listening | None = None,
) -> str:
    """`already`, or how it was paired now: `number` or `just_works`. Raises GatewayError."""
    if await _patiently(lambda: is_paired(adapter, records, wearable)):
        return "already"
    if (await adapter.held(wearable.address)).bonded:  # made behind the operator's back, or without a number
        await adapter.unpair(wearable.address)
    numbered = await adapter.pair(
        wearable.address,
        answers,
        without_number=wearable.allow_just_works,
        heard_as=heard_as,
        listening=listening,
    )
    how = Remembered.NUMBER if numbered else Remembered.JUST_WORKS
    records.remember(wearable.name, wearable.address, how)
    return str(how)


async def forget(adapter: Adapter, records: Records, wearable: Listed) -> bool:
    """Whether there was anything to forget. It is not paired or connected again until an operator pairs it.

    Raises GatewayError.
    """
    remembered = records.of(wearable.name, wearable.address)

    async def forgotten() -> bool:
        held = await adapter.held(wearable.address)
        if held.bonded or remembered is not None:  # first: what is ended must not come back after a crash
            records.remember(wearable.name, wearable.address, Remembered.FORGOTTEN)
        return await adapter.unpair(wearable.address)

    known = await _patiently(forgotten)
    return known or remembered not in (None, Remembered.FORGOTTEN)


async def _patiently(ask: Callable[[], Awaitable[Said]]) -> Said:
    """Raises what the last try does."""
    for _ in range(TRIES - 1):
        try:
            return await ask()
        except RadioAway:
            await asyncio.sleep(AGAIN_S)
    return await ask()
