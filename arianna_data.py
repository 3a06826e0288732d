"""Token shards: tokenizer training, texts and conversations to rows, and the order in which a run reads them.

    python arianna_data.py train_vocab --data=FOLDER --model=data/mine.model     # a tokenizer for any .txt/.md files
    python arianna_data.py pretokenize --data=FOLDER --model=data/tok4096.model --out=data/tok4096

A split is one or more files train*.bin / val*.bin: uint16 tokens, llama2.c's shard format. Beside a shard of conversations
lies a .mask of the same length (uint8 flags, below), which says where rows begin and what is trained and scored.
Texts have no mask: their rows are the consecutive windows of max_seq_len tokens.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import config
from conversations import Conversation, answered, asked, prompt, render, systems
from files import write_atomic
from model import IGNORE
from tokenizer import BOS, Tokenizer, train

# flags of a token in a .mask, each about the token as a target
TRAIN_ALL = 1  # trained with --loss_on=all
TRAIN_ANSWERS = 2  # trained with --loss_on=answers
ANSWER = 4  # an answer's own token: scored
TERMINATOR = 8  # the new line and BOS that end an answer: scored apart
ROW = 16  # first token of a row
CONTINUED = 32  # with ROW: the row goes on with the conversation of the row before it

PAD_TO = 16  # rows of a batch are padded to a multiple of so many tokens, for few different shapes
POOL = 16  # conversations are grouped by length within so many batches

SHORTEST_CONTEXT = 16  # tokens; a conversation is not cut into shorter rows
ASCII = {  # typography that the tokenizer may have to spell in bytes, which llama2.c's run does not print
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u2039\u203a", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
    **dict.fromkeys("\u2014\u2015", "--"),
    **dict.fromkeys("\u00a0\u2009\u202f", " "),
    "\u2026": "...",
}


class Rows:
    """The rows of one split, memory-mapped. Raises ValueError for files that cannot be token shards."""

    def __init__(self, folder: str | Path, split: str, max_seq_len: int, vocab_size: int, trained: int = TRAIN_ALL):
        self.files = sorted(Path(folder).glob(f"{split}*.bin"))
        if not self.files:
            raise ValueError(f"{folder} has no {split}*.bin; prepare it with `python arianna_data.py pretokenize`.")
        self.max_seq_len, self.trained = max_seq_len, trained
        self.tokens = [open_shard(f, vocab_size) for f in self.files]
        self.masks = [open_mask(f, t) for f, t in zip(self.files, self.tokens, strict=True)]
        spans = [self.spans(i) for i in range(len(self.files))]
        self.index = np.concatenate([np.column_stack([np.full(len(s), i), s]) for i, s in enumerate(spans)])  # (N, 3)
        self.lengths = self.index[:, 2] - self.index[:, 1]
        if not len(self.index):
            raise ValueError(f"{folder} has no row of two tokens or more in {split}*.bin.")

    def spans(self, i: int) -> np.ndarray:
        """First and last+1 token of each row of shard i, (N, 2) int64."""
        n, mask = len(self.tokens[i]), self.masks[i]
        if mask is None:  # the last token of a window is the first of the next: each token is a target once
            first = np.arange(0, n - 1, self.max_seq_len)
            return np.column_stack([first, np.minimum(first + self.max_seq_len + 1, n)])
        first = np.flatnonzero(mask & ROW)
        last = np.append(first[1:], n)
        too_long = int((last - first).max(initial=0))
        if len(first) == 0 or first[0] != 0 or too_long > self.max_seq_len + 1:
            raise ValueError(f"{self.files[i]} has rows of up to {too_long} tokens; the context is {self.max_seq_len}. Prepare it again.")
        return np.column_stack([first, last])[last - first > 1]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def has_masks(self) -> bool:
        return any(m is not None for m in self.masks)

    def row(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inputs, targets (-1: not trained) and flags of the targets, each (length - 1,) int64."""
        shard, first, last = self.index[number]
        tokens = self.tokens[shard][first:last].astype(np.int64)
        if self.masks[shard] is None:
            return tokens[:-1], tokens[1:], np.full(len(tokens) - 1, TRAIN_ALL | ANSWER)
        flags = self.masks[shard][first + 1 : last].astype(np.int64)
        return tokens[:-1], np.where(flags & self.trained, tokens[1:], IGNORE), flags

    def order(self, start: int, count: int, seed: int, batch_size: int) -> np.ndarray:
        """Row numbers at positions start to start+count-1 of the endless walk through the data, (count,) int64.

        Each epoch is a fresh shuffle; conversations are then grouped by length within pools of POOL batches, so that
        little is padded. A pure function of its arguments.
        """
        pool = POOL * batch_size
        first, last = start // pool, max(start, start + count - 1) // pool
        walk = np.concatenate([self._pool(p, pool, batch_size, seed) for p in range(first, last + 1)])
        return walk[start - first * pool :][:count]

    def _pool(self, number: int, size: int, batch_size: int, seed: int) -> np.ndarray:
        rows = shuffled(len(self), number * size, size, seed)
        if not self.has_masks:
            return rows
        by_length = rows[np.argsort(self.lengths[rows], kind="stable")].reshape(POOL, batch_size)
        return by_length[np.random.default_rng([seed, 1, number]).permutation(POOL)].ravel()


