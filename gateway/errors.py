"""The one root of what the gateway refuses or cannot do; the command line turns it into a sentence and an exit code."""


class GatewayError(Exception):
    """Whatever the gateway refuses or cannot do.

    exit_code: 2 where the input or the setting is wrong, 1 where the world is (no broker, no radio).
    hint: what a person can do about it.
    """

    exit_code = 1
    hint = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint

    def in_words(self) -> str:
        """What a command line prints: what was wrong and, below it, what to do."""
        return f"error: {self}" + (f"\n  {self.hint}" if self.hint else "")


class InputRejected(GatewayError):
    """Something that a person gave (a file, an option, a setting) cannot be used as it is."""

    exit_code = 2
