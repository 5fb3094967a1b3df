"""How the demo's processes tell each other what they must know: a line on stdout, a variable in the environment."""

PASSWORD_VARIABLE = "FIDGET_BROKER_PASSWORD"
"""Not an argument: the list of processes would show it."""


def announce(host: str, port: int) -> None:
    print(f"listening {host}:{port}", flush=True)


def announced(line: str, what: str = "listening") -> tuple[str, int] | None:
    """Host and port from such a line; None for any other line."""
    if not line.startswith(f"{what} "):
        return None
    host, _, port = line.removeprefix(f"{what} ").strip().rpartition(":")
    return (host, int(port)) if host and port.isdigit() else None
