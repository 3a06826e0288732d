"""Small things that several tests build: models, shards, conversations, commands."""

import io
import json
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceTrainer

from arianna.corpus.conversations import Conversation
from arianna.corpus.encoding import ANSWER as SCORED
from arianna.corpus.encoding import ROW, TRAIN_ALL, prepare_conversations
from arianna.formats import checkpoint
from arianna.system.files import write_missing
from arianna.training.settings import TrainConfig
from arianna_data import Batch, Rows
from model import ModelArgs, Transformer
from tokenizer import IGNORE, Tokenizer

ROOT = Path(__file__).resolve().parent.parent


def write_shards(folder: Path, train_tokens: int = 2000, val_tokens: int = 300) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(3)
    for split, count in (("train", train_tokens), ("val", val_tokens)):
        (folder / f"{split}.bin").write_bytes(generator.integers(3, 4096, count).astype("<u2").tobytes())
    return folder


def settings_for(tmp_path: Path, base: Path | None = None, **changes) -> TrainConfig:
    data = tmp_path / "data"
    if not data.exists():
        write_shards(data)
    shape = (
        {} if base else {"init_from": "scratch", "dim": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 64}
    )
    common = {
        "data_dir": str(data),
        "out_dir": str(tmp_path / "run"),
        "batch_size": 2,
        "max_iters": 8,
        "eval_interval": 4,
        "log_interval": 2,
    }
    return TrainConfig(
        **{**common, **shape, "log_interval": 2, "base": str(base) if base else None, **changes}
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "ckpt.pt")["model"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def batch(parts: int) -> Batch:
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(3, 4096, (8, 32), generator=generator)
    y = torch.randint(3, 4096, (8, 32), generator=generator)
    for row in range(8):
        y[row, : 3 * row] = -1  # rows of unlike weight
    size = 8 // parts
    split = [(x[i : i + size], y[i : i + size]) for i in range(0, 8, size)]
    return Batch(split, int((y != -1).sum()), np.arange(8))


class Interrupt(Exception):
    pass


QUICK = ["--max_iters=6", "--eval_interval=3", "--batch_size=4", "--report=False"]


def conversation(i: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"What stands at number {i}?"},
        {
            "role": "assistant",
            "content": f"At number {i} stands a house with {i + 2} windows. "
            "I counted them in a sentence once.",
        },
    ]


def furnish(tmp_path: Path) -> Path:
    """A folder with 30 conversations and a tiny base."""
    lines = [json.dumps(conversation(i)) for i in range(30)]
    (tmp_path / "talk.jsonl").write_text("\n".join(lines) + "\n")
    checkpoint.save(tmp_path / "base.pt", checkpoint.pack(build(TINY)))
    (tmp_path / "data").mkdir()
    return tmp_path


def command(*flags: str) -> list[str]:
    aliases = {"--iterations": "--max_iters", "--lr": "--learning_rate"}
    names = [f.split("=")[0].replace("-", "_").replace("__", "--", 1) for f in flags]
    given = {aliases.get(name, name) for name in names}
    defaults = [
        "--conversations=talk.jsonl",
        "--base=base.pt",
        f"--tokenizer={ROOT / 'data/tok4096.model'}",
        *QUICK,
    ]
    return [
        sys.executable,
        str(ROOT / "arianna_ft.py"),
        *(d for d in defaults if d.split("=")[0] not in given),
        *flags,
    ]


GOOD = (
    b'[{"role": "user", "content": "What is a hill?"}, '
    b'{"role": "assistant", "content": "A valley seen from below."}]'
)


QUESTION, ANSWER = {"role": "user", "content": "why"}, {"role": "assistant", "content": "because"}


def line(*turns: str, system: str | None = None) -> list[dict[str, str]]:
    opening = [{"role": "system", "content": system}] if system is not None else []
    return opening + [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]


