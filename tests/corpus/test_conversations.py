import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from helpers import ANSWER, FAULTS, GOOD, QUESTION, ROOT, line, said, write
from hypothesis import given, settings
from hypothesis import strategies as st

from arianna.corpus import conversations
from arianna.corpus.conversations import Conversation, Faulty, corpus_text, key, prompt, read, render, split


def only(folder: Path, record: list | dict) -> Conversation:
    """The conversation that one line gives, read from a file of 20 such lines."""
    return read(write(folder, *[record] * 20, good=0)).conversations[0]


def faults(path: Path) -> list[str]:
    with pytest.raises(Faulty) as caught:
        read(path)
    return str(caught.value).split("\n")


# ---- template ----


def test_the_template_is_this_and_no_other():
    assert prompt("What is a hill?") == "Q: What is a hill?\nA:"
    assert render("What is a hill?", "A valley.") == "Q: What is a hill?\nA: A valley.\n"
    assert render("Hi", "Hello.", system="Be brief.") == "Be brief.\nQ: Hi\nA: Hello.\n"
    assert prompt("Hi", system="Be brief.") == "Be brief.\nQ: Hi\nA:"


def test_the_readable_corpus_has_a_blank_line_between_conversations():
    first = Conversation((("One?", "Yes."), ("And two?", "Yes.")), system="Be brief.")
    second = Conversation((("Three?", "No."),))
    assert corpus_text([first, second]) == "Be brief.\nQ: One?\nA: Yes.\nQ: And two?\nA: Yes.\n\nQ: Three?\nA: No.\n"
    assert corpus_text([]) == ""


# ---- formats ----


FORMATS = {
    "list of role and content": lambda q, a: line(q, a),
    "object with messages": lambda q, a: {"messages": line(q, a)},
    "ShareGPT object with conversations": lambda q, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]},
    "object with prompt and completion": lambda q, a: {"prompt": q, "completion": a},
}


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_gives_the_same_conversations_and_is_told(tmp_path, kind):
    found = read(write(tmp_path, *[FORMATS[kind](f"Question {n}?", f"Answer {n}.") for n in range(20)], good=0))
    assert found.kind == kind
    assert found.conversations == [Conversation(((f"Question {n}?", f"Answer {n}."),), line=n + 1) for n in range(20)]
    assert (found.joined, found.duplicates, found.unread) == (0, 0, ())


def test_every_turn_and_the_system_text_are_kept(tmp_path):
    conversation = only(tmp_path, line("One?", "Yes.", "Two?", "No.", "Three?", "Maybe.", system="Be brief."))
    assert conversation == Conversation((("One?", "Yes."), ("Two?", "No."), ("Three?", "Maybe.")), "Be brief.", 1)
    named = [{"from": "system", "value": " "}, {"from": "user", "value": "One?"}, {"from": "assistant", "value": "Yes."}]
    assert only(tmp_path, {"conversations": named}) == Conversation((("One?", "Yes."),), "", 1)


def test_space_around_a_text_goes_and_space_within_stays(tmp_path):
    spaced = only(tmp_path, line(" What  is\ta hill?\n", "\n First.\r\n\r\nSecond.\rThird.\u2028Fourth. ", system="  Be brief.\n"))
    assert spaced == Conversation((("What  is\ta hill?", "First.\n\nSecond.\nThird.\nFourth."),), "Be brief.", 1)


def test_keys_that_are_not_read_are_told(tmp_path):
    record = {"id": 3, "messages": [QUESTION, ANSWER | {"weight": 0.5}]}
    assert read(write(tmp_path, *[record] * 20, good=0)).unread == ("id", "weight")
    record = {"prompt": "why", "completion": "because", "source": "me"}
    assert read(write(tmp_path, *[record] * 20, good=0)).unread == ("source",)


def test_equal_conversations_are_counted_and_kept(tmp_path):
    found = read(write(tmp_path, line("why", "because"), line("why", "because"), line("why", "because", system="x"), good=18))
    assert (len(found.conversations), found.duplicates) == (21, 18)


def test_a_line_that_looks_like_a_turn_is_joined_to_the_line_before(tmp_path):
    records = [line("Say: \nQ: hello\n\n  A: hi", "A: one\nQ:two\n\nQ is a letter\n \t\n\nA: three")] * 20
    found = read(write(tmp_path, *records, good=0))
    assert found.conversations[0].turns == (("Say: Q: hello A: hi", "A: one Q:two\n\nQ is a letter A: three"),)
    assert found.joined == 20 * 4
    text = corpus_text(found.conversations[:1])
    assert [x[:2] for x in text.split("\n")] == ["Q:", "A:", "", "Q ", ""]


