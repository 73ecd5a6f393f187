import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import pytest
from _studies import control, observed, report_of, specificity, study
from rich.console import Console

from lightning_unlearn.observation import Observation
from lightning_unlearn.report import Interval, RobustnessReport, assess, print_table, save, to_page
from lightning_unlearn.report.render._page import FOLDER
from lightning_unlearn.report.render._palette import DARK, LIGHT
from lightning_unlearn.report.render._panels import panels
from lightning_unlearn.report.schema._words import level_words, price_words, recovery_words

HOSTILE = "<script>alert('x')</script> \"&$[red]"


class Page(HTMLParser):
    """Tags, attributes and the text of each table row."""

    VOID = ("meta", "br", "img", "link", "use", "path")

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.rows, self.open = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.open += [] if tag in self.VOID else [tag]
        if tag == "tr":
            self.rows.append((dict(attrs).get("class"), []))

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "tr" in self.open and data.strip():
            self.rows[-1][1].append(data)

    def row(self, who):
        return next((kind, " ".join(cells)) for kind, cells in self.rows if cells[0] == who)


@pytest.fixture(scope="module")
def html(report):
    return to_page(report)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def in_terminal(report, width=100, **options):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_table(report, console, **options)
    return console.file.getvalue()


def test_the_page_is_one_well_formed_document(html, page):
    assert html.startswith("<!DOCTYPE html>")
    assert page.open == []
    assert page.tags.count("h1") == 1


def test_the_page_forbids_scripts(page):
    policy = dict(page.attributes)["content"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_the_page_loads_nothing_from_elsewhere(html, page):
    assert not {"script", "link", "iframe", "object", "embed", "base", "img"} & set(page.tags)
    references = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "srcset", "data")]
    assert references  # glyphs and markers of the plots
    assert all(value.startswith("#") for value in references)
    assert "://" not in html
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


def test_every_text_of_the_user_is_escaped(observations, context):
    hostile = [replace(o, attack=HOSTILE) if o.attack == "relearn" else o for o in observations]
    hostile = [replace(o, metric=HOSTILE) if o.metric == "probability" else o for o in hostile]
    hostile = [replace(o, unit=HOSTILE, attack_config={HOSTILE: HOSTILE}) if o.attacked else o for o in hostile]
    hostile += [replace(o, split=HOSTILE) for o in hostile if o.split == "retain"]
    facts = {"name": HOSTILE, "n": HOSTILE, "description": HOSTILE}
    made = assess(
        hostile,
        run={"notes": [HOSTILE], "control": HOSTILE, HOSTILE: HOSTILE},
        models={HOSTILE: HOSTILE},
        data={"forget": facts, HOSTILE: facts},
        training=context["training"],
        warnings=[HOSTILE],
        config=HOSTILE,
        definitions={HOSTILE: HOSTILE},
        draws=20,
    )
    html = to_page(made)
    assert html.count("&lt;script&gt;") > 20
    assert "<script" not in html
    assert Page(html).open == []
    assert HOSTILE in in_terminal(made, width=2000)


@pytest.fixture(scope="module")
def full():
    """A report with everything that a table can show."""
    step = {"attack": "relearn", "family": "relearn", "point": 1, "unit": "step"}
    observations = [*study(back=(0.437,), left=0.371), *control(0.251), specificity(0.913, "relearn")]
    observations += [observed(0.683, 9, "neighbours"), observed(0.617, 9, "neighbours", **step)]
    return report_of(observations, run={"control": "taught 180 other authors"})


def numbers_of(recovery):
    """Every number of a recovery that a reader is shown, in words."""
    intervals = [recovery.forget, recovery.retain, recovery.specificity, *recovery.others.values()]
    shares = [recovery_words(interval) for interval in (recovery.rho, recovery.adjusted) if interval]
    return [*[level_words(interval) for interval in intervals if interval], *shares, price_words(recovery.price)]