def shuffled(n: int, start: int, count: int, seed: int) -> np.ndarray:
    """Positions start to start+count-1 of epoch after epoch, each a fresh shuffle of n rows, (count,) int64."""
    first, last = start // n, (start + count - 1) // n
    return np.concatenate([epoch_order(n, e, seed) for e in range(first, last + 1)])[start - first * n :][:count]


@lru_cache(maxsize=4)
def epoch_order(n: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, epoch]).permutation(n)


def open_shard(path: Path, vocab_size: int) -> np.ndarray:
    """Memory-map uint16 tokens, after checking the file's size and that every id is one of the vocabulary."""
    size = path.stat().st_size
    if size == 0 or size % 2:
        raise ValueError(f"{path} has {size} bytes; a token shard holds two bytes a token and at least one token. Prepare it again.")
    tokens = np.memmap(path, dtype="<u2", mode="r")
    largest = int(tokens.max())
    if largest >= vocab_size:
        raise ValueError(
            f"{path} holds the token id {largest}, but the model has {vocab_size} tokens. Prepare it with the model's tokenizer."
        )
    return tokens


def open_mask(shard: Path, tokens: np.ndarray) -> np.ndarray | None:
    path = shard.with_suffix(".mask")
    if not path.exists():
        return None
    if path.stat().st_size != len(tokens):
        raise ValueError(f"{path} has {path.stat().st_size} flags for the {len(tokens)} tokens of {shard}. Prepare both again.")
    return np.memmap(path, dtype=np.uint8, mode="r")


