"""What a program can hold of the texts that are shipped: their size, their variety, their plain words."""

import json
import re
from collections import Counter, defaultdict

import pytest
from helpers import ROOT

from arianna.corpus.conversations import Conversation
from arianna.corpus.encoding import encode_turns
from tokenizer import Tokenizer

DATA = ROOT / "data"
MARKS = sorted(DATA.glob("arianna_marks_*.jsonl"))
CONTEXT = 256  # of the shipped base
STOP_WORDS = frozenset(
    """
    a an and are as at be but by can could did do does for from had has have he her him his how i if in is
    it its just me my no not of on or our she so some that the their them then there they this to up was we
    were what when where which who why will with would you your im i'm it's don't am been being about into
    out
    """.split()
)
PERSONS = re.compile(
    r"\bas an ai\b|language model trained by|\bi am (?:a )?human\b|\bi (?:ate|drank|walked|saw|slept)\b"
)


def read(name: str) -> list[list[dict[str, str]]]:
    return [json.loads(line) for line in (DATA / name).read_bytes().decode("ascii").splitlines()]


@pytest.fixture(scope="module")
def conversations() -> list[list[dict[str, str]]]:
    return read("arianna_conversations.jsonl")


@pytest.fixture(scope="module")
def talks() -> list[list[dict[str, str]]]:
    return read("arianna_talks.jsonl")


@pytest.fixture(scope="module")
def small_talk() -> list[list[dict[str, str]]]:
    return [talk for path in sorted(DATA.glob("arianna_smalltalk_*.jsonl")) for talk in read(path.name)]


@pytest.fixture(scope="module")
def prose() -> str:
    return (DATA / "arianna_corpus.txt").read_bytes().decode("ascii")


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def said(talk: list[dict[str, str]], role: str) -> list[str]:
    return [message["content"] for message in talk if message["role"] == role]


def answers(talks: list[list[dict[str, str]]]) -> list[str]:
    return [answer for talk in talks for answer in said(talk, "assistant")]


def sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.!?])[\"']?\s+", text) if words(s)]


