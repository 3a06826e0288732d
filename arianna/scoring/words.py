"""The words that count as words: those of at least two books, and all of a text that is trusted.

python -m arianna.scoring.words --data=FOLDER_OF_TEXTS --trusted=data/arianna_corpus.txt --out=data/words.txt
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from arianna.system import config
from arianna.system.files import write_atomic

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


@dataclass(frozen=True)
class WordsConfig:
    data: str = "data/texts"  # a folder of .txt files, a book each
    trusted: str = "data/arianna_corpus.txt"  # a text whose every word counts
    out: str = "data/words.txt"  # the list, one word a line, sorted
    books: int = 2  # in so many books a word must stand


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters, with apostrophes inside."""
    return WORD.findall(text.lower().replace("’", "'"))


def load(path: str | Path) -> frozenset[str]:
    """The words of a list made by this program."""
    return frozenset(Path(path).read_text(encoding="utf-8").split("\n")) - {""}


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(WordsConfig, argv, __doc__)
    books = sorted(Path(cfg.data).glob("*.txt"))
    if len(books) < cfg.books or not Path(cfg.trusted).is_file():
        raise config.UsageError(f"{cfg.data} has {len(books)} .txt files, and {cfg.books} or more are needed, with the text {cfg.trusted}.")
    count = Counter(word for book in books for word in set(words_of(book.read_text(encoding="utf-8"))))
    words = {w for w, n in count.items() if n >= cfg.books} | set(words_of(Path(cfg.trusted).read_text(encoding="utf-8")))
    write_atomic(cfg.out, "".join(f"{w}\n" for w in sorted(words)).encode())
    print(f"wrote {cfg.out}: {len(words):,} words")
    return 0


if __name__ == "__main__":
    config.run_main(main)
