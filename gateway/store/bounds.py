"""How much of each kind the store may hold. Pure."""

from dataclasses import dataclass
from typing import Literal

from gateway.store.settings import StoreSettings

Content = Literal["journal", "event"]
"""The two tables that grow."""
CONTENTS: tuple[Content, Content] = ("journal", "event")
ROW_BYTES = {"journal": 50, "event": 50}
"""What a row takes on the disk beside its payload, about: its columns, its share of half-filled pages."""
NAMES_BYTES = 80
"""What an event takes more whose topic, source and id have columns of their own: one that is retained or older."""
STORED_BYTES: dict[Content, str] = {
    "journal": f"length(payload) + {ROW_BYTES['journal']}",
    "event": f"length(payload) + {ROW_BYTES['event']} + {NAMES_BYTES} * (topic <> '')",
}
"""What a row takes, in SQL; the same when it comes and when it goes, or the sum would drift."""
LIVE_BEYOND = 1.05
"""With stop_backlog: live observations are taken up to so far above the bound."""


@dataclass(frozen=True, slots=True)
class Limit:
    """reason: "bytes" or "disk", by which of them it is set."""

    bytes: int
    reason: str


def limit_of(content: Content, settings: StoreSettings, file_bytes: int, free_bytes: int) -> Limit:
    """file_bytes: of the database as it is; free_bytes: of its disk."""
    journal = content == "journal"
    bytes_max = settings.journal_bytes_max if journal else settings.event_bytes_max
    share = settings.journal_disk_share if journal else settings.event_disk_share
    by_disk = int(share * (file_bytes + free_bytes))
    return Limit(by_disk, "disk") if by_disk < bytes_max else Limit(bytes_max, "bytes")
