"""The tokenizer's pieces and the chat template as other programs know them, for formats that carry both."""

from __future__ import annotations

import re
from itertools import chain, pairwise
from typing import Any, Literal, NamedTuple

from arianna.corpus.template import ASSISTANT, USER
from tokenizer import BOS, FIRST_BYTE, FIRST_PIECE, SPACE, UNK, Tokenizer

MADE_BY = "InnerArianna"  # the program's name in files

# template.render in Jinja: each turn ends with BOS, system text stands on its own line ahead of a question
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% set content = message['content'] %}"
    "{% if content is not string %}"  # a list of parts, all of them text
    "{% for part in content %}{% if part['type'] != 'text' %}"
    "{{ raise_exception('only text parts can be read') }}{% endif %}{% endfor %}"
    "{% set content = content | map(attribute='text') | join('\\n') %}{% endif %}"
    "{% set content = content | trim %}"
    "{% if message['role'] == 'system' %}{% if content %}{{ content + '\\n' }}{% endif %}"
    f"{{% elif message['role'] == 'user' %}}{{{{ '{USER} ' + content + '\\n' }}}}"
    f"{{% elif message['role'] == 'assistant' %}}{{{{ '{ASSISTANT} ' + content + '\\n' + bos_token }}}}"
    "{% else %}{{ raise_exception('roles are system, user and assistant') }}{% endif %}{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{ASSISTANT}' }}}}{{% endif %}}"
)

# signs that Unicode's NFKC replaces, and others
RARE = (
    "and\u2026 \u2581 \ufb01 \u212b e\u0301 \u00a0 \u200b \ufeff "
    "\u65e5\u672c\u8a9e \u0434\u0430 \U0001f44b\U0001f3fd"
)
ORDINARY = [  # texts on which a tokenizer must be what other programs take it for
    "".join(map(chr, range(128))),
    " leading,  double   and trailing spaces  ",
    "lines\nand\r\n\n\nmore\tlines\n",
    "1234567890 ------ ====== ...... aaaaaaa lllllll",
    "na\u00efve caf\u00e9, \u2018single\u2019 \u201cdouble\u201d \u2014 dashes \u2013 and",
]
TRIED = [*ORDINARY, RARE]


class Piece(NamedTuple):
    """A token: its text, with SPACE for a space, and its score (the higher, the sooner it is merged)."""

    text: str
    score: float
    kind: Literal["unknown", "control", "byte", "normal"]


def pieces(tokenizer: Tokenizer) -> list[Piece]:
    """All tokens by id. Raises ValueError for a tokenizer that other programs would read differently."""
    tokens = listed(tokenizer)
    check_merges(tokenizer, tokens)
    return tokens


def listed(tokenizer: Tokenizer) -> list[Piece]:
    """All tokens by id, of any tokenizer."""
    sp, ids = tokenizer.sp, range(tokenizer.vocab_size)
    kinds = {UNK: "unknown"} | dict.fromkeys(range(FIRST_BYTE, FIRST_PIECE), "byte")
    kinds |= {i: "control" for i in ids if sp.is_control(i)}
    return [Piece(sp.id_to_piece(i), sp.get_score(i), kinds.get(i, "normal")) for i in ids]


def check_merges(tokenizer: Tokenizer, tokens: list[Piece]) -> None:
    """Raise ValueError unless merging by score gives the tokenizer's ids for ordinary texts and each piece.

    It does for SentencePiece's BPE with a space put in front; not for unigram models. A tokenizer that
    `collapses`, as those of llama2.c's own train_vocab do, is compared on texts without such spaces.
    """
    ids = {piece.text: i for i, piece in enumerate(tokens) if piece.kind == "normal"}
    for text in [*ORDINARY, *(name.replace(SPACE, " ") for name in ids)]:
        if collapses(tokenizer):
            text = collapsed(text)
        if merged(text, ids, tokens) != tokenizer.encode(text):
            raise ValueError(
                f"{tokenizer.path} splits {text[:40]!r} differently from the plain BPE that transformers "
                "and llama.cpp would make of it. Such a tokenizer cannot be exported; "
                "`python arianna_data.py train_vocab` trains one that can."
            )


