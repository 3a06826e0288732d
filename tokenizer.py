"""SentencePiece behind encode and decode, and llama2.c's tokenizer.bin.

    python tokenizer.py data/tok4096.model        # writes data/tok4096.bin beside it

llama2.c's run.c counts on one layout of ids: unk 0, BOS 1, EOS 2, the 256 bytes at 3 to 258. Other layouts
are refused.
"""

from __future__ import annotations

if __name__ == "__main__":
    from arianna.system import environment

    environment.prepare()

import re
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from arianna.system import config
from arianna.system.files import check_outputs, write_atomic

UNK, BOS, EOS, FIRST_BYTE = 0, 1, 2, 3
ADVICE = "Train it with `python arianna_data.py train_vocab`."
IGNORE = -1  # in place of a token: a target that is not predicted, as in llama2.c
FIRST_PIECE = FIRST_BYTE + 256
SPACE = "\u2581"  # SentencePiece's sign for a space
MOST_WORDS, LONGEST_WORD = 1 << 17, 64  # words whose tokens are cached, and the length of the longest
PROBE = " a  bc\n\n Q:\td\u00a0\u3000e\ufb01 \u0301x\u00b4 "  # a tokenizer that normalises would change it
MAX_FILE_BYTES = 64 << 20
REQUIRED_CHARS = "‘’“”–—…£§°" + "àáâäæçèéêëîïñòóôöœùúûü" + "ÀÁÂÄÆÇÈÉÊËÎÏÑÒÓÔÖŒÙÚÛÜ"


