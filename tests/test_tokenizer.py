"""The tokenizer, and tokenizer.bin as a C program sees it."""

import struct

import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceTrainer

import tokenizer as module
from arianna.system import config
from tokenizer import Tokenizer, main, train

SHIPPED = ROOT / "data/tok4096.model"

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n\n",
    "a",
    " a",
    "a ",
    "Hello",
    "Q: What is consciousness?\nA: I do not know.\n",
    "Q: Who are you?\nA: A small model. I have seven million numbers and no name for the sea.\n",
    "two  spaces",
    "three   spaces and  two",
    "    four in front",
    "behind    ",
    "a line\nand another",
    "a line\n\nand one after an empty line\n",
    "\nin front",
    "tab\tand\ttab",
    "carriage\r\nreturn",
    "1234567890",
    "The year 1984, page 12, 3.14159",
    "well-known, half-hearted; (and more) [brackets] {braces}",
    "\"straight\" and 'single'",
    "“typographic” and ‘single’ — a dash – another… and an ellipsis",
    "café, naïve, façade, über, señor",
    "Élan, Œuvre, Ça, Ñandú",
    "£5 and §3 and 20°",
    "smile 😀",
    "👩‍🚀 goes up",
    "日本語のテキスト",
    "русский текст",
    "ελληνικά",
    "mixed 漢字 and é and 😀 in one line",
    "e\u0301 as two characters",
    "a\u00a0no-break space",
    "soft\u00adhyphen",
    "zero\u200bwidth",
    "UPPER CASE AND lower case",
    "aaaaaaaaaaaaaaaaaaaaaaaa",
    "abababababababab",
    "the the the the",
    "thethethethe",
    "unbelievably antidisestablishmentarianism",
    "<s> </s> <unk>",
    "a < b > c & d | e ~ f ^ g ` h",
    "https://example.org/a?b=c&d=%20#e",
    "def f(x):\n    return x  # two spaces",
    "I cannot sleep. The rain has been talking to the roof since midnight, and neither of them will give "
    "way.",
    "Silence is not empty;  it is the room in which a word can be heard twice.\n\nThat is all.",
]


def read_bin(data: bytes) -> tuple[int, list[tuple[float, bytes]]]:
    """What run.c reads from tokenizer.bin: the longest length, and each token's score and bytes."""
    (longest,), at, tokens = struct.unpack_from("<i", data), 4, []
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        tokens.append((score, data[at + 8 : at + 8 + length]))
        assert len(tokens[-1][1]) == length
        at += 8 + length
    return longest, tokens


def encode_as_c(text: str, tokens: list[tuple[float, bytes]], ids: dict[bytes, int]) -> list[int]:
    """run.c's encode: a token per character, or one per byte; then the best-scored neighbours become one
    until none do."""
    found = [ids[b" "]] if text else []
    for char in text:
        piece = char.encode()
        found += [ids[piece]] if piece in ids else [byte + 3 for byte in piece]
    while True:
        best_score, best_id, best_at = -1e10, -1, -1
        for at in range(len(found) - 1):
            joined = ids.get(tokens[found[at]][1] + tokens[found[at + 1]][1], -1)
            if joined != -1 and tokens[joined][0] > best_score:
                best_score, best_id, best_at = tokens[joined][0], joined, at
        if best_at == -1:
            return found
        found[best_at : best_at + 2] = [best_id]


def decode_as_c(found: list[int], tokens: list[tuple[float, bytes]]) -> bytes:
    """run.c's decode, piece after piece: no space behind BOS, <0x..> is the byte."""
    pieces = [bytes([i - 3]) if 3 <= i < 259 else tokens[i][1] for i in found]
    return b"".join(pieces[:1]).removeprefix(b" ") + b"".join(pieces[1:])


@pytest.fixture(scope="module")
def bin_tokens(tokenizer):
    return read_bin(tokenizer.to_bin())[1]


def test_tokenizer_bin_holds_every_token_as_c_reads_it(tokenizer):
    longest, tokens = read_bin(tokenizer.to_bin())
    assert len(tokens) == tokenizer.vocab_size == 4096
    assert longest == max(len(piece) for _, piece in tokens)
    assert [score for score, _ in tokens] == [tokenizer.sp.get_score(i) for i in range(4096)]
    pieces = [piece for _, piece in tokens]
    assert pieces[:3] == [b"<unk>", b"\n<s>\n", b"\n</s>\n"]
    assert pieces[3:259] == [b"<0x%02X>" % byte for byte in range(256)]
    assert all(not any(ord(c) == 0x2581 for c in piece.decode()) for piece in pieces)
    assert pieces[259:] == [
        tokenizer.sp.id_to_piece(i).replace("\u2581", " ").encode() for i in range(259, 4096)
    ]


