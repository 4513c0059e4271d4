"""`python -m jetmem.evaluation.retrieval` on a made-up conversation: the real pipeline, the real encoder."""

import json
import os
import subprocess
import sys

from harness.commands import PATIENT
from jetmem.console.temporary import model_cache

TURNS = [
    ("Ada", "My kiln broke on Monday, so the bowls for the market are late."),
    ("Ben", "That is a pity. My brother Tom repairs ovens in Leith, shall I ask him?"),
    ("Ada", "Yes please! By the way, the cat had four kittens last night."),
    ("Ben", "Congratulations. We are off to Portugal in June, so I cannot take one."),
]
QUESTIONS = [
    ("Who repairs ovens?", ["D1:2"], 4),
    ("How many kittens did the cat have?", ["D1:3"], 4),
    ("Why are the bowls late?", ["D1:1"], 1),
]


def _file(tmp_path):
    turns = [
        {"speaker": speaker, "dia_id": f"D1:{number}", "text": text} for number, (speaker, text) in enumerate(TURNS, 1)
    ]
    conversation = {"session_1": turns, "session_1_date_time": "1:56 pm on 8 May, 2023"}
    asked = [{"question": q, "evidence": evidence, "category": category} for q, evidence, category in QUESTIONS]
    file = tmp_path / "locomo10.json"
    file.write_text(json.dumps([{"sample_id": name, "conversation": conversation, "qa": asked} for name in "ab"]))
    return file


def _run(*arguments, tmp_path):
    environ = {**os.environ, **PATIENT, "JETMEM_EMBED_CACHE": str(model_cache()), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "jetmem.evaluation.retrieval", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=environ, check=False)


def test_a_made_up_conversation_end_to_end(tmp_path):
    report = tmp_path / "report.json"
    file = _file(tmp_path)
    done = _run("--locomo", file, "--json", report, tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_bytes())
    assert found["events"] == 8
    assert found["questions"] == 6
    assert found["conditions"]["encoder"]
    assert list(found["modes"]) == ["text", "vector", "hybrid"]
    for mode, result in found["modes"].items():
        assert result["overall"]["recall_5"] == 1, mode
        assert result["overall"]["n"] == result["latency"]["n"] == 6
        assert result["degraded"] == 0
        assert {kind: each["n"] for kind, each in result["categories"].items()} == {"1": 2, "4": 4}
    judged = found["ranking"]["judged"]
    assert set(judged["options"]) >= {"salience", "age", "supersession", "folding"}
    assert judged["recall_10"] == found["modes"]["hybrid"]["overall"]["recall_10"], "the service's own ranking"
    assert set(judged["options"]["age"]["recall_10"]["folds"]) == {"locomo-0", "locomo-1"}
    made = found["ranking"]["planted"]
    assert made["supersession"]["current_first"] > made["all off"]["current_first"]
    assert made["folding"]["recall_10"] > made["all off"]["recall_10"]
    assert "single-hop" in done.stdout
    assert "decide nothing" in done.stdout
    assert sorted(tmp_path.iterdir()) == [file, report]


def test_missing_data_is_one_sentence_and_exit_code_2(tmp_path):
    done = _run("--data", tmp_path / "nowhere", tmp_path=tmp_path)
    assert done.returncode == 2
    assert "snap-research/locomo" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