def write(folder: Path, *lines: bytes | list | dict, good: int = 20) -> Path:
    """A file of `good` good lines that differ, then the given ones, as bytes or as JSON values."""
    path = folder / "some.jsonl"
    given_lines = [raw if isinstance(raw, bytes) else json.dumps(raw).encode() for raw in lines]
    path.write_bytes(
        b"".join(
            raw + b"\n" for raw in [GOOD.replace(b"hill", b"hill %d" % n) for n in range(good)] + given_lines
        )
    )
    return path


def said(*messages) -> list:
    return list(messages)


FAULTS = {
    "not JSON": (b'{"messages": [', "the line is not JSON (Expecting value, column 15)"),
    "two values": (GOOD + GOOD, "the line is not JSON (Extra data, column 112)"),
    "a number": (b"12", "the line is a number, not a list of messages"),
    "text": (b'"hello"', "the line is text, not a list of messages"),
    "null": (b"null", "the line is null, not a list of messages"),
    "true": (b"true", "the line is true or false, not a list of messages"),
    "an unknown object": (
        {"what": "x", "that": "y"},
        "has neither 'messages' nor 'conversations' nor 'prompt' and 'completion' (its",
    ),
    "an object of two formats": (
        {"messages": [QUESTION, ANSWER], "prompt": "x", "completion": "y"},
        "has both 'messages' and 'prompt'",
    ),
    "a prompt alone": ({"prompt": "x"}, "a 'prompt' but no 'completion'"),
    "messages that are no list": ({"messages": {"role": "user"}}, "the messages are an object, not a list"),
    "a whole file in a line": (
        [[QUESTION, ANSWER]] * 2,
        "a list of conversations; each needs a line of its own",
    ),
    "a whole file of objects in a line": (
        [{"messages": [QUESTION, ANSWER]}],
        "a list of conversations; each needs a line of its own",
    ),
    "a message that is no object": (
        said("why", ANSWER),
        "message 1 is text, not an object with 'role' and 'content'",
    ),
    "a message without content": (said(QUESTION, {"role": "assistant"}), "message 2 has no 'content'"),
    "a message without a role": (said({"content": "x"}, ANSWER), "message 1 has no 'role'"),
    "an unknown role": (
        said(QUESTION, {"role": "narrator", "content": "x"}),
        "message 2 has the unknown role 'narrator'; known are user",
    ),
    "a role of a million letters": (
        said({"role": "x" * 900_000, "content": "x"}),
        f"the unknown role '{'x' * 40}...'; known",
    ),
    "a role that is a list": (
        said({"role": ["user"], "content": "x"}),
        "message 1 has the unknown role a list",
    ),
    "a role with half a character": (b'[{"role": "\\ud800", "content": "x"}]', "unknown role '\\ud800'"),
    "an answer alone": (said(ANSWER), "an answer stands alone; every answer needs a question before it"),
    "an answer alone behind system text": (
        said({"role": "system", "content": "x"}, ANSWER),
        "an answer stands alone",
    ),
    "a greeting without an answer": (said(ANSWER, QUESTION), "the last question has no answer"),
    "an empty greeting": (said(ANSWER | {"content": ""}, QUESTION, ANSWER), "the greeting is empty"),
    "system text in the middle": (
        said(QUESTION, {"role": "system", "content": "x"}, ANSWER),
        "message 2 is system text",
    ),
    "a question without answer": (said(QUESTION), "the last question has no answer"),
    "an empty list": (said(), "there is no question and no answer"),
    "system text alone": (said({"role": "system", "content": "x"}), "there is no question and no answer"),
    "an empty answer": (line("why", " \n"), "the answer is empty; every question needs an answer"),
    "an empty question": (line("", "because"), "the question is empty"),
    "an empty answer later": (line("why", "because", "why", ""), "the answer of turn 2 is empty"),
    "content that is a number": (said(QUESTION, ANSWER | {"content": 3}), "the answer is a number, not text"),
    "content that is null": (said(QUESTION | {"content": None}, ANSWER), "the question is null, not text"),
    "content in a list of numbers": (
        said(QUESTION | {"content": [3]}, ANSWER),
        "the question has a part that is a number, not text",
    ),
    "a picture": (
        said(QUESTION | {"content": [{"type": "image_url", "image_url": "x"}]}, ANSWER),
        "a part of type 'image_url'; only text",
    ),
    "a call of a tool": (
        said(QUESTION, {"role": "tool", "content": "x"}),
        "message 2 is from 'tool', tool and function calls",
    ),
    "a fractional weight": (
        said(QUESTION, ANSWER | {"weight": 0.5}),
        "message 2 has 'weight' 0.5; an answer is trained (1) or not (0)",
    ),
    "answers of one turn of which one is trained": (
        said(QUESTION, ANSWER, ANSWER | {"train": False}),
        "some to be trained and some not",
    ),
    "two assistants": (
        said(QUESTION, ANSWER, QUESTION, ANSWER | {"role": "bot"}),
        "answers are from 'assistant' and from 'bot'; which",
    ),
    "two system texts": (
        {"system": "x", "messages": line("why", "because", system="y")},
        "another system text beside the list",
    ),
    "only invisible characters": (
        line("\u200b\u2060", "because"),
        "the question holds only invisible characters (U+200B)",
    ),
    "an input that is no text": (
        {"instruction": "why", "input": ["x"], "output": "y"},
        "the input is a list, not text",
    ),
    "several answers": ({"prompt": "why", "completion": ["x", "y"]}, "'completion' is a list of 2 texts, of"),
    "a conversation within quotes": (
        json.dumps(GOOD.decode()).encode(),
        "it is JSON within quotes: write it",
    ),
    "messages within quotes": (
        {"messages": "[]"},
        "the messages are text, not a list; it is JSON within quotes",
    ),
    "two answers": (
        {"prompt": "x", "completion": "y", "response": "z"},
        "has both 'completion' and 'response'",
    ),
    "NaN": (b'[{"role": "user", "content": NaN}]', "NaN is not JSON"),
    "infinity in a key that is not read": (
        b'{"prompt": "why", "completion": "x", "score": -Infinity}',
        "-Infinity is not JSON",
    ),
    "a number of 5,000 digits": (
        b'{"prompt": ' + b"9" * 5000 + b', "completion": "x"}',
        "the question is a number, not text",
    ),
    "a key twice": (
        b'[{"role": "user", "content": "a", "content": "b"}]',
        "the key 'content' stands twice in one object",
    ),
    "a key twice among many": (
        b"{" + b",".join(b'"%d": 1' % (n % 49_999) for n in range(50_000)) + b"}",
        "the key '0' stands twice",
    ),
    "half a surrogate pair": (
        line("why", "be\ud83dcause"),
        "the answer has U+D83D, half of a surrogate pair, as its character 3",
    ),
    "NUL": (line("w\0hy", "because"), "the question has U+0000, a control character, as its character 2"),
    "a bell": (line("why", "because\a"), "the answer has U+0007, a control character, as its character 8"),
    "a form feed, which ends a line for some": (
        line("why", "be\fcause"),
        "the answer has U+000C, a control character",
    ),
    "a C1 control, which ends a line for some": (
        line("why", "be\x85cause"),
        "the answer has U+0085, a control character",
    ),
    "a control character in the system text": (
        line("why", "because", system="\x1b[2J"),
        "the system text has U+001B",
    ),
    "a raw control character": (
        b'{"prompt": "a\x01b", "completion": "x"}',
        "the line is not JSON (Invalid control character at",
    ),
    "Latin-1": (
        "[déjà vu]".encode("latin-1"),
        "the line is not UTF-8 (byte 3 is 0xE9); save the file as UTF-8",
    ),
    "UTF-16": (GOOD.decode().encode("utf-16"), "the line is not UTF-8 (byte 1 is 0xFF)"),
    "a surrogate in UTF-8": (
        b'{"prompt": "\xed\xa0\x80", "completion": "x"}',
        "the line is not UTF-8 (byte 13 is 0xED)",
    ),
    "10 MB": (
        b'[{"role": "user", "content": "' + b"x" * 10_000_000 + b'"}]',
        "the line is longer than 1,048,576 bytes",
    ),
    "nesting of 100,000 lists": (b"[" * 100_000 + b"]" * 100_000, "the line is nested too deeply"),
    "nesting of 100,000 objects": (
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "the line is nested too deeply",
    ),
}


