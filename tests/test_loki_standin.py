"""The stand-in for Loki answers as Loki's documentation says, and refuses what it does not know."""

import json
from collections.abc import Iterator

import loki_standin
import pytest
from loki_standin import Entry, QueryError, answer, entries_of
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

SECOND = 10**9
NOW = 1_000 * SECOND


def line(**fields: str) -> str:
    return json.dumps(fields)


@pytest.fixture(autouse=True)
def stored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four lines of two services, a second apart, the newest last."""
    shop, till = {"service": "shop", "environment": "test"}, {"service": "till"}
    monkeypatch.setattr(
        loki_standin,
        "ENTRIES",
        [
            Entry(NOW - 4 * SECOND, line(level="INFO", event="a", correlation_id="x"), shop, {"correlation_id": "x"}),
            Entry(NOW - 3 * SECOND, line(level="ERROR", event="b"), shop, {}),
            Entry(NOW - 2 * SECOND, "no json: ERROR", shop, {}),
            Entry(NOW - 1 * SECOND, line(level="INFO", event="c"), till, {}),
        ],
    )
    return iter(())


def lines(query: str, limit: int = 100) -> list[str]:
    result = answer(query, NOW - 100 * SECOND, NOW, limit)["result"]
    assert isinstance(result, list)
    return [text for stream in result for _, text in stream["values"]]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ('{service="shop"}', [2, 1, 0]),
        ('{service=~"shop|till"}', [3, 2, 1, 0]),
        ('{service!="shop"}', [3]),
        ('{service="shop", environment="test"} |= "ERROR"', [2, 1]),
        ('{service="shop"} != "ERROR"', [0]),
        ('{service="shop"} |~ "E.R" !~ "json"', [1]),
        ('{service="shop"} | json | level="ERROR"', [1]),
        ('{service="shop"} | json | level=~"INFO|ERROR" | event!="a"', [1]),
        ('{service="shop"} | correlation_id="x"', [0]),
        ('{service="shop"} | json | correlation_id="x"', [0]),
        ('{service="shop"} | json | correlation_id_extracted="x"', [0]),
        ('{service="shop"} | json | __error__="JSONParserErr"', [2]),
        ('{service=`shop`} |= `"b"`', [1]),
        ('{service="nobody"}', []),
    ],
)  # fmt: skip
def test_a_query_finds_its_lines(query: str, found: list[int]) -> None:
    assert sorted(lines(query)) == sorted(loki_standin.ENTRIES[index].line for index in found)


def test_no_more_lines_are_given_than_were_asked_for_and_these_are_the_newest() -> None:
    assert lines('{service="shop"}', limit=1) == ["no json: ERROR"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ('count_over_time({service="shop"} |= "ERROR" [1m])', [({"service": "shop", "environment": "test"}, 2.0)]),
        ('sum(rate({service="shop"} |= "ERROR" [10s]))', [({}, 0.2)]),
        ('sum(count_over_time({service="shop"}[2s]))', [({}, 0.0)]),
        (
            'sum by (service) (count_over_time({service=~".+"}[1m]))',
            [({"service": "shop"}, 3.0), ({"service": "till"}, 1.0)],
        ),
        (
            'sum by (level) (rate({service=~".+"} | json [1m]))',
            [({"level": "INFO"}, 2 / 60), ({"level": "ERROR"}, 1 / 60), ({"level": ""}, 1 / 60)],
        ),
    ],
)
def test_a_metric_query_counts(query: str, expected: list[tuple[dict[str, str], float]]) -> None:
    data = answer(query, 0, NOW, 100)
    assert data["resultType"] == "vector"
    result = data["result"]
    assert isinstance(result, list)
    found = {
        json.dumps(one["metric"]): float(one["value"][1]) for one in result if "correlation_id" not in one["metric"]
    }
    wanted = {json.dumps(labels, sort_keys=True): value for labels, value in expected if value}
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "{}",
        'service="shop"',
        '{service="shop"} | logfmt',
        '{service="shop"} | line_format "{{.event}}"',
        '{service="shop"} |= "a" or "b"',
        'sum(rate({service="shop"}[1m])',
        'topk(3, rate({service="shop"}[1m]))',
        'avg_over_time({service="shop"} | unwrap x [1m])',
    ],
)
def test_what_it_does_not_know_it_refuses(query: str) -> None:
    with pytest.raises(QueryError):
        answer(query, 0, NOW, 100)


def test_lines_get_the_labels_and_structured_metadata_that_loki_would_give_them() -> None:
    request = ExportLogsServiceRequest()
    resource = request.resource_logs.add()
    for key, value in {"service": "shop", "environment": "test", "version": "1"}.items():
        resource.resource.attributes.add(key=key).value.string_value = value
    record = resource.scope_logs.add().log_records.add(
        time_unix_nano=NOW, severity_text="ERROR", severity_number=17, trace_id=b"\1" * 16, span_id=b"\2" * 8
    )
    record.body.string_value = "it broke"
    record.attributes.add(key="container.name").value.string_value = "app"

    (entry,) = entries_of(request)

    assert entry == Entry(
        NOW,
        "it broke",
        {"service": "shop", "environment": "test"},
        {
            "version": "1",
            "container_name": "app",
            "trace_id": "01" * 16,
            "span_id": "02" * 8,
            "severity_text": "ERROR",
            "severity_number": "17",
        },
    )
