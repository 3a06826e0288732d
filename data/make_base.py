"""Make the shipped base from open text: cleaned sources, tokenizer, shards, three stages of training.

    python data/make_base.py --sources=FOLDER --out=data/base            # everything; goes on after a stop
    python data/make_base.py --sources=FOLDER --out=data/base --prepare  # no training

FOLDER and its subfolders hold the files that data/sources.tsv names (with licences and SHA-256). That table
is also the mix: how often each file is read in the broad stage, where the learning rate stays, and in the
close stage, where it falls (0.2: a fifth of its documents; 3: three times). The third is `learn_marks.py`.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import source_texts  # noqa: E402
from source_texts import (  # noqa: E402
    WAYS,
    Document,
    clean_prose,
    clean_talks,
    draw,
    text_of,
    typed,
    voice_of,
)

from arianna.corpus.encoding import encode_turns  # noqa: E402
from arianna.corpus.texts import encode_text  # noqa: E402
from arianna.scoring.text_statistics import words_of  # noqa: E402
from arianna.system import config  # noqa: E402
from arianna.system.files import sha256, write_atomic  # noqa: E402
from tokenizer import Tokenizer, train  # noqa: E402

STAGES = ("broad", "close")
HELD_OUT = 0.01  # share of the documents, by hash
SCORED = 65_536  # tokens of each kind that are scored at most
WORD_SOURCES = 2  # sources in which a word must stand to count as one; every word of the voice does


@dataclass(frozen=True)
class BaseConfig:
    """The settings of `make_base.py`."""

    sources: str = "data/sources"  # folder with the files that sources.tsv names, in any subfolders
    out: str = "data/base"  # folder for what is made: text, tokenizer, shards, runs
    mix: str = str(ROOT / "data/sources.tsv")  # the table of sources
    prepare: bool = False  # stop before the training
    vocab_size: int = 4096  # tokens of the tokenizer
    broad_iters: int = 12915  # steps of the broad stage
    close_iters: int = 2673  # steps of the close stage
    batch_size: int = 32  # rows of 256 tokens a step
    learning_rate: float = 2e-3  # peak; Muon's matrices take ten times as much
    seed: int = 1337  # draws the order of documents


@dataclass(frozen=True)
class Source:
    """A row of the table of sources."""

    path: Path
    kind: str  # dialogue, prose, book or voice
    times: dict[str, float]  # how often it is read, by stage
    sha256: str


Cleaned = list[tuple[Source, list[Document]]]  # the documents of each source


# ---- the table ----


def sources_of(cfg: BaseConfig) -> list[Source]:
    """The sources of the mix. Raises UsageError for the first that is missing or changed."""
    files = [p for folder in (Path(cfg.sources), ROOT / "data") for p in folder.rglob("*") if p.is_file()]
    where = {path.name: path for path in files if Path(cfg.out) not in path.parents}
    sources = []
    with open(cfg.mix, encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter="\t"), 2):
            name, place = row["file"], f"{cfg.mix}:{number}"
            if not (row["licence"] or "").strip():
                raise config.UsageError(f"{place}: {name} has no licence; name it, or leave the source out.")
            if name not in where:
                raise config.UsageError(
                    f"{place}: {name} is not in {cfg.sources}; put it there (SHA-256 {row['sha256']})."
                )
            if row["sha256"] and (actual := sha256(where[name])) != row["sha256"]:
                raise config.UsageError(
                    f"{place}: {where[name]} has the SHA-256 {actual}, expected {row['sha256']}."
                )
            times = {stage: times_of(row, stage, place) for stage in STAGES}
            sources.append(Source(where[name], row["kind"], times, row["sha256"]))
    for stage in STAGES:
        if not any(s.times[stage] for s in sources):
            raise config.UsageError(
                f"{cfg.mix}: the {stage} stage reads nothing; give a source a share above 0."
            )
    return sources


def times_of(row: dict[str, str], stage: str, place: str) -> float:
    """How often a stage reads a source. Raises UsageError for no number from 0 to 100."""
    try:
        value = float(row[stage])
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value <= 100:
        raise config.UsageError(
            f"{place}: {stage} of {row['file']} is {row[stage]!r}; it must be a number from 0 to 100."
        )
    return value


# ---- documents ----


def documents(source: Source) -> list[Document]:
    clean = {"voice": voice_of, "dialogue": clean_talks}.get(source.kind, clean_prose)
    return list(clean(source.path))


# ---- tokenizer and shards ----


def train_tokenizer(cfg: BaseConfig, cleaned: Cleaned) -> Tokenizer:
    """A tokenizer of the broad stage's text, without the marks of the template."""
    out, lines = Path(cfg.out), []
    for source, source_documents in cleaned:
        for document in source_documents:
            if draw(text_of(document)) < min(source.times["broad"], 1.0):
                prose = isinstance(document, str)
                lines += document.split("\n\n") if prose else [t for turn in document.turns for t in turn]
    write_atomic(out / "tokenizer.txt", "\n".join(lines).encode())
    tokenizer = train([out / "tokenizer.txt"], out / "tok4096.model", cfg.vocab_size, threads=2)
    write_atomic(out / "tok4096.bin", tokenizer.to_bin())
    return tokenizer


def encode(document: Document, tokenizer: Tokenizer) -> np.ndarray:
    prose = isinstance(document, str)
    return encode_text(document, tokenizer) if prose else encode_turns(document, tokenizer)[0]


def repeats(document: Document, times: float) -> int:
    """How often a document is read: the whole part of `times`, and once more for a share of the documents."""
    return int(times) + (draw("again " + text_of(document)) < times % 1)


