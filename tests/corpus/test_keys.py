"""Keys that are not read: what would change the meaning is refused by name, however it is spelled."""

from pathlib import Path

import pytest
from helpers import ANSWER, QUESTION, write

from arianna.corpus.conversations import Line, parse
from arianna.corpus.prepare import survey
from arianna.corpus.sources import FaultyError


def parsed(record: dict | list, folder: Path) -> Line:
    return parse(write(folder, record, good=0).read_bytes(), 1)


def fault(record: dict | list, folder: Path) -> str:
    line = parsed(record, folder)
    assert line.whole and line.conversation is None, line
    return line.fault


def talk(**beside) -> dict:
    return {"messages": [QUESTION, ANSWER], **beside}


def answered(**beside) -> list:
    return [QUESTION, ANSWER | beside]


@pytest.mark.parametrize("value", [0, False, 0.0])
@pytest.mark.parametrize(
    "key",
    [
        "weight",
        "Weight",
        "train",
        "loss_weight",
        "lossWeight",
        "loss-weight",
        "training",
        "trainable",
        "loss",
    ],
)
def test_an_answer_that_is_marked_as_not_to_be_trained_is_context(tmp_path, key, value):
    line = parsed([*answered(**{key: value}), QUESTION, ANSWER], tmp_path)
    assert line.conversation.given == {1} and key not in line.unread


@pytest.mark.parametrize("value", [0.5, -1, 2, "0", [0]])
@pytest.mark.parametrize("key", ["weight", "Weight", "trainable", "loss"])
def test_what_is_neither_trained_nor_not_is_refused(tmp_path, key, value):
    assert f"message 2 has '{key}'" in fault(answered(**{key: value}), tmp_path)


OF_A_RECORD = {  # keys that change what is to be learned, with a value that says something
    "weight": 0,
    "Weight": 0.5,
    "sample_weight": 0.2,
    "train": False,
    "loss_masks": [0, 1],
    "labels": [-100, 5],
    "ignore": True,
    "skip": True,
    "excluded": 1,
    "tools": '[{"name": "x"}]',
    "functionCalls": [{"x": 1}],
    "image_path": "a.png",
    "video": "a.mp4",
    "inputAudio": "x",
    "history": [["a", "b"]],
    "input": "what the question is about",
    "context": "a page",
    "passage": "a page",
    "choices": ["a", "b"],
    "suffix": "behind",
    "reward": -1,
    "system_notes": "x",
    "persona": "a pirate",
    "instructions": "be kind",
    "label": False,
    "split": "test",
}


@pytest.mark.parametrize("key", OF_A_RECORD)
def test_a_key_of_a_record_that_changes_the_meaning_is_refused_by_name(tmp_path, key):
    assert f"has '{key}'" in fault(talk(**{key: OF_A_RECORD[key]}), tmp_path)
    pair = {"prompt": "why", "completion": "because", key: OF_A_RECORD[key]}
    assert f"has '{key}'" in fault(pair, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tool_calls", [{"x": 1}]),
        ("functionCall", {"x": 1}),
        ("images", ["a.png"]),
        ("loss_mask", 0),
        ("masked", True),
        ("ignore", True),
        ("train_detail", [{"begin_offset": 0, "train": False}]),
    ],
)
def test_a_key_of_a_message_that_changes_the_meaning_is_refused_by_name(tmp_path, key, value):
    assert f"message 2 has '{key}'" in fault(answered(**{key: value}), tmp_path)


HARMLESS = {
    "id": 3,
    "source": "me",
    "score": 0.1,
    "lang": "en",
    "tools": [],
    "functions": "[]",
    "images": None,
    "history": [],
    "weight": 1,
    "train": True,
    "skip": False,
    "input": "",
    "split": "train",
    "system_fingerprint": "fp_1",
    "parallel_tool_calls": True,
}


@pytest.mark.parametrize("key", HARMLESS)
def test_a_harmless_key_or_a_placeholder_is_told_as_unread(tmp_path, key):
    line = parsed(talk(**{key: HARMLESS[key]}), tmp_path)
    assert line.conversation is not None and line.unread == {key}


@pytest.mark.parametrize(
    "beside",
    [
        {"system": "Be brief."},
        {"system_prompt": "Be brief."},
        {"systemPrompt": "Be brief."},
        {"System-Message": "Be brief."},
        {"systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]}},
        {"system_instruction": [{"type": "text", "text": "Be brief."}]},
        {"system": "Be brief.", "system_prompt": "Be brief."},
        {"system": "", "system_prompt": "Be brief."},
    ],
)
def test_system_text_beside_the_messages_is_read_however_its_key_is_spelled(tmp_path, beside):
    line = parsed(talk(**beside), tmp_path)
    assert line.conversation.system == "Be brief." and not line.unread


def test_of_two_system_texts_none_wins(tmp_path):
    line = parsed(talk(system="x", systemPrompt="y"), tmp_path)
    assert line.fault == "the object has both 'system' and 'systemPrompt'; it needs one of them"


PREFERENCES = {
    "chosen and rejected texts": {"prompt": "why", "chosen": "a", "rejected": "b"},
    "whole dialogues": {"chosen": [QUESTION, ANSWER], "rejected": [QUESTION, ANSWER]},
    "beside messages": talk(chosen=[QUESTION, ANSWER], rejected=[QUESTION, ANSWER], score_chosen=1),
    "OpenAI's": {
        "input": {"messages": [QUESTION]},
        "preferred_output": [ANSWER],
        "non_preferred_output": [ANSWER],
    },
    "an unwanted answer beside": {"prompt": "why", "completion": "a", "rejected_response": "b"},
    "two numbered answers": {"prompt": "why", "response_0": "a", "response_1": "b", "better": 0},
    "two lettered answers": {"prompt": "why", "response_j": "a", "response_k": "b"},
    "a winner": {"question": "why", "answer_a": "a", "answer_b": "b", "winner": "a"},
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_a_preference_pair_is_refused_however_its_keys_are_spelled(tmp_path, name):
    record = PREFERENCES[name]
    told = fault(record, tmp_path)
    assert "is a preference pair" in told and all(f"'{key}'" in told for key in record)
    kept = "'preferred_output'" if name == "OpenAI's" else "'chosen'"
    if "chosen" in record or name == "OpenAI's":
        is_list = isinstance(record.get("chosen", []), list)
        assert told.endswith(
            f"keep {kept} alone, named messages" if is_list else "named prompt and completion"
        )


def test_where_no_answer_is_trained_that_is_told(tmp_path):
    path = write(tmp_path, *[answered(weight=0)] * 30, good=0)
    with pytest.raises(FaultyError, match="30 conversations have no answer that is to be trained .*; 0 conv"):
        survey(path, lambda _: None, workers=1)
