"""How the demo's processes tell each other what they must know: a line on stdout, a variable in the environment."""

PASSWORD_VARIABLE = "FIDGET_BROKER_PASSWORD"
"""Not an argument: the list of processes would show it."""
PREFIX = "listening "


def announce(host: str, port: int) -> None:
    print(f"{PREFIX}{host}:{port}", flush=True)


def announced(line: str) -> tuple[str, int] | None:
    """Host and port from such a line; None for any other line."""
    if not line.startswith(PREFIX):
        return None
    host, _, port = line.removeprefix(PREFIX).strip().rpartition(":")
    return (host, int(port)) if host and port.isdigit() else None
