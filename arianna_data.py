"""Token shards: tokenizer training, texts and conversations to rows, and the order in which a run reads them.

    python arianna_data.py train_vocab --data=FOLDER --model=data/mine.model  # a tokenizer
    python arianna_data.py pretokenize --data=FOLDER --model=data/tok4096.model --out=data/tok4096
    python arianna_data.py pretokenize --data=data/mine.jsonl --out=data/mine  # as arianna_ft.py does

A split is one or more files train*.bin / val*.bin: uint16 tokens, llama2.c's shard format. Beside a shard of
conversations lies a .mask of the same length (uint8 flags, see corpus/encoding.py), which says where rows
begin and what is trained and scored. Texts have no mask: their rows are the consecutive windows of
max_seq_len tokens.
"""

from __future__ import annotations

if __name__ == "__main__":
    from arianna.system import environment

    environment.prepare()

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arianna.corpus import parallel, prepare, texts
from arianna.corpus.encoding import ANSWER, ROW, TRAIN_ALL
from arianna.corpus.settings import COMMANDS, CONVERSATIONS, TextConfig, read_settings
from arianna.system import config
from arianna.system.files import check_outputs, write_atomic
from arianna.system.visible import visible
from tokenizer import IGNORE, Tokenizer, train

if TYPE_CHECKING:  # torch takes seconds, and what only prepares has no use for it
    from torch import Tensor

    MicroBatch = tuple[Tensor, Tensor]  # inputs and targets (B, T)

PAD_TO = 16  # rows of a batch are padded to a multiple of so many tokens, for few different shapes
BLOCK = 1 << 24  # rows that are shuffled together: 128 MB of row numbers
POOL = 16  # conversations are grouped by length within so many batches


