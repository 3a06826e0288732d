"""One JSON record of a file: which format it has, and its messages. Standard library only.

[{"role": "system", "content": ...}, {"role": "user", "content": ...}, {"role": "assistant", ...}, ...]
{"messages": [the same list]}
{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}
{"prompt": ..., "completion": ...}
{"instruction": ..., "input": ..., "output": ...}      and their like, see `kind_of`
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NamedTuple, NoReturn

from arianna.corpus.cleaning import FOREIGN, LineError, json_kind, shown
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
SYSTEM_KEYS = ("system", "system_prompt")
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
USUAL = {"user", "assistant", "system", "human", "gpt"}  # names of roles that need no word
TOOL_ROLES = set(
    "tool function ipython observation tool_call tool_response function_call function_response".split()
)
TRAINED_KEYS = ("weight", "train", "loss_weight")  # OpenAI's, axolotl's and LLaMA-Factory's
TOOL_KEYS = ("tools", "functions", "tool_calls", "function_call", "tool_call_id")
MEDIA_KEYS = ("images", "image", "image_url", "audios", "audio", "input_audio", "videos", "video")
MASK_KEYS = ("loss_mask", "mask")
OTHER_KEYS = ("history", "context", *MASK_KEYS)  # keys of a record that change what is to be learned
PREFERENCE_KEYS = ("chosen", "rejected")
NOTHING = (None, "", [], {}, False)

COMMAS = "lines end in a comma, which was left out"
NAMED = "messages are from {}, read as the {}"


class FileError(LineError):
    """A file is faulty as a whole, as one of its lines shows: the others need no look."""


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
        if record and (
            isinstance(record[0], list)
            or (isinstance(record[0], dict) and record[0].keys() & {*LISTS, *QUESTION_KEYS})
        ):
            raise LineError("the line is a list of conversations; each needs a line of its own")
        return "list of role and content", ()
    if not isinstance(record, dict):
        raise LineError(f"the line is {json_kind(record)}, not a list of messages")
    formats = [(words, (key,)) for key, words in LISTS.items() if key in record]
    questions, answers = ([key for key in keys if key in record] for keys in (QUESTION_KEYS, ANSWER_KEYS))
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
        f"the object has neither 'messages' nor 'conversations' nor 'prompt' and 'completion' ({keys}); {HOW}"
    )


def refuse_preferences(record: dict[str, Any]) -> None:
    """Raise FileError for a pair of a chosen and a rejected answer."""
    if present := [key for key in PREFERENCE_KEYS if key in record]:
        raise FileError(
            f"the object is a preference pair (its keys are {', '.join(map(shown, [*record][:8]))}); "
            "there is no training on preferences here: "
            f"keep the prompt and {shown(present[0])}, named prompt and completion"
        )


def check_keys(record: Any, keys: tuple[str, ...]) -> frozenset[str]:
    """The keys of a record that are not read. Raises FileError for one that changes what is to be learned."""
    if not isinstance(record, dict):
        return frozenset()
    others = record.keys() - {*keys, *SYSTEM_KEYS}
    if not others:
        return frozenset()
    refuse_preferences(record)
    for key in (*TOOL_KEYS, *MEDIA_KEYS, *OTHER_KEYS):
        if key in others and says_something(key, record):
            raise FileError(
                f"the object has {shown(key)}, {meaning(key)}; "
                "take such conversations out, or the key if it may be ignored"
            )
    if record.get("label") is not None:
        raise FileError(
            "the object has 'label', which says whether an answer is wanted and is not read here; "
            "keep the wanted ones"
        )
    for key in TRAINED_KEYS:
        if key in others and record[key] not in (None, 1):  # True is equal to 1
            raise FileError(
                f"the object has {shown(key)}, which is read on a message alone; put it there or take it out"
            )
    return frozenset(others)


def says_something(key: str, record: dict[str, Any]) -> bool:
    """Whether a key is there with a value that is more than a placeholder; of a mask, 0 is more."""
    return record.get(key) not in ((None,) if key in MASK_KEYS else NOTHING)


def meaning(key: str) -> str:
    """The meaning of a key that is not read, in words."""
    if key in TOOL_KEYS:
        return "tool and function calls, which a model of text alone cannot learn"
    if key in MEDIA_KEYS:
        return "images, sound or film, which a model of text alone cannot learn"
    return "which changes what is to be learned and is not read here"


def messages_of(record: Any, keys: tuple[str, ...]) -> list[Any]:
    """The messages of a record, whichever of the formats it has."""
    if len(keys) < 2:
        messages = record[keys[0]] if keys else record
        if not isinstance(messages, list):
            quoted = isinstance(messages, str) and messages[:1] in "[{"
            hint = "; it is JSON within quotes: write it without them" if quoted else ""
            raise LineError(f"the messages are {json_kind(messages)}, not a list{hint}")
        return messages
    question, answer, *about = (record[key] for key in keys)
    about = list(filter(None, about))
    if isinstance(question, list) and isinstance(answer, list):
        return question + answer
    if isinstance(question, str) and all(isinstance(text, str) for text in about):
        question = "\n".join([question, *about])
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


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


def check_message_keys(item: dict[str, Any], number: int) -> None:
    """Raise FileError for a key of a message that would change what is to be learned."""
    for key in (*TOOL_KEYS, *MEDIA_KEYS, *MASK_KEYS):
        if says_something(key, item):
            raise FileError(f"message {number} has {shown(key)}, {meaning(key)}; take such conversations out")


def role_of(name: Any, number: int, counts: Counter[str]) -> str:
    """user, assistant or system, from one of the names that are in use."""
    if name in ("user", "assistant"):  # by far the most
        return name
    role = ROLES.get(name.strip().casefold()) if isinstance(name, str) else None
    if role is None:
        if isinstance(name, str) and name.strip().casefold() in TOOL_ROLES:
            raise FileError(
                f"message {number} is from {shown(name)}, {meaning('tools')}; take such conversations out"
            )
        what = shown(name) if isinstance(name, str) else json_kind(name)
        raise LineError(
            f"message {number} has the unknown role {what}; "
            "known are user, assistant, system and their usual names"
        )
    if name not in USUAL:
        counts[NAMED.format(shown(name), role)] += 1
    return role


def is_trained(item: dict[str, Any], number: int) -> bool:
    """Whether a message is to be trained, by the keys that other tools know for that."""
    values = {key: item[key] for key in TRAINED_KEYS if item.get(key) is not None}
    for key, value in values.items():
        if value not in (0, 1):  # True and False are equal to them
            shown_value = f"{value:g}" if isinstance(value, float) else json_kind(value)
            raise FileError(
                f"message {number} has {shown(key)} {shown_value}; "
                "an answer is trained (1) or not (0), nothing between"
            )
    return all(values.values())


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
        if not isinstance(text, str):
            raise LineError(f"{name} has a part that is {json_kind(text)}, not text")
        texts.append(text)
    return "\n".join(texts)
