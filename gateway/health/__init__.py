"""What of the daemon works, in words, and telling systemd of it."""

from gateway.health.notify import ServiceManager, watchdog_interval_s
from gateway.health.verdict import Facts, Level, LinkFacts, Verdict, judge

__all__ = ["Facts", "Level", "LinkFacts", "ServiceManager", "Verdict", "judge", "watchdog_interval_s"]
