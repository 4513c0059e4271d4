import json
from datetime import datetime

import pytest

from jetmem.evaluation import locomo

SAMPLE = {
    "sample_id": "made-up-1",
    "conversation": {
        "speaker_a": "Ada",
        "speaker_b": "Ben",
        "session_10": [{"speaker": "Ben", "dia_id": "D10:1", "text": "The kiln is mended."}],
        "session_10_date_time": "12:05 am on 1 March, 2024",
        "session_2": [
            {"speaker": "Ada", "dia_id": "D2:1", "text": "My kiln broke."},
            {"speaker": "Ben", "dia_id": "D2:2", "text": "Look:", "blip_caption": "a photo of a kiln"},
            {"speaker": "Ada", "dia_id": "D2:3", "text": "", "blip_caption": "a cracked pot"},
        ],
        "session_2_date_time": "1:56 pm on 29 February, 2024",
        "session_3": [],
        "session_4_date_time": "1:00 pm on 1 March, 2024",
    },
    "qa": [
        {"question": "What broke?", "answer": "a kiln", "evidence": ["D2:1"], "category": 4},
        {"question": "Both?", "answer": "x", "evidence": ["D2:1; D10:01", "D:2:3", "D2:1"], "category": 1},
        {"question": "Nothing?", "answer": "x", "evidence": [], "category": 4},
        {"question": "Lost?", "adversarial_answer": "x", "evidence": ["D99:1"], "category": 5},
        {"question": "No field?", "category": 3},
    ],
}


def test_turns_become_events_in_the_order_of_their_sessions():
    lines = locomo.convert([SAMPLE]).events
    assert [line["event"]["text"] for line in lines] == [
        "My kiln broke.",
        "Look: [image: a photo of a kiln]",
        "[image: a cracked pot]",
        "The kiln is mended.",
    ]
    assert {line["tenant"] for line in lines} == {"locomo-0"}
    assert [line["session"] for line in lines] == ["s2", "s2", "s2", "s10"]
    assert [line["event"]["ts"] for line in lines] == [
        "2024-02-29T13:56:00Z",
        "2024-02-29T13:56:30Z",
        "2024-02-29T13:57:00Z",
        "2024-03-01T00:05:00Z",
    ]
    assert lines[0]["event"]["author"] == "Ada"


def test_evidence_is_found_whatever_its_spelling_and_questions_without_are_left_out():
    converted = locomo.convert([SAMPLE])
    ids = [line["event"]["id"] for line in converted.events]
    assert [(each.question, each.evidence, each.category) for each in converted.questions] == [
        ("What broke?", [ids[0]], 4),
        ("Both?", [ids[0], ids[3], ids[2]], 1),
    ]
    assert converted.without_evidence == 3


def test_ids_are_opaque_different_and_the_same_each_time():
    lines = locomo.convert([SAMPLE, {**SAMPLE, "sample_id": "made-up-2"}]).events
    ids = [line["event"]["id"] for line in lines]
    assert len(set(ids)) == len(ids) == 8
    assert ids == [
        line["event"]["id"] for line in locomo.convert([SAMPLE, {**SAMPLE, "sample_id": "made-up-2"}]).events
    ]
    assert all(len(each) == locomo.ID_CHARS for each in ids)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1:56 pm on 8 May, 2023", datetime(2023, 5, 8, 13, 56)),
        ("12:09 am on 13 September, 2023", datetime(2023, 9, 13, 0, 9)),
        ("12:30 pm on 1 January 2024", datetime(2024, 1, 1, 12, 30)),
    ],
)
def test_times(text, expected):
    assert locomo.parse_time(text) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "1:56 pm on 8 Mai, 2023", "1:56 pm on 31 February, 2023"])
def test_no_times(text):
    with pytest.raises(ValueError):
        locomo.parse_time(text)


def test_what_is_written_is_read_again(tmp_path):
    file = tmp_path / "locomo10.json"
    file.write_text(json.dumps([SAMPLE]))
    converted = locomo.convert_file(file)
    locomo.write(converted, tmp_path / "out")
    assert locomo.questions_of(tmp_path / "out") == converted.questions
    lines = (tmp_path / "out" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == converted.events


def test_missing_data_says_how_to_get_it(tmp_path):
    for missing in (lambda: locomo.questions_of(tmp_path), lambda: locomo.convert_file(tmp_path / "locomo10.json")):
        with pytest.raises(locomo.Missing, match=r"data/locomo10\.json.*snap-research/locomo.*CC BY-NC 4\.0"):
            missing()


@pytest.mark.parametrize("content", ["", "{}", '[{"qa": []}]', '[{"conversation": [], "qa": []}]', "[1]"])
def test_another_file_is_refused(tmp_path, content):
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(locomo.BadFile):
        locomo.convert_file(file)


def test_a_bad_line_of_questions_is_named(tmp_path):
    (tmp_path / "events.jsonl").write_text("")
    good = '{"tenant": "t", "question": "q", "evidence": ["a"], "category": 1}\n'
    for bad in ("nope\n", '{"tenant": "t", "question": "q", "evidence": [], "category": 1}\n'):
        (tmp_path / "questions.jsonl").write_text(good + bad)
        with pytest.raises(locomo.BadFile, match="line 2"):
            locomo.questions_of(tmp_path)