def test_the_shipped_bin_is_that_of_the_shipped_model(tokenizer):
    assert SHIPPED.with_suffix(".bin").read_bytes() == tokenizer.to_bin()


WORDS = st.text(st.sampled_from("ab .,AQ:\n\t\u2581\u00e9\u00a0\u65e5\U0001f600"), max_size=40)


@given(WORDS)
def test_words_one_by_one_have_sentencepieces_tokens(tokenizer, text):
    assert tokenizer.by_words
    assert tokenizer.encode(text) == tokenizer.sp.encode(text)


@given(st.lists(WORDS, min_size=2, max_size=4))
def test_what_tokens_of_a_beginning_stay_is_found_without_encoding_it(tokenizer, parts):
    ends = [len("".join(["Q", *parts[:n]])) for n in range(len(parts))]
    text = "".join(["Q", *parts])
    whole = tokenizer.sp.encode(text)
    expected = [module.common_prefix(tokenizer.sp.encode(text[:end]), whole) for end in ends]
    assert tokenizer.encode_to(text, ends) == (whole, expected)
    tokenizer.by_words = False
    try:
        assert tokenizer.encode_to(text, ends) == (whole, expected)
    finally:
        tokenizer.by_words = True


def test_words_that_are_kept_are_bounded(monkeypatch):
    own = Tokenizer(SHIPPED)
    monkeypatch.setattr(module, "MOST_WORDS", len(own.words) + 2)
    assert own.encode(text := f"one two three four {'x' * 100}") == own.sp.encode(text)
    assert {"one", "two"} <= own.words.keys() and "three" not in own.words


def test_there_are_fifty_texts():
    assert len(set(TEXTS)) == 50


@pytest.mark.parametrize("text", TEXTS)
def test_c_finds_the_same_ids_and_the_same_text(tokenizer, bin_tokens, text):
    ids: dict[bytes, int] = {}
    for i, (_, piece) in enumerate(bin_tokens):
        ids.setdefault(piece, i)
    found = tokenizer.encode(text)
    assert encode_as_c(text, bin_tokens, ids) == found
    assert decode_as_c(found, bin_tokens) == text.encode()
    assert tokenizer.decode(found) == text


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=40))
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_bos_and_eos_are_put_around_where_asked(tokenizer):
    plain = tokenizer.encode("a word")
    assert tokenizer.encode("a word", bos=True) == [1, *plain]
    assert tokenizer.encode("a word", bos=True, eos=True) == [1, *plain, 2]


def test_a_character_without_a_token_is_told(tokenizer):
    assert [c for c in "aé ’\n😀漢" if tokenizer.spelled_in_bytes(c)] == ["\n", "😀", "漢"]


def test_a_tokenizer_of_another_size_names_both_numbers(tokenizer):
    tokenizer.check_fits(4096, "out/ckpt.pt")
    with pytest.raises(
        ValueError, match=r"tok4096\.model has 4096 tokens, but out/ckpt\.pt was trained with 512"
    ):
        tokenizer.check_fits(512, "out/ckpt.pt")


# ---- files that are not one ----


def sentencepiece(path, **options):
    """A small SentencePiece model as another program would make it."""
    settings = {
        "model_type": "bpe",
        "vocab_size": 300,
        "byte_fallback": True,
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": -1,
    }
    sentences = iter(["the rain on the roof", "the sea and the seasons", "a word and another"] * 5)
    with open(path, "wb") as f:
        SentencePieceTrainer.train(
            sentence_iterator=sentences,
            model_writer=f,
            minloglevel=2,
            hard_vocab_limit=False,
            **{**settings, **options},
        )
    return path


def test_the_right_layout_is_taken(tmp_path):
    assert Tokenizer(sentencepiece(tmp_path / "a.model")).vocab_size <= 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bos_id": 2, "eos_id": 1}, "has unk, BOS, EOS at ids 0, 2, 1; .* need 0, 1, 2"),
        ({"unk_id": 2, "bos_id": 0, "eos_id": 1}, "has unk, BOS, EOS at ids 2, 0, 1"),
        ({"bos_id": -1}, "has unk, BOS, EOS at ids 0, -1, 2"),
        ({"pad_id": 3}, "has no token for byte 0 at id 3"),
        ({"byte_fallback": False, "vocab_size": 40}, "has no token for byte 0 at id 3"),
    ],
)
def test_another_layout_of_ids_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer(sentencepiece(tmp_path / "a.model", **options))


