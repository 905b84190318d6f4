"""Lines reach their reader whole and in order, or are counted, and nobody waits."""

import os
import threading
import time
from collections.abc import Iterator

import pytest

from app.core.line_writer import Line, LineWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe; a test may close either."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def reading(descriptor: int) -> tuple[threading.Thread, list[bytes]]:
    """A thread that reads to the end, and what it has."""
    received: list[bytes] = []

    def read() -> None:
        while block := os.read(descriptor, 1 << 16):
            received.append(block)

    thread = threading.Thread(target=read)
    thread.start()
    return thread, received


def test_lines_come_in_order_and_none_is_lost(pipe: tuple[int, int]) -> None:
    read, write = pipe
    reader, received = reading(read)
    lost: list[int] = []
    writer = LineWriter(write, capacity=1 << 24, dropped=lost.append)

    for number in range(10_000):
        line = b"%d" % number
        writer.write(line if number % 2 else lambda line=line: line, 10)  # type: ignore[misc]
    writer.close(timeout=20)
    os.close(write)
    reader.join(20)

    assert b"".join(received).split() == [b"%d" % number for number in range(10_000)]
    assert lost == []


def test_threads_that_write_at_once_lose_nothing(pipe: tuple[int, int]) -> None:
    read, write = pipe
    reader, received = reading(read)
    writer = LineWriter(write, capacity=1 << 24, dropped=lambda _: None)

    def write_many() -> None:
        for _ in range(1_000):
            writer.write(b"x" * 50, 50)

    threads = [threading.Thread(target=write_many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close(timeout=20)
    os.close(write)
    reader.join(20)

    assert b"".join(received) == (b"x" * 50 + b"\n") * 8_000


def test_a_line_that_comes_alone_is_soon_there(pipe: tuple[int, int]) -> None:
    read, write = pipe
    writer = LineWriter(write, capacity=1 << 20, dropped=lambda _: None)
    for _ in range(3):
        writer.write(b"alone", 5)
        # It would wait for ever if the thread had not been woken.
        assert os.read(read, 100) == b"alone\n"
    writer.close(timeout=5)


def test_a_reader_that_does_not_read_blocks_nobody_and_losses_are_counted(pipe: tuple[int, int]) -> None:
    read, write = pipe
    lost: list[int] = []
    writer = LineWriter(write, capacity=500_000, dropped=lost.append)

    # More than a pipe holds: the writer's thread is stuck in its write, the queue fills, the rest is lost.
    for _ in range(50):
        writer.write(b"x" * 100_000, 100_000)
    writer.close(timeout=0.01)
    assert sum(lost) >= 44

    reader, received = reading(read)
    writer.close(timeout=20)
    os.close(write)
    reader.join(20)
    assert b"".join(received).split() == [b"x" * 100_000] * (50 - sum(lost))


def test_what_has_been_read_makes_room_again(pipe: tuple[int, int]) -> None:
    read, write = pipe
    lost: list[int] = []
    writer = LineWriter(write, capacity=1_000, dropped=lost.append)
    for _ in range(5):
        writer.write(b"x", 1_000)
        writer.write(b"does not fit", 1_000)
        assert os.read(read, 100) == b"x\n"
        deadline = time.monotonic() + 20
        while writer.waiting and time.monotonic() < deadline:
            time.sleep(0.001)

    assert sum(lost) == 5
    writer.close(timeout=5)


def test_a_line_that_comes_while_the_thread_ends_is_written_too(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = pipe
    writer = LineWriter(write, capacity=100, dropped=lambda _: None)
    gathered = writer._gathered

    def too_late() -> list[tuple[Line, int]]:
        if not (lines := gathered()):
            writer.write(b"last", 4)
        return lines

    monkeypatch.setattr(writer, "_gathered", too_late)
    writer.close(timeout=20)

    os.set_blocking(read, False)
    assert os.read(read, 100) == b"last\n"


def test_lines_that_nobody_can_read_any_more_are_counted(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.close(read)
    lost: list[int] = []
    writer = LineWriter(write, capacity=100, dropped=lost.append)

    for _ in range(7):
        writer.write(b"x", 1)
    writer.close(timeout=5)

    assert sum(lost) == 7


def test_a_line_that_cannot_be_made_costs_only_itself(pipe: tuple[int, int]) -> None:
    read, write = pipe
    lost: list[int] = []
    writer = LineWriter(write, capacity=100, dropped=lost.append)

    writer.write(lambda: bytes(-1), 1)
    writer.write(b"next", 4)
    writer.close(timeout=5)

    assert os.read(read, 100) == b"next\n"
    assert lost == [1]


def test_a_line_after_the_end_is_written_at_once(pipe: tuple[int, int]) -> None:
    read, write = pipe
    writer = LineWriter(write, capacity=100, dropped=lambda _: None)
    writer.close(timeout=5)

    writer.write(b"late", 4)

    assert os.read(read, 100) == b"late\n"


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.set_blocking(write, False)
    lost: list[int] = []
    writer = LineWriter(write, capacity=1 << 24, dropped=lost.append)
    for _ in range(40):
        writer.write(b"x" * 100_000, 100_000)

    reader, received = reading(read)
    writer.close(timeout=20)
    os.close(write)
    reader.join(20)
    assert (len(b"".join(received)), lost) == (40 * 100_001, [])
