"""LaTeX: whatever stands in a cell, the table has its columns, and nothing in it is read as a command."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from editguard.report.latex import escaped, latex_tables
from editguard.study.table import FOOTNOTES, Block

QUICK = settings(deadline=None, max_examples=60)
NASTY = st.text(alphabet='ab7 \n\\{}[]*&%$#_^~<>|`"é-', max_size=12)
COMMANDS = (
    *(r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"\textless{}", r"\textgreater{}"),
    *(r"\textbar{}", r"\&", r"\%", r"\$", r"\#", r"\_", r"\{", r"\}"),
    *("{[}", "{]}", "{*}"),
)
MEANT = dict(zip(COMMANDS, "\\~^<>|&%$#_{}[]*", strict=True))


def shown(latex):
    """The text that LaTeX would print of an escaped one; fails where something else would be read as a command."""
    parts = re.split("(" + "|".join(re.escape(command) for command in COMMANDS) + ")", latex)
    for plain in parts[::2]:
        assert not set(plain) & set("\\{}[]*&%$#_^~<>|")
    return "".join(MEANT.get(part, part) for part in parts)


@QUICK
@given(NASTY)
def test_escaped_text_is_printed_as_it_was_with_blanks_for_line_ends(text):
    assert shown(escaped(text)) == re.sub(r"\s+", " ", text)


@QUICK
@given(st.lists(st.lists(NASTY, min_size=3, max_size=3), min_size=1, max_size=3), NASTY)
def test_every_row_has_all_columns_and_what_opens_is_closed(lines, title):
    block = Block(title, ("method", "edits", "a & b"), tuple(tuple(line) for line in lines))
    text = latex_tables("my_model", [block], [title])
    body = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0].splitlines()
    assert len(body) == len(lines)
    for row in body:
        bare = row.replace(r"\&", "").replace(r"\{", "").replace(r"\}", "")
        assert bare.count("&") == 2
        assert bare.count("{") == bare.count("}")
        assert bare.endswith(r" \\")
        assert not re.search(r"\\\\\s*[\[*]", bare)
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}")
    assert "\\begin{tabular}{lll}" in text


def test_a_value_has_its_interval_and_cases_below_it_and_the_notes_are_there():
    block = Block("Single edits", ("method", "edits", "reliability"), (("rome *", "2", "0.50\n[0.20, 0.80]\nn=2"),))
    text = latex_tables("tiny", [block], ["rome, single edits: u.k is 50 % off"])
    cell = r"\begin{tabular}[t]{@{}l@{}}0.50 \\ {\scriptsize {[}0.20, 0.80{]}} \\ {\scriptsize n=2}\end{tabular}"
    assert rf"rome {{*}} & 2 & {cell} \\" in text
    assert r"\caption{tiny: single edits.}" in text
    assert r"u.k is 50 \% off" in text
    assert text.count(r"\footnotesize") == len(FOOTNOTES) + 1
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
