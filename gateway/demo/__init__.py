"""The demo: simulated wearables, broker, daemon and an independent subscriber as processes, faults, and the account."""
