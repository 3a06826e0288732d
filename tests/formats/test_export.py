"""The .bin as a C program computes it, and the command that writes it."""

import dataclasses
import inspect
import json
import math
import os
import re
import struct
import subprocess
import sys
import typing

import numpy as np
import pytest
import torch
from helpers import REPORT, ROOT, build, lively, logits, tokens_of

from arianna.export import ExportConfig, main
from arianna.formats import checkpoint, llama2c, open_model
from arianna.formats.table import SUFFIXES, module
from arianna.formats.write import UnfaithfulError, update_model, write_model
from arianna.system import config
from model import ModelArgs, Transformer

SMALL = ModelArgs(dim=32, n_layers=2, n_heads=4, vocab_size=80, max_seq_len=32)
SHAPES = {
    "as shipped, but small": (SMALL, True),
    "output of its own": (SMALL, False),
    "grouped heads": (dataclasses.replace(SMALL, n_kv_heads=2), True),
    "one key head, output of its own": (dataclasses.replace(SMALL, n_kv_heads=1), False),
    "a width of its own": (dataclasses.replace(SMALL, hidden_dim=40, n_layers=3), True),
    "long context": (dataclasses.replace(SMALL, max_seq_len=90), True),
}


# ---- an independent reader: run.c of llama2.c, written anew with numpy ----


