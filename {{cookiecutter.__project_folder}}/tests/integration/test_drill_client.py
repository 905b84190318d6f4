"""The client of drills on a real service: it understands answers, keeps connections, and tells of none."""

import asyncio
from collections.abc import Callable

import pytest

from tests.chaos.client import Client, NoAnswerError
from tests.chaos.traffic import BODY, ITEMS, Traffic
from tests.support import Service, free_port


def test_it_understands_what_the_service_answers(start: Callable[..., Service]) -> None:
    service = start()
    service.wait_until("/health/ready", 200)

    async def talk() -> list[int]:
        client = Client(f"http://127.0.0.1:{service.port}")
        made = await client.send("POST", ITEMS, {"Content-Type": "application/json"}, BODY)
        path = made.headers["location"]
        others = [await client.send(method, path, {}) for method in ("GET", "DELETE", "GET")]
        # One after another, so one connection is enough.
        assert len(client._idle) == 1
        client.close()
        return [answer.status for answer in (made, *others)]

    assert asyncio.run(talk()) == [201, 200, 204, 404]


def test_a_connection_that_the_service_has_closed_is_not_used_again(start: Callable[..., Service]) -> None:
    service = start(KEEP_ALIVE_SECONDS="1")
    service.wait_until("/health/ready", 200)

    async def talk() -> int:
        client = Client(f"http://127.0.0.1:{service.port}")
        await client.send("GET", ITEMS, {})
        (connection,) = client._idle
        assert await connection.reader.read() == b""
        answer = await client.send("GET", ITEMS, {})
        client.close()
        return answer.status

    assert asyncio.run(asyncio.wait_for(talk(), 10)) == 200


def test_a_connection_is_used_for_a_while_and_not_for_ever(
    start: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start()
    service.wait_until("/health/ready", 200)

    async def talk() -> list[int]:
        client = Client(f"http://127.0.0.1:{service.port}")
        kept = []
        for seconds in (60.0, 0.0):
            monkeypatch.setattr("tests.chaos.client.CONNECTION_SECONDS", seconds)
            client.close()
            await client.send("GET", ITEMS, {})
            kept.append(len(client._idle))
        client.close()
        return kept

    assert asyncio.run(talk()) == [1, 0]


def test_steady_traffic_succeeds(start: Callable[..., Service]) -> None:
    service = start()
    service.wait_until("/health/ready", 200)

    async def flood() -> Traffic:
        loop = asyncio.get_running_loop()
        traffic = Traffic(f"http://127.0.0.1:{service.port}", 100, loop.time)
        task = asyncio.create_task(traffic.run())
        await asyncio.sleep(2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return traffic

    samples = asyncio.run(flood()).samples
    assert len(samples) > 100
    assert {sample.failed for sample in samples} == {False}


def test_a_service_that_is_not_there_gives_no_answer() -> None:
    client = Client(f"http://127.0.0.1:{free_port()}")

    with pytest.raises(NoAnswerError):
        asyncio.run(client.send("GET", ITEMS, {}))
