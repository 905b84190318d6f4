"""Send the service steady requests of every common kind, so that graphs, logs and traces have something to show.

Configured by the environment: `TARGET`, the service's base URL, and `REQUESTS_PER_SECOND`. SIGTERM ends it. It makes
items and deletes them again, so that a service that runs for days does not fill up.
"""

import asyncio
import os
import random
import signal
import sys
from collections import deque
from uuid import uuid4

import httpx

ITEMS = "/api/v1/items"
KEPT = 100

# How often each is sent, for a hundred requests: mostly reads, and now and then what a client does wrong.
KINDS = {"read": 55, "list": 20, "create": 12, "delete": 6, "missing": 4, "invalid": 3}


async def send(client: httpx.AsyncClient, kind: str, known: deque[str]) -> None:
    """Send one request of this kind; `known` holds the paths of items that were created."""
    headers = {"X-Correlation-ID": f"traffic-{uuid4()}"}
    if kind in {"read", "delete"} and not known:
        kind = "create"
    if kind == "read":
        await client.get(random.choice(known), headers=headers)  # noqa: S311 - nobody gains by guessing it
    elif kind == "delete":
        await client.delete(known.popleft(), headers=headers)
    elif kind == "list":
        await client.get(ITEMS, headers=headers)
    elif kind == "missing":
        await client.get(f"{ITEMS}/{uuid4()}", headers=headers)
    else:
        body = {"name": f"Item of {headers['X-Correlation-ID']}", "price": "9.99"} if kind == "create" else {}
        answer = await client.post(ITEMS, headers=headers, json=body)
        if answer.is_success:
            known.append(answer.headers["location"])


async def attempt(client: httpx.AsyncClient, kind: str, known: deque[str]) -> None:
    """Send one request; a service that does not answer is for others to notice."""
    try:
        await send(client, kind, known)
    except httpx.TransportError as error:
        sys.stderr.write(f"{kind}: {error!r}\n")


async def main() -> None:
    """Send until told to stop. The rate does not depend on how fast answers come, as with real users."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    pause = 1 / float(os.environ.get("REQUESTS_PER_SECOND", "10"))
    known: deque[str] = deque()
    async with (
        httpx.AsyncClient(base_url=os.environ.get("TARGET", "http://localhost:8000"), timeout=20) as client,
        asyncio.TaskGroup() as requests,
    ):
        while not stopped.is_set():
            kind = "delete" if len(known) > KEPT else random.choices(*zip(*KINDS.items(), strict=True))[0]  # noqa: S311
            requests.create_task(attempt(client, kind, known))
            try:
                await asyncio.wait_for(stopped.wait(), random.expovariate(1 / pause))
            except TimeoutError:
                continue


if __name__ == "__main__":
    asyncio.run(main())
