"""The settings of `arianna_data.py train_vocab` and `pretokenize`. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from arianna.system import config

# least and most: 259 ids are those of bytes and signs, and a shard's tokens are uint16
LIMITS = {"vocab_size": (260, 1 << 16), "threads": (1, 1024), "max_seq_len": (1, 1 << 20)}
COMMANDS = {  # each with the flags that it would not use, and what to do
    "train_vocab": dict.fromkeys(
        ("out", "val_tail", "val_paragraphs", "max_seq_len"), "it belongs to pretokenize; leave it out"
    ),
    "pretokenize": dict.fromkeys(("vocab_size", "threads"), "it belongs to train_vocab; leave it out"),
}
CONVERSATIONS = (".jsonl", ".json", ".gz")  # ends of names of files of conversations; others hold prose


@dataclass(frozen=True)
class TextConfig:
    """The settings of `train_vocab` and `pretokenize`."""

    data: str = "data/texts"  # a text (.txt, .md) or folder of them; for pretokenize also conversations
    model: str = "data/tok4096.model"  # the tokenizer: written by train_vocab, read by pretokenize
    out: str = "data/tok4096"  # folder for the shards (pretokenize)
    vocab_size: int = 4096  # tokens of the tokenizer (train_vocab)
    val_tail: float = 0.01  # share of each file's end that is held out (pretokenize)
    val_paragraphs: float = 0.0  # instead, share of all paragraphs, chosen by hash (pretokenize)
    max_seq_len: int = 256  # context of the model, in tokens: the longest row of conversations (pretokenize)
    threads: int = 2  # processor threads (train_vocab)
    force: bool = False  # replace what is there

    def __post_init__(self) -> None:
        for name in ("val_tail", "val_paragraphs"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and under 1")
        for name, (least, most) in LIMITS.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from {least} to {most:,}")


def read_settings(command: str, words: Sequence[str], doc: str | None) -> TextConfig:
    """The settings of a command. Raises UsageError for a flag that it would not use."""
    flags = config.read_flags([TextConfig], words, doc, word="data", instead=COMMANDS.get(command))
    cfg = config.build(TextConfig, flags)
    with config.usage_errors(ValueError):
        check_used(cfg, flags)
    return cfg


def check_used(cfg: TextConfig, flags: Iterable[str]) -> None:
    """Raise ValueError for a flag that would not be used for what --data holds."""
    is_talk = Path(cfg.data).suffix in CONVERSATIONS
    unused = {"val_tail", "val_paragraphs"} if is_talk else {"max_seq_len"}
    for name in sorted(unused & set(flags)):
        kind = "texts" if is_talk else "conversations"
        raise ValueError(f"--{name} is for {kind}, and {cfg.data} holds none; leave it out.")
