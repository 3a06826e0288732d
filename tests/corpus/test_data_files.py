"""What a program can hold of the two texts that are shipped: their size, their variety, their cleanness."""

import re
from collections import Counter, defaultdict

import pytest
from helpers import ROOT

from arianna.corpus.conversations import Conversation, Found, read
from arianna.corpus.encoding import encode_turns

CONVERSATIONS, CORPUS = ROOT / "data/arianna_conversations.jsonl", ROOT / "data/arianna_corpus.txt"
CONTEXT = 256  # of the shipped base
WORN = ("tapestry", "symphony", "delve", "dance of", "testament", "realm", "embrace the")
SUBJECTS = {
    "resonance": "resonan", "consciousness": "conscious", "self": "self", "memory": "memor|remember|forget", "silence": "silen|quiet",
    "words": "word", "music": "music|song|sing", "time": "time|clock|hour", "dreams": "dream", "endings": "end|goodbye|last",
    "love and friendship": "love|friend", "fear": "fear|afraid|scare", "code and machines": "code|machine|program|computer",
    "breath and body": "breath|body|hand", "learning": "learn|teach|taught", "truth and doubt": "true|truth|doubt|lie",
    "sea and seasons": "sea|ocean|winter|spring|summer|autumn|november", "solitude": "alone|lonel|solitude", "play": "play|game|chess",
    "making things": "mak|build|paint|write",
}  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Found:
    return read(CONVERSATIONS)


@pytest.fixture(scope="module")
def prose() -> str:
    return CORPUS.read_bytes().decode("ascii")


def texts(conversation: Conversation) -> list[str]:
    return [text for turn in conversation.turns for text in turn]


def questions(found: Found) -> list[str]:
    return [q for c in found.conversations for q, _ in c.turns]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9'-]+", text.lower())


def length(conversation: Conversation) -> int:
    return sum(len(text.split()) for text in texts(conversation))


def runs_of_eight(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + 8]) for i in range(len(found) - 7)}


def sentences(text: str) -> set[str]:
    """The sentences of four words or more, without case and punctuation."""
    parts = (words(part) for part in re.split(r"(?<=[.!?])[\"']?\s+|\n+", text))
    return {" ".join(part) for part in parts if len(part) >= 4}


def wrong(found: Found, check) -> list[int]:
    """The lines of the conversations for which `check` does not hold."""
    return [c.line for c in found.conversations if not check(c)]


def test_there_are_171_conversations_in_one_format_and_none_twice(found):
    assert len(found.conversations) == 171
    assert (found.kind, found.joined, found.duplicates, found.unread) == ("list of role and content", 0, 0, ())
    assert CONVERSATIONS.read_bytes().count(b"\n") == 171
    assert wrong(found, lambda c: c.system == "") == []


def test_at_least_25_have_two_or_three_turns_and_none_has_more(found):
    turns = Counter(len(c.turns) for c in found.conversations)
    assert turns[2] + turns[3] >= 25 and set(turns) == {1, 2, 3}


def test_no_first_question_stands_twice(found):
    assert len({" ".join(words(c.turns[0][0])) for c in found.conversations}) == 171


def test_questions_have_three_to_forty_words_but_for_a_few_greetings(found):
    counts = [len(q.split()) for q in questions(found)]
    assert min(counts) >= 2 and max(counts) <= 40
    assert sum(n < 3 for n in counts) <= 10 and sum(n >= 20 for n in counts) >= 5


def test_no_more_than_a_fifth_of_the_questions_begin_with_the_same_two_words(found):
    for asked in (questions(found), [c.turns[0][0] for c in found.conversations]):
        assert Counter(tuple(words(q)[:2]) for q in asked).most_common(1)[0][1] <= len(asked) / 5


def test_three_to_eight_conversations_are_long_on_purpose_and_the_others_have_at_most_130_words(found):
    assert 3 <= len(wrong(found, lambda c: length(c) <= 130)) <= 8


def test_answers_have_20_to_110_words_but_for_the_long_ones(found):
    assert wrong(found, lambda c: all(20 <= len(a.split()) <= (110 if length(c) <= 130 else 200) for _, a in c.turns)) == []


def test_all_but_three_to_eight_conversations_fit_the_context(found, tokenizer):
    longer = wrong(found, lambda c: len(encode_turns(c, tokenizer)[0]) <= CONTEXT)
    assert 3 <= len(longer) <= 8 and len(longer) <= 0.05 * 171
    assert longer == wrong(found, lambda c: length(c) <= 130)


def test_the_conversations_are_plain_text(found):
    assert CONVERSATIONS.read_bytes().isascii()
    assert wrong(found, lambda c: not re.search(r"\n|\t|  |`|\*\*| ,", " | ".join(texts(c)))) == []


def test_no_run_of_eight_words_stands_in_more_than_two_conversations(found):
    where = defaultdict(set)
    for c in found.conversations:
        for run in set().union(*map(runs_of_eight, texts(c))):
            where[run].add(c.line)
    assert {" ".join(run): lines for run, lines in where.items() if len(lines) > 2} == {}


def test_worn_words_stand_at_most_three_times_in_each_file(found, prose):
    for text in (" ".join(t for c in found.conversations for t in texts(c)), prose):
        assert {w: n for w in WORN if (n := text.lower().count(w)) > 3} == {}


def test_people_ask_about_at_least_fifteen_subjects_and_everyday_things(found):
    asked = " | ".join(questions(found)).lower()
    assert len([s for s, pattern in SUBJECTS.items() if re.search(rf"\b(?:{pattern})", asked)]) >= 15
    assert {"good morning", "i cannot sleep", "what should i read?"} <= {q.lower() for q in questions(found)}


def test_no_answer_stands_twice_or_claims_to_be_a_persons(found):
    answers = [a for c in found.conversations for _, a in c.turns]
    assert len(set(answers)) == len(answers)
    assert not any(re.search(r"as an ai\b|language model trained by|\bi am (?:a )?human\b", a.lower()) for a in answers)


def test_the_prose_has_at_least_200_kb_of_plain_text(prose):
    assert len(prose) >= 200_000
    assert not re.search(r"  | \n|\t|\r|^ |^#|`|\*\*", prose, re.MULTILINE)
    assert not re.search(r"^(?:Q|A):", prose, re.MULTILINE)


def test_no_run_of_eight_words_stands_in_more_than_two_paragraphs_of_the_prose(prose):
    counts = Counter(run for paragraph in prose.split("\n") for run in runs_of_eight(paragraph))
    assert [" ".join(run) for run, n in counts.items() if n > 2] == []


def test_prose_and_conversations_share_no_sentence_and_no_run_of_eight_words(found, prose):
    said = [t for c in found.conversations for t in texts(c)]
    assert set().union(*map(sentences, said)) & sentences(prose) == set()
    assert set().union(*map(runs_of_eight, said)) & set().union(*map(runs_of_eight, prose.split("\n"))) == set()