def collate(rows: Sequence[tuple[np.ndarray, np.ndarray]], longest: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T) int64, padded on the right: nothing attends to the padding, and its targets are ignored."""
    width = min(-(-max(len(x) for x, _ in rows) // PAD_TO) * PAD_TO, longest)
    x, y = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), IGNORE)
    for i, (tokens, targets) in enumerate(rows):
        x[i, : len(tokens)] = torch.from_numpy(tokens)
        y[i, : len(targets)] = torch.from_numpy(targets)
    return x, y


@dataclass(frozen=True)
class Batch:
    """What one optimizer step sees: its parts (inputs and targets), how many targets they have, which rows they are."""

    parts: list[tuple[Tensor, Tensor]]
    n_targets: int
    rows: np.ndarray


class Task:
    """The batches of a run. With `replay`, that share of the rows comes from a second set of rows."""

    def __init__(self, rows: Rows, batch_size: int, parts: int, seed: int, replay: Rows | None = None, share: float = 0.0):
        self.rows, self.batch_size, self.parts, self.seed = rows, batch_size, parts, seed
        self.replay, self.share = replay, share if replay is not None else 0.0

    def iter_batches(self, start_step: int) -> Iterator[Batch]:
        """The batches of steps start_step, start_step + 1, ...: each a pure function of (seed, step)."""
        step = start_step
        while True:
            yield self.batch(step)
            step += 1

    def epochs(self, steps: int) -> float:
        """How often `steps` steps go through the rows."""
        return steps * self.batch_size * self.parts * (1 - self.share) / len(self.rows)

    def batch(self, step: int) -> Batch:
        size = self.batch_size * self.parts
        replayed = [int(s * size * self.share) for s in (step, step + 1)]  # rows of replay in steps 0 to s-1
        own = self.rows.order(step * size - replayed[0], size - replayed[1] + replayed[0], self.seed, size)
        picked = [self.rows.row(n)[:2] for n in own]
        if replayed[1] > replayed[0]:
            picked += [self.replay.row(n)[:2] for n in self.replay.order(replayed[0], replayed[1] - replayed[0], self.seed, size)]
        split = [picked[i : i + self.batch_size] for i in range(0, size, self.batch_size)]
        n_targets = sum(int((y != IGNORE).sum()) for _, y in picked)
        return Batch([collate(rows, self.rows.max_seq_len) for rows in split], n_targets, own)


# ---- conversations ----


@dataclass(frozen=True)
class Prepared:
    """What a preflight tells of conversations that were made into rows, those held out included."""

    conversations: int
    held_out: int  # of the conversations
    rows: int
    tokens: int  # of the conversations; rows repeat some
    longest: int  # tokens of the longest conversation
    longer: int  # conversations of more tokens than the context
    typographic: int  # quotes, dashes, ellipses and spaces that became ASCII
    bytes_spelled: int  # other characters that the tokenizer spells in bytes
    spelled: str  # the most frequent of them


def encode_turns(conversation: Conversation, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (N,) uint16 and flags (N,) uint8: BOS, then each turn with a BOS behind it.

    A turn is encoded in one call, since pieces depend on what stands before them. Where its parts begin is where the tokens
    of a part of its text cease to be those of the whole.
    """
    tokens, flags = [BOS], [ROW]
    for (question, answer), system in zip(conversation.turns, systems(conversation), strict=True):
        whole = tokenizer.encode(render(question, answer, system))
        parts = (asked(question, system), prompt(question, system), answered(question, answer, system))
        bounds = np.maximum.accumulate([common_prefix(tokenizer.encode(p), whole) for p in parts])
        lengths = np.diff([0, *bounds, len(whole) + 1])
        kinds = (TRAIN_ALL, TRAIN_ALL | TRAIN_ANSWERS, TRAIN_ALL | TRAIN_ANSWERS | ANSWER, TRAIN_ALL | TRAIN_ANSWERS | TERMINATOR)
        tokens += [*whole, BOS]
        flags += np.repeat(kinds, lengths).tolist()
    return np.array(tokens, dtype="<u2"), np.array(flags, dtype=np.uint8)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many items two sequences have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def windows(tokens: np.ndarray, flags: np.ndarray, max_seq_len: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows (tokens, flags) of an encoded conversation, none with more than max_seq_len tokens.

    A row that goes on begins with what `repeated` gives, which is neither trained nor scored: every token but the first BOS
    is a target exactly once. A row does not end within a question unless the question alone is longer than it.
    """
    if max_seq_len < SHORTEST_CONTEXT:
        raise ValueError(f"the context is {max_seq_len} tokens; conversations need at least {SHORTEST_CONTEXT}.")
    starts = np.flatnonzero(tokens[:-1] == BOS)
    scored = np.flatnonzero(flags & (ANSWER | TERMINATOR))
    answers = scored[np.searchsorted(scored, starts + 1)]  # where each turn's answer begins
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    done = 0
    while done < len(tokens):
        head = repeated(tokens, starts, answers, done, max_seq_len) if done else tokens[:0]
        end = min(done + max_seq_len - len(head), len(tokens))
        turn = np.searchsorted(starts, end) - 1
        if end <= answers[turn] and starts[turn] >= max(done, 1):
            end = starts[turn] + 1  # behind the BOS, so that the question begins the next row
        assert end > done, f"{end=} {done=}"
        row_flags = np.concatenate([np.zeros(len(head), np.uint8), flags[done:end]])
        row_flags[0] = ROW | CONTINUED if done else ROW
        rows.append((np.concatenate([head, tokens[done:end]]), row_flags))
        done = end
    return rows


def repeated(tokens: np.ndarray, starts: np.ndarray, answers: np.ndarray, done: int, max_seq_len: int) -> np.ndarray:
    """What a row begins with that goes on at `done`: BOS, the question of the turn it is in, the last quarter context of the answer.

    Of a question longer than half a context the end is kept. A quarter of the context at least is left for what is new.
    """
    turn = np.searchsorted(starts, done) - 1
    start, answer = starts[turn], answers[turn]
    question_end = min(answer, done)
    question = tokens[max(start + 1, question_end - max_seq_len // 2 + 1) : question_end]
    return np.concatenate([tokens[start : start + 1], question, tokens[max(answer, done - max_seq_len // 4) : done]])


def ascii_typography(text: str, tokenizer: Tokenizer) -> tuple[str, int, Counter[str]]:
    """A text in which typography that the tokenizer spells in bytes is ASCII, how many characters that changed, and the others
    beyond ASCII that it spells in bytes. What has a token of its own stays."""
    if text.isascii():
        return text, 0, Counter()
    spelled = Counter({c: n for c, n in Counter(text).items() if not c.isascii() and tokenizer.spelled_in_bytes(c)})
    plain = {c: ASCII[c] for c in spelled if c in ASCII}
    changed = sum(spelled.pop(c) for c in plain)
    return text.translate(str.maketrans(plain)), changed, spelled


def plain_conversation(conversation: Conversation, tokenizer: Tokenizer) -> tuple[Conversation, int, Counter[str]]:
    """`ascii_typography` of all texts of a conversation."""
    texts = [conversation.system, *(text for turn in conversation.turns for text in turn)]
    plain, changed, spelled = zip(*(ascii_typography(t, tokenizer) for t in texts), strict=True)
    turns = tuple(zip(plain[1::2], plain[2::2], strict=True))
    return replace(conversation, system=plain[0], turns=turns), sum(changed), sum(spelled, Counter())


def prepare_conversations(
    train: Sequence[Conversation], held_out: Sequence[Conversation], tokenizer: Tokenizer, max_seq_len: int, val_seq_len: int
) -> tuple[dict[str, bytes], Prepared]:
    """The files of a data folder by name, and what is to be told of them. Writes nothing.

    Rows have at most max_seq_len tokens; those held out at most val_seq_len, the base's context, if that is less: base and
    tuned are scored alike.
    """
    check_fits_shard(tokenizer)
    plain = [plain_conversation(c, tokenizer) for c in (*train, *held_out)]
    encoded = [encode_turns(c, tokenizer) for c, _, _ in plain]
    halves = {"train": (encoded[: len(train)], max_seq_len), "val": (encoded[len(train) :], min(max_seq_len, val_seq_len))}
    rows = {split: [row for c in half for row in windows(*c, context)] for split, (half, context) in halves.items()}
    files = {f"{split}.bin": b"".join(tokens.tobytes() for tokens, _ in half) for split, half in rows.items()}
    files |= {f"{split}.mask": b"".join(flags.tobytes() for _, flags in half) for split, half in rows.items()}
    lengths = [len(tokens) for tokens, _ in encoded]
    spelled = sum((others for _, _, others in plain), Counter())
    return files, Prepared(
        conversations=len(plain),
        held_out=len(held_out),
        rows=sum(map(len, rows.values())),
        tokens=sum(lengths),
        longest=max(lengths, default=0),
        longer=sum(n > max_seq_len for n in lengths),
        typographic=sum(changed for _, changed, _ in plain),
        bytes_spelled=spelled.total(),
        spelled="".join(c for c, _ in spelled.most_common(10)),
    )


def write_prepared(files: dict[str, bytes], folder: str | Path) -> None:
    """Put what `prepare_conversations` made into a folder. A file that holds it already is left alone."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if not (folder / name).is_file() or (folder / name).read_bytes() != data:
            write_atomic(folder / name, data)


def check_fits_shard(tokenizer: Tokenizer) -> None:
    if tokenizer.vocab_size > 1 << 16:
        raise ValueError(f"{tokenizer.path} has {tokenizer.vocab_size} tokens; token shards hold at most 65,536.")


# ---- texts ----


@dataclass(frozen=True)
class TextConfig:
    """What `train_vocab` and `pretokenize` take."""

    data: str = "data/texts"  # a folder of .txt and .md files, or one such file
    model: str = "data/tok4096.model"  # the tokenizer: written by train_vocab, read by pretokenize
    out: str = "data/tok4096"  # folder for the shards (pretokenize)
    vocab_size: int = 4096  # tokens of the tokenizer (train_vocab)
    val_tail: float = 0.01  # share of each file's end that is held out (pretokenize)
    val_paragraphs: float = 0.0  # instead: share of all paragraphs that is held out, chosen by hash (pretokenize)
    threads: int = 2  # processor threads (train_vocab)

    def __post_init__(self) -> None:
        for name in ("val_tail", "val_paragraphs"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and under 1")


def text_files(path: str | Path) -> list[Path]:
    path = Path(path)
    found = sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".md")) if path.is_dir() else [path]
    if not found or not all(p.is_file() for p in found):
        raise ValueError(f"{path} has no .txt or .md file; give a folder of texts or one text file.")
    return found