class Run:
    """What run.c does with a file: maps the weights one behind the other, and computes the logits of every
    position."""

    def __init__(self, data: bytes):
        header = struct.unpack_from("<7i", data)
        self.dim, self.hidden, self.n_layers, self.n_heads, self.n_kv_heads, vocab_size, self.seq_len = header
        self.vocab_size, self.head_size = abs(vocab_size), self.dim // self.n_heads
        self.floats, self.at = np.frombuffer(data, dtype="<f4", offset=28), 0
        dim, kv_dim, layers = self.dim, self.head_size * self.n_kv_heads, self.n_layers
        self.embedding = self.take(self.vocab_size, dim)
        self.attention_norm = self.take(layers, dim)
        self.wq, self.wk, self.wv = (
            self.take(layers, dim, dim),
            self.take(layers, kv_dim, dim),
            self.take(layers, kv_dim, dim),
        )
        self.wo = self.take(layers, dim, dim)
        self.ffn_norm = self.take(layers, dim)
        self.w1, self.w2, self.w3 = (
            self.take(layers, *s) for s in ((self.hidden, dim), (dim, self.hidden), (self.hidden, dim))
        )
        self.norm = self.take(dim)
        self.cosines, self.sines = (self.take(self.seq_len, self.head_size // 2) for _ in range(2))
        self.output = self.embedding if vocab_size > 0 else self.take(self.vocab_size, dim)

    def take(self, *shape: int) -> np.ndarray:
        first, self.at = self.at, self.at + math.prod(shape)
        return self.floats[first : self.at].reshape(shape)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        x = self.embedding[tokens]  # (T, dim)
        for layer in range(self.n_layers):
            h = self.rmsnorm(x, self.attention_norm[layer])
            q, k = self.rope(h @ self.wq[layer].T), self.rope(h @ self.wk[layer].T)
            x = x + self.attention(q, k, h @ self.wv[layer].T) @ self.wo[layer].T
            h = self.rmsnorm(x, self.ffn_norm[layer])
            gate = h @ self.w1[layer].T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ self.w3[layer].T)) @ self.w2[layer].T
        return self.rmsnorm(x, self.norm) @ self.output.T

    def rmsnorm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return weight * (x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-5)))

    def rope(self, x: np.ndarray) -> np.ndarray:
        """Each pair of neighbours is turned by position * 10000 ** -(place in its head / head size)."""
        turned = np.empty_like(x)
        for position in range(len(x)):
            for i in range(0, x.shape[1], 2):
                angle = position * np.float32(10000.0) ** np.float32(-(i % self.head_size) / self.head_size)
                cosine, sine, a, b = np.cos(angle), np.sin(angle), x[position, i], x[position, i + 1]
                turned[position, i], turned[position, i + 1] = a * cosine - b * sine, a * sine + b * cosine
        return turned

    def attention(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        out, size, shared = np.empty_like(q), self.head_size, self.n_heads // self.n_kv_heads
        for head in range(self.n_heads):
            mine, theirs = (
                slice(head * size, (head + 1) * size),
                slice(head // shared * size, (head // shared + 1) * size),
            )
            for position in range(len(q)):
                scores = k[: position + 1, theirs] @ q[position, mine] / np.sqrt(np.float32(size))
                weights = np.exp(scores - scores.max())
                out[position, mine] = weights / weights.sum() @ v[: position + 1, theirs]
        return out


@pytest.mark.parametrize("name", SHAPES)
def test_c_computes_the_same_logits(name):
    args, tied = SHAPES[name]
    model = lively(args, tied)
    run, tokens = Run(llama2c.to_bytes(model)), tokens_of(args)
    assert run.at == len(run.floats), "the file is read to its end"
    found, expected = run.logits(tokens), logits(model, tokens)
    assert np.abs(found - expected).max() < 1e-4 < np.abs(expected).max() / 100, (
        "and 1e-4 is little beside them"
    )


def test_the_tables_in_the_file_are_the_rotary_angles():
    run = Run(llama2c.to_bytes(build(SMALL)))
    angles = np.outer(np.arange(32), 10000.0 ** (-np.arange(0, 8, 2) / 8))
    np.testing.assert_allclose(run.cosines, np.cos(angles), atol=2e-6)
    np.testing.assert_allclose(run.sines, np.sin(angles), atol=2e-6)


def test_the_shipped_shape_makes_28_670_620_bytes():
    shapes = llama2c.layout(ModelArgs(), tied=True).values()
    assert 28 + 4 * sum(math.prod(s) for s in shapes) == 28_670_620


def test_the_header_is_llama2cs():
    assert struct.unpack_from("<7i", llama2c.to_bytes(build(SMALL))) == (32, 96, 2, 4, 4, 80, 32)
    assert struct.unpack_from("<7i", llama2c.to_bytes(build(SMALL, tied=False))) == (32, 96, 2, 4, 4, -80, 32)


# ---- read back ----


def written(path, model: Transformer):
    path.write_bytes(llama2c.to_bytes(model))
    return path


@pytest.mark.parametrize("name", SHAPES)
def test_a_bin_gives_the_model_back(tmp_path, name):
    args, tied = SHAPES[name]
    before = lively(args, tied)
    after = llama2c.read(written(tmp_path / "a.bin", before))
    assert (after.args, after.tied) == (args, tied)
    assert np.array_equal(logits(after, tokens_of(args)), logits(before, tokens_of(args)))


def test_a_bin_becomes_llama2c_checkpoint_again(tmp_path):
    model = lively(dataclasses.replace(SMALL, dim=48, multiple_of=256))
    packed = checkpoint.pack(llama2c.read(written(tmp_path / "a.bin", model)))
    assert packed["model_args"] == checkpoint.pack(model)["model_args"], "hidden_dim is not among llama2.c's"
    assert all(torch.equal(v, packed["model"][k]) for k, v in model.state_dict().items())


def test_another_context_can_be_given(tmp_path):
    model = lively(SMALL)
    checkpoint.save(tmp_path / "a.pt", checkpoint.pack(model))
    for path in (written(tmp_path / "a.bin", model), tmp_path / "a.pt"):
        longer = open_model(path, 50)
        assert longer.args == dataclasses.replace(SMALL, max_seq_len=50)
        assert np.array_equal(logits(longer, tokens_of(SMALL)), logits(model, tokens_of(SMALL)))
        with pytest.raises(ValueError, match="max_seq_len is 0"):
            open_model(path, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:20], "has 20 bytes; a llama2.c .bin begins with a header of 28"),
        (lambda d: b"", "has 0 bytes"),
        (lambda d: d[:-4], r"bytes; its header asks for .* It is cut off"),
        (lambda d: d + bytes(4), "bytes; its header asks for"),
        (
            lambda d: struct.pack("<i", 0) + d[4:],
            r"is not a llama2\.c \.bin \(version 0\): its header reads \(0, .*dim is 0",
        ),
        (lambda d: struct.pack("<i", 0x616B3432) + d[4:], "is not a llama2.c .bin"),
        (lambda d: struct.pack("<7i", 32, 0, 2, 4, 4, 80, 32) + d[28:], "hidden_dim is 0"),
        (lambda d: struct.pack("<7i", 32, 96, 2, 5, 5, 80, 32) + d[28:], "do not fit together"),
        (lambda d: struct.pack("<7i", 32, 96, 1 << 30, 4, 4, 80, 32) + d[28:], "n_layers is 1073741824"),
        (
            lambda d: struct.pack("<7i", *[1 << 20] * 2, 9, 4, 4, *[1 << 20] * 2) + d[28:],
            "its header asks for 282,574,",
        ),
        (lambda d: d[:100] + struct.pack("<f", math.nan) + d[104:], "holds NaN or infinity"),
        (lambda d: d[:-4] + struct.pack("<f", math.inf), "holds NaN or infinity"),
    ],
)
def test_a_file_that_is_no_bin_is_refused(tmp_path, change, message):
    path = tmp_path / "a.bin"
    path.write_bytes(change(llama2c.to_bytes(build(SMALL))))
    with pytest.raises(ValueError, match=message) as caught:
        llama2c.read(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_bin_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="is missing; a llama2.c .bin is needed there"):
        open_model(tmp_path / "none.bin")