def key(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def first_key(talk: list[dict[str, str]]) -> str:
    return key(talk[0]["content"])


def runs_of_eight(texts: list[str]) -> set[tuple[str, ...]]:
    return {tuple(found[i : i + 8]) for found in map(words, texts) for i in range(len(found) - 7)}


def mean_sentence(texts: list[str]) -> float:
    counts = [len(words(s)) for text in texts for s in sentences(text)]
    return sum(counts) / len(counts)


def openings(texts: list[str]) -> Counter[str]:
    return Counter(" ".join(words(text)[:3]) for text in texts)


# ---- the 171 conversations ----


def test_there_are_171_conversations_and_no_first_question_stands_twice(conversations):
    assert len(conversations) == len({first_key(c) for c in conversations}) == 171
    assert all([m["role"] for m in c] == ["user", "assistant"] * (len(c) // 2) for c in conversations)


def test_at_least_60_conversations_have_two_to_four_turns_and_none_has_more(conversations):
    turns = Counter(len(c) // 2 for c in conversations)
    assert turns[2] + turns[3] + turns[4] >= 60 and set(turns) <= {1, 2, 3, 4}


def test_answers_have_12_to_60_words_in_short_sentences(conversations):
    assert [a for a in answers(conversations) if not 12 <= len(a.split()) <= 60] == []
    assert mean_sentence(answers(conversations)) < 11


def test_two_thirds_of_the_first_sentences_take_up_a_word_of_the_question(conversations):
    turns = [(c[i]["content"], c[i + 1]["content"]) for c in conversations for i in range(0, len(c), 2)]
    shared = [set(words(q)) & set(words(sentences(a)[0])) - STOP_WORDS for q, a in turns]
    assert sum(map(bool, shared)) >= 2 / 3 * len(turns)


def test_no_run_of_eight_words_stands_in_more_than_two_conversations(conversations):
    counts = Counter(run for c in conversations for run in runs_of_eight(said(c, "assistant")))
    assert [" ".join(run) for run, n in counts.items() if n > 2] == []


def test_no_more_than_eight_answers_begin_with_the_same_three_words(conversations):
    assert openings(answers(conversations)).most_common(1)[0][1] <= 8


def test_no_answer_stands_twice_or_claims_to_be_a_persons(conversations, talks):
    own = answers(conversations)
    assert len(set(own)) == len(own)
    assert [a for a in own if PERSONS.search(a.lower())] == []


def test_three_to_eight_conversations_are_longer_than_the_context(conversations):
    tokenizer = Tokenizer(DATA / "tok4096.model")
    turns = [
        tuple((c[i]["content"], c[i + 1]["content"]) for i in range(0, len(c), 2)) for c in conversations
    ]
    longer = sum(len(encode_turns(Conversation(t), tokenizer)[0]) > CONTEXT for t in turns)
    assert 3 <= longer <= 8


# ---- the talks that teach the base ----


def test_there_are_1500_talks_of_2500_exchanges_in_short_sentences(talks):
    assert len(talks) >= 1500 and len(answers(talks)) >= 2500
    assert mean_sentence(answers(talks)) < 10
    assert (DATA / "arianna_talks.jsonl").stat().st_size <= 1 << 20


def test_talks_are_no_templates(talks):
    counts = Counter(run for talk in talks for run in runs_of_eight(said(talk, "assistant")))
    assert [" ".join(run) for run, n in counts.items() if n > 2] == []
    assert openings(answers(talks)).most_common(1)[0][1] <= 0.02 * len(answers(talks))


def test_small_talk_is_wide_and_its_answers_are_short(small_talk):
    assert len(small_talk) >= 5000 and len(answers(small_talk)) >= 10_000
    assert max(Counter(map(first_key, small_talk)).values()) <= 4
    counts = [len(answer.split()) for answer in answers(small_talk)]
    assert sum(counts) / len(counts) < 16 and max(counts) <= 40
    assert mean_sentence(answers(small_talk)) < 8
    assert all(path.stat().st_size <= 1 << 20 for path in DATA.glob("arianna_smalltalk_*.jsonl"))


def test_no_talk_stands_among_the_conversations(conversations, talks, small_talk):
    others = talks + small_talk
    assert {first_key(t) for t in others} & {first_key(c) for c in conversations} == set()
    shared = runs_of_eight(answers(others)) & runs_of_eight(answers(conversations))
    assert [" ".join(run) for run in shared] == []


def test_no_question_kept_for_reading_stands_in_a_text_that_a_model_has_seen(
    conversations, talks, small_talk
):
    kept = [*(ROOT / "bench/reading_questions.txt").read_text().splitlines()]
    kept += (DATA / "everyday_questions.txt").read_text().splitlines()
    keys = {re.sub(r"[\W_]+", "", q.casefold()) for q in kept}
    asked = [q for talk in (*conversations, *talks, *small_talk) for q in said(talk, "user")]
    assert len(keys) >= 50
    assert [q for q in asked if re.sub(r"[\W_]+", "", q.casefold()) in keys] == []


# ---- the prose ----


def test_the_prose_has_at_least_200_kb_of_plain_text_in_short_sentences(prose):
    assert len(prose) >= 200_000
    assert not re.search(r"  | \n|\t|\r|^ |^#|`|\*\*|^(?:Q|A):", prose, re.MULTILINE)
    assert mean_sentence(prose.splitlines()) < 11


def test_no_run_of_eight_words_stands_in_more_than_two_paragraphs_of_the_prose(prose):
    counts: defaultdict[tuple[str, ...], int] = defaultdict(int)
    for paragraph in prose.splitlines():
        for run in runs_of_eight([paragraph]):
            counts[run] += 1
    assert [" ".join(run) for run, n in counts.items() if n > 2] == []


def test_prose_and_conversations_share_no_run_of_eight_words(conversations, prose):
    shared = runs_of_eight(answers(conversations)) & runs_of_eight(prose.splitlines())
    assert [" ".join(run) for run in shared] == []


# ---- the table of sources ----


def test_every_source_is_named_with_its_licence_and_every_stage_reads_something():
    rows = [line.split("\t") for line in (DATA / "sources.tsv").read_text(encoding="utf-8").splitlines()]
    head, rows = rows[0], [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    assert head[:5] == ["file", "kind", "broad", "close", "licence"]
    assert len({row["file"] for row in rows}) == len(rows) > 100
    assert all(row["licence"].strip() and row["source"].strip() for row in rows)
    assert all(len(row["sha256"]) == 64 for row in rows if row["kind"] != "voice")
    assert all(sum(float(row[stage]) for row in rows) > 0 for stage in ("broad", "close"))


# ---- the marks ----


def test_no_marked_message_is_kept_for_reading_or_stands_among_the_conversations(conversations):
    marks = [json.loads(line) for path in MARKS for line in path.read_bytes().decode("ascii").splitlines()]
    assert len(marks) >= 1500 and min(len(m["answers"]) for m in marks) >= 8
    assert all(path.stat().st_size <= 1 << 20 for path in MARKS)
    kept = [(DATA / "everyday_questions.txt").read_text(), (ROOT / "bench/reading_questions.txt").read_text()]
    others = {key(line) for text in kept for line in text.splitlines()} | set(map(first_key, conversations))
    assert {key(m["message"]) for m in marks} & others == set()
