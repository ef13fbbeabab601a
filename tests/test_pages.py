"""Pages of one file: what they say is escaped, what they draw is inside, nothing comes from elsewhere."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest

from swift.pages import chart, dialogue, document, elements
from swift.pages.chart import Curve, Mark
from swift.pages.dialogue import Call, Turn
from swift.pages.document import Section

HOSTILE = '<script>alert("1")</script><img src=http://example.com/x onerror=a>&\'"</pre></style>'
VOID = ("meta", "img")


class Elements(HTMLParser):
    """The tags of a page, the addresses in it, and whether every tag is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(page: str) -> Elements:
    """The elements of a page, which is whole and refers to nothing outside."""
    found = Elements(page)
    assert not found.open
    assert "script" not in found.tags and "link" not in found.tags and "iframe" not in found.tags
    assert all(each.startswith(("#", "data:")) for each in found.addresses), found.addresses
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style
    return found


def test_every_element_escapes_what_it_says() -> None:
    h = HOSTILE
    body = "".join(
        [
            elements.text(h),
            elements.note(h),
            elements.code(h),
            elements.commands([h]),
            elements.notices([h]),
            elements.facts([elements.Fact(h, h, h)]),
            elements.table([h, h], [[h, elements.Swatch(h, 1)]]),
            elements.settings({h: h}),
            elements.picture(b"x", h),
            elements.details(h, ""),
            elements.side_by_side([h], [[h]]),
            elements.columns([(h, "")]),
            elements.weighted([elements.Piece(h, 0), elements.Piece(h, 2)]),
            elements.bars([(h, [elements.Bar(h, 0.5, h, 0.1, 0.9)])]),
            elements.stack([(h, 1.0, 1)]),
            elements.histogram(h, [(h, 1)], (h, h)),
            dialogue.chat([Turn(role, h, (Call(h, h),), h, h) for role in ("user", "assistant", "tool", h)]),
            chart.chart([Curve(h, [(1, 2), (2, 1)], dots=True)], x=h, y=h, marks=[Mark(1, h)], remark=h),
        ]
    )
    page = document.render(h, [Section(h, body), Section(h, ""), Section(h, "")], lead=h, kind=h)
    found = checked(page)
    assert HOSTILE in found.text
    assert found.tags.count("img") == 1
    assert "<title>&lt;script&gt;" in page


def test_a_page_links_to_its_sections_by_names_of_their_own() -> None:
    titles = ["Loss", "Loss", "你好", "Other curves"]
    page = document.render("Page", [Section(title, elements.text("x")) for title in titles])
    names = re.findall(r'<section id="([^"]+)"', page)
    assert names == ["loss", "loss--2", "section", "other-curves"]
    assert [address for address in checked(page).addresses if address.startswith("#")] == [f"#{each}" for each in names]


def test_a_page_has_a_scheme_for_light_dark_narrow_windows_and_paper() -> None:
    page = document.render("Page", [])
    for media in ("prefers-color-scheme: dark", "max-width", "print"):
        assert f"({media}" in page or f"@media {media}" in page
    assert 'name="viewport"' in page


def test_numbers_in_tables_stand_right_and_keep_four_digits() -> None:
    shown = elements.table(["name", "rows", "share"], [["a & b", 1234, "12.5%"], ["c", 0.123456, "8%"]])
    assert '<td class="number">1,234</td>' in shown and '<td class="number">0.1235</td>' in shown
    assert '<td class="number">12.5%</td>' in shown and '<th class="number">rows</th>' in shown
    assert "<td>a &amp; b</td>" in shown and "<th>name</th>" in shown


def paths(drawn: str, kind: str) -> list[str]:
    return re.findall(rf'<path class="{kind}[^"]*" d="M?([^"]*)"', drawn)


def test_a_curve_leaves_out_what_is_not_finite_and_nothing_is_drawn_of_nothing() -> None:
    drawn = chart.chart([Curve("loss", [(1, 2.0), (2, math.nan), (3, math.inf), (4, 1.0)])])
    assert len(paths(drawn, "line")[0].split()) == 4  # x y of two points
    assert "nan" not in drawn and "inf" not in drawn
    assert chart.chart([Curve("loss", [(1, math.nan)])]) == chart.chart([]) == ""


@pytest.mark.parametrize("points", [[(1, 2.0)], [(1, 0.0), (2, 0.0)], [(1, 1e-9), (2, 1e-9)], [(1, 1e9), (2, -1e9)]])
def test_one_point_and_equal_or_extreme_values_are_drawn_inside(points: list[tuple[float, float]]) -> None:
    drawn = chart.chart([Curve("loss", points, dots=True)])
    places = [float(number) for path in paths(drawn, "dot") for number in path.removesuffix("h0").split()]
    assert len(places) == 2 * len(points)
    assert all(0 <= place <= chart.SIDE for place in places)
    assert 2 <= drawn.count('class="y"') <= 8


def test_a_single_spike_does_not_flatten_the_curve_and_is_counted() -> None:
    raw = [(float(step), 1.0 + (99.0 if step == 50 else step / 1000)) for step in range(200)]
    drawn = chart.chart([Curve("loss", [(0.0, 1.0), (199.0, 1.2)], raw=raw)])
    assert "1 logged value lies outside" in drawn
    line = paths(drawn, "line")[0].split()
    assert float(line[1]) - float(line[3]) > chart.SIDE / 2  # the curve takes most of the height


def test_a_long_curve_is_thinned_without_losing_its_peaks() -> None:
    points = [(float(step), 5.0 if step == 4321 else math.sin(step)) for step in range(20_000)]
    drawn = chart.chart([Curve("loss", points)])
    assert len(drawn) < 40_000
    assert min(float(each) for each in paths(drawn, "line")[0].split()[1::2]) < 100


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 300, [0, 100, 200, 300]), (1.93, 2.71, [2.0, 2.2, 2.4, 2.6]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert chart.Axis(low, high).ticks(4) == pytest.approx(ticks)


def test_rounds_have_no_ticks_between_them() -> None:
    drawn = chart.chart([Curve("pass@1", [(0, 0.4), (1, 0.9)])], x="round")
    assert re.findall(r'class="x"[^>]*>([^<]*)<', drawn) == ["0", "1"]


def test_a_dialogue_draws_calls_apart_from_what_is_said() -> None:
    turns = [
        Turn("user", "Is it raining?"),
        Turn("assistant", "", (Call("weather", '{"city": "Oslo"}'),), thought="look"),
        Turn("tool", '{"rain": true}'),
        Turn("assistant", "  "),
    ]
    shown = dialogue.chat(turns)
    assert '<div class="call"><b>weather</b><code>{&quot;city&quot;: &quot;Oslo&quot;}</code></div>' in shown
    assert '<div class="thought">look</div>' in shown
    assert "(nothing)" in shown


def test_the_whisker_of_a_bar_spans_its_interval() -> None:
    shown = elements.bars([("right tool", [elements.Bar("after", 0.91, "91 %", 0.76, 0.97)])])
    assert "width:91.0%" in shown and "left:76.0%;width:21.0%" in shown
