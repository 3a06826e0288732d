"""One JSON record of a file: which format it has, and its messages. Standard library only.

[{"role": "system", "content": ...}, {"role": "user", "content": ...}, {"role": "assistant", ...}, ...]
{"messages": [the same list]}
{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}
{"prompt": ..., "completion": ...}
{"instruction": ..., "input": ..., "output": ...}      and their like, see `kind_of`
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NamedTuple, NoReturn

from arianna.corpus.cleaning import FOREIGN, LineError, json_kind, shown
from arianna.corpus.keys import (
    NOTHING,
    TOOLS,
    FileError,
    canonical,
    check_message_keys,
    is_trained,
    reason,
    refuse_preferences,
)
from arianna.corpus.sources import HOW, MAX_LINE
from arianna.corpus.template import FORGED

LISTS = {  # keys of a list of messages, and what the format is called
    "messages": "object with messages",
    "conversations": "ShareGPT object with conversations",
    "conversation": "object with conversation",
    "contents": "Gemini object with contents",
}
QUESTION_KEYS = ("prompt", "question", "instruction", "query")
ANSWER_KEYS = ("completion", "response", "answer", "output")
INPUT_KEYS = ("input", "context")  # what an instruction is about
NO_INPUT = (*NOTHING, "<noinput>")  # Alpaca's
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
USUAL = {"user", "assistant", "system", "human", "gpt"}  # names of roles that need no word
TOOL_ROLE = re.compile("tool|function|ipython|observation")

COMMAS = "lines end in a comma, which was left out"
NAMED = "messages are from {}, read as the {}"


class Message(NamedTuple):
    """One message, its content as it stands in the file."""

    number: int
    role: str  # user, assistant or system
    content: Any
    trained: bool
    name: Any = ""  # the role as it stands in the file


def decode(raw: bytes) -> tuple[Any, Counter[str]]:
    """The JSON value of a record, and what was ignored. Stricter than json.loads: no NaN, no key twice."""
    if len(raw) > MAX_LINE:
        raise LineError(f"the line is longer than {MAX_LINE:,} bytes, the most that a conversation may have")
    try:
        text = raw.decode("utf-8-sig").strip()
        try:
            return JSON.decode(text), Counter()
        except json.JSONDecodeError:
            if not text.endswith(","):
                raise
            return JSON.decode(text[:-1]), Counter({COMMAS: 1})
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise LineError(
            f"the line is not UTF-8 (byte {error.start + 1} is 0x{byte:02X}); save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise LineError(
            f"the line is not JSON ({error.msg}, column {error.colno}); each line needs a whole conversation"
        ) from None
    except RecursionError:
        raise LineError(
            "the line is nested too deeply; a conversation is a list of messages and no more"
        ) from None


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise LineError(f"the key {shown(name)} stands twice in one object")
    return record


def no_number(word: str) -> NoReturn:
    raise LineError(f"{word} is not JSON")


# numbers become float, since int() refuses 5,000 digits
JSON = json.JSONDecoder(object_pairs_hook=unique, parse_constant=no_number, parse_int=float)


# ---- formats ----


def kind_of(record: Any) -> tuple[str, tuple[str, ...]]:
    """Which format a record has, in words, and the keys that make it that."""
    if isinstance(record, list):
        if holds_records(record):
            raise LineError("the line is a list of conversations; each needs a line of its own")
        return "list of role and content", ()
    if not isinstance(record, dict):
        raise LineError(f"the line is {json_kind(record)}, not a list of messages{within_quotes(record)}")
    formats = [(words, (key,)) for key, words in LISTS.items() if key in record]
    questions, answers = ([key for key in keys if key in record] for keys in (QUESTION_KEYS, ANSWER_KEYS))
    questions = questions or ["input"] * ("input" in record)
    if questions and answers:
        formats.append(pair_format(record, questions, answers))
    if len(formats) == 1:
        return formats[0]
    if formats:
        raise LineError(
            f"the object has both {formats[0][1][0]!r} and {formats[1][1][0]!r}; it needs one of them"
        )
    refuse_object(record)


def pair_format(
    record: dict[str, Any], questions: list[str], answers: list[str]
) -> tuple[str, tuple[str, ...]]:
    """The format of an object with a question and an answer under keys of their own."""
    for keys in (questions, answers):
        if len(keys) > 1:
            raise LineError(f"the object has both {keys[0]!r} and {keys[1]!r}; it needs one of them")
    keys = (questions[0], answers[0])
    if keys[0] == "instruction":
        inputs = [key for key in INPUT_KEYS if key in record]
        return f"Alpaca object with instruction and {keys[1]}", (*keys, *inputs)
    lists = "lists of " if isinstance(record[keys[0]], list) else ""
    return f"object with {lists}{keys[0]} and {keys[1]}", keys


def refuse_object(record: dict[str, Any]) -> NoReturn:
    """Raise what is wrong with an object that has none of the formats."""
    keys = f"its keys are {', '.join(shown(key) for key in [*record][:8])}" if record else "it has no keys"
    refuse_preferences(record)
    if isinstance(record.get("text"), str):
        mark = FOREIGN.search(record["text"])
        template = f"a template ({mark[0]})" if mark else "no roles"
        if FORGED.search(record["text"]):
            template = "the template Q: and A:"
        raise FileError(
            f"the object is text with {template} ({keys}); make it an object with prompt and completion"
        )
    for name in QUESTION_KEYS:
        if name in record:
            raise LineError(f"the object has a {name!r} but no 'completion' ({keys})")
    raise LineError(
        f"the object has neither 'messages' nor 'conversations' nor 'prompt' and 'completion' ({keys}); "
        f"{taken_out(record) or HOW}"
    )


def taken_out(record: dict[str, Any]) -> str:
    """Advice on an object that holds records under a key; empty if it does not."""
    for key, value in record.items():
        first, of_each = (value[0], "[]") if isinstance(value, list) and value else (value, "")
        if not holds_records([first]):
            continue
        what = "records lie in the list" if of_each else "conversation lies under"
        command = f", with jq -c '.{key}{of_each}' for instance" if key.isidentifier() else ""
        return f"its {what} {shown(key)}: write that alone{command}"
    return ""


def holds_records(values: Any) -> bool:
    """Whether a list holds whole conversations."""
    first = values[0] if isinstance(values, list) and values else None
    return isinstance(first, list) or (
        isinstance(first, dict) and bool(first.keys() & {*LISTS, *QUESTION_KEYS})
    )


def messages_of(record: Any, keys: tuple[str, ...]) -> list[Any]:
    """The messages of a record, whichever of the formats it has."""
    if len(keys) < 2:
        messages = record[keys[0]] if keys else record
        if not isinstance(messages, list):
            raise LineError(f"the messages are {json_kind(messages)}, not a list{within_quotes(messages)}")
        if keys and holds_records(messages):
            raise LineError(f"{shown(keys[0])} holds whole conversations; write that list alone into a file")
        return messages
    question, answer = record[keys[0]], record[keys[1]]
    check_columns(keys, question, answer)
    if isinstance(question, list) and any(isinstance(m, dict) and "role" in m for m in question):
        return question + in_messages(answer)
    about = [about_text(record[key], key) for key in keys[2:] if record[key] not in NO_INPUT]
    if isinstance(question, str):
        question = "\n".join([question, *about])
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def within_quotes(value: Any) -> str:
    """Advice on a text that is JSON itself."""
    is_json = isinstance(value, str) and value[:1] in ("[", "{")
    return "; it is JSON within quotes: write it without them" if is_json else ""


def check_columns(keys: tuple[str, ...], *values: Any) -> None:
    """Raise LineError for columns of a table in place of a question and an answer, or for several answers."""
    several = [isinstance(v, list) and len(v) > 1 and all(isinstance(x, str) for x in v) for v in values]
    if all(several) or all(isinstance(v, dict) and "role" not in v for v in values):
        raise LineError(
            f"{shown(keys[0])} and {shown(keys[1])} are whole columns; one record a line is needed, with "
            "pandas: to_json(out, orient='records', lines=True)"
        )
    for key, value, are_texts in zip(keys, values, several, strict=False):
        if are_texts:
            raise LineError(f"{shown(key)} is a list of {len(value)} texts, of which one is needed")


def in_messages(answer: Any) -> list[Any]:
    """An answer behind a list of messages as such a list."""
    if isinstance(answer, list):
        return answer
    return [answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}]


def about_text(text: Any, key: str) -> str:
    if not isinstance(text, str):
        raise LineError(f"the {key} is {json_kind(text)}, not text")
    return text


def message(item: Any, number: int, names: tuple[str, str], counts: Counter[str]) -> Message:
    """One message of a list. `names`: the usual keys of role and content, for faults."""
    if not isinstance(item, dict):
        raise LineError(
            f"message {number} is {json_kind(item)}, not an object with '{names[0]}' and '{names[1]}'"
        )
    if len(item) == 2 and "role" in item and "content" in item:  # by far the most are so
        return Message(number, role_of(item["role"], number, counts), item["content"], True, item["role"])
    role_key = next((key for key in ("role", "from") if key in item), None)
    content_key = next((key for key in ("content", "value", "parts") if key in item), None)
    check_message_keys(item, number)
    for key, name in zip((role_key, content_key), names, strict=True):
        if key is None:
            raise LineError(f"message {number} has no '{name}'")
    role = role_of(item[role_key], number, counts)
    return Message(number, role, item[content_key], is_trained(item, number), item[role_key])


def role_of(name: Any, number: int, counts: Counter[str]) -> str:
    """user, assistant or system, from one of the names that are in use."""
    if name in ("user", "assistant"):  # by far the most
        return name
    role = ROLES.get(name.strip().casefold()) if isinstance(name, str) else None
    if role is None:
        if isinstance(name, str) and TOOL_ROLE.match(canonical(name)):
            raise FileError(
                f"message {number} is from {shown(name)}, {reason(TOOLS)}; take such conversations out"
            )
        what = shown(name) if isinstance(name, str) else json_kind(name)
        raise LineError(
            f"message {number} has the unknown role {what}; "
            "known are user, assistant, system and their usual names"
        )
    if name not in USUAL:
        counts[NAMED.format(shown(name), role)] += 1
    return role


def plain(content: Any, name: str) -> str:
    """Content as text; a list of texts is joined by new lines."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise LineError(f"{name} is {json_kind(content)}, not text")
    texts = []
    for item in content:
        kind = item.get("type", "text") if isinstance(item, dict) else None
        if isinstance(item, dict) and kind not in ("text", "input_text", "output_text"):
            raise FileError(
                f"{name} has a part of type {shown(str(kind))}; "
                "only text can be learned: take such conversations out"
            )
        text = item.get("text") if isinstance(item, dict) else item
        if isinstance(item, dict) and text is None:
            raise FileError(
                f"{name} has a part of {', '.join(map(shown, item)) or 'nothing'}; only text can be learned: "
                "take such conversations out"
            )
        if not isinstance(text, str):
            raise LineError(f"{name} has a part that is {json_kind(text)}, not text")
        texts.append(text)
    return "\n".join(texts)
