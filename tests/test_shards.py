"""A run in shards is a whole one: each test is in one of them."""

from itertools import chain

import pytest
from conftest import shard


@pytest.mark.parametrize("count", [0, 1, 2, 5, 1000])
@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_shards_make_the_whole_in_its_order_and_are_of_a_size(count: int, of: int) -> None:
    items = list(range(count))

    shards = [shard(items, f"{number}/{of}") for number in range(1, of + 1)]

    assert list(chain.from_iterable(shards)) == items
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_long_tests_are_shared_out_evenly_though_they_are_neighbours(of: int) -> None:
    items = list(range(100))

    shards = [shard(items, f"{number}/{of}", lambda item: item >= 80) for number in range(1, of + 1)]

    assert sorted(chain.from_iterable(shards)) == items
    assert all(part == sorted(part) for part in shards)
    for long in (True, False):
        sizes = [sum((item >= 80) is long for item in part) for part in shards]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("wrong", ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2"])
def test_a_shard_that_there_is_not_is_refused(wrong: str) -> None:
    with pytest.raises(pytest.UsageError, match="--shard=1/4"):
        shard([], wrong)