class Rows:
    """The rows of one split, memory-mapped. Raises ValueError for files that cannot be token shards."""

    def __init__(
        self, folder: str | Path, split: str, max_seq_len: int, vocab_size: int, trained: int = TRAIN_ALL
    ):
        parallel.check_complete(Path(folder))
        self.files = sorted(Path(folder).glob(f"{split}*.bin"))
        if not self.files:
            raise ValueError(
                f"{folder} has no {split}*.bin; prepare it with `python arianna_data.py pretokenize`."
            )
        self.max_seq_len, self.trained = max_seq_len, trained
        self.tokens = [open_shard(f, vocab_size) for f in self.files]
        self.masks = [open_mask(f, t) for f, t in zip(self.files, self.tokens, strict=True)]
        spans = [self.spans(i) for i in range(len(self.files))]
        numbered = [np.column_stack([np.full(len(s), i), s]) for i, s in enumerate(spans)]
        self.index = np.concatenate(numbered)  # (N, 3): shard, first token, last + 1
        self.lengths = self.index[:, 2] - self.index[:, 1]
        if not len(self.index):
            raise ValueError(f"{folder} has no row of two tokens or more in {split}*.bin.")

    def spans(self, i: int) -> np.ndarray:
        """The rows of shard i, each as its first and last+1 token, (N, 2) int64."""
        n, mask = len(self.tokens[i]), self.masks[i]
        if mask is None:  # a row's last token is the next one's first: each token is a target once
            first = np.arange(0, n - 1, self.max_seq_len)
            return np.column_stack([first, np.minimum(first + self.max_seq_len + 1, n)])
        first = np.flatnonzero(mask & ROW)
        last = np.append(first[1:], n)
        too_long = int((last - first).max(initial=0))
        if len(first) == 0 or first[0] != 0 or too_long > self.max_seq_len + 1:
            raise ValueError(
                f"{self.files[i]} has rows of up to {too_long} tokens; "
                f"the context is {self.max_seq_len}. Prepare it again."
            )
        return np.column_stack([first, last])[last - first > 1]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def has_masks(self) -> bool:
        return any(m is not None for m in self.masks)

    def row(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return inputs, targets (-1: not trained) and flags of the targets, each (length - 1,) int64."""
        shard, first, last = self.index[number]
        tokens = self.tokens[shard][first:last].astype(np.int64)
        if self.masks[shard] is None:
            return tokens[:-1], tokens[1:], np.full(len(tokens) - 1, TRAIN_ALL | ANSWER)
        flags = self.masks[shard][first + 1 : last].astype(np.int64)
        return tokens[:-1], np.where(flags & self.trained, tokens[1:], IGNORE), flags

    def order(self, start: int, count: int, seed: int, batch_size: int) -> np.ndarray:
        """Row numbers at positions start to start+count-1 of an endless walk over the rows, (count,) int64.

        Each epoch is a fresh shuffle; conversations are then grouped by length within pools of POOL batches,
        so that little is padded. A pure function of its arguments.
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
    """Positions start to start+count-1 of epoch after epoch over n rows, (count,) int64.

    In each epoch every row comes once. Up to BLOCK rows, the order is a fresh shuffle of all; of more, block
    follows block as the rows lie, each shuffled.
    """
    pieces = [np.empty(0, np.int64)]
    while count:
        epoch, at = divmod(start, n)
        piece = block_order(n, epoch, at // BLOCK, seed)[at % BLOCK :][:count]
        pieces.append(piece)
        start, count = start + len(piece), count - len(piece)
    return np.concatenate(pieces)


@lru_cache(maxsize=4)
def block_order(n: int, epoch: int, block: int, seed: int) -> np.ndarray:
    first = block * BLOCK
    return first + np.random.default_rng([seed, 0, epoch, block]).permutation(min(BLOCK, n - first))


def open_shard(path: Path, vocab_size: int) -> np.ndarray:
    """Memory-map uint16 tokens, after checking the file's size and that every id is one of the vocabulary."""
    size = path.stat().st_size
    if size == 0 or size % 2:
        raise ValueError(
            f"{path} has {size} bytes; a token shard holds two bytes a token and at least one token. "
            "Prepare it again."
        )
    tokens = np.memmap(path, dtype="<u2", mode="r")
    largest = int(tokens.max())
    if largest >= vocab_size:
        raise ValueError(
            f"{path} holds the token id {largest}, but the model has {vocab_size} tokens. "
            "Prepare it with the model's tokenizer."
        )
    return tokens


def open_mask(shard: Path, tokens: np.ndarray) -> np.ndarray | None:
    path = shard.with_suffix(".mask")
    if not path.exists():
        return None
    if path.stat().st_size != len(tokens):
        raise ValueError(
            f"{path} has {path.stat().st_size} flags for the {len(tokens)} tokens of {shard}. "
            "Prepare both again."
        )
    return np.memmap(path, dtype=np.uint8, mode="r")


def collate(rows: Sequence[tuple[np.ndarray, np.ndarray]], longest: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T) int64, padded on the right, where targets are ignored."""
    import torch

    width = min(-(-max(len(x) for x, _ in rows) // PAD_TO) * PAD_TO, longest)
    x, y = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), IGNORE)
    for i, (tokens, targets) in enumerate(rows):
        x[i, : len(tokens)] = torch.from_numpy(tokens)
        y[i, : len(targets)] = torch.from_numpy(targets)
    return x, y


def epochs(steps: int, rows_a_step: int, replay: float, rows: int) -> float:
    """The number of times that steps go through the rows, if a share of each step is replayed text."""
    return steps * rows_a_step * (1 - replay) / rows


@dataclass(frozen=True)
class Batch:
    """The rows of one optimizer step, as micro batches of inputs and targets."""

    micro_batches: list[MicroBatch]
    n_targets: int  # in all micro batches, the replayed ones too
    rows: np.ndarray  # the rows' numbers
    replay: list[MicroBatch] = field(default_factory=list)  # micro batches of replayed rows
    pairs: list[tuple[MicroBatch, MicroBatch]] = field(default_factory=list)  # see training/contrast.py

    @property
    def tokens(self) -> int:
        """The number of tokens that the step computes, padding included."""
        return sum(x.numel() for x, _ in self.micro_batches + self.replay)


class Task:
    """The batches of a run, each of `accumulated` times batch_size rows, a share of them from `replay`."""

    def __init__(
        self, rows: Rows, batch_size: int, accumulated: int, seed: int, replay: Rows | None = None, share=0.0
    ):
        self.rows, self.batch_size, self.accumulated, self.seed = rows, batch_size, accumulated, seed
        self.replay, self.share = replay, share if replay is not None else 0.0

    def iter_batches(self, start_step: int) -> Iterator[Batch]:
        """The batches of steps start_step, start_step + 1, ...: each a pure function of (seed, step)."""
        step = start_step
        while True:
            yield self.batch(step)
            step += 1

    def epochs(self, steps: int) -> float:
        """The number of times that so many steps go through the rows."""
        return epochs(steps, self.batch_size * self.accumulated, self.share, len(self.rows))

    def batch(self, step: int) -> Batch:
        """The batch of a step, of whose rows `share` are replayed, on average over the steps."""
        size = self.batch_size * self.accumulated
        start, end = (int(s * size * self.share) for s in (step, step + 1))  # positions in the replayed rows
        own = self.rows.order(step * size - start, size - (end - start), self.seed, size)
        again = self.replay.order(start, end - start, self.seed, size) if self.share else ()
        micro_batches, replay = self.collated(self.rows, own), self.collated(self.replay, again)
        n_targets = sum(int((y != IGNORE).sum()) for _, y in micro_batches + replay)
        return Batch(micro_batches, n_targets, own, replay)

    def collated(self, rows: Rows, numbers: Sequence[int]) -> list[MicroBatch]:
        """Rows as micro batches of batch_size rows, the last of which may have fewer."""
        picked = [rows.row(n)[:2] for n in numbers]
        return [
            collate(picked[i : i + self.batch_size], rows.max_seq_len)
            for i in range(0, len(picked), self.batch_size)
        ]


# ---- texts ----


def pretokenize(cfg: TextConfig) -> str:
    """Write the shards of texts or of a file of conversations; returns in words what was written."""
    out = Path(cfg.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; the shards need a folder: give --out another name.")
    check_outputs([out], [], force=True)  # told if it lies in a file, before a note in it is looked for
    Tokenizer(cfg.model)  # told if it is missing or none
    if Path(cfg.data).suffix in CONVERSATIONS:
        survey, contexts = prepare.survey(cfg.data, say), (cfg.max_seq_len, cfg.max_seq_len)
        check_folder(cfg, [Path(cfg.data)], prepare.shards_of(survey, cfg.model, contexts))
        made = prepare.write_shards(survey, cfg.model, contexts, out, say)
        for note in survey.notes:
            say(f"  {note}")
        return (
            f"{made.tokens:,} tokens of {made.conversations:,} conversations, "
            f"{made.held_out:,} of them held out, in {made.rows:,} rows"
        )
    files = texts.text_files(cfg.data)
    for file in files:
        texts.read_text(file)  # raises ValueError unless it is prose, before a folder is begun
    check_folder(cfg, files, texts.shards_of(files, cfg.model, cfg.val_tail, cfg.val_paragraphs))
    n = texts.prepare_texts(files, cfg.model, cfg.val_tail, cfg.val_paragraphs, out, say)
    bytes_a_token = n["val_bytes"] / max(n["val_tokens"], 1)
    return (
        f"{n['train_tokens']:,} tokens for training, {n['val_tokens']:,} held out "
        f"({bytes_a_token:.3f} bytes a token)"
    )


def check_folder(cfg: TextConfig, inputs: list[Path], made_of: dict[str, Any]) -> None:
    """Raise UsageError if the folder for the shards holds anything that the same command has not made."""
    ours = [cfg.out] if parallel.read_note(Path(cfg.out)).get("of") == made_of else []
    check_outputs([cfg.out], [*inputs, cfg.model], cfg.force, ours)


def train_vocab(cfg: TextConfig) -> str:
    """Train a tokenizer on texts and write it as .model and .bin; returns in words what was written."""
    model, files = Path(cfg.model), texts.text_files(cfg.data)
    if model.suffix != ".model":
        raise ValueError(
            f"--model={model}: a tokenizer's name ends in .model; a .bin for llama2.c is written beside it."
        )
    check_outputs([model, model.with_suffix(".bin")], files, cfg.force)
    if not model.absolute().parent.is_dir():
        raise ValueError(f"{model.parent} is no folder, so {model} cannot be written; make it first.")
    for file in files:
        texts.read_text(file)  # raises ValueError unless it is prose
    tokenizer = train(files, model, cfg.vocab_size, cfg.threads)
    write_atomic(model.with_suffix(".bin"), tokenizer.to_bin())
    return f"{model} and {model.with_suffix('.bin')}: {tokenizer.vocab_size} tokens"


def say(text: str) -> None:
    print(visible(text), flush=True)


def main(argv: list[str] | None = None) -> int:
    words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    command = words[0]
    if command not in (*COMMANDS, "-h", "--help"):
        raise config.UsageError(f"'{command}' is neither train_vocab nor pretokenize.")
    cfg = read_settings(command, words[command in COMMANDS :], __doc__)
    with config.usage_errors(ValueError, FileNotFoundError):
        print(f"wrote {train_vocab(cfg) if command == 'train_vocab' else f'{cfg.out}: {pretokenize(cfg)}'}")
    return 0


if __name__ == "__main__":
    config.run_main(main)
