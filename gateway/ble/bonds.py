"""Who may be connected: the wearables' pairings as they are remembered, over restarts, against what the stack holds.

The rules are gateway/link/bonds.py. What is remembered stands in a file of its own beside the store, so that a bond
that vanishes from BlueZ is noticed, and one that an operator ended stays ended.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.ble.adapter import Adapter
from gateway.ble.errors import BondRefused
from gateway.ble.private_file import read_private, write_private
from gateway.errors import GatewayError
from gateway.link import bonds
from gateway.link.bonds import Held, Remembered

log = logging.getLogger(__name__)

VERSION = 1
LOST_TIMES = 2
"""In a row. BlueZ tells only that the connection was cancelled, which a lost link can look like, once."""
CUT_OFF_TIMES = UNANSWERED_TIMES = 3
"""In a row; it is told, and tried on as before, since it may be the weather."""


class Records:
    """What is remembered of each wearable's pairing, by its id. Raises FileDamaged when it is made."""

    def __init__(self, file: Path) -> None:
        self._file = file
        hint = "Move it away: what is paired now is then taken for granted once more."
        found = read_private(file, _is_record, hint)
        self._of: dict[str, tuple[str, Remembered]] = {}
        if found is not None:
            self._of = {name: (one["address"], Remembered(one["pairing"])) for name, one in found["wearables"].items()}

    def of(self, name: str, address: str) -> Remembered | None:
        """A wearable that has another address now is another one."""
        known = self._of.get(name)
        return known[1] if known is not None and known[0] == address.upper() else None

    def remember(self, name: str, address: str, pairing: Remembered) -> None:
        """On the medium when this returns. Raises InputRejected."""
        if self._of.get(name) == (address.upper(), pairing):
            return
        self._of[name] = (address.upper(), pairing)
        wearables = {name: {"address": at, "pairing": str(how)} for name, (at, how) in self._of.items()}
        write_private(self._file, {"version": VERSION, "wearables": wearables})


def _is_record(found: Any) -> bool:
    return bool(found["version"] == VERSION) and all(
        isinstance(one["address"], str) and Remembered(one["pairing"]) for one in found["wearables"].values()
    )


@dataclass(frozen=True, slots=True)
class Listed:
    """A wearable of the configuration."""

    name: str
    address: str
    allow_just_works: bool = False


class Admission:
    """One wearable's."""

    def __init__(self, records: Records, wearable: Listed) -> None:
        self._records, self._wearable = records, wearable
        self._doubtful = 0
        self._bonded = False
        self._cut_off = self._unanswered = 0

    def cut_off(self) -> str | None:
        """The link has ended by itself before it could be talked on, as it does where a key is missing, and at the edge
        of reach. What to tell, once it has been so CUT_OFF_TIMES in a row."""
        self._cut_off += 1
        told = self._bonded and self._cut_off >= CUT_OFF_TIMES
        return bonds.LOST.format(name=self._wearable.name) if told else None

    def unanswered(self) -> str | None:
        """No link has come about, though it was heard. What to tell of one that is bonded, once that has been so
        UNANSWERED_TIMES in a row: BlueZ 5.66 may show a missing key by nothing else."""
        self._unanswered += 1
        told = self._bonded and self._unanswered >= UNANSWERED_TIMES
        return bonds.UNANSWERED.format(name=self._wearable.name) if told else None

    @asynccontextmanager
    async def connecting(self, stack: Adapter) -> AsyncIterator[None]:
        """Around an attempt to connect. Raises RadioAway and BondRefused, before it or instead of its error."""
        wearable = self._wearable
        held, known = await self._learn(stack)
        self._bonded = held.bonded
        refused = bonds.refusal(known, held, wearable.allow_just_works)
        if refused is not None:
            raise BondRefused(refused.format(name=wearable.name))
        try:
            yield
        except Exception as error:
            lost = stack.lost_bond(error) if held.bonded else False
            self._doubtful = self._doubtful + 1 if lost is None else 0
            if lost or self._doubtful >= LOST_TIMES:
                raise BondRefused(bonds.LOST.format(name=wearable.name)) from error
            raise
        self._doubtful = self._cut_off = self._unanswered = 0

    async def streaming(self, stack: Adapter) -> None:
        """It may have paired by itself meanwhile, which counts from now on."""
        try:
            await self._learn(stack)
        except GatewayError as error:  # the next attempt to connect will say so too
            log.warning("%s: what is paired cannot be noted: %s", self._wearable.name, error)

    async def _learn(self, stack: Adapter) -> tuple[Held, Remembered | None]:
        """What the stack holds, and what is remembered from now on."""
        wearable = self._wearable
        held = await stack.held(wearable.address)
        remembered = self._records.of(wearable.name, wearable.address)
        known = bonds.learnt(remembered, held)
        if known is not None and known is not remembered:
            self._records.remember(wearable.name, wearable.address, known)
        return held, known