@pytest.mark.parametrize("data", [b"", b"not a model", b"\xff" * 100, b'{"model": 1}'])
def test_a_file_that_is_no_model_is_refused(tmp_path, data):
    path = tmp_path / "a.model"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.model "):
        Tokenizer(path)


def test_tokenizer_bin_in_its_place_is_told(tmp_path, tokenizer):
    path = tmp_path / "tok.bin"
    path.write_bytes(tokenizer.to_bin())
    with pytest.raises(
        ValueError, match=r"tok\.bin is llama2\.c's tokenizer\.bin, .* give the \.model that it was made from"
    ):
        Tokenizer(path)


def test_a_file_of_another_size_is_not_even_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1000)
    with pytest.raises(ValueError, match="bytes; a tokenizer has at most 1,000"):
        Tokenizer(SHIPPED)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.model is missing"):
        Tokenizer(tmp_path / "none.model")


# ---- making one ----


def test_a_trained_tokenizer_has_the_layout_and_keeps_every_space(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("The rain said: wait.  Two spaces stay two. 1984 was a year.\n" * 20)
    made = train([text], tmp_path / "new.model", vocab_size=390, threads=1)
    assert made.vocab_size == 390
    assert made.path == tmp_path / "new.model"
    for sample in ["Two  spaces", " in front", "a  b   c    d\n\n e "]:
        assert made.decode(made.encode(sample)) == sample
    assert not any(made.spelled_in_bytes(c) for c in "‘’“”–—…éüœÇ£")
    assert len(made.encode("1984")) == 5, "the dummy prefix, and digits one by one"


def test_the_command_writes_the_bin_beside_the_model(tmp_path, capsys, tokenizer):
    model = tmp_path / "tok.model"
    model.write_bytes(SHIPPED.read_bytes())
    assert main([str(model)]) == 0
    assert (tmp_path / "tok.bin").read_bytes() == tokenizer.to_bin()
    assert capsys.readouterr().out == f"wrote {tmp_path / 'tok.bin'}: 4096 tokens\n"


def test_the_file_of_a_tokenizer_does_not_depend_on_where_it_was_made(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("The rain said: wait. 1984 was a year.\n" * 20)
        train([tmp_path / folder / "a.txt"], tmp_path / folder / "new.model", vocab_size=370, threads=1)
    made = (tmp_path / "here/new.model").read_bytes()
    assert made == (tmp_path / "there/new.model").read_bytes() and b"a.txt" not in made


@pytest.mark.parametrize(
    ("data", "vocab_size", "message"),
    [
        (
            b"The rain said: wait.\n" * 20,
            4096,
            "the text is too short for 4096 tokens: it has material for 3[0-9]+. Give more text, or",
        ),
        (
            b"The rain said: wait.\n" * 20,
            260,
            "260 tokens are too few: bytes and characters alone are 3[0-9]+. Give --vocab_size=512",
        ),
        (b"", 390, "has no line to learn from|is too short"),
        (b"caf\xe9 " * 50, 390, "a.txt is not UTF-8 .byte 4.; save it as UTF-8"),
    ],
)
def test_why_no_tokenizer_can_be_trained_is_told_in_a_sentence(tmp_path, data, vocab_size, message):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        train([tmp_path / "a.txt"], tmp_path / "new.model", vocab_size, threads=1)
    assert "\n" not in str(error.value) and "trainer" not in str(error.value)
    assert not (tmp_path / "new.model").exists()


def test_the_command_never_writes_over_another_file(tmp_path, capsys, tokenizer):
    model = tmp_path / "tok.model"
    model.write_bytes(SHIPPED.read_bytes())
    (tmp_path / "tok.bin").write_bytes(b"a model of the same name")
    with pytest.raises(
        config.UsageError, match="tok.bin exists and was not made by this run; give another name, or --force"
    ):
        main([str(model)])
    assert (tmp_path / "tok.bin").read_bytes() == b"a model of the same name"
    assert main([str(model), "--force"]) == main([str(model)]) == 0, "one that is the same is no other"
    assert (tmp_path / "tok.bin").read_bytes() == tokenizer.to_bin()


def test_the_command_refuses_what_is_no_model(tmp_path):
    (tmp_path / "a.model").write_text("no")
    with pytest.raises(config.UsageError, match="is not a SentencePiece model"):
        main([str(tmp_path / "a.model")])
    assert not (tmp_path / "a.bin").exists()
    with pytest.raises(config.UsageError, match="give one tokenizer"):
        main([])
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
