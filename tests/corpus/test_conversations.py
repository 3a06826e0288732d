"""Conversations of a file: every format, what is changed and told, and every fault by its line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ANSWER, FAULTS, GOOD, QUESTION, ROOT, line, said, write
from hypothesis import given, settings
from hypothesis import strategies as st

from arianna.corpus import conversations
from arianna.corpus.conversations import Conversation
from arianna.corpus.prepare import Survey, iter_conversations, read_conversations, survey
from arianna.corpus.sources import FaultyError
from arianna.corpus.template import corpus_text

TEXTS = (
    *"content value text prompt completion instruction output input context response".split(),
    *("question", "answer", "system", "system_prompt"),
)  # keys of what is said


def look_at(path: Path) -> Survey:
    return survey(path, lambda _: None, workers=1)


def only(folder: Path, record: list | dict) -> Conversation:
    """The conversation that one line gives, the first of a file of many."""
    return read_conversations(write(folder, record, *different(record), good=0))[0]


def different(record: list | dict) -> list[list | dict]:
    """Twenty records like one, each with a number of its own behind every text."""

    def changed(value, n: int, key: str = ""):
        if isinstance(value, dict):
            return {k: changed(v, n, k) for k, v in value.items()}
        if isinstance(value, list):
            return [changed(v, n, key) for v in value]
        return f"{value} {n}" if isinstance(value, str) and key in TEXTS else value

    return [changed(record, n) for n in range(20)]


def notes_of(folder: Path, record: list | dict) -> str:
    """What is told of a file of twenty such records."""
    return "; ".join(look_at(write(folder, *different(record), good=0)).notes)


def faults(path: Path) -> list[str]:
    with pytest.raises(FaultyError) as caught:
        look_at(path)
    return str(caught.value).split("\n")


# ---- formats ----


FORMATS = {
    "list of role and content": line,
    "object with messages": lambda q, a: {"messages": line(q, a)},
    "object with conversation": lambda q, a: {"conversation": line(q, a)},
    "ShareGPT object with conversations": lambda q, a: {
        "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]
    },
    "Gemini object with contents": lambda q, a: {
        "contents": [{"role": "user", "parts": [{"text": q}]}, {"role": "model", "parts": [{"text": a}]}]
    },
    "object with prompt and completion": lambda q, a: {"prompt": q, "completion": a},
    "object with prompt and response": lambda q, a: {"prompt": q, "response": a},
    "object with question and answer": lambda q, a: {"question": q, "answer": a},
    "object with input and output": lambda q, a: {"input": q, "output": a},
    "object with lists of input and output": lambda q, a: {"input": line(q), "output": a},
    "object with lists of prompt and response": lambda q, a: {"prompt": line(q), "response": line(q, a)[1]},
    "object with lists of prompt and completion": lambda q, a: {
        "prompt": line(q),
        "completion": line(q, a)[1:],
    },
    "Alpaca object with instruction and output": lambda q, a: {"instruction": q, "input": "", "output": a},
}


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_gives_the_same_conversations_and_is_told(tmp_path, kind):
    found = look_at(
        write(tmp_path, *[FORMATS[kind](f"Question {n}?", f"Answer {n}.") for n in range(20)], good=0)
    )
    assert found.kind == kind
    assert [*iter_conversations(found)] == [
        Conversation(((f"Question {n}?", f"Answer {n}."),), line=n + 1) for n in range(20)
    ]
    assert (found.joined, found.duplicates) == (0, 0)


def test_the_input_of_an_instruction_stands_below_it(tmp_path):
    assert only(tmp_path, {"instruction": "Sum up.", "input": "A hill.", "output": "Hill."}).turns == (
        ("Sum up.\nA hill.", "Hill."),
    )
    assert only(tmp_path, {"instruction": "Sum up.", "context": "A hill.", "response": "Hill."}).turns == (
        ("Sum up.\nA hill.", "Hill."),
    )


def test_every_turn_and_the_system_text_are_kept(tmp_path):
    conversation = only(tmp_path, line("One?", "Yes.", "Two?", "No.", "Three?", "Maybe.", system="Be brief."))
    assert conversation == Conversation(
        (("One?", "Yes."), ("Two?", "No."), ("Three?", "Maybe.")), "Be brief.", 1
    )
    named = [
        {"from": "system", "value": " "},
        {"from": "user", "value": "One?"},
        {"from": "assistant", "value": "Yes."},
    ]
    assert only(tmp_path, {"conversations": named}) == Conversation((("One?", "Yes."),), "", 1)


def test_space_around_a_text_goes_and_space_within_stays(tmp_path):
    spaced = only(
        tmp_path,
        line(
            " What  is\ta hill?\n", "\n First.\r\n\r\nSecond.\rThird.\u2028Fourth. ", system="  Be brief.\n"
        ),
    )
    assert spaced == Conversation(
        (("What  is\ta hill?", "First.\n\nSecond.\nThird.\nFourth."),), "Be brief.", 1
    )


def test_keys_that_are_not_read_are_told(tmp_path):
    told = "keys that are nothing to training were left unread: "
    assert (
        notes_of(tmp_path, {"id": 3, "messages": [QUESTION, ANSWER | {"name": "Ann"}]}) == f"{told}id, name"
    )
    assert (
        notes_of(tmp_path, {"prompt": "why", "completion": "because", "source": "me", "tools": []})
        == f"{told}source, tools"
    )


def test_equal_conversations_are_counted_and_kept(tmp_path):
    found = look_at(write(tmp_path, *[line("why", "because")] * 3, line("why", "because", system="x")))
    assert (found.conversations, found.duplicates) == (24, 2)
    assert found.notes == ["2 conversations stand more than once"]


# ---- what is read and told ----


BRIEF = {"role": "system", "content": "Be brief."}
READ = {  # a record, the conversation that it is, and what is told of twenty like it
    "a greeting first": (
        said(BRIEF, {"role": "assistant", "content": "Welcome."}, QUESTION, ANSWER),
        Conversation((("why", "because"),), "Be brief.", 1, "Welcome."),
        "20 conversations begin with the assistant; that greeting is context of the first turn and not "
        "trained",
    ),
    "two questions in a row": (
        said({"role": "user", "content": "Hi"}, QUESTION, ANSWER),
        Conversation((("Hi\nwhy", "because"),), "", 1),
        "20 messages followed one of the same role and were joined to it by a new line",
    ),
    "two answers in a row": (
        said(QUESTION, ANSWER, {"role": "assistant", "content": "Anything else?"}),
        Conversation((("why", "because\nAnything else?"),), "", 1),
        "20 messages followed one of the same role and were joined to it by a new line",
    ),
    "a last question without an answer": (
        said(QUESTION, ANSWER, {"role": "user", "content": "Thanks!"}),
        Conversation((("why", "because"),), "", 1),
        "20 conversations end in a question without an answer, which was left out",
    ),
    "system text that is null": (
        said({"role": "system", "content": None}, QUESTION, ANSWER),
        Conversation((("why", "because"),), "", 1),
        "20 system messages are null and were left out",
    ),
    "an answer of weight 0": (
        {"messages": [QUESTION, ANSWER | {"weight": 0}, QUESTION, ANSWER | {"weight": 1}]},
        Conversation((("why", "because"), ("why", "because")), "", 1, given=frozenset({1})),
        "20 answers are marked as not to be trained (weight, train or loss_weight of 0): they are context, "
        "never trained or scored",
    ),
    "an answer that axolotl would not train": (
        {"messages": [QUESTION, ANSWER | {"train": False}, QUESTION, ANSWER | {"train": True}]},
        Conversation((("why", "because"), ("why", "because")), "", 1, given=frozenset({1})),
        "20 answers are marked as not to be trained (weight, train or loss_weight of 0): they are context, "
        "never trained or scored",
    ),
    "an answer that LLaMA-Factory would not train": (
        {"messages": [QUESTION, ANSWER | {"loss_weight": 0.0}, QUESTION, ANSWER]},
        Conversation((("why", "because"), ("why", "because")), "", 1, given=frozenset({1})),
        "20 answers are marked as not to be trained (weight, train or loss_weight of 0): they are context, "
        "never trained or scored",
    ),
    "a question that is not to be trained": (
        said(QUESTION | {"train": False}, ANSWER),
        Conversation((("why", "because"),), "", 1, given=frozenset({0})),
        "",
    ),
    "system text that is not to be trained": (
        said(BRIEF | {"weight": 0}, QUESTION, ANSWER),
        Conversation((("why", "because"),), "Be brief.", 1, given=frozenset({-1})),
        "",
    ),
    "a system key": (
        {"system": "Be brief.", "messages": [QUESTION, ANSWER]},
        Conversation((("why", "because"),), "Be brief.", 1),
        "",
    ),
    "a system prompt": (
        {"system_prompt": "Be brief.", "question": "why", "response": "because"},
        Conversation((("why", "because"),), "Be brief.", 1),
        "",
    ),
    "content in parts": (
        said(
            QUESTION | {"content": [{"type": "text", "text": "why"}, {"type": "text", "text": "not"}]}, ANSWER
        ),
        Conversation((("why\nnot", "because"),), "", 1),
        "",
    ),
    "names of roles in capitals": (
        said({"role": "User", "content": "why"}, {"role": "BOT", "content": "because"}),
        Conversation((("why", "because"),), "", 1),
        "20 messages are from 'User', read as the user; 20 messages are from 'BOT', read as the assistant",
    ),
    "a developer": (
        said({"role": "developer", "content": "Be brief."}, QUESTION, ANSWER),
        Conversation((("why", "because"),), "Be brief.", 1),
        "20 messages are from 'developer', read as the system",
    ),
    "marks of the template": (
        {"prompt": "Q: why\nA:", "completion": "A: because"},
        Conversation((("why", "because"),), "", 1),
        "20 marks Q: and A: of the template stood in the data already and were taken away",
    ),
    "marks of another template": (
        {"prompt": "why\n\n###\n\n", "completion": "<|im_start|>because"},
        Conversation((("why\n\n###", "<|im_start|>because"),), "", 1),
        "40 texts hold marks of another template (###, <|im_start|>), which are trained as they stand; take "
        "them out if they are not meant",
    ),
    "names ahead of the texts": (
        {"prompt": "User: why", "completion": "Assistant: because"},
        Conversation((("User: why", "Assistant: because"),), "", 1),
        "40 texts hold marks of another template (User:, Assistant:), which are trained as they stand; take "
        "them out if they are not meant",
    ),
    "marks of further templates": (
        {"prompt": "<think>why", "completion": "<\uff5cEnd\uff5c>because"},
        Conversation((("<think>why", "<\uff5cEnd\uff5c>because"),), "", 1),
        "40 texts hold marks of another template (<think>, <\uff5cEnd\uff5c>), which are trained as they "
        "stand; take them out if they are not meant",
    ),
    "signs of damage": (
        {"prompt": "Itâ€™s why", "completion": "&quot;because\ufffd"},
        Conversation((("Itâ€™s why", "&quot;because\ufffd"),), "", 1),
        "40 texts hold signs of a damaged encoding or of HTML (â€, &quot;), which are trained as they stand; "
        "mend them if they are not meant",
    ),
    "an input that says that there is none": (
        {"instruction": "why", "input": "<noinput>", "output": "because"},
        Conversation((("why", "because"),), "", 1),
        "",
    ),
    "invisible characters": (
        {"prompt": "w\u200bhy", "completion": "\u202ebecause\u2069"},
        Conversation((("why", "because"),), "", 1),
        "60 invisible characters were removed",
    ),
    "emoji that joiners hold together": (
        {"prompt": "why", "completion": "\U0001f469\u200d\U0001f467"},
        Conversation((("why", "\U0001f469\u200d\U0001f467"),), "", 1),
        "",
    ),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_not_as_usual_is_read_and_told(tmp_path, name):
    record, conversation, told = READ[name]
    assert only(tmp_path, record) == conversation
    if name != "marks of the template":  # the numbers behind the texts hide one
        assert notes_of(tmp_path, record) == told


@pytest.mark.parametrize(
    "text", ["A chat. USER: why? ASSISTANT:", "Instruct: why?\nOutput:", "Question: why?\nAnswer:"]
)
def test_a_prompt_that_ends_as_an_answer_begins_is_another_template(tmp_path, text):
    records = [{"prompt": f"{n} {text}", "completion": "because"} for n in range(20)]
    assert "20 texts hold marks of another template" in look_at(write(tmp_path, *records, good=0)).notes[0]


def test_marks_of_the_template_are_counted(tmp_path):
    records = [{"prompt": f"Q: Q: why {n}?\nA:", "completion": f"A: because {n}"} for n in range(20)]
    found = look_at(write(tmp_path, *records, good=0))
    assert found.notes == ["40 marks Q: and A: of the template stood in the data already and were taken away"]
    assert read_conversations(found.path)[3].turns == (("why 3?", "because 3"),)


def test_an_answer_in_the_form_of_a_list_keeps_its_letter(tmp_path):
    assert (
        only(tmp_path, {"prompt": "Name two.", "completion": "A: one\nB: two"}).turns[0][1]
        == "A: one\nB: two"
    )


def test_conversations_without_an_answer_to_train_are_left_out_and_told(tmp_path):
    path = write(tmp_path, said(QUESTION, ANSWER | {"weight": 0}))
    assert look_at(path).notes == ["1 conversations have no answer that is to be trained and were left out"]
    assert len(read_conversations(path)) == look_at(path).conversations == 20


REFUSED = {  # a record of a kind that cannot be learned, and what is said, once
    "preferences": (
        {"prompt": "why", "chosen": "a", "rejected": "b"},
        "a preference pair (its keys are 'prompt', 'chosen', 'rejected')",
    ),
    "preferences beside an answer": (
        {"prompt": "why", "completion": "x", "chosen": "a"},
        "a preference pair",
    ),
    "wanted and unwanted answers": (
        {"prompt": "why", "completion": "x", "label": False},
        "has 'label', which says whether",
    ),
    "tools": (
        {"messages": [QUESTION, ANSWER], "tools": [{"x": 1}]},
        "the object has 'tools', tool and function calls",
    ),
    "functions": (
        {"messages": [QUESTION, ANSWER], "functions": [{"x": 1}]},
        "the object has 'functions', tool and function calls",
    ),
    "a function call": (
        said(QUESTION, {"role": "assistant", "content": None, "function_call": {"x": 1}}),
        "message 2 has 'function_call'",
    ),
    "images": (
        {"prompt": "why", "completion": "x", "images": ["a.png"]},
        "the object has 'images', images, sound or film",
    ),
    "a weight of the whole": (
        {"messages": [QUESTION, ANSWER], "weight": 0},
        "has 'weight', which is read on a message alone",
    ),
    "a mask on a message": (
        said(QUESTION, ANSWER | {"loss_mask": 0}),
        "message 2 has 'loss_mask', which changes what",
    ),
    "a history": (
        {"instruction": "why", "output": "x", "history": [["a", "b"]]},
        "has 'history', which changes what is to be learned",
    ),
    "a part without text": (
        {"contents": [{"role": "user", "parts": [{"inlineData": {"data": "x"}}]}, ANSWER]},
        "the question has a part of 'inlineData'; only text can be learned",
    ),
    "a result of a tool": (
        said(QUESTION, {"role": "Tool-Result", "content": "x"}),
        "from 'Tool-Result', tool",
    ),
    "text in our template": (
        {"text": "Q: why\nA: because"},
        "text with the template Q: and A: (its keys are 'text')",
    ),
    "text in another": ({"text": "<|im_start|>user\nwhy"}, "text with a template (<|im_start|>)"),
    "text in none": ({"text": "why"}, "text with no roles"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_kind_of_data_that_cannot_be_learned_is_refused_in_one_sentence(tmp_path, name):
    record, expected = REFUSED[name]
    (sentence,) = faults(write(tmp_path, *[record] * 30, good=0))
    assert (
        sentence.startswith(f"{tmp_path}/some.jsonl:1: ")
        and expected in sentence
        and sentence.count(". ") == 0
    )


def test_a_line_that_looks_like_a_turn_is_joined_to_the_line_before(tmp_path):
    record = line("Say: \nQ: hello\n\n  A: hi", "one\nQ:two\n\nQ is a letter\n \t\n\nA: three")
    conversation = only(tmp_path, record)
    assert conversation.turns == (("Say: Q: hello A: hi", "one Q:two\n\nQ is a letter A: three"),)
    assert look_at(write(tmp_path, *different(record), good=0)).joined == 20 * 4
    assert [x[:2] for x in corpus_text([conversation]).split("\n")] == ["Q:", "A:", "", "Q ", ""]


def test_no_text_can_forge_a_turn_in_the_system_text(tmp_path):
    assert only(tmp_path, line("why", "because", system="Be brief.\nA: no")).system == "Be brief. A: no"
    assert (
        "begins with 'Q:', as a turn would"
        in faults(write(tmp_path, line("why", "because", system="Q: x\ny")))[0]
    )


def test_bom_crlf_and_blank_lines_are_read(tmp_path):
    path = tmp_path / "windows.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + b"\r\n \r\n".join(GOOD.replace(b"hill", b"hill %d" % n) for n in range(20))
    )
    assert [c.line for c in read_conversations(path)] == list(range(1, 40, 2))


def test_text_beyond_the_basic_plane_is_read_escaped_or_not(tmp_path):
    escaped = json.dumps(line("\U0001f642?", "b")).encode()
    plain = json.dumps(line("\U0001f642?", "b"), ensure_ascii=False).encode()
    assert [c.turns[0][0] for c in read_conversations(write(tmp_path, escaped, plain))[-2:]] == [
        "\U0001f642?"
    ] * 2


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
    assert told[0].startswith(f"{path}:21: ") and told[0].endswith(
        "; the same on lines 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40."
    )
    assert told[1:] == [f"987 more lines of {path} are faulty."]
    assert len(faults(write(tmp_path, *[line(f"why {n}", "be\0")[n % 2 :] for n in range(20)]))) == 2


def test_a_file_in_which_nothing_is_right_is_told_in_one_sentence(tmp_path):
    (sentence,) = faults(write(tmp_path, *[line("why", "")] * 30, good=0))
    assert sentence.startswith(
        f"{tmp_path}/some.jsonl: none of its 30 records can be read; of the first, on line 1: the answer is "
        "empty"
    )


def test_fewer_than_twenty_conversations_are_refused_with_both_numbers(tmp_path):
    path = write(tmp_path, good=19)
    assert faults(path) == [
        f"{path}: 19 conversations are too few: at least 20 are needed, 8 of them to measure with."
    ]
    assert look_at(write(tmp_path, good=20)).conversations == 20


def test_checking_a_file_imports_nothing_but_the_standard_library(tmp_path):
    path = write(tmp_path)
    script = (
        "import sys; before = set(sys.modules); from arianna.corpus.prepare import survey; "
        f"survey({str(path)!r}, print); "
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{script}print(*(set(sys.modules) - before))"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert {name.split(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names <= {
        "arianna",
        "__mp_main__",
    }


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(raw):
    found = conversations.parse(raw, 1)  # not one in millions is a conversation that is left out
    assert (found.conversation is None) == (found.fault != "")


KEYS = st.sampled_from(
    "role content messages conversations prompt completion weight text tools type parts".split()
)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.sampled_from(["user", "assistant"]),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v),
    max_leaves=8,
)


@settings(max_examples=50)
@given(JSON_VALUES)
def test_no_json_value_breaks_the_reader(value):
    found = conversations.parse(json.dumps(value).encode(), 1)
    assert (found.conversation is None) == (found.fault != "" or found.counts[conversations.LEFT_OUT] == 1)