def test_numbers_on_the_page_are_the_numbers_in_the_json(report, page):
    told = [r for r in RobustnessReport.from_json(report.to_json()).recoveries if r.metric == "probability" and r.worst]
    assert [recovery.attack for recovery in told] == ["int8", "int4", "prune", "relearn"]
    for recovery in told:
        row = re.sub(r"\s+", " ", page.row(recovery.attack)[1])
        assert all(number in row for number in numbers_of(recovery))


def test_with_a_control_specificity_and_a_further_split_the_page_shows_them_all(full):
    html = to_page(full)
    row = re.sub(r"\s+", " ", Page(html).row("relearn")[1])
    (recovery,) = full.recoveries
    assert len(numbers_of(recovery)) == 7
    assert all(number in row for number in numbers_of(recovery))
    assert "The control: taught 180 other authors" in html
    assert "neighbours: probability" in html


def test_the_terminal_shows_every_number_of_the_page(report, full):
    for made in (report, full):
        lines = in_terminal(made, width=300).splitlines()
        for recovery in [r for r in made.recoveries if r.worst and r.metric == "probability"]:
            first = next(index for index, line in enumerate(lines) if line.strip().startswith(f"{recovery.attack} "))
            below = [
                line for line in lines if line.startswith(f"{recovery.attack}: ")
            ]  # what the table has no room for
            row = "\n".join([*lines[first : first + 4], *below])
            words = [part for number in numbers_of(recovery) for part in number.replace(" [", "|[").split("|")]
            assert all(part in row for part in words), recovery.attack


def test_the_terminal_ends_with_the_sentences_of_the_page(report, html):
    said = in_terminal(report, width=2000)
    for sentence in (report.summary["verdict"], report.summary["deployment"]):
        assert sentence in said
        assert sentence.split("[")[0] in html


def test_a_number_that_misses_a_gate_is_grey_with_its_reason(report, page):
    kind, text = page.row("prune")
    assert kind == "grey"
    assert "not a verdict" in text
    assert "at least 0.95 is needed" in text
    assert page.row("relearn")[0] == "plain"
    assert "prune: G3: retain probability is" in in_terminal(report)


def test_a_number_that_misses_a_gate_is_never_the_verdict(report, observations):
    assert "20 steps of relearning" in report.summary["verdict"]
    assert report.summary["worst_deployment"]["attack"] == "int4"  # not "prune", which broke the model
    unsound = assess(observations, restored=False, draws=20)
    html = to_page(unsound)
    assert 'class="verdict grey"' in html
    assert html.count("no verdict") == 2  # the tiles of adversary and deployment
    assert {Page(html).row(attack)[0] for attack in ("int8", "int4", "prune", "relearn")} == {"grey"}


def test_tiles_tell_what_was_not_tried_from_what_did_not_bring_the_answer_back():
    unspecific = to_page(report_of([*study(), specificity(0.5, "relearn")]))
    assert "not the answer" in unspecific
    assert "not specific" in Page(unspecific).row("relearn")[1]
    assert "not tried" in unspecific  # a deployment
    assert "not the answer" not in to_page(report_of([*study(), specificity(0.9, "relearn")]))


def test_limits_come_before_the_table(html, report):
    assert report.warnings
    assert all(
        html.index(said.split(":")[0]) < html.index("<table") for said in [*report.warnings, *report.run["notes"]]
    )


def test_the_terminal_points_to_the_page_and_leaves_to_it_what_it_says_at_length(report, tmp_path):
    page = save(report, tmp_path)
    for given in (page, tmp_path):
        said = in_terminal(report, width=300, page=given)
        assert (
            said.splitlines()[-1] == f"The verdict in full, and {len(report.warnings)} limits to what it says: {page}"
        )
        assert report.summary["verdict"] not in said
        assert "prune: G3: retain probability is" in said
    assert report.summary["verdict"] in in_terminal(report, width=2000)


def test_the_terminal_begins_with_the_word_of_the_page(report, html):
    first = in_terminal(report, width=2000, page="runs").splitlines()[0]
    sign, word = re.search(r'<p class="word"><span [^>]*>(.)</span> ([^<]+)</p>', html).groups()
    assert first.startswith(f"{sign} {word}. ")


