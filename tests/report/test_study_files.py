"""The page and the pictures of a study: the table's own rows, the summary's own values, nothing from elsewhere."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from study.results_files import cost, number, row, survey, write

from editguard.report import curves as curves_module
from editguard.report.curves import curves, curves_svg, draw
from editguard.report.study_files import pictures, write_study_files
from editguard.report.study_page import study_page
from editguard.study.folder import StudyFolder
from editguard.study.plan import Cell
from editguard.study.results import read_results
from editguard.study.summary import summarised, write_summary
from editguard.study.table import FOOTNOTES, Block, blocks, failures, markdown


class Page(HTMLParser):
    """Cells of the tables, their parts parted by line ends, and everything that is fetched."""

    def __init__(self):
        super().__init__()
        self.tables, self.fetched, self.tags = [], [], []
        self._open = False

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._open = True
        elif tag == "small":
            self.tables[-1][-1][-1] += "\n"

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._open = False

    def handle_data(self, data):
        if self._open:
            self.tables[-1][-1][-1] += data


def parsed(text):
    page = Page()
    page.feed(text)
    return page


def record(case, value, name="reliability"):
    common = {"case": case, "property": name, "kind": "request", "probe": case, "outcome": "other", "value": value}
    return {**common, "token_accuracy": 0.5, "unit": "fraction", "answer": ""}


def end(*failed):
    return {"edits": 2, "applied": 2, "failed": list(failed), "superseded": [], "excluded": {}}


@pytest.fixture
def study(tmp_path):
    folder = StudyFolder(tmp_path / "study")
    folder.begin({"methods": {"rome": {}, "ft-l": {}}, "notes": {"model": "a<b & c"}})
    failed = {"case": "b", "reason": "refused", "message": "<script>alert(1)</script> & more"}
    for name, share in (("rome", 1.0), ("ft-l", 0.0)):
        for size in (2, 4):
            values = [record("a", 1.0), record("b", share), record("a", share, "locality")]
            folder.add(Cell(name, "batch", size), str(size), values, end(*[failed] * (name == "rome")))
    rows = summarised(folder)
    write_summary(folder, rows, markdown(folder, rows))
    return folder


def test_the_page_holds_the_rows_of_the_table_and_nothing_from_elsewhere(study):
    rows = summarised(study)
    write_study_files(study, rows)
    text = (study.path / "table.html").read_text(encoding="utf-8")
    page = parsed(text)
    wanted = [[list(block.headers), *map(list, block.lines)] for block in blocks(study, rows) if block.lines]
    assert page.tables == wanted
    assert "0.50\n[0.09, 0.91]\nn=2" in page.tables[0][1]
    assert all(address.startswith(("#", "data:image/svg+xml;base64,")) for address in page.fetched)
    assert "script" not in page.tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text
    assert "<title>Study of a&lt;b &amp; c</title>" in text
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    picture = next(address for address in page.fetched if address.startswith("data:"))
    assert base64.b64decode(picture.partition(",")[2]) == (study.path / "curves-batch.svg").read_bytes()


def test_all_forms_have_the_same_figures_and_are_the_same_bytes_again(study):
    rows = summarised(study)
    write_study_files(study, rows)
    files = {path.name: path.read_bytes() for path in study.path.iterdir() if path.is_file()}
    assert {"table.tex", "table.html", "curves-batch.svg"} <= set(files)
    write_study_files(study, rows)
    assert files == {path.name: path.read_bytes() for path in study.path.iterdir() if path.is_file()}
    table = markdown(study, rows)
    for block in blocks(study, rows):
        for line in block.lines:
            for cell in line:
                assert cell.replace("\n", "<br>") in table
        for note in block.notes:
            assert all(note in text for text in (table, files["table.html"].decode(), files["table.tex"].decode()))
    tex = files["table.tex"].decode()
    assert tex.count("{[}0.09, 0.91{]}") == files["table.html"].decode().count("[0.09, 0.91]") > 0
    assert len(list(failures(rows))) == 1
    assert r"\textless{}script\textgreater{}" in tex


def test_pictures_are_of_what_there_is_and_old_ones_go(study):
    write_study_files(study, summarised(study))
    old = study.path / "quality-against-time.svg"
    old.write_text("of another state")
    write_study_files(study, summarised(study))
    assert not old.exists()


def test_the_time_is_shown_for_single_edits_or_else_for_the_most_edits(tmp_path):
    rows = [row("a", survey(1, 1), mode="batch", size=size) for size in (1, 10)]
    costs = [cost("a", 0.5, mode="batch", size=size) for size in (1, 10)]
    titles = {name: title for name, (title, _) in pictures(read_results(write(tmp_path, rows, costs))).items()}
    assert titles == {
        "curves-batch.svg": "Batches: properties over the number of edits in force",
        "quality-against-time.svg": "Mean quality against seconds per edit: a batch of 10",
    }
    results = read_results(write(tmp_path, [*rows, row("a", survey(1, 1))], [*costs, cost("a", 1.0)]))
    assert pictures(results)["quality-against-time.svg"][0].endswith("single edits")
    assert "quality-against-time.svg" not in pictures(read_results(write(tmp_path, rows, [])))


def test_the_curves_are_the_summarys_values_with_intervals_and_the_unedited_model(tmp_path):
    rows = []
    for size, value in ((1, 1.0), (10, 0.6), (100, 0.2)):
        numbers = {"reliability": number(value, low=value / 2, high=1.0), "fluency": number(5.0, unit="bits")}
        rows += [
            row("rome", numbers, mode="sequence", size=size),
            row("unedited", {"reliability": 0.1}, mode="sequence", size=size),
        ]
    rows.append(row("ike", {"reliability": 0.9}, mode="sequence", size=10))
    results = read_results(write(tmp_path, rows))
    assert curves(results, "batch") is None
    shown = curves(results, "sequence")
    assert list(shown.panels) == ["reliability", "fluency"]
    figure = draw(shown)
    [reliability, fluency] = [axis for axis in figure.axes if axis.get_visible()]
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in reliability.lines]
    assert ([1, 10, 100], [1.0, 0.6, 0.2]) in drawn
    assert ([1, 10, 100], [0.1, 0.1, 0.1]) in drawn
    assert ([10], [0.9]) in drawn
    assert ([10, 10], [0.3, 1.0]) in drawn
    assert reliability.get_ylim() == (-0.04, 1.04)
    assert fluency.get_title() == "fluency (bits)"
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["rome", "ike", "(no edit)"]
    assert curves_svg(shown) == curves_svg(shown)


def test_the_legend_of_many_methods_fits_a_picture_of_one_panel(tmp_path):
    rows = [row(f"method-{at}", {"locality": 1.0}, mode="batch", size=size) for at in range(30) for size in (1, 10)]
    figure = draw(curves(read_results(write(tmp_path, rows)), "batch"))
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    extent = figure.legends[0].get_window_extent(renderer)
    assert figure.bbox.y0 <= extent.y0 < extent.y1 <= figure.bbox.y1
    assert figure.axes[0].get_window_extent(renderer).x1 <= extent.x0 < extent.x1 <= figure.bbox.x1


def test_no_two_methods_look_alike():
    names = [f"method-{at}" for at in range(30)]
    looks = curves_module._looks(names)
    assert len({json.dumps(looks[name]) for name in names}) == 30


def test_the_pages_text_is_escaped_wherever_it_comes_from():
    block = Block("<i>", ("<b>",), (("<u>\n<s>",),))
    page = parsed(study_page("<x>", [block], ["<y>"], {"<z>": b"<svg/>"}))
    assert not set(page.tags) & {"i", "b", "u", "s", "x", "y", "z"}
    assert page.tables == [[["<b>"], ["<u>\n<s>"]]]
    assert len(FOOTNOTES) == page.tags.count("p")
