"""Which storage a URL means. A backend is imported only when its scheme is used."""

from urllib.parse import urlsplit

from app.storage import Items

SCHEMES = ("sqlite", "memory")
EXAMPLES = ("sqlite:///./file.db", "memory://")
EMBEDDED = "sqlite:///./items.db"


def connect(url: str) -> Items:
    """The store behind a URL, not yet opened.

    Raises:
        ValueError: the scheme is not one of `SCHEMES`, or the rest of the URL makes no sense to the backend.
        OSError: the URL names a file that cannot be written.
    """
    match urlsplit(url).scheme:
        case "memory":
            from app.storage.memory import MemoryItems

            return MemoryItems()
        case "sqlite":
            from app.storage.sql import SqlItems

            return SqlItems(url)
        case scheme:
            raise ValueError(f"the scheme must be one of {', '.join(SCHEMES)}, not {scheme!r}")
