"""Where a drill happens, as its runner sees it."""

from typing import Protocol

from tests.chaos.observe import Targets


class Place(Protocol):
    """Where a drill happens. Methods take as long as what they do takes; nothing else may run meanwhile."""

    def refusal(self) -> str:
        """Why no drill may happen here; nothing when one may."""

    def leftovers(self) -> list[str]:
        """What an earlier drill has left here."""

    def start(self) -> Targets:
        """Make the place ready, and say where to look."""

    def inject(self) -> float | None:
        """Begin the fault; a rate of requests, if that is the fault."""

    def restore(self) -> None:
        """End the fault. May be called again, and without there having been any."""

    def replicas(self) -> int:
        """How many replicas serve now."""

    def clean(self) -> None:
        """Leave nothing. May be called again, and without anything having been started."""
