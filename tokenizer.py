"""SentencePiece behind encode and decode, and llama2.c's tokenizer.bin.

    python tokenizer.py data/tok4096.model        # writes data/tok4096.bin beside it

llama2.c's run.c counts on one layout of ids: unk 0, BOS 1, EOS 2, the 256 bytes at 3 to 258. Other layouts are refused.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from arianna.system.files import write_atomic

UNK, BOS, EOS, FIRST_BYTE = 0, 1, 2, 3
IGNORE = -1  # in place of a token: a target that is not predicted, as in llama2.c
FIRST_PIECE = FIRST_BYTE + 256
SPACE = "\u2581"  # SentencePiece's sign for a space
MOST_WORDS, LONGEST_WORD = 1 << 17, 64  # that are kept with their tokens
PROBE = " a  bc\n\n Q:\td\u00a0\u3000e\ufb01 \u0301x\u00b4 "  # what a tokenizer that normalises text would change
MAX_FILE_BYTES = 64 << 20
REQUIRED_CHARS = "\n".join(["‘’“”–—…£§°", "àáâäæçèéêëîïñòóôöœùúûü", "ÀÁÂÄÆÇÈÉÊËÎÏÑÒÓÔÖŒÙÚÛÜ"]).replace("\n", "")


class Tokenizer:
    """Text to token ids and back.

    Raises ValueError for a file that is not a SentencePiece model or has another id layout.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.sp = load(self.path)
        self.vocab_size: int = self.sp.vocab_size()
        found = (self.sp.unk_id(), self.sp.bos_id(), self.sp.eos_id())
        if found != (UNK, BOS, EOS):
            raise ValueError(
                f"{path} has unk, BOS, EOS at ids {found[0]}, {found[1]}, {found[2]}; llama2.c's programs need 0, 1, 2. "
                "Train it with `python arianna_data.py train_vocab`."
            )
        for byte in range(256):
            if self.vocab_size <= FIRST_BYTE + byte or self.sp.id_to_piece(FIRST_BYTE + byte) != f"<0x{byte:02X}>":
                raise ValueError(
                    f"{path} has no token for byte {byte} at id {FIRST_BYTE + byte}; llama2.c's programs need the 256 bytes "
                    "at ids 3 to 258. Train it with `python arianna_data.py train_vocab`."
                )
        self.words = Words(self.sp)
        self.by_words = self.parts_at_spaces()

    def parts_at_spaces(self) -> bool:
        """Whether a text's tokens are those of its words, one after the other: it is a BPE (whose scores are ranks), none of its
        pieces has a space but at its beginning, and it takes text as it is."""
        for i in range(self.vocab_size):
            if SPACE in self.sp.id_to_piece(i)[1:] or self.sp.get_score(i) % 1:
                return False
        return list(chain.from_iterable(self.words_of(PROBE))) == self.sp.encode(PROBE)

    def check_fits(self, vocab_size: int, model: str | Path) -> None:
        """Raise ValueError unless a model of `vocab_size` tokens was trained with a tokenizer of this size."""
        if self.vocab_size != vocab_size:
            raise ValueError(
                f"{self.path} has {self.vocab_size} tokens, but {model} was trained with {vocab_size}. "
                "Use the tokenizer it was trained with."
            )

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        return [BOS] * bos + (list(chain.from_iterable(self.words_of(text))) if self.by_words else self.sp.encode(text)) + [EOS] * eos

    def words_of(self, text: str) -> list[list[int]]:
        """The tokens of a text, word by word."""
        return list(map(self.words.__getitem__, text.split(" "))) if text else []

    def encode_to(self, text: str, ends: Sequence[int]) -> tuple[list[int], list[int]]:
        """The tokens of a text, and for each end, rising, how many of them are also the first of the tokens of text[:end]."""
        if not self.by_words:
            whole = self.sp.encode(text)
            return whole, [common_prefix(self.sp.encode(text[:end]), whole) for end in ends]
        words = self.words_of(text)
        found = []
        for part in (text[:end] for end in ends):  # its words are the text's but for the last
            number = part.count(" ")
            found.append(sum(map(len, words[:number])) + common_prefix(self.words[part.rpartition(" ")[2]], words[number]))
        return list(chain.from_iterable(words)), found

    def decode(self, ids: Sequence[int]) -> str:
        return self.sp.decode(list(ids))

    def spelled_in_bytes(self, char: str) -> bool:
        """Whether a character has no token of its own (run.c of llama2.c prints no byte above 127)."""
        return char != " " and self.sp.piece_to_id(char) == UNK

    def to_bin(self) -> bytes:
        """llama2.c's tokenizer.bin: int32 length of the longest token, then per token float32 score, int32 length, bytes."""
        rows = []
        for i in range(self.vocab_size):
            piece = {BOS: "\n<s>\n", EOS: "\n</s>\n"}.get(i, self.sp.id_to_piece(i))
            rows.append((self.sp.get_score(i), piece.replace(SPACE, " ").encode()))
        longest = max(len(piece) for _, piece in rows)
        return struct.pack("<i", longest) + b"".join(struct.pack("<fi", s, len(p)) + p for s, p in rows)


class Words(dict[str, list[int]]):
    """The tokens of words, each with the space before it: those of a text's words are its own, several times as fast as
    SentencePiece finds them, since most words have been seen before."""

    def __init__(self, sp: SentencePieceProcessor):
        super().__init__({"": [sp.piece_to_id(SPACE)]})
        self.sp = sp

    def __missing__(self, word: str) -> list[int]:
        ids = self.sp.encode(word)
        if len(self) < MOST_WORDS and len(word) <= LONGEST_WORD:
            self[word] = ids
        return ids


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many items two sequences have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def load(path: Path) -> SentencePieceProcessor:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a SentencePiece model is needed there.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a tokenizer has at most {MAX_FILE_BYTES:,}.")
    sp = SentencePieceProcessor()
    try:
        sp.LoadFromSerializedProto(path.read_bytes())
    except (RuntimeError, ValueError, TypeError):
        hint = " (tokenizer.bin is llama2.c's copy of it)" if path.suffix == ".bin" else ""
        raise ValueError(f"{path} is not a SentencePiece model; a .model file is needed{hint}.") from None
    return sp


def train(texts: Sequence[Path], out: Path, vocab_size: int, threads: int) -> Tokenizer:
    """Train a BPE tokenizer as llama2.c's programs need it on text files and write it to `out` (a .model file)."""
    from io import BytesIO

    model = BytesIO()
    SentencePieceTrainer.train(
        input=[str(p) for p in texts],
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
        minloglevel=1,
    )
    write_atomic(out, model.getvalue())
    return Tokenizer(out)


def main(argv: list[str] | None = None) -> int:
    args = sys.argv[1:] if argv is None else argv
    if len(args) != 1 or args[0].startswith("-"):
        print(__doc__)
        return 0 if args in (["-h"], ["--help"]) else 2
    try:
        tokenizer = Tokenizer(args[0])
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    out = tokenizer.path.with_suffix(".bin")
    write_atomic(out, tokenizer.to_bin())
    print(f"wrote {out}: {tokenizer.vocab_size} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
