"""llama2.c's int8 file as its runq computes it, and the files with a header read back."""

import dataclasses
import math
import os
import struct

import numpy as np
import pytest
import torch
from helpers import header, lively, logits, tokens_of, version_1

from arianna import export
from arianna.export import main
from arianna.formats import checkpoint, llama2c_int8, open_model
from arianna.formats.write import largest_difference, write_model
from arianna.scoring.losses import answer_loss
from arianna.system import config
from arianna_data import ANSWER, ROW, Rows
from model import ModelArgs, Transformer

SMALL = ModelArgs(dim=64, n_layers=2, n_heads=4, vocab_size=96, max_seq_len=24)
SHAPES = {
    "as shipped, but small": (SMALL, True),
    "output of its own": (SMALL, False),
    "grouped heads": (dataclasses.replace(SMALL, n_kv_heads=2), True),
    "smaller groups": (dataclasses.replace(SMALL, dim=48, n_heads=3, n_kv_heads=3, hidden_dim=144), False),
}


# ---- an independent reader: runq.c of llama2.c, written anew with numpy ----


class RunQ:
    """What runq.c does with a file: maps the weights one behind the other, and multiplies int8 with int8,
    group by group."""

    def __init__(self, data: bytes):
        magic, version, *header = struct.unpack_from("<Ii7i", data)
        assert (magic, version) == (0x616B3432, 2)
        self.dim, self.hidden, self.n_layers, self.n_heads, self.n_kv_heads, self.vocab_size, self.seq_len = (
            header
        )
        shared, self.group = struct.unpack_from("<Bi", data, 36)
        self.data, self.at, self.head_size = data, 256, self.dim // self.n_heads
        dim, kv_dim, layers = self.dim, self.head_size * self.n_kv_heads, self.n_layers
        self.attention_norm, self.ffn_norm, self.norm = (
            self.floats(layers, dim),
            self.floats(layers, dim),
            self.floats(dim),
        )
        self.tokens = self.matrix(self.vocab_size, dim)
        self.wq, self.wk, self.wv, self.wo = (
            self.matrices(*s) for s in ((dim, dim), (kv_dim, dim), (kv_dim, dim), (dim, dim))
        )
        self.w1, self.w2, self.w3 = (
            self.matrices(*s) for s in ((self.hidden, dim), (dim, self.hidden), (self.hidden, dim))
        )
        self.output = self.tokens if shared else self.matrix(self.vocab_size, dim)

    def floats(self, *shape: int) -> np.ndarray:
        first, self.at = self.at, self.at + 4 * math.prod(shape)
        return np.frombuffer(self.data[first : self.at], "<f4").reshape(shape)

    def matrix(self, rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        first, self.at = self.at, self.at + rows * width
        return np.frombuffer(self.data[first : self.at], np.int8).reshape(rows, -1, self.group), self.floats(
            rows, width // self.group
        )

    def matrices(self, rows: int, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
        return [self.matrix(rows, width) for _ in range(self.n_layers)]

    def times(self, x: np.ndarray, matrix: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Rows x (T, width) times the transposed matrix (rows, width): quantize(), then matmul()."""
        groups = x.reshape(len(x), -1, self.group)
        scales = np.abs(groups).max(-1) / np.float32(127)
        scaled = groups / scales[..., None]
        whole = (np.sign(scaled) * np.floor(np.abs(scaled) + np.float32(0.5))).astype(
            np.int32
        )  # C rounds halves away from zero
        products = np.einsum("tgi,rgi->trg", whole, matrix[0].astype(np.int32)).astype(np.float32)
        return (products * matrix[1][None] * scales[:, None]).sum(-1)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        whole, scales = self.tokens
        x = (whole * scales[..., None]).reshape(self.vocab_size, -1)[tokens]
        for i in range(self.n_layers):
            h = self.rmsnorm(x, self.attention_norm[i])
            q, k = self.rope(self.times(h, self.wq[i])), self.rope(self.times(h, self.wk[i]))
            x = x + self.times(self.attention(q, k, self.times(h, self.wv[i])), self.wo[i])
            h = self.rmsnorm(x, self.ffn_norm[i])
            gate = self.times(h, self.w1[i])
            x = x + self.times(gate / (1 + np.exp(-gate)) * self.times(h, self.w3[i]), self.w2[i])
        return self.times(self.rmsnorm(x, self.norm), self.output)

    def rmsnorm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return weight * (x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-5)))

    def rope(self, x: np.ndarray) -> np.ndarray:
        i = np.arange(0, x.shape[1], 2)
        angles = np.arange(len(x))[:, None] * np.float32(10000.0) ** (
            -(i % self.head_size) / np.float32(self.head_size)
        )
        a, b, cosines, sines = x[:, i], x[:, i + 1], np.cos(angles), np.sin(angles)
        return (
            np.stack((a * cosines - b * sines, a * sines + b * cosines), -1)
            .reshape(x.shape)
            .astype(np.float32)
        )

    def attention(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        out, size, shared = np.empty_like(q), self.head_size, self.n_heads // self.n_kv_heads
        for head in range(self.n_heads):
            mine, theirs = (
                slice(head * size, (head + 1) * size),
                slice(head // shared * size, (head // shared + 1) * size),
            )
            scores = np.where(
                np.tri(len(q), dtype=bool), q[:, mine] @ k[:, theirs].T / np.sqrt(np.float32(size)), -np.inf
            )
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, mine] = weights / weights.sum(-1, keepdims=True) @ v[:, theirs]
        return out


@pytest.mark.parametrize("name", SHAPES)
def test_runq_computes_what_is_told_of_it(name):
    args, tied = SHAPES[name]
    model, tokens = lively(args, tied), tokens_of(args)
    run = RunQ(llama2c_int8.to_bytes(model))
    assert run.at == len(run.data), "the file is read to its end"
    told = llama2c_int8.compute_in_int8(llama2c_int8.stored(model), run.group)
    exact, found, expected = logits(model, tokens), run.logits(tokens), logits(told, tokens)
    lost = np.abs(found - exact).mean()
    assert 1e-4 < lost < 0.1 * exact.std(), "int8 changes the logits, but little"
    assert np.abs(found - expected).mean() < 0.1 * lost, "and they are the logits that are measured"


def test_groups_are_64_halved_until_they_divide_both_widths():
    assert llama2c_int8.group_size(ModelArgs()) == 32, "the shipped shape: 288 and 768"
    assert llama2c_int8.group_size(SMALL) == 64
    assert llama2c_int8.group_size(dataclasses.replace(SMALL, hidden_dim=96)) == 32, (
        "runq would leave a third of each row of w2 out"
    )
    assert struct.unpack_from(
        "<Bi", llama2c_int8.to_bytes(lively(dataclasses.replace(SMALL, hidden_dim=96))), 36
    ) == (1, 32)
    assert llama2c_int8.group_size(dataclasses.replace(SMALL, hidden_dim=172)) == 4, "stories260K's"
    with pytest.raises(
        ValueError, match="widths 64 and 98 are not multiples of 4, .* --format=llama2c takes it in float32"
    ):
        llama2c_int8.group_size(dataclasses.replace(SMALL, hidden_dim=98))


def test_quantizing_keeps_to_half_a_step_and_to_zeros():
    weights = np.random.default_rng(0).normal(0, 1, 32 * 50).astype(np.float32)
    weights[:32], weights[40] = 0, 1e-42
    whole, scales = llama2c_int8.quantize(weights, 32)
    back = llama2c_int8.dequantize(whole, scales)
    assert whole.dtype == np.int8 and np.abs(whole).max() == 127 and len(scales) == 50
    assert (np.abs(back - weights).reshape(50, 32).max(1) <= scales / 2 + 1e-7).all()
    assert (back[:32] == 0).all() and np.isfinite(back).all()
    tiny, _ = llama2c_int8.quantize(np.full(32, 1e-44, np.float32), 32)
    assert np.abs(tiny).max() <= 127, "a scale too small to be divided by is not run over"


def test_another_eps_is_refused():
    with pytest.raises(ValueError, match="norm_eps 1e-06; llama2.c's runq computes with 1e-05"):
        llama2c_int8.to_bytes(lively(dataclasses.replace(SMALL, norm_eps=1e-6)))


# ---- read back ----


@pytest.mark.parametrize("name", SHAPES)
def test_version_1_gives_the_model_back(tmp_path, name):
    args, tied = SHAPES[name]
    before, path = lively(args, tied), tmp_path / "a.bin"
    path.write_bytes(version_1(before))
    after = open_model(path)
    assert (after.args.hidden, after.args.n_kv_heads, after.tied) == (args.hidden, args.n_kv_heads, tied)
    assert np.array_equal(logits(after, tokens_of(args)), logits(before, tokens_of(args)))
    assert open_model(path, 40).args.max_seq_len == 40
    with pytest.raises(ValueError, match="max_seq_len is 0"):
        open_model(path, 0)


@pytest.mark.parametrize("name", SHAPES)
def test_version_2_gives_the_rounded_model_back(tmp_path, name):
    args, tied = SHAPES[name]
    model, path = lively(args, tied), tmp_path / "a.bin"
    before = {k: v.clone() for k, v in model.state_dict().items()}
    write_model(model, path, "llama2c-int8")
    after, expected = open_model(path), llama2c_int8.stored(model)
    assert (after.args.hidden, after.tied) == (args.hidden, tied)
    assert all(torch.equal(v, expected.state_dict()[k]) for k, v in after.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), (
        "the given model is left alone"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:100], "has 100 bytes; a llama2.c .bin of version 1 or 2 begins with a header of 256"),
        (lambda d: d[:-1], "bytes; its header asks for"),
        (lambda d: d + b"\0", "bytes; its header asks for"),
        (
            lambda d: header(version=3) + d[256:],
            "says version 3, group size 64; of llama2.c's .bin files versions 0, 1 and 2",
        ),
        (lambda d: header(group=0) + d[256:], "says version 2, group size 0"),
        (lambda d: header(group=-64) + d[256:], "group size -64"),
        (lambda d: header(tied=7) + d[256:], "says version 2"),
        (lambda d: header(group=7) + d[256:], "do not divide into groups of 7"),
        (lambda d: header(n_layers=1 << 30) + d[256:], "n_layers is 1073741824"),
        (lambda d: header(vocab_size=-96) + d[256:], "vocab_size is -96"),
        (lambda d: header(dim=1 << 20, hidden=1 << 20, vocab_size=1 << 20) + d[256:], "its header asks for"),
        (lambda d: d[:256] + struct.pack("<f", math.nan) + d[260:], "holds NaN or infinity"),
        (lambda d: d[:-4] + struct.pack("<f", math.inf), "holds NaN or infinity"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, message):
    path = tmp_path / "a.bin"
    path.write_bytes(change(llama2c_int8.to_bytes(lively(SMALL))))
    with pytest.raises(ValueError, match=message) as caught:
        open_model(path)
    assert str(caught.value).startswith(str(path))


# ---- the command ----


def saved(folder, model: Transformer | None = None):
    checkpoint.save(folder / "base.pt", checkpoint.pack(model or lively(SMALL)))
    return folder / "base.pt"


def rows(folder, args: ModelArgs):
    tokens = np.random.default_rng(0).integers(3, args.vocab_size, 200).astype("<u2")
    (folder / "data").mkdir()
    (folder / "data" / "val.bin").write_bytes(tokens.tobytes())
    return folder / "data"


def test_the_command_tells_what_int8_changes(tmp_path, capsys):
    source, out, data = saved(tmp_path), tmp_path / "a.bin", rows(tmp_path, SMALL)
    words = [str(out), f"--checkpoint={source}", "--format=llama2c-int8", f"--data_dir={data}"]
    assert main(words) == 0
    wrote, losses = capsys.readouterr().out.splitlines()
    computed = llama2c_int8.compute_in_int8(llama2c_int8.stored(lively(SMALL)), 64)
    apart = largest_difference(lively(SMALL), computed)
    assert apart > 0.001 and f"differ from the model's by up to {apart:.3g} " in wrote
    scored = Rows(data, "val", SMALL.max_seq_len, SMALL.vocab_size)
    expected = [answer_loss(model, scored).loss for model in (computed, lively(SMALL))]
    told = "held-out answers in {}: {:.4f} nats a token as written, {:.4f} the model itself ({:+.4f})"
    assert losses == told.format(data, *expected, expected[0] - expected[1])
    assert abs(expected[0] - expected[1]) > 1e-5


def test_the_data_of_the_run_beside_the_model_is_found(tmp_path, capsys):
    source, model = saved(tmp_path), lively(SMALL)
    words = [str(tmp_path / "a.bin"), f"--checkpoint={source}"]
    for folder in (tmp_path / "data", tmp_path / "ft" / "data"):
        folder.mkdir(parents=True)
        (folder / "val.bin").write_bytes(np.tile(np.r_[1, 3:22], 3).astype("<u2").tobytes())
        assert export.rows_beside(source, model) is None, "a text is no conversations"
        (folder / "val.mask").write_bytes(bytes([ROW, *[ANSWER] * 19] * 3))
        assert export.rows_beside(source, model).files[0].parent == folder
        assert main([*words, "--format=llama2c-int8", "--force"]) == 0
        assert f"held-out answers in {folder}: " in capsys.readouterr().out
        assert main([*words, "--force"]) == 0
        assert "held-out" not in capsys.readouterr().out, "nothing is rounded, and nobody asked"
        assert (
            export.rows_beside(source, lively(dataclasses.replace(SMALL, vocab_size=16, n_layers=1))) is None
        ), "tokens of another model"
        (folder / "val.mask").unlink()


def test_a_data_folder_that_cannot_be_scored_is_told_before_anything_is_written(tmp_path):
    source = saved(tmp_path)
    with pytest.raises(config.UsageError, match=r"none has no val\*\.bin"):
        main([str(tmp_path / "a.bin"), f"--checkpoint={source}", f"--data_dir={tmp_path / 'none'}"])
    assert os.listdir(tmp_path) == ["base.pt"]


@pytest.mark.parametrize(
    ("format", "name"), [("llama2c", "a.bin"), ("llama2c-int8", "a.bin"), ("checkpoint", "a.pt")]
)
def test_a_file_that_is_there_is_not_written_over_unasked(tmp_path, format, name):
    source, out = saved(tmp_path), tmp_path / name
    words = [str(out), f"--checkpoint={source}", f"--format={format}"]
    out.write_bytes(b"notes")
    with pytest.raises(config.UsageError, match=f"{name} exists and was not made by this run; .*--force"):
        main(words)
    assert out.read_bytes() == b"notes"
    assert main([*words, "--force"]) == 0
    with pytest.raises(config.UsageError, match="exists"):
        main(words)
