"""Judge rendered manifests, each file alone, in one process: checkov takes longer to start than to judge them all.

Prints a JSON object: of each file, what it finds, and what an annotation beside the object excepts.
"""

import json
import sys

from checkov.common.output.record import Record
from checkov.kubernetes.runner import Runner
from checkov.runner_filter import RunnerFilter


def told(records: list[Record]) -> list[dict[str, str]]:
    """What is worth knowing of a finding or an exception."""
    return [
        {
            "check": record.check_id,
            "object": record.resource,
            "says": record.check_name,
            "reason": record.check_result.get("suppress_comment", ""),
        }
        for record in records
    ]


def main() -> None:
    """Judge the files that are named."""
    answers = {}
    for file in sys.argv[1:]:
        report = Runner().run(root_folder=None, files=[file], runner_filter=RunnerFilter(framework=["kubernetes"]))
        answers[file] = {
            "passed": len(report.passed_checks),
            "found": told(report.failed_checks),
            "excepted": told(report.skipped_checks),
        }
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