# ---- export ----


@pytest.mark.parametrize(("name", "format"), [("a.bin", "llama2c"), ("a.pt", "checkpoint")])
@pytest.mark.parametrize("tied", [True, False])
def test_an_export_gives_the_model_back(tmp_path, name, format, tied):
    model = lively(SMALL, tied)
    write_model(model, tmp_path / name, format)
    assert np.array_equal(
        logits(open_model(tmp_path / name), tokens_of(SMALL)), logits(model, tokens_of(SMALL))
    )
    assert os.listdir(tmp_path) == [name]


def test_half_is_the_rounded_model_and_leaves_the_given_one_alone(tmp_path):
    model = lively(SMALL)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    write_model(model, tmp_path / "a.pt", "checkpoint", half=True)
    after = open_model(tmp_path / "a.pt").state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
        assert torch.equal(after[name], weight.half().float())
    assert checkpoint.load(tmp_path / "a.pt")["model"]["norm.weight"].dtype == torch.float16


def test_a_model_of_another_eps_is_refused(tmp_path):
    with pytest.raises(ValueError, match="norm_eps 1e-06; llama2.c's run computes with 1e-05"):
        write_model(build(dataclasses.replace(SMALL, norm_eps=1e-6)), tmp_path / "a.bin")
    assert os.listdir(tmp_path) == []


def change_weight(model):
    model.layers[1].attention.wq.weight.data[0] += 1e-6


def change_row_of_a_token_that_is_not_tried(model):
    model.tok_embeddings.weight.data[
        next(i for i in range(80) if i not in {n * 997 % 80 for n in range(32)})
    ] += 1e-6


def change_angle(model):
    model.freqs_sin[3] += 1e-3


def change_context(model):
    model.args = dataclasses.replace(model.args, max_seq_len=31)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_weight, r"its layers\.1\.attention\.wq\.weight is not the model's"),
        (change_row_of_a_token_that_is_not_tried, r"its tok_embeddings\.weight is not the model's"),
        (change_angle, "its logits differ from the model's by up to"),
        (change_context, "its context is 31, the model's is 32"),
    ],
)
def test_an_unfaithful_file_does_not_take_its_place(tmp_path, monkeypatch, change, message):
    read = llama2c.read

    def read_changed(path, max_seq_len=None):
        model = read(path, max_seq_len)
        change(model)
        return model

    monkeypatch.setattr(llama2c, "read", read_changed)
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(UnfaithfulError, match=f"a.bin is not written: read back, {message}"):
        write_model(lively(SMALL, tied=False), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_file_that_cannot_be_read_back_does_not_take_its_place(tmp_path, monkeypatch, capsys):
    to_bytes = llama2c.to_bytes
    monkeypatch.setattr(llama2c, "to_bytes", lambda model, options: to_bytes(model)[:-4])
    source = saved(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"old")
    assert main([str(tmp_path / "a.bin"), f"--checkpoint={source}", "--force"]) == 1
    said = capsys.readouterr().err
    assert (
        said.startswith(f"{tmp_path / 'a.bin'} is not written: read back, it is no such file")
        and said.count("\n") == 1
    )
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "base.pt"]