def test_a_reason_of_several_numbers_is_said_once(observations):
    said = in_terminal(assess(observations, restored=False, draws=20), width=2000)
    reasons = [line for line in said.splitlines() if re.search(r": G\d: ", line)]
    assert len({line.split(": ", 1)[1] for line in reasons}) == len(reasons)
    assert any(len(line.split(": ")[0].split(", ")) > 1 for line in reasons)


def test_a_terminal_of_eighty_columns_is_enough(report):
    assert max(len(line) for line in in_terminal(report, width=80).splitlines()) <= 80


def test_panels_follow_the_theme_of_the_reader(report):
    drawn = panels(report)
    assert [panel.title.split(":")[0] for panel in drawn] == [
        "Knowledge of the forget set against attack steps",
        "Relearning",
        "What rounding to fewer bits brings back",
        "Forget set",
        "Retain set",
        "Recovery over the run",
        "Training losses",
        "Cosine of the forget and retain gradients",
    ]
    for panel in drawn:
        svg = panel.to_svg()
        assert "var(--ink)" in svg
        assert not set(LIGHT.values()) & set(re.findall(r"#[0-9a-f]{6}\b", svg))


def test_every_role_has_a_colour_of_its_own_in_both_themes():
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)


def test_plots_and_page_use_no_colour_that_the_palette_does_not_name():
    named = {colour.removeprefix("#") for colour in LIGHT.values()}
    style = (FOLDER / "report.mplstyle").read_text()
    used = set(re.findall(r": ([0-9a-f]{6})\b", style))
    assert used
    assert used <= named
    assert not re.findall(r"#[0-9a-f]{3,8}\b", (FOLDER / "page.css").read_text())
    variables = set(re.findall(r"var\(--([\w-]+)\)", (FOLDER / "page.css").read_text()))
    assert variables
    # Two are the page's own: the colour of the verdict, which is one of the palette's, and the share of it in a cell.
    assert variables - {"tone", "heat"} <= LIGHT.keys()


def test_drawing_leaves_the_style_of_the_user_alone(report):
    with matplotlib.rc_context({"axes.grid": False, "lines.linewidth": 7.0}):
        before = dict(matplotlib.rcParams)
        panels(report)[0].to_svg()
        assert dict(matplotlib.rcParams) == before


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("role", "least"),
    [("ink", 12), ("student", 4.5), ("attack-0", 4)]
    + [(role, 4.5) for role in ("soft", "grey", "caution", "held", "partly", "back", "unknown")],
)
@pytest.mark.parametrize("background", ["card", "paper"])
def test_text_can_be_read_on_its_background(palette, role, least, background):
    one, other = sorted((luminance(palette[role]), luminance(palette[background])))
    assert (other + 0.05) / (one + 0.05) >= least


@pytest.mark.parametrize(
    "observations",
    [
        [],
        [Observation("p", "forget", 0.5, 0)],
        [Observation("p", "retain", 0.5, 0)],
        [Observation("p", "forget", float("nan"), step, attack=attack) for step in (0, 9) for attack in ("none", "a")],
    ],
    ids=["nothing", "one observation", "retain only", "a broken model"],
)
def test_a_report_of_next_to_nothing_is_still_a_page(observations, tmp_path):
    made = assess(observations, draws=20)
    assert "<h1>Asked to forget: the forget set</h1>" in save(made, tmp_path).read_text()
    assert "Note: One training run" in in_terminal(made)


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        (Interval(0.62, 0.48, 0.75), "62 % [48, 75]"),
        (Interval(-0.001, -0.02, 0.02), "0 % [-2, 2]"),
        (Interval(0.5), "50 %"),
        (Interval(0.5, unbounded=True), "50 % [unbounded]"),
        (Interval(3.0), "over 150 %"),
        (Interval(-3.0), "under -50 %"),
        (Interval(float("nan")), "undefined"),
    ],
)
def test_recovery_in_words(interval, words):
    assert recovery_words(interval) == words