def talk(*texts: str, system: str = "") -> Conversation:
    return Conversation(tuple(zip(texts[::2], texts[1::2], strict=True)), system)


SHORT = [talk(f"What is at {i}?", f"At {i} there is a house.") for i in range(8)]


LONG = talk("Count for me.", "and then one and then two and then a house with three windows " * 12)


TURNS = talk("Who is it?", "It is me.", "Who is me?", "The one at the door.", system="A play.")


CONVERSATIONS = [*SHORT[:4], LONG, TURNS, *SHORT[4:]]


def rows_of(held_out: list[Conversation], tokenizer, folder: Path, context: int = 64) -> Rows:
    write_missing(prepare_conversations([], held_out, tokenizer, context, context)[0], folder)
    return Rows(folder, "val", context, 4096)


def version_1(model: Transformer) -> bytes:
    """llama2.c's version 1, written as its export.py does."""
    a, tied = model.args, model.tied
    header = struct.pack(
        "<Ii7iB",
        0x616B3432,
        1,
        a.dim,
        a.hidden,
        a.n_layers,
        a.n_heads,
        a.n_kv_heads,
        a.vocab_size,
        a.max_seq_len,
        tied,
    )
    layers = list(model.layers)
    weights = [layer.attention_norm.weight for layer in layers] + [layer.ffn_norm.weight for layer in layers]
    weights += [model.norm.weight, model.tok_embeddings.weight]
    for name in ("wq", "wk", "wv", "wo"):
        weights += [getattr(layer.attention, name).weight for layer in layers]
    for name in ("w1", "w2", "w3"):
        weights += [getattr(layer.feed_forward, name).weight for layer in layers]
    weights += [] if tied else [model.output.weight]
    return header.ljust(256, b"\0") + b"".join(w.detach().numpy().astype("<f4").tobytes() for w in weights)


