"""Whose turn it is to connect, where several wearables wait for one adapter.

Who has failed less often in a row goes first, then who has waited longer: a wearable that is there takes a second or
two, one that is not takes rules.YIELD_S and its closing. Nobody waits for ever: who has been passed over PASSED_MAX
times goes next, but never two of those one after the other, so that the k-th of the sound wearables that wait has at
most k such attempts and the one under way before it, however many are broken.
"""

from dataclasses import dataclass, field

PASSED_MAX = 4
"""Of turns given to others that came later or failed less."""


@dataclass(slots=True)
class _Waiting:
    name: str
    failures: int
    passed: int = 0


@dataclass(slots=True)
class Turns:
    """holder: who connects now; None where nobody does."""

    holder: str | None = None
    _waiting: list[_Waiting] = field(default_factory=list)
    _overdue_last: bool = False

    @property
    def crowded(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def enter(self, name: str, failures: int) -> None:
        """It waits from now on. failures: in a row, before this."""
        self.leave(name)
        self._waiting.append(_Waiting(name, failures))

    def leave(self, name: str) -> None:
        """It waits no longer, or gives its turn back."""
        self._waiting = [one for one in self._waiting if one.name != name]
        if self.holder == name:
            self.holder = None

    def grant(self) -> str | None:
        """Who is to connect from now on; None where somebody does, or nobody waits."""
        if self.holder is not None or not self._waiting:
            return None
        overdue = next((one for one in self._waiting if one.passed >= PASSED_MAX), None)
        fewest = min(self._waiting, key=lambda one: one.failures)
        chosen = fewest if overdue is None or self._overdue_last else overdue
        self._overdue_last = chosen is overdue and chosen is not fewest
        self._waiting.remove(chosen)
        for one in self._waiting:
            one.passed += 1
        self.holder = chosen.name
        return chosen.name