def test_no_text_can_forge_a_turn_in_the_system_text(tmp_path):
    assert only(tmp_path, line("why", "because", system="Be brief.\nA: no")).system == "Be brief. A: no"
    assert "begins with 'Q:', as a turn would" in faults(write(tmp_path, line("why", "because", system="Q: x\ny")))[0]


@given(st.text(alphabet="QA: \n\tx", max_size=40))
def test_a_rendered_turn_has_one_line_with_q_and_one_with_a(text):
    joined, count = conversations.join_lines(text.strip())
    lines = render(joined, joined).split("\n")
    assert [x.lstrip()[:2] for x in lines if x.lstrip().startswith(("Q:", "A:"))] == ["Q:", "A:"]
    assert joined.split() == text.split()
    assert (count == 0) == (joined == text.strip())


def test_joining_many_lines_takes_linear_time():
    text = "a" + "\n" * 100_000 + "\nQ:" * 100_000 + " " * 100_000 + "b"
    assert conversations.join_lines(text) == ("a" + " Q:" * 100_000 + " " * 100_000 + "b", 100_000)


def test_bom_crlf_and_blank_lines_are_read(tmp_path):
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n \r\n".join([GOOD] * 20))
    found = read(path)
    assert len(found.conversations) == 20
    assert [c.line for c in found.conversations[:3]] == [1, 3, 5]


def test_text_beyond_the_basic_plane_is_read_escaped_or_not(tmp_path):
    escaped = json.dumps(line("\U0001f642?", "b")).encode()
    plain = json.dumps(line("\U0001f642?", "b"), ensure_ascii=False).encode()
    found = read(write(tmp_path, escaped, plain))
    assert [c.turns[0][0] for c in found.conversations[-2:]] == ["\U0001f642?"] * 2


# ---- faults of a line ----


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_line_is_named_with_its_place_in_one_sentence(tmp_path, name):
    bad, expected = FAULTS[name]
    path = write(tmp_path, bad, GOOD)
    (told,) = faults(path)
    assert told.startswith(f"{path}:21: ") and expected in told and told.endswith(".")
    told.encode()  # can be printed


def test_all_faulty_lines_are_told_at_once(tmp_path):
    told = faults(write(tmp_path, said(QUESTION), GOOD, b"{", line("why", "")))
    assert [fault.split(": ")[0].rsplit(":", 1)[1] for fault in told] == ["21", "23", "24"]


def test_the_first_twenty_faults_are_told_and_the_others_counted(tmp_path):
    path = write(tmp_path, *[b"x"] * 1_007)
    told = faults(path)
    assert len(told) == 21
    assert told[19].startswith(f"{path}:40: ")
    assert told[20] == f"987 more lines of {path} are faulty."
    assert len(faults(write(tmp_path, *[b"x"] * 20))) == 20


def test_a_long_line_is_not_taken_into_memory_and_the_lines_behind_it_are_read(tmp_path):
    path = write(tmp_path, b"x" * 12_000_000, b"y")
    tracemalloc.start()
    told = faults(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [fault.split(": ")[0] for fault in told] == [f"{path}:21", f"{path}:22"]
    assert peak < 8_000_000


# ---- faults of a file ----


def test_a_missing_file_a_folder_and_an_empty_file_are_told(tmp_path):
    assert faults(tmp_path / "no.jsonl") == [f"{tmp_path}/no.jsonl is missing; a file with one conversation a line is needed there."]
    assert faults(tmp_path) == [f"{tmp_path} is not a file; a file with one conversation a line is needed there."]
    for content in (b"", b"\n \r\n\n", b"\xef\xbb\xbf"):
        (tmp_path / "empty.jsonl").write_bytes(content)
        (told,) = faults(tmp_path / "empty.jsonl")
        assert told.startswith(f"{tmp_path}/empty.jsonl") and ("is empty; it needs at least 20 conversations" in told)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path):
    path = write(tmp_path)
    path.chmod(0)
    assert faults(path) == [f"{path} cannot be read: Permission denied."]