def header(version: int = 2, group: int = 64, tied: int = 1, **changes: int) -> bytes:
    shape = {
        "dim": 64,
        "hidden": 192,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 4,
        "vocab_size": 96,
        "seq_len": 24,
    } | changes
    return struct.pack("<Ii7iBi", 0x616B3432, version, *shape.values(), tied, group).ljust(256, b"\0")


def tensorboard_of(folder):
    """What TensorBoard shows of a run: (step, value) of each curve, and (step, text) of each text."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    curves = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    texts = {
        tag: [(e.step, e.tensor_proto.string_val[0].decode()) for e in found.Tensors(tag)]
        for tag in found.Tags()["tensors"]
    }
    return curves, texts


def write_conversations(folder) -> None:
    """Rows of 10 to 64 tokens."""
    folder.mkdir()
    for split, lengths in (("train", range(10, 65, 3)), ("val", (20, 30))):
        rows = [np.random.default_rng(n).integers(3, 4096, n) for n in lengths]
        flags = [np.where(np.arange(n) == 0, ROW, TRAIN_ALL | SCORED) for n in lengths]
        (folder / f"{split}.bin").write_bytes(np.concatenate(rows).astype("<u2").tobytes())
        (folder / f"{split}.mask").write_bytes(np.concatenate(flags).astype("u1").tobytes())


REPORT = {  # of a run, what others read of it
    "verdict": {
        "sentence": "Better: 4.33 to 3.03. Use out/ckpt_ft.pt "
        "(iteration 300 blended with the base, 70% of the way)."
    },
    "scores": {"base": {"answers": {"loss": 4.33}}, "tuned": {"answers": {"loss": 3.0312}}},
    "choice": {
        "base": {"base_text": {"val_text": 3.0}},
        "used": {"step": 300, "blend": 0.7, "base_text": {"val_text": 3.05}},
    },
    "conversations": {"train": 154, "held_out": 17},
    "run": {"peak": 1e-4},
}


TINY = ModelArgs(dim=32, n_layers=2, n_heads=2, vocab_size=4096, max_seq_len=64)


def build(args: ModelArgs = TINY, tied: bool = True, seed: int = 7) -> Transformer:
    """A model with larger weights than training starts from, so that its logits differ."""
    model = Transformer(args, tied)
    model.init_weights(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0 if p.dim() > 1 else 1.0)
    return model.eval()


def lively(args: ModelArgs, tied: bool = True) -> Transformer:
    """A model in which attention, norms and positions all count."""
    model = build(args, tied)
    for i, p in enumerate(model.layers.parameters()):
        p.data *= 5.0 if p.dim() > 1 else torch.linspace(0.5, 1.5, p.numel()).roll(i)
    return model


def tokens_of(args: ModelArgs) -> np.ndarray:
    return np.random.default_rng(0).integers(0, args.vocab_size, args.max_seq_len)


def logits(model: Transformer, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(tokens)[None])[0].numpy()


class Stub(Transformer):
    """A model whose loss is what a function of inputs and targets, both (B, T), says."""

    def __init__(self, loss=lambda x, y: torch.ones(y.shape)):
        super().__init__(TINY)
        self.loss = loss

    def nll(self, tokens, targets):
        return torch.where(targets >= 0, self.loss(tokens, targets), 0.0)


def train_tokenizer(path: Path, vocab_size: int = 340, text: str = "", **options) -> Tokenizer:
    """A small tokenizer as llama2.c's programs need it, trained on a text; `options` are SentencePiece's."""
    lines = f"{text}\n{(ROOT / 'arianna/__init__.py').read_text(encoding='utf-8')}" * 3
    plain = {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines.splitlines()),
        model_writer=model,
        vocab_size=vocab_size,
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
        **plain | options,
    )
    path.write_bytes(model.getvalue())
    return Tokenizer(path)


SMALL = ModelArgs(dim=32, n_layers=2, n_heads=4, vocab_size=64, max_seq_len=32)
GROUPED = ModelArgs(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=64, max_seq_len=32)


def random_tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 64, shape, generator=torch.Generator().manual_seed(seed))


def random_numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_ignored(targets: torch.Tensor, seed: int = 5) -> torch.Tensor:
    drop = torch.rand(targets.shape, generator=torch.Generator().manual_seed(seed)) < 0.4
    return targets.masked_fill(drop, IGNORE)


class Scripted:
    """A model that says what it is told to, a text a call, and remembers its prompts. None stands for a
    Ctrl-C."""

    def __init__(self, *texts: list[int | None], context: int = 256):
        self.args, self.texts, self.prompts, self.seeds = (
            SimpleNamespace(max_seq_len=context),
            list(texts),
            [],
            [],
        )

    def stream(self, prompts, max_new_tokens, seed, **sampling):
        self.prompts += prompts
        self.seeds.append(seed)
        room = min(max_new_tokens, self.args.max_seq_len - len(prompts[0]))
        for token in self.texts.pop(0)[:room]:
            if token is None:
                raise KeyboardInterrupt
            yield [token]

    def generate(self, prompts, max_new_tokens, stop, **sampling):
        return [[t for (t,) in self.stream([p], max_new_tokens, **sampling)] for p in prompts]
