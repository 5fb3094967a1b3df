"""How the store is kept."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024
DAY_S = 86400.0


class StoreSettings(BaseModel):
    """commit_interval_s: the longest that something submitted waits for its commit, in real time.

    queue_bytes_max: what may wait for commits; above it the store takes no more observations.

    The two kinds of content, observations and events, have bounds each: bytes, age, and a share of what the disk has
    for the store (its own size and what is free). Above one, what retention alone keeps goes first; then when_full says
    what becomes of what is still needed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    commit_interval_s: float = Field(2.0, gt=0, le=60)
    commit_on_change: bool = False
    """An event that changes the wearer's activity does not wait for the interval."""
    queue_bytes_max: int = Field(32 * MIB, ge=64 * 1024)
    when_full: Literal["drop_oldest", "stop_backlog"] = "drop_oldest"
    """stop_backlog: nothing more is fetched, and a little above the bound nothing more is taken, from any wearable."""
    journal_retention_s: float = Field(DAY_S, ge=0)
    """Observations are kept for so long after a snapshot has made them unnecessary."""
    journal_bytes_max: int = Field(1024 * MIB, ge=MIB)
    journal_age_max_s: float = Field(30 * DAY_S, ge=3600)
    """Of observations that no snapshot covers: those of a wearable that is no longer configured."""
    journal_disk_share: float = Field(0.25, gt=0, le=1)
    event_retention_s: float = Field(DAY_S, ge=0)
    """Events are kept for so long after every destination that is served has acknowledged them."""
    event_bytes_max: int = Field(2048 * MIB, ge=MIB)
    event_age_max_s: float = Field(180 * DAY_S, ge=3600)
    """Of events that somebody has not acknowledged."""
    event_disk_share: float = Field(0.5, gt=0, le=1)
