from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.errors import BadInputError
from slipway.rollout.observing.labels import read_labels


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "labels"


@pytest.mark.parametrize(
    "text",
    [
        'request_id,label\na,3\nb,"[3, 5]"\n',
        '\ufeffrequest_id,label\r\na,3\r\nb,"[3,5]"\r\n',
        'label,when,request_id\n3,noon,a\n"[3, 5]",noon,b',
        '{"request_id": "a", "label": 3}\n{"request_id": "b", "label": [3, 5]}\n',
        '\n{"request_id": "a", "label": 3, "when": "noon"}\r\n\r\n{"label": [3, 5], "request_id": "b"}',
        'request_id,label\na,3\nb,"[3, 5]"\na,3\na,[3]\n',
    ],
    ids=["csv", "csv of a spreadsheet", "csv with more columns", "json lines", "json lines of others", "repeated"],
)
def test_labels_are_read_from_csv_and_from_json_lines(text: str, file: Path) -> None:
    file.write_bytes(text.encode())

    assert read_labels(file) == {"a": (3,), "b": (3, 5)}


@pytest.mark.parametrize("text", ["request_id,label\na,1\n{},{}\nc,1\n", '{{"request_id":"a","label":1}}\n\n{}'])
@pytest.mark.parametrize("label", ["", "cat", "3.0", "-1", "true", "null", "1e3", '"[1, 2.5]"', '"[]"', '"[[1]]"'])
def test_a_line_that_is_no_label_is_told_by_its_number(text: str, label: str, file: Path) -> None:
    if text.startswith("{"):
        value = label.strip('"') or '""'
        value = value if value != "cat" else '"cat"'
        file.write_text(text.format(f'{{"request_id":"b","label":{value}}}'))
    else:
        file.write_text(text.format("b", label))

    with pytest.raises(BadInputError, match=r"line 3: label of 'b' is a class from 0, .*nothing was imported"):
        read_labels(file)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no column request_id and no label, found nothing; its first line has to be request_id,label"),
        ("request_id,lable\na,1\n", "has no column label, found request_id, lable"),
        ("request_id,label\n", "holds no label"),
        ("request_id,label\n,1\n", "line 2: request_id is a text, found ''"),
        ("request_id,label\na\n", "line 2: label of 'a' is a class"),
        ('request_id,label\na,"1\n', "line 2: unexpected end of data; nothing was imported"),
        ('{"request_id": 7, "label": 1}', "line 1: request_id is a text, found 7"),
        ('{"request_id": "a", "label": 1}\n{"request_id": "a"', "line 2: "),
        ('{"request_id": "a", "label": 1}\n[1]', "line 2: "),
        ('{"request_id": "a", "label": 1}\n' + "[" * 100_000, "line 2: "),
    ],
)
def test_a_file_that_is_none_of_both_is_told(text: str, told: str, file: Path) -> None:
    file.write_text(text)

    with pytest.raises(BadInputError) as refused:
        read_labels(file)

    assert told in str(refused.value)
    assert len(str(refused.value)) < 400


def test_two_labels_for_one_request_are_refused_with_both_lines(file: Path) -> None:
    file.write_text("request_id,label\na,1\nb,1\na,2\n")

    with pytest.raises(BadInputError, match="line 4: 'a' is 2 here, and another label in line 2; nothing was imported"):
        read_labels(file)


def test_of_many_wrong_lines_the_first_are_told_and_the_others_counted(file: Path) -> None:
    file.write_text("request_id,label\n" + "a,b\n" * 100)

    with pytest.raises(BadInputError, match=r"line 2: .*; line 3: .*; line 4: .*; and 97 more; nothing was imported"):
        read_labels(file)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"request_id,label\n\xff,1\n")
    for missing in ("missing", ".", "latin"):
        with pytest.raises(BadInputError, match="cannot read the labels"):
            read_labels(tmp_path / missing)


def test_an_id_is_cut_as_the_access_log_cuts_it(file: Path) -> None:
    file.write_text(f"request_id,label\n{'x' * 300},1\n")

    assert read_labels(file) == {"x" * 256: (1,)}


def test_an_id_may_hold_what_unicode_calls_a_line(file: Path) -> None:
    odd = "a\u2028b"
    file.write_text(json.dumps({"request_id": odd, "label": 1}, ensure_ascii=False), encoding="utf-8")

    assert read_labels(file) == {odd: (1,)}