def collapses(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer drops spaces at the ends of a text and joins several to one."""
    return tokenizer.encode("a  b") == tokenizer.encode("a b")


def collapsed(text: str) -> str:
    """The text as such a tokenizer sees it."""
    return re.sub(" {2,}", " ", text.strip(" "))


def differences(tokenizer: Tokenizer, spaces_kept: bool) -> str | None:
    """A sentence on texts that a program with the tokens of `pieces` splits differently; None if none.

    `spaces_kept`: the program sees every space of a text.
    """
    tokens = listed(tokenizer)
    ids = {piece.text: i for i, piece in enumerate(tokens) if piece.kind == "normal"}
    texts = []
    if merged(RARE, ids, tokens) != tokenizer.encode(RARE):
        texts.append("signs that Unicode's NFKC replaces, such as \u2026 and \ufb01")
    if spaces_kept and collapses(tokenizer):
        texts.append("texts with spaces at their ends or several in a row")
    if not texts:
        return None
    what = " and ".join(texts)
    return (
        f"{tokenizer.path} changes text before it splits it, "
        f"which the program that opens this does not: {what} get other tokens there."
    )


def merged(text: str, ids: dict[str, int], tokens: list[Piece]) -> list[int]:
    """Token ids as other programs compute them: the pair of highest score is merged first, bytes come last.

    Of pairs of equal score the leftmost is merged.
    """
    symbols = list(f"{SPACE}{text.replace(' ', SPACE)}") if text else []
    while pairs := [(i, a + b) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in ids]:
        i, both = max(pairs, key=lambda pair: tokens[ids[pair[1]]].score)
        symbols[i : i + 2] = [both]
    spelled = ([ids[s]] if s in ids else [FIRST_BYTE + byte for byte in s.encode()] for s in symbols)
    return list(chain.from_iterable(spelled))


def tokenizer_json(tokens: list[Piece], collapses: bool = False) -> dict[str, Any]:
    """SentencePiece's BPE for the tokenizers library. `collapses`: whether it drops spaces.

    BOS and EOS are also tokens where their names stand within a text: chat templates need that.
    """
    bos = tokens[BOS].text
    ends = [replace({"Regex": r"\A +| +\z"}, ""), replace({"Regex": " {2,}"}, " ")] if collapses else []
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    control = [(i, piece.text) for i, piece in enumerate(tokens) if piece.kind == "control"]
    # a text, and each piece of it behind a special token, gets SentencePiece's space in front
    normalizers = [*ends, {"type": "Prepend", "prepend": SPACE}, replace({"String": " "}, SPACE)]
    decoders = [replace({"String": SPACE}, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    decoders += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    bpe = {"type": "BPE", "unk_token": None, "fuse_unk": False, "byte_fallback": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": text, **flags} for i, text in control],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": behind_bos(bos, "A", 0),
            "pair": behind_bos(bos, "A", 0) + behind_bos(bos, "B", 1),
            "special_tokens": {bos: {"id": bos, "ids": [BOS], "tokens": [bos]}},
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            **bpe,
            "vocab": {piece.text: i for i, piece in enumerate(tokens)},
            "merges": merges(tokens),
        },
    }


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    """A rule of the tokenizers library that replaces a pattern by a content."""
    return {"type": "Replace", "pattern": pattern, "content": content}


def behind_bos(bos: str, text: str, number: int) -> list[dict[str, Any]]:
    """The tokenizers library's rule for BOS and a text behind it."""
    return [{"SpecialToken": {"id": bos, "type_id": number}}, {"Sequence": {"id": text, "type_id": number}}]


def merges(tokens: list[Piece]) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, the one of highest score first, as SentencePiece merges them."""
    normal = {piece.text: -piece.score for piece in tokens if piece.kind == "normal"}
    cuts = ((rank, cut, text) for text, rank in normal.items() for cut in range(1, len(text)))
    pairs = ((text[:cut], text[cut:]) for _, cut, text in sorted(cuts))
    return [(a, b) for a, b in pairs if a in normal and b in normal]
