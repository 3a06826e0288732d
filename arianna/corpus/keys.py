"""Keys of a record or a message that are not read: which are harmless, and which change what is learned.

A key is known by its words, however they are spelled: lossMask, Loss-Mask and loss_mask are one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from arianna.corpus.cleaning import LineError, json_kind, shown

SYSTEM_KEYS = ("system", "system_prompt", "system_message", "system_instruction", "system_instructions")
# keys of a message: OpenAI's, axolotl's, LLaMA-Factory's, ms-swift's
TRAINED_KEYS = ("weight", "train", "loss_weight", "training", "trainable", "loss")
NOTHING = (None, "", [], {}, False, "[]", "{}")  # placeholders
HARMLESS = {"system_fingerprint", "parallel_tool_calls", "tool_choice"}  # settings of a request
TOOLS, MEDIA, MASK = "tool and function calls", "images, sound or film", "a mask"
TRAINED, UNWANTED, OTHER = "trained", "unwanted", "other"
WORDS = {  # what a word in the name of a key stands for
    TOOLS: "tool tools function functions",
    MEDIA: "image images picture pictures audio audios video videos",
    MASK: "mask masks labels",
    TRAINED: "weight weights train trained training trainable loss learn",
    UNWANTED: "ignore ignored skip skipped exclude excluded masked deleted disabled",
    OTHER: "history context contexts input passage passages document documents background evidence choices "
    "options suffix reward rewards system persona preamble instructions",
}
MEANINGS = {word: meaning for meaning, words in WORDS.items() for word in words.split()}
OF_MESSAGES = {TOOLS, MEDIA, MASK, TRAINED, UNWANTED}  # meanings that a key of a message may have, too
PREFERENCE = re.compile(r"(?:^|_)(?:chosen|rejected|(?:non_|dis)?preferred|winner|loser|negatives?)(?:_|$)")
WANTED = re.compile(r"(?:^|_)(?:chosen|(?<!non_)preferred)(?:_|$)")
ONE_OF_TWO = re.compile(r"(?:response|completion|answer|output|conversation)_?[abjk012]")
TESTS = "test val valid validation dev eval heldout held_out".split()  # values of a key "split"


class FileError(LineError):
    """A file is faulty as a whole, as one of its lines shows: the others need no look."""


@lru_cache(maxsize=1 << 12)
def canonical(name: str) -> str:
    """A name in small letters, its words parted by an underscore."""
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())).casefold()


@lru_cache(maxsize=1 << 12)
def meaning_of(key: str) -> str:
    """The meaning of a key that is not read; empty for a harmless one."""
    name = canonical(key)
    words = () if name in HARMLESS else name.split("_")
    return next((MEANINGS[word] for word in words if word in MEANINGS), "")


def says_something(meaning: str, value: Any) -> bool:
    """Whether the value of a key is more than a placeholder: of a mask, 0 is more; of a weight, 1 is none."""
    return value not in {MASK: (None,), TRAINED: (None, 1)}.get(meaning, NOTHING)  # True is equal to 1


def check_keys(record: Any, keys: tuple[str, ...]) -> frozenset[str]:
    """The keys of a record that are not read. Raises FileError for one that changes what is to be learned."""
    if not isinstance(record, dict) or not (others := record.keys() - {*keys, "system"}):
        return frozenset()
    refuse_preferences(record)
    others = {key for key in others if canonical(key) not in SYSTEM_KEYS}
    for key in sorted(others):
        meaning = meaning_of(key)
        if meaning == TRAINED and canonical(key) in TRAINED_KEYS and says_something(meaning, record[key]):
            raise FileError(
                f"the object has {shown(key)}, which is read on a message alone; put it there or take it out"
            )
        if meaning and says_something(meaning, record[key]):
            raise FileError(
                f"the object has {shown(key)}, {reason(meaning)}; "
                "take such conversations out, or the key if it may be ignored"
            )
    if record.get("label") is not None:
        raise FileError(
            "the object has 'label', which says whether an answer is wanted and is not read here; "
            "keep the wanted ones, without the key"
        )
    if isinstance(split := record.get("split"), str) and canonical(split) in TESTS:
        raise FileError(
            f"the object has 'split' {shown(split)}, so it is not for training; "
            "take such conversations out, or the key if it may be ignored"
        )
    return frozenset(others)


def check_message_keys(item: dict[str, Any], number: int) -> None:
    """Raise FileError for a key of a message that would change what is to be learned."""
    for key, value in item.items():
        meaning = meaning_of(key)
        if meaning not in OF_MESSAGES or (meaning == TRAINED and canonical(key) in TRAINED_KEYS):
            continue
        if says_something(meaning, value):
            raise FileError(
                f"message {number} has {shown(key)}, {reason(meaning)}; take such conversations out"
            )


def reason(meaning: str) -> str:
    """Why a key of this meaning cannot be left unread."""
    if meaning in (TOOLS, MEDIA):
        return f"{meaning}, which a model of text alone cannot learn"
    return "which changes what is to be learned and is not read here"


def is_trained(item: dict[str, Any], number: int) -> bool:
    """Whether a message is to be trained, by the keys that other tools know for that."""
    values = {
        key: value for key, value in item.items() if canonical(key) in TRAINED_KEYS and value is not None
    }
    for key, value in values.items():
        if value not in (0, 1):  # True and False are equal to them
            shown_value = f"{value:g}" if isinstance(value, float) else json_kind(value)
            raise FileError(
                f"message {number} has {shown(key)} {shown_value}; an answer is trained (1) or not (0), "
                "nothing between"
            )
    return all(values.values())


def refuse_preferences(record: dict[str, Any]) -> None:
    """Raise FileError for a record with a wanted and an unwanted answer."""
    names = {key: canonical(key) for key in record}
    marked = [key for key, name in names.items() if PREFERENCE.search(name) and record[key] not in NOTHING]
    if not marked and sum(ONE_OF_TWO.fullmatch(name) is not None for name in names.values()) < 2:
        return
    wanted = next((key for key in marked if WANTED.search(names[key])), None)
    if wanted is None:
        remedy = "keep the wanted answer alone, as a prompt and its completion"
    elif isinstance(record[wanted], list):
        remedy = f"keep {shown(wanted)} alone, named messages"
    else:
        remedy = f"keep the prompt and {shown(wanted)}, named prompt and completion"
    raise FileError(
        f"the object is a preference pair (its keys are {', '.join(map(shown, [*record][:8]))}); there is no "
        f"training on preferences here: {remedy}"
    )


def system_beside(record: Any) -> Any:
    """The system text of a record that stands beside its messages; "" if there is none."""
    if not isinstance(record, dict):
        return ""
    texts = {key: text for key, text in record.items() if text and canonical(key) in SYSTEM_KEYS}
    first, *others = texts or [""]
    if any(texts[key] != texts[first] for key in others):
        raise LineError(f"the object has both {shown(first)} and {shown(others[0])}; it needs one of them")
    text = texts.get(first, "")
    return text["parts"] if isinstance(text, dict) and "parts" in text else text  # Gemini's