class Tokenizer:
    """A SentencePiece model that turns text into token ids and back.

    Raises ValueError for a file that is not a SentencePiece model or has another id layout.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.sp = load(self.path)
        self.vocab_size: int = self.sp.vocab_size()
        ids = (self.sp.unk_id(), self.sp.bos_id(), self.sp.eos_id())
        if ids != (UNK, BOS, EOS):
            raise ValueError(
                f"{path} has unk, BOS, EOS at ids {ids[0]}, {ids[1]}, {ids[2]}; "
                f"llama2.c's programs need 0, 1, 2. {ADVICE}"
            )
        for byte, number in enumerate(range(FIRST_BYTE, FIRST_PIECE)):
            if self.vocab_size <= number or self.sp.id_to_piece(number) != f"<0x{byte:02X}>":
                raise ValueError(
                    f"{path} has no token for byte {byte} at id {number}; "
                    f"llama2.c's programs need the 256 bytes at ids 3 to 258. {ADVICE}"
                )
        self.words = Words(self.sp)
        self.by_words = self.encodes_by_words()

    def encodes_by_words(self) -> bool:
        """Whether a text may be encoded word by word.

        It may if this is a BPE (its scores are ranks, whole numbers), if spaces stand only at the start of
        pieces, and if the text is not normalised first.
        """
        for i in range(self.vocab_size):
            if SPACE in self.sp.id_to_piece(i)[1:] or self.sp.get_score(i) % 1:
                return False
        return list(chain.from_iterable(self.words_of(PROBE))) == self.sp.encode(PROBE)

    def check_fits(self, vocab_size: int, model: str | Path) -> None:
        """Raise ValueError unless this tokenizer has as many tokens as the model was trained with."""
        if self.vocab_size != vocab_size:
            raise ValueError(
                f"{self.path} has {self.vocab_size} tokens, but {model} was trained with {vocab_size}. "
                "Use the tokenizer it was trained with."
            )

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        ids = list(chain.from_iterable(self.words_of(text))) if self.by_words else self.sp.encode(text)
        return [BOS] * bos + ids + [EOS] * eos

    def words_of(self, text: str) -> list[list[int]]:
        """The tokens of a text, word by word."""
        return list(map(self.words.__getitem__, text.split(" "))) if text else []

    def encode_to(self, text: str, ends: Sequence[int]) -> tuple[list[int], list[int]]:
        """The tokens of a text, and for each end how many of them the tokens of text[:end] begin with."""
        if not self.by_words:
            whole = self.sp.encode(text)
            return whole, [common_prefix(self.sp.encode(text[:end]), whole) for end in ends]
        words, counts = self.words_of(text), []
        for beginning in (text[:end] for end in ends):  # its words are the text's, up to the last one
            number = beginning.count(" ")
            last = common_prefix(self.words[beginning.rpartition(" ")[2]], words[number])
            counts.append(sum(map(len, words[:number])) + last)
        return list(chain.from_iterable(words)), counts

    def decode(self, ids: Sequence[int]) -> str:
        return self.sp.decode(list(ids))

    def spelled_in_bytes(self, char: str) -> bool:
        """Whether a character has no token of its own (run.c of llama2.c prints no byte above 127)."""
        return char != " " and self.sp.piece_to_id(char) == UNK

    def to_bin(self) -> bytes:
        """The bytes of llama2.c's tokenizer.bin.

        int32 length of the longest token; then for each token float32 score, int32 length, bytes.
        """
        rows = []
        for i in range(self.vocab_size):
            piece = {BOS: "\n<s>\n", EOS: "\n</s>\n"}.get(i, self.sp.id_to_piece(i))
            rows.append((self.sp.get_score(i), piece.replace(SPACE, " ").encode()))
        longest = max(len(piece) for _, piece in rows)
        return struct.pack("<i", longest) + b"".join(struct.pack("<fi", s, len(p)) + p for s, p in rows)


class Words(dict[str, list[int]]):
    """A cache of the tokens of words, each with the space before it.

    Most words of a text occurred before, so that looking them up is several times as fast as SentencePiece.
    """

    def __init__(self, sp: SentencePieceProcessor):
        super().__init__({"": [sp.piece_to_id(SPACE)]})
        self.sp = sp

    def __missing__(self, word: str) -> list[int]:
        ids = self.sp.encode(word)
        if len(self) < MOST_WORDS and len(word) <= LONGEST_WORD:
            self[word] = ids
        return ids


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of items that two sequences have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def load(path: Path) -> SentencePieceProcessor:
    if not path.is_file():
        what = "a folder" if path.is_dir() else "missing"
        raise FileNotFoundError(f"{path} is {what}; a SentencePiece model is needed there.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(
            f"{path} has {path.stat().st_size:,} bytes; a tokenizer has at most {MAX_FILE_BYTES:,}."
        )
    sp = SentencePieceProcessor()
    try:
        sp.LoadFromSerializedProto(path.read_bytes())
    except (RuntimeError, ValueError, TypeError):
        if is_tokenizer_bin(path.read_bytes()):
            raise ValueError(
                f"{path} is llama2.c's tokenizer.bin, which holds tokens and scores but not how text is "
                "prepared, so that training could spell it otherwise than C; "
                "give the .model that it was made from."
            ) from None
        raise ValueError(f"{path} is not a SentencePiece model; a .model file is needed.") from None
    return sp


def is_tokenizer_bin(data: bytes) -> bool:
    """Whether bytes are laid out as `to_bin` writes them."""
    at = 4
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<i", data, at + 4)
        if length < 0:
            return False
        at += 8 + length
    return 4 < at == len(data)


def train(texts: Sequence[Path], out: Path, vocab_size: int, threads: int) -> Tokenizer:
    """Train a BPE tokenizer, as llama2.c's programs need it, on text files; write it to `out` (a .model).

    Raises ValueError for texts that are not UTF-8 or too short for so many tokens, and for too few tokens.
    """
    for path in texts:
        check_utf8(path)
    model = BytesIO()
    try:
        SentencePieceTrainer.train(
            # not input=...: SentencePiece would write the paths into the file
            sentence_iterator=lines_of(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,  # else C and Python differ on double spaces
            add_dummy_prefix=True,
            character_coverage=0.9999,
            required_chars=REQUIRED_CHARS,
            unk_id=UNK,
            bos_id=BOS,
            eos_id=EOS,
            pad_id=-1,
            max_sentence_length=1 << 20,  # a paragraph a line; longer lines would be left out
            num_threads=threads,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(why_not(str(error), vocab_size)) from None
    write_atomic(out, model.getvalue())
    return Tokenizer(out)


def check_utf8(path: Path) -> None:
    """Raise ValueError for a text that is not UTF-8."""
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start + 1}); save it as UTF-8.") from None


def lines_of(texts: Sequence[Path]) -> Iterator[str]:
    """The lines of text files, which SentencePiece learns from."""
    for path in texts:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            yield from (line.rstrip("\r\n") for line in file)


def why_not(error: str, vocab_size: int) -> str:
    """A sentence for what SentencePiece's own error means."""
    if most := re.search(r"Vocabulary size too high .*<= (\d+)", error):
        return (
            f"the text is too short for {vocab_size} tokens: it has material for {most[1]}. "
            f"Give more text, or --vocab_size={most[1]}."
        )
    if least := re.search(r"required_chars\. \d+ vs (\d+)", error):
        return (
            f"{vocab_size} tokens are too few: bytes and characters alone are {least[1]}. "
            "Give --vocab_size=512 or more."
        )
    if "sentences_.empty" in error:
        return "the text has no line to learn from; give more text."
    return (
        f"no tokenizer of {vocab_size} tokens could be made of the text; give another --vocab_size or text."
    )


@dataclass(frozen=True)
class Config:
    """The settings of `python tokenizer.py FILE.model`, besides the file."""

    force: bool = False  # replace a .bin that is there


def main(argv: list[str] | None = None) -> int:
    args = sys.argv[1:] if argv is None else argv
    models = [word for word in args if not word.startswith("-")]
    cfg = config.parse(Config, [word for word in args if word not in models], __doc__)
    if len(models) != 1:
        raise config.UsageError("give one tokenizer: python tokenizer.py data/tok4096.model")
    with config.usage_errors(OSError, ValueError):
        tokenizer = Tokenizer(models[0])
    out, data = tokenizer.path.with_suffix(".bin"), tokenizer.to_bin()
    if out.is_file() and out.read_bytes() == data:
        print(f"{out} is there already: {tokenizer.vocab_size} tokens")
        return 0
    check_outputs([out], [tokenizer.path], cfg.force)
    write_atomic(out, data)
    print(f"wrote {out}: {tokenizer.vocab_size} tokens")
    return 0


if __name__ == "__main__":
    config.run_main(main)