def readings(document: Document, times: int, tokenizer: Tokenizer, kind: str) -> list[np.ndarray]:
    """The tokens of a document for each time that it is read; a talk of Arianna's is typed in turns."""
    if kind != "voice" or isinstance(document, str):
        return [encode(document, tokenizer)] * times
    return [encode(typed(document, time % len(WAYS)), tokenizer) for time in range(times)]


def write_shards(cfg: BaseConfig, cleaned: Cleaned, tokenizer: Tokenizer) -> None:
    """Write a folder for each stage, its documents shuffled once, and "scored" with held-out ones by kind."""
    held: dict[str, list[np.ndarray]] = defaultdict(list)
    streams: dict[str, list[np.ndarray]] = {stage: [] for stage in STAGES}
    for source, source_documents in cleaned:
        counts = Counter()
        for document in source_documents:
            if draw(text_of(document)) < HELD_OUT:
                held[source.kind].append(encode(document, tokenizer))
                continue
            for stage in STAGES:
                times = repeats(document, source.times[stage])
                rows = readings(document, times, tokenizer, source.kind)
                counts[stage] += sum(map(len, rows))
                streams[stage] += rows
        each = ", ".join(f"{counts[stage]:,} tokens {stage}" for stage in STAGES)
        print(f"{source.path.name}: {each}", flush=True)
    out = Path(cfg.out)
    scored = {kind: np.concatenate(tokens)[:SCORED] for kind, tokens in held.items()}
    for stage, stream in streams.items():
        order = np.random.default_rng(cfg.seed).permutation(len(stream))
        put(out / stage / "train.bin", np.concatenate([stream[i] for i in order]))
        kinds = {source.kind for source, _ in cleaned if source.times[stage]}
        val = [tokens[: SCORED // 4] for kind, tokens in scored.items() if kind in kinds]
        put(out / stage / "val.bin", np.concatenate(val))
    for kind, tokens in scored.items():
        put(out / "scored" / f"val_{kind}.bin", tokens)


def write_words(cfg: BaseConfig, cleaned: Cleaned) -> None:
    """Write the words that count as words, sorted: a report calls others invented."""
    count: Counter[str] = Counter()
    for source, source_documents in cleaned:
        in_source = {word for document in source_documents for word in words_of(text_of(document))}
        count.update({word: WORD_SOURCES if source.kind == "voice" else 1 for word in in_source})
    words = sorted(word for word, n in count.items() if n >= WORD_SOURCES)
    write_atomic(Path(cfg.out) / "words.txt", "".join(f"{word}\n" for word in words).encode())


def put(path: Path, tokens: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, tokens.astype("<u2").tobytes())


def prepare(cfg: BaseConfig) -> None:
    """Make words, tokenizer and shards, unless they were made from these sources already."""
    sources, note = sources_of(cfg), Path(cfg.out) / "prepared.json"
    made_of = {
        "mix": sha256(cfg.mix),
        "script": sha256(__file__),
        "source_texts": sha256(source_texts.__file__),
        "seed": cfg.seed,
    }
    made_of |= {source.path.name: sha256(source.path) for source in sources}
    if note.is_file() and json.loads(note.read_text()) == made_of:
        return
    Path(cfg.out).mkdir(parents=True, exist_ok=True)
    cleaned = [(source, documents(source)) for source in sources]
    write_words(cfg, cleaned)
    write_shards(cfg, cleaned, train_tokenizer(cfg, cleaned))
    write_atomic(note, json.dumps(made_of).encode())


# ---- training ----


def run(script: str, flags: Iterable[str]) -> None:
    command = [sys.executable, str(ROOT / script), *flags]
    print(" ".join(command), flush=True)
    if code := subprocess.run(command).returncode:
        sys.exit(code)


def train_stages(cfg: BaseConfig) -> Path:
    """Train the broad stage, whose rate stays, the close stage, in which it falls, and that of the marks."""
    out = Path(cfg.out)
    tokenizer = f"--tokenizer={out / 'tok4096.model'}"
    common = [f"--batch_size={cfg.batch_size}", f"--learning_rate={cfg.learning_rate}", tokenizer]
    common += [f"--base_text_dir={out / 'scored'}"]
    common += "--optimizer=muon --schedule=wsd --eval_rows=128".split()
    broad, close, marks = (out / f"run_{stage}" for stage in (*STAGES, "marks"))
    stay = ["--init_from=scratch", f"--data_dir={out / 'broad'}", f"--out_dir={broad}"]
    stay += [f"--max_iters={cfg.broad_iters}", "--warmup_iters=100", "--decay_ratio=0"]
    run("train_arianna.py", [*common, *stay])
    fall = [f"--base={broad / 'ckpt.pt'}", f"--data_dir={out / 'close'}", f"--out_dir={close}"]
    fall += [f"--max_iters={cfg.close_iters}", "--warmup_iters=20", "--decay_ratio=1"]
    run("train_arianna.py", [*common, *fall])
    rank = [f"--base={close / f'ckpt_{cfg.close_iters:06d}.pt'}", f"--text={out / 'close'}"]
    run("data/learn_marks.py", [tokenizer, *rank, f"--out={marks}"])
    return marks / "base.pt"


def main(argv: list[str] | None = None) -> int:
    cfg = config.parse(BaseConfig, argv, __doc__)
    prepare(cfg)
    if not cfg.prepare:
        base = train_stages(cfg)
        command = "python -m arianna.export out/ckpt_v1_base.pt --format=checkpoint --half"
        print(f"the base is {base}; ship it in float16 with\n  {command} --checkpoint={base}")
    return 0


if __name__ == "__main__":
    config.run_main(main)
