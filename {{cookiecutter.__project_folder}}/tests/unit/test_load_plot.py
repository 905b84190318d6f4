"""A run is drawn as it was: a point for each second, the highest value at the top."""

from pathlib import Path
from xml.etree import ElementTree as ET

from tests.load.plot import draw, read

HISTORY = """\
Timestamp,User Count,Type,Name,Requests/s,Failures/s,50%,99%
100,0,,Aggregated,0.000000,0.000000,N/A,N/A
101,10,GET,/api/v1/items,5.000000,0.000000,10,20
101,10,,Aggregated,10.000000,0.000000,10,40
102,20,,Aggregated,20.000000,5.000000,20,400
103,20,,Aggregated,10.000000,0.000000,10,40
"""


def test_a_run_is_drawn_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text(HISTORY, encoding="utf-8")

    seconds = read(path)
    picture = ET.fromstring(draw(seconds, threshold=300))  # noqa: S314 - we made it

    assert [second.at for second in seconds] == [0, 1, 2]
    lines = [line.attrib["points"].split() for line in picture.iter("{http://www.w3.org/2000/svg}polyline")]
    requests, failures, median, slow, objective = ([float(point.split(",")[1]) for point in line] for line in lines)
    # The second second has the most requests, a quarter of which failed; and the slowest.
    assert requests == [105, 30, 105]
    assert failures == [180, 142.5, 180]
    assert slow[1] < objective[1] < slow[0] < median[0]