def documents(text: str) -> list[str]:
    """A file is one document, or several where two empty lines part them."""
    return [d.strip("\n") for d in re.split(r"\n{3,}", text) if d.strip()]


def split_tail(text: str, share: float) -> tuple[str, str]:
    """All but the last `share` of a text, and the rest, cut at the next end of a paragraph."""
    cut = text.find("\n\n", int(len(text) * (1 - share)))
    return (text, "") if share == 0 or cut < 0 else (text[:cut], text[cut:])


def split_paragraphs(text: str, share: float) -> tuple[str, str]:
    """The paragraphs of a text without and with those whose SHA-256 is in the lowest `share`."""
    kept: list[str] = []
    held: list[str] = []
    for paragraph in re.split(r"(?<=\n)\n", text):  # each keeps one new line; further empty lines stay with the kept
        low = int.from_bytes(hashlib.sha256(paragraph.strip().encode()).digest()[:8], "big") < share * 2**64
        (held if low and paragraph.strip() else kept).append(paragraph)
    return "\n".join(kept), "\n".join(held)


def encode_text(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """Each document's tokens behind a BOS, (N,) uint16."""
    check_fits_shard(tokenizer)
    ids = [i for d in documents(text) for i in tokenizer.encode(d, bos=True)]
    return np.array(ids, dtype="<u2")


def pretokenize(cfg: TextConfig) -> dict[str, int]:
    """Write train.bin and val.bin of a folder of texts; returns the number of tokens and bytes of each."""
    tokenizer, out = Tokenizer(cfg.model), Path(cfg.out)
    parts: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    counts = dict.fromkeys(("train_bytes", "val_bytes"), 0)
    for file in text_files(cfg.data):
        text = read_text(file)
        halves = split_paragraphs(text, cfg.val_paragraphs) if cfg.val_paragraphs else split_tail(text, cfg.val_tail)
        for split, half in zip(parts, halves, strict=True):
            parts[split].append(encode_text(half, tokenizer))
            counts[f"{split}_bytes"] += len(half.encode())
    out.mkdir(parents=True, exist_ok=True)
    for split, arrays in parts.items():
        tokens = np.concatenate(arrays)
        counts[f"{split}_tokens"] = len(tokens)
        write_atomic(out / f"{split}.bin", tokens.tobytes())
    return counts


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None


def main(argv: list[str] | None = None) -> int:
    import sys

    words = sys.argv[1:] if argv is None else argv
    command = words[0] if words else "--help"
    if command not in ("train_vocab", "pretokenize", "-h", "--help"):
        raise config.UsageError(f"'{command}' is neither train_vocab nor pretokenize.")
    cfg = config.parse(TextConfig, words[1:] if command in ("train_vocab", "pretokenize") else words, __doc__)
    try:
        if command == "train_vocab":
            tokenizer = train(text_files(cfg.data), Path(cfg.model), cfg.vocab_size, cfg.threads)
            write_atomic(Path(cfg.model).with_suffix(".bin"), tokenizer.to_bin())
            print(f"wrote {cfg.model} and {Path(cfg.model).with_suffix('.bin')}: {tokenizer.vocab_size} tokens")
        else:
            n = pretokenize(cfg)
            print(
                f"wrote {cfg.out}: {n['train_tokens']:,} tokens for training, {n['val_tokens']:,} held out "
                f"({n['val_bytes'] / max(n['val_tokens'], 1):.3f} bytes a token)"
            )
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        raise config.UsageError(str(error)) from None
    return 0


if __name__ == "__main__":
    config.run_main(main)