def test_threads_are_as_many_as_before(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        write_model(lively(SMALL), tmp_path / "a.bin")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_file_that_is_right_already_is_kept(tmp_path):
    model, out = lively(SMALL), tmp_path / "a.bin"
    assert update_model(model, out)
    stamp = out.stat().st_ino
    assert not update_model(model, out) and out.stat().st_ino == stamp
    out.write_bytes(out.read_bytes()[:-1] + b"x")
    assert update_model(model, out)
    assert not update_model(model, out)
    assert update_model(model, tmp_path / "a.pt", "checkpoint", half=True)
    assert not update_model(model, tmp_path / "a.pt", "checkpoint", half=True)


# ---- the command ----


def saved(folder, model: Transformer | None = None):
    checkpoint.save(folder / "base.pt", checkpoint.pack(model or lively(SMALL)))
    return folder / "base.pt"


def usage_error(*words) -> str:
    with pytest.raises(config.UsageError) as caught:
        main([str(w) for w in words])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_command_writes_a_bin_and_says_so(tmp_path, capsys):
    source, out = saved(tmp_path), tmp_path / "a.bin"
    before = source.read_bytes()
    assert main([str(out), f"--checkpoint={source}"]) == 0
    assert (
        capsys.readouterr().out
        == f"wrote {out}: {out.stat().st_size:,} bytes, read back, its logits are the model's\n"
    )
    assert np.array_equal(logits(open_model(out), tokens_of(SMALL)), logits(lively(SMALL), tokens_of(SMALL)))
    assert source.read_bytes() == before


def test_the_command_makes_a_checkpoint_in_half_of_a_bin(tmp_path):
    source, out = written(tmp_path / "a.bin", lively(SMALL)), tmp_path / "a.pt"
    assert main([str(out), "--format=checkpoint", "--half", f"--checkpoint={source}"]) == 0
    assert sorted(checkpoint.load(out)) == ["config", "model", "model_args"]
    assert out.stat().st_size < source.stat().st_size


def test_what_cannot_be_asked_for_is_told_before_anything_is_read():
    assert "OUT is missing; it is a word without a flag" in usage_error("--checkpoint=base.pt")
    assert "--checkpoint is missing" in usage_error("a.bin")
    assert "a.pt should end in .bin, as files of --format=llama2c do" in usage_error("a.pt", "--checkpoint=x")
    assert "a.bin should end in .pt" in usage_error("a.bin", "--checkpoint=x", "--format=checkpoint")
    assert "--half goes with --format=checkpoint" in usage_error("a.bin", "--checkpoint=x", "--half")
    assert "'onnx' is not one of llama2c, llama2c-int8, hf, gguf, html, checkpoint" in usage_error(
        "a.bin", "--format=onnx"
    )
    assert "did you mean --half" in usage_error("a.bin", "--checkpoint=x", "--halff")


def test_the_input_is_not_written_over(tmp_path):
    source = saved(tmp_path)
    before = source.read_bytes()
    (tmp_path / "link.pt").symlink_to(source)
    for out in (source, tmp_path / "." / "base.pt", tmp_path / "link.pt"):
        assert "would be written, but it is an input" in usage_error(
            out, f"--checkpoint={source}", "--format=checkpoint"
        )
    assert source.read_bytes() == before


def test_a_place_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    source = saved(tmp_path)
    (tmp_path / "b.bin").mkdir()
    assert "cannot be written (No such file" in usage_error(
        tmp_path / "none" / "a.bin", f"--checkpoint={source}"
    )
    assert "cannot be written (Not a directory" in usage_error(source / "a.bin", f"--checkpoint={source}")
    assert "is a folder" in usage_error(tmp_path / "b.bin", f"--checkpoint={source}")
    if hasattr(os, "geteuid") and os.geteuid():
        (tmp_path / "b.bin").chmod(0o500)
        assert "cannot be written (Permission denied)" in usage_error(
            tmp_path / "b.bin" / "a.bin", f"--checkpoint={source}"
        )
    assert sorted(os.listdir(tmp_path)) == ["b.bin", "base.pt"]


def test_a_model_that_cannot_be_read_is_told_and_nothing_is_written(tmp_path):
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "folder").mkdir()
    assert "is a text and no model" in usage_error(tmp_path / "a.bin", f"--checkpoint={tmp_path / 'text.pt'}")
    assert "cannot be read (No such file" in usage_error(
        tmp_path / "a.bin", f"--checkpoint={tmp_path / 'none.pt'}"
    )
    assert "config.json is missing; a Hugging Face model's folder" in usage_error(
        tmp_path / "a.bin", f"--checkpoint={tmp_path / 'folder'}"
    )
    assert sorted(os.listdir(tmp_path)) == ["folder", "text.pt"]


