"""Which hosts may be given load: this machine, dev and staging. Any other has to be named once more, on purpose."""

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

OVERLAYS = Path(__file__).resolve().parents[2] / "k8s" / "overlays"


def refusal(address: str, allowed: str = "", overlays: Path = OVERLAYS) -> str:
    """Why this address may not be given load; nothing when it may.

    Args:
        address: what the load is for.
        allowed: a host that somebody allowed by its name.
        overlays: where the hosts of the environments stand.
    """
    url = urlsplit(address)
    if url.scheme not in {"http", "https"} or not url.hostname:
        return f"{address!r} is no address to send requests to: --host=http://127.0.0.1:8000"
    if url.hostname == allowed.lower() or _is_this_machine(url.hostname) or url.hostname in known_hosts(overlays):
        return ""
    return (
        f"{url.hostname} is neither this machine nor the host of dev or staging, and load can harm whoever uses it. "
        f"To send it all the same: --allow-host={url.hostname}"
    )


def known_hosts(overlays: Path = OVERLAYS) -> set[str]:
    """The hosts of dev and staging, as far as they have one."""
    files = (overlays / environment / "environment.yaml" for environment in ("dev", "staging"))
    texts = [path.read_text(encoding="utf-8") for path in files if path.is_file()]
    return {host for text in texts for host in re.findall(r"^  host: (\S+)$", text, re.MULTILINE)}


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
