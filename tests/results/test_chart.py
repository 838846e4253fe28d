"""Charts: points where they belong, nothing outside the frame, whatever the numbers."""

import math
import xml.etree.ElementTree as ET

import pytest

from largebatch.results import Chart, Series

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*series, **options):
    return ET.fromstring(Chart("a < b", "x", "y", series, **options).svg())


def places(root):
    """Centres of the dots of 3.2 pixels, those of data."""
    return [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle") if c.get("r") == "3.2"]


def test_equal_ratios_are_equal_distances():
    (x1, y1), (x2, y2), (x3, y3) = places(drawn(Series("s", [(1, 100), (10, 10), (100, 1)])))
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.2)
    assert x1 < x2
    assert y1 < y2  # down the page


@pytest.mark.parametrize("points", [[(3, 5)], [(1e-9, 1e12), (1e9, 1e-12)], [(1, 0), (2, 3), (math.inf, 4), (5, 6)]])
def test_everything_is_inside_the_frame(points):
    root = drawn(Series("s", points, bars=[(1e-3, 1e3)] * len(points)), verticals=[(4.0, "here")])
    for x, y in places(root):
        assert 80 <= x <= 620
        assert 66 <= y <= 365
    assert "here" in {text.text for text in root.iter(f"{SVG}text")}
    assert "a < b" in {text.text for text in root.iter(f"{SVG}text")}


def test_a_chart_of_nothing_is_refused():
    with pytest.raises(
        ValueError, match="chart: expected points above 0 to draw on logarithmic axes, got none; give some"
    ):
        drawn(Series("s", [(0, 1), (-1, 2)]))