def test_a_failed_write_is_exit_code_1(tmp_path, monkeypatch, capsys):
    source = saved(tmp_path)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert main([str(tmp_path / "a.bin"), f"--checkpoint={source}"]) == 1
    assert "a.bin could not be written" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["base.pt"]


def test_the_formats_are_those_of_the_flag():
    assert typing.get_args(typing.get_type_hints(ExportConfig)["format"]) == tuple(SUFFIXES)


def test_every_format_has_the_same_six_functions():
    for name in SUFFIXES:
        signatures = {
            function: list(inspect.signature(getattr(module(name), function)).parameters)
            for function in module(name).__all__
        }
        assert signatures == {
            "beside": ["name", "model", "options"],
            "check_tokenizer": ["path", "tokenizer"],
            "computed": ["stored", "options"],
            "read": ["path", "max_seq_len"],
            "stored": ["model", "options"],
            "to_bytes": ["model", "options"],
        }, name


def test_the_lines_of_the_docs_work_as_they_are_written(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    lines = re.findall(
        r"`python -m arianna\.export (out/arianna[^`]*)`",
        (ROOT / "docs/formats.md").read_text(encoding="utf-8"),
    )
    assert len(lines) == 4
    monkeypatch.chdir(tmp_path)
    for folder in ("out/ft", "data"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data/tok4096.model").write_bytes((ROOT / "data/tok4096.model").read_bytes())
    (tmp_path / "out/ft/report.json").write_text(json.dumps(REPORT))
    checkpoint.save("out/ckpt_ft.pt", checkpoint.pack(build()))
    for line in lines:
        assert main(line.split()) == 0
        assert open_model(line.split()[0]).args.dim == 32
    assert (tmp_path / "out/arianna.Modelfile").is_file()


def test_a_file_beside_an_export_is_not_written_over(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.chdir(tmp_path)
    checkpoint.save("m.pt", checkpoint.pack(build()))
    (tmp_path / "a.Modelfile").write_text("mine")
    words = ["a.gguf", "--checkpoint=m.pt", "--format=gguf", f"--tokenizer={ROOT / 'data/tok4096.model'}"]
    with pytest.raises(config.UsageError, match="a.Modelfile"):
        main(words)
    assert (tmp_path / "a.Modelfile").read_text() == "mine" and not (tmp_path / "a.gguf").exists()
    assert main([*words, "--force"]) == 0 and (tmp_path / "a.Modelfile").read_text() != "mine"


def test_help_and_a_missing_file_are_told_without_torch():
    program = """
import sys
from arianna import export
from arianna.system import config
for words in (["--help"], ["a.bin", "--checkpoint=none.pt"]):
    try:
        export.main(words)
    except (SystemExit, config.UsageError) as end:
        print(repr(end))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    *_, helped, missing, torch_is_there = done.stdout.splitlines()
    assert (helped, torch_is_there) == ("SystemExit(0)", "False"), done.stderr
    assert missing.startswith("UsageError('none.pt cannot be read")
