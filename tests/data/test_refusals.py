"""Every reason for refusal, with the line numbers that a person finds in the file, whatever stands around it."""

from __future__ import annotations

import gzip
import random
import re
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from regard.data.events import EventLog
from regard.data.sources import Columns

COLUMNS = Columns("user", "item", "time", label="stars")
GOOD = "good"
#   what a line is: (its bytes, whether it needs quotes to be on, the reason for refusal)
LINES = {
    "plain": (b"u{n},i{n},15116580{n:02d},1", GOOD),
    "quoted": (b'"u,{n}","i""{n}",15116580{n:02d},1', GOOD),
    "two lines": (b'u{n},"i\n{n}",15116580{n:02d},', GOOD),
    "inner quote": (b'u{n},5" disk,15116580{n:02d},', GOOD),
    "spaces": (b" u {n} , i ,15116580{n:02d},2.5", GOOD),
    "accents": ("u{n},ÿþéèñ{n},15116580{n:02d},1".encode(), GOOD),
    "blank": (b"", None),
    "short": (b"u{n},i{n}", "malformed line"),
    "long": (b"u{n},i{n},1511658000,1,x,y", "malformed line"),
    "stray quote": (b'u{n},"i{n},1511658000,1', "malformed line"),
    "text after quote": (b'u{n},"i"{n},1511658000,1', "malformed line"),
    "not utf-8": (b"u{n},\xe9\xe8\xff,1511658000,1", "malformed line"),
    "no user": (b",i{n},1511658000,1", "missing user"),
    "blank user": (b'"  ",i{n},1511658000,1', "missing user"),
    "no item": (b"u{n},,1511658000,1", "missing item"),
    "no time": (b"u{n},i{n},,1", "missing time"),
    "word for time": (b"u{n},i{n},yesterday,1", "unparsable time"),
    "nan for time": (b"u{n},i{n},nan,1", "unparsable time"),
    "long ago": (b"u{n},i{n},12,1", "time out of range"),
    "infinitely late": (b"u{n},i{n},inf,1", "time out of range"),
    "word for label": (b"u{n},i{n},1511658000,good", "unparsable label"),
    "nan for label": (b"u{n},i{n},1511658000,nan", "unparsable label"),
}
PADDING = (
    ["plain"] * 20 + ["accents"] * 20 + ["quoted", "two lines"]
)  # so that the file is UTF-8, comma-separated and timed in seconds


def expected(kinds: list[str]) -> tuple[bytes, list[tuple[str, str]], dict[str, list[int]]]:
    """Write the file, and say which (user, item) are kept and which line numbers are refused for what."""
    kept, refused, content = [], {}, b"user,item,time,stars\n"
    for n, kind in enumerate(kinds):
        template, verdict = LINES[kind]
        text = template.replace(b"{n:02d}", b"%02d" % (n % 100)).replace(b"{n}", b"%d" % n)
        if verdict == GOOD:
            item = {
                "plain": f"i{n}",
                "quoted": f'i"{n}',
                "two lines": f"i\n{n}",
                "inner quote": '5" disk',
                "spaces": " i ",
            }
            item["accents"] = f"ÿþéèñ{n}"
            user = {"quoted": f"u,{n}", "spaces": f" u {n} "}
            kept.append((user.get(kind, f"u{n}"), item[kind]))
        elif verdict:
            refused.setdefault(verdict, []).append(content.count(b"\n") + 1)
        content += text + b"\n"
    return content, kept, refused


def events_of(log: EventLog) -> list[tuple[str, str]]:
    rows = log.connection.execute('SELECT "user", item FROM events ORDER BY row').fetchall()
    return [(log.users.id(user), log.items.id(item)) for user, item in rows]


@given(
    st.lists(st.sampled_from(sorted(LINES)), min_size=1, max_size=25), st.randoms(use_true_random=False), st.booleans()
)
@example(sorted(LINES), random.Random(0), False)
@example(["stray quote"] * 9, random.Random(0), False)
@example(["blank", "blank", "two lines", "short", "no user"], random.Random(0), True)
def test_refused_lines_are_counted_and_named(tmp_path_factory, kinds, rng, zipped):
    path = tmp_path_factory.mktemp("log") / ("log.csv.gz" if zipped else "log.csv")
    kinds = kinds + PADDING
    rng.shuffle(kinds)
    content, kept, refused = expected(kinds)
    path.write_bytes(gzip.compress(content) if zipped else content)
    log = EventLog.read(path, COLUMNS)
    assert log.report["refused"] == {
        reason: {"count": len(lines), "first_rows": lines[:5]}
        for reason, lines in sorted(refused.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    }
    assert events_of(log) == kept
    assert log.report["rows_kept"] == len(kept)
    assert log.report["rows_read"] == len(kept) + sum(map(len, refused.values()))


def test_words_that_are_labels_are_those_of_the_page(tmp_path: Path) -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8").split())
    ones, noughts = re.findall(r"((?:`\w+`(?:, )?)+) are read as 1 and ((?:`\w+`(?:, )?)+) as 0", page)[0]
    words = {word: float(said is ones) for said in (ones, noughts) for word in re.findall(r"\w+", said)}
    assert len(words) == 8
    values = {**words, **{word.upper(): value for word, value in words.items()}, "1": 1.0, "0": 0.0, "2.5": 2.5}
    others = ["on", "off", "good", "ja", "nan"]
    lines = [f"u{at},i{at},15116580{at:02d},{text}" for at, text in enumerate([*values, *others])]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time,stars", *lines]), encoding="utf-8")
    log = EventLog.read(tmp_path / "log.csv", COLUMNS)
    found = log.connection.execute("SELECT label FROM events ORDER BY row").fetchall()
    assert [label for (label,) in found] == list(values.values())
    first = len(values) + 2
    assert log.report["refused"]["unparsable label"] == {"count": 5, "first_rows": list(range(first, first + 5))}