def test_an_error_while_reading_is_told(tmp_path, monkeypatch):
    def fails(file):
        raise OSError(5, "Input/output error")

    path = write(tmp_path)
    monkeypatch.setattr(conversations, "raw_lines", fails)
    assert faults(path) == [f"{path} cannot be read: Input/output error."]


def test_fewer_than_twenty_conversations_are_refused_with_both_numbers(tmp_path):
    path = write(tmp_path, good=19)
    assert faults(path) == [f"{path}: 19 conversations are too few: at least 20 are needed, 8 of them to measure with."]
    assert len(read(write(tmp_path, good=20)).conversations) == 20


def test_checking_a_file_imports_nothing_but_the_standard_library():
    script = "import sys; before = set(sys.modules); from arianna.corpus import conversations; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert {name.split(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names == {"conversations"}


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(raw):
    found = conversations.parse(raw, 1)
    assert (found.conversation is None) == (found.fault != "")


KEYS = st.sampled_from(["role", "content", "messages", "conversations", "prompt", "completion"])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5) | st.sampled_from(["user", "assistant"]),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v),
    max_leaves=8,
)


@settings(max_examples=50)
@given(JSON_VALUES)
def test_no_json_value_breaks_the_reader(value):
    found = conversations.parse(json.dumps(value).encode(), 1)
    assert (found.conversation is None) == (found.fault != "")


# ---- key and split ----


def test_the_key_folds_case_punctuation_and_spaces():
    same = ["What's a hill?", "whats a HILL", "  What's   a\thill?! ", "What\u2019s a hill\u2026", "\uff37hats a hill"]
    assert {key(Conversation(((q, "x"),))) for q in same} == {"whatsahill"}
    assert key(Conversation((("Straße É", "x"),))) == key(Conversation((("STRASSE E\u0301", "x"),))) == "strasseé"
    assert key(Conversation((("?!", "x"),))) == "?!"
    assert key(Conversation((("Hi", "x"), ("Other", "y")), system="z")) == "hi"


def numbered(count: int, per_key: int = 1) -> list[Conversation]:
    return [Conversation(((f"Question {n // per_key}?", f"Answer {n}."),), line=n + 1) for n in range(count)]


def test_this_is_the_split_of_twenty():
    train, held_out = split(numbered(20))
    assert [c.line for c in held_out] == [1, 3, 5, 6, 8, 12, 14, 17]
    assert [c.line for c in train] == [2, 4, 7, 9, 10, 11, 13, 15, 16, 18, 19, 20]


@pytest.mark.parametrize(("count", "expected"), [(20, 8), (79, 8), (84, 8), (86, 9), (171, 17), (1000, 100)])
def test_a_tenth_and_at_least_eight_are_held_out(count, expected):
    train, held_out = split(numbered(count))
    assert (len(train), len(held_out)) == (count - expected, expected)


@given(st.lists(st.integers(0, 60), min_size=20, max_size=120))
def test_the_lowest_hashes_are_held_out_and_no_key_is_parted(questions):
    every = [Conversation(((f"q{q}", str(i)),)) for i, q in enumerate(questions)]
    try:
        train, held_out = split(every)
    except Faulty:
        assert len(set(questions)) < 20
        return
    assert sorted(train + held_out, key=lambda c: int(c.turns[0][1])) == every
    digest = {c: hashlib.sha256(key(c).encode()).digest() for c in every}
    assert max(digest[c] for c in held_out) < min(digest[c] for c in train)
    last = max(digest[c] for c in held_out)
    wanted = max(8, round(len(every) / 10))
    assert len(held_out) >= wanted > sum(digest[c] < last for c in held_out)


def test_conversations_with_one_first_question_stay_on_one_side():
    train, held_out = split(numbered(300, per_key=3))
    assert not {key(c) for c in train} & {key(c) for c in held_out}
    assert len(held_out) == 30


def test_the_split_hardly_moves_when_conversations_are_added_or_their_order_changes():
    before = {key(c) for c in split(numbered(171))[1]}
    assert {key(c) for c in split(numbered(171)[::-1])[1]} == before
    after = {key(c) for c in split(numbered(191))[1]}
    assert len(after - before) + len(before - after) <= 6


def test_a_split_that_cannot_be_made_is_refused():
    with pytest.raises(Faulty, match="19 conversations are too few: at least 20"):
        split(numbered(19))
    with pytest.raises(Faulty, match="30 conversations begin with only 1 different questions"):
        split(numbered(30, per_key=30))
