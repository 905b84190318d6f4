"""What a drill brought, as a file for machines, a page for people, and a picture of the golden signals."""

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.chaos.plot import picture
from tests.chaos.runner import Outcome
from tests.chaos.spec import Drill, Phase
from tests.chaos.traffic import UNAVAILABLE, Sample
from tests.chaos.verdict import Check, held, percentile, recovered


@dataclass(frozen=True)
class Form:
    """In which form a drill was run."""

    protected: bool = True
    short: bool = False

    @property
    def suffix(self) -> str:
        """What names of files end in."""
        return ("-short" if self.short else "") + ("" if self.protected else "-without-protection")

    def __str__(self) -> str:
        length = "short: alerts were not waited for and are not judged" if self.short else "whole"
        return length if self.protected else f"{length}, with the protection switched off"


def machine() -> str:
    """What it ran on, as far as it matters for numbers."""
    load = f", load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs{load}"


def by_second(samples: Iterable[Sample], end: float) -> list[dict[str, float | None]]:
    """What came of the requests of each second: how many went well, were refused, failed; and how long answers took."""
    seconds: list[list[Sample]] = [[] for _ in range(math.ceil(end))]
    for one in samples:
        if 0 <= one.at < end:
            seconds[int(one.at)].append(one)
    return [
        {
            "good": sum(not one.failed for one in those),
            "refused": sum(one.status == UNAVAILABLE for one in those),
            "failed": sum(one.failed and one.status != UNAVAILABLE for one in those),
            "p50_ms": _ms(those, 0.5),
            "p99_ms": _ms(those, 0.99),
        }
        for those in seconds
    ]


def _ms(samples: list[Sample], share: float) -> float | None:
    return round(1000 * percentile((one.seconds for one in samples), share), 1) if samples else None


def document(drill: Drill, outcome: Outcome, checks: list[Check], form: Form) -> dict[str, Any]:
    """Everything, as it is kept."""
    seen = outcome.seen
    end = seen.phases[Phase.AFTER].end
    return {
        "drill": drill.name,
        "title": drill.title,
        "scenario": drill.scenario,
        "hypothesis": drill.hypothesis,
        "impact": drill.impact,
        "protection": drill.protection.name,
        "form": str(form),
        "protected": form.protected,
        "short": form.short,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "held": held(checks),
        "checks": [asdict(check) for check in checks],
        "requests": len(seen.samples),
        "failed": sum(one.failed for one in seen.samples),
        "detected_after_seconds": _detected(outcome),
        "recovered_after_seconds": _recovered(outcome),
        "phases": {phase: [round(span.start, 1), round(span.end, 1)] for phase, span in seen.phases.items()},
        "alerts": [asdict(one) for one in seen.fired],
        "events": [{"at": round(event.at, 1), "text": event.text} for event in outcome.events],
        "seconds": by_second(seen.samples, end),
        "live": [[round(look.at, 1), look.live, look.ready] for look in seen.looks],
    }


def _detected(outcome: Outcome) -> float | None:
    """From the fault until the first alert."""
    began = outcome.seen.phases[Phase.FAULT].start
    return min((round(one.seen - began, 1) for one in outcome.seen.fired if one.seen >= began), default=None)


def _recovered(outcome: Outcome) -> float | None:
    """From the end of the fault until nothing failed any more; None when that was not seen."""
    seconds = recovered(outcome.seen.samples, outcome.seen.phases[Phase.AFTER])
    return None if math.isinf(seconds) else round(seconds, 1)


def page(kept: Mapping[str, Any]) -> str:
    """The page for people."""
    verdict = "The hypothesis held." if kept["held"] else "The hypothesis did not hold."
    failures = [check for check in kept["checks"] if check["held"] is False]
    lines = [
        f"# {kept['title']}",
        "",
        f"**{verdict}** {kept['date']}, {kept['machine']}. Form: {kept['form']}.",
        "",
        f"Hypothesis: {kept['hypothesis']}",
        "",
        f"![Requests, latency and alerts over time]({_file(kept)}.svg)",
        "",
        "| | Sentence | Seen | Wanted |",
        "| --- | --- | --- | --- |",
        *(
            f"| {_mark(check['held'])} | {check['says']} | {check['measured']} | {check['wanted']} |"
            for check in kept["checks"]
        ),
        "",
        *([f"It failed by: {'; '.join(check['says'] for check in failures)}.", ""] if failures else []),
        f"Of {kept['requests']} requests {kept['failed']} failed.",
        "",
        "| Second | What happened |",
        "| ---: | --- |",
        *(f"| {at:.1f} | {text} |" for at, text in timeline(kept)),
        "",
    ]
    return "\n".join(lines)


def timeline(kept: Mapping[str, Any]) -> list[tuple[float, str]]:
    """What the drill did, and what alerts did, in the order of time."""
    happened = [(event["at"], event["text"]) for event in kept["events"]]
    for one in kept["alerts"]:
        named = f"{one['name']} ({', '.join(filter(None, (one['severity'], one['window'])))})"
        happened.append((one["seen"], f"{named} fires"))
        if one["ended"] is not None:
            happened.append((one["ended"], f"{named} ends"))
    return sorted(happened)


def _mark(good: bool | None) -> str:
    return {True: "held", False: "**failed**", None: "not judged"}[good]


def _file(kept: Mapping[str, Any]) -> str:
    return f"{kept['drill']}{Form(kept['protected'], kept['short']).suffix}"


def write(kept: Mapping[str, Any], folder: Path) -> Path:
    """Write all three; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    name = _file(kept)
    # A line for each fact: what differs between two runs can be seen.
    facts = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in kept.items())
    (folder / f"{name}.json").write_text(f"{{\n{facts}\n}}\n", encoding="utf-8")
    (folder / f"{name}.svg").write_text(picture(kept), encoding="utf-8")
    written = folder / f"{name}.md"
    written.write_text(page(kept), encoding="utf-8")
    return written


def read(folder: Path) -> list[dict[str, Any]]:
    """The records of a folder."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
