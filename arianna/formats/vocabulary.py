"""How other programs turn text into tokens: the tokenizer's pieces and the chat template. For the formats that carry both."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from arianna.corpus.template import ASSISTANT, USER
from tokenizer import BOS, FIRST_BYTE, FIRST_PIECE, SPACE, UNK, Tokenizer

MADE_BY = "InnerArianna"  # the mark in a file or a folder by which a later export knows that it may replace it

# template.render in Jinja: each turn ends with BOS, system text stands on its own line ahead of a question
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% set content = message['content'] | trim %}"
    "{% if message['role'] == 'system' %}{% if content %}{{ content + '\\n' }}{% endif %}"
    f"{{% elif message['role'] == 'user' %}}{{{{ '{USER} ' + content + '\\n' }}}}"
    f"{{% elif message['role'] == 'assistant' %}}{{{{ '{ASSISTANT} ' + content + '\\n' + bos_token }}}}"
    "{% else %}{{ raise_exception('roles are system, user and assistant') }}{% endif %}{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{ASSISTANT}' }}}}{{% endif %}}"
)

TRIED = [  # texts on which a tokenizer must be what other programs take it for
    "".join(map(chr, range(128))),
    " leading,  double   and trailing spaces  ",
    "lines\nand\r\n\n\nmore\tlines\n",
    "1234567890 ------ ====== ...... aaaaaaa lllllll",
    "na\u00efve caf\u00e9, \u2018single\u2019 \u201cdouble\u201d \u2014 dashes \u2013 and\u2026",
    "\u2581 \ufb01 \u212b e\u0301 \u00a0 \u200b \ufeff \u65e5\u672c\u8a9e \u0434\u0430 \U0001f44b\U0001f3fd",
]


class Piece(NamedTuple):
    """A token: its text, with SPACE for a space, and its score (the higher, the sooner it is merged)."""

    text: str
    score: float
    kind: Literal["unknown", "control", "byte", "normal"]


def pieces(tokenizer: Tokenizer) -> list[Piece]:
    """All tokens by id. Raises ValueError for a tokenizer that other programs would read differently (see `check_merges`)."""
    found = listed(tokenizer)
    check_merges(tokenizer, found)
    return found


def listed(tokenizer: Tokenizer) -> list[Piece]:
    """All tokens by id, of any tokenizer."""
    sp = tokenizer.sp
    kinds = {UNK: "unknown"} | dict.fromkeys(range(FIRST_BYTE, FIRST_PIECE), "byte")
    return [
        Piece(sp.id_to_piece(i), sp.get_score(i), "control" if sp.is_control(i) else kinds.get(i, "normal"))
        for i in range(tokenizer.vocab_size)
    ]


def check_merges(tokenizer: Tokenizer, found: list[Piece]) -> None:
    """Raise ValueError unless merging pieces by score gives the tokenizer's own ids, for sample texts and each piece by itself.

    It does for SentencePiece's BPE with identity normalization, a space put in front and no spaces taken away; not for unigram models.
    """
    ids = {piece.text: i for i, piece in enumerate(found) if piece.kind == "normal"}
    for text in [*TRIED, *(name.replace(SPACE, " ") for name in ids)]:
        if merged(text, ids, found) != tokenizer.encode(text):
            raise ValueError(
                f"{tokenizer.path} splits {text[:40]!r} differently from the plain BPE that transformers and llama.cpp would make of it. "
                "Such a tokenizer cannot be exported; `python arianna_data.py train_vocab` trains one that can."
            )


def merged(text: str, ids: dict[str, int], found: list[Piece]) -> list[int]:
    """Token ids as transformers and llama.cpp compute them: the pair of highest score first, the leftmost of equals, bytes at last."""
    symbols = list(f"{SPACE}{text.replace(' ', SPACE)}") if text else []
    while pairs := [(-found[ids[a + b]].score, i) for i, (a, b) in enumerate(zip(symbols, symbols[1:], strict=False)) if a + b in ids]:
        _, i = min(pairs)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    return [i for s in symbols for i in ([ids[s]] if s in ids else [FIRST_BYTE + byte for byte in s.encode()])]


def tokenizer_json(found: list[Piece]) -> dict[str, Any]:
    """SentencePiece's BPE for the tokenizers library. BOS and EOS are also found by name within a text: chat templates need that."""
    bos = found[BOS].text
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": p.text, **flags} for i, p in enumerate(found) if p.kind == "control"],
        "normalizer": {  # a text, and each part of it behind a special token, gets SentencePiece's space in front
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template_parts(bos, "A", 0),
            "pair": [part for n, s in enumerate("AB") for part in template_parts(bos, s, n)],
            "special_tokens": {bos: {"id": bos, "ids": [BOS], "tokens": [bos]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "vocab": {piece.text: i for i, piece in enumerate(found)},
            "merges": merges(found),
        },
    }


def template_parts(bos: str, text: str, number: int) -> list[dict[str, Any]]:
    """BOS and a text behind it."""
    return [{"SpecialToken": {"id": bos, "type_id": number}}, {"Sequence": {"id": text, "type_id": number}}]


def merges(found: list[Piece]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two, the pieces of highest score first: SentencePiece merges whichever pair it meets."""
    normal = {piece.text: -piece.score for piece in found if piece.kind == "normal"}
    pairs = ((rank, cut, text[:cut], text[cut:]) for text, rank in normal.items() for cut in range(1, len(text)))
    return [(a, b) for _, _, a, b in sorted(pair for pair in pairs if pair[2] in normal and pair[3] in normal)]
