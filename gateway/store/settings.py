"""How the store is kept."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class StoreSettings(BaseModel):
    """commit_interval_s: the longest that something submitted waits for its commit, in real time.

    queue_bytes_max: what may wait for commits; above it the store takes no more observations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    commit_interval_s: float = Field(2.0, gt=0, le=60)
    queue_bytes_max: int = Field(32 * 1024 * 1024, ge=64 * 1024)
    journal_retention_s: float = Field(86400.0, ge=0)
    """Observations are kept for so long after a snapshot has made them unnecessary."""
    event_retention_s: float = Field(86400.0, ge=0)
    """Events are kept for so long after every destination that is served has acknowledged them."""
    bytes_max: int = Field(1024 * 1024 * 1024, ge=1024 * 1024)
    """Above this size what retention still keeps is deleted early; what has not been acknowledged stays."""
