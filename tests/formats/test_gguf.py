"""The GGUF file: by the package's own reader, by an independent one, by llama.cpp where it is installed, and
back in."""

import dataclasses
import json
import os
import struct

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, build, lively

from arianna import formats
from arianna.corpus.template import prompt, render
from arianna.export import main
from arianna.formats import checkpoint, open_model, vocabulary
from arianna.formats.llama2c_int8 import compute_in_int8
from arianna.formats.options import Options
from arianna.formats.write import largest_difference, write_model
from arianna.generate import generate
from arianna.system import config
from model import Transformer
from tokenizer import Tokenizer

package = pytest.importorskip("gguf")
from arianna.formats import gguf  # noqa: E402

GROUPED = dataclasses.replace(TINY, dim=64, n_heads=4, n_kv_heads=2)
SHIPPED = Tokenizer(ROOT / "data/tok4096.model")
DAMAGED = r"is no GGUF file or damaged \([\d,]+ bytes\)\. Use another copy of it"


def written(path, model: Transformer | None = None, kind: str = "F32"):
    write_model(model or lively(GROUPED), path, "gguf", tokenizer=SHIPPED, gguf_type=kind)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A file of the lively model in F32, only to be read."""
    return written(tmp_path_factory.mktemp("gguf") / "a.gguf")


@pytest.fixture(scope="module")
def metadata(exported):
    return {key: field.contents() for key, field in package.GGUFReader(exported).fields.items()}


# ---- out ----


def test_llama_cpp_is_told_what_it_needs(metadata):
    expected = {
        "general.architecture": "llama",
        "llama.context_length": 64,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 192,
        "llama.block_count": 2,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 1,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.chat_template": vocabulary.CHAT_TEMPLATE,
    }
    assert {key: metadata[key] for key in expected} == expected


def test_its_tokenizer_is_ours(metadata):
    tokens, scores, types = (
        metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type")
    )
    assert tokens == [SHIPPED.sp.id_to_piece(i) for i in range(4096)]
    assert scores == [SHIPPED.sp.get_score(i) for i in range(4096)]
    assert types == [2, 3, 3] + [6] * 256 + [1] * (4096 - 259)


def test_its_tensors_are_ours_as_they_are(exported):
    model, tensors = lively(GROUPED), {t.name: t for t in package.GGUFReader(exported).tensors}
    assert len(tensors) == 2 + 9 * 2 and "output.weight" not in tensors, "the output is the embedding's"
    for name, weight in {
        "token_embd.weight": model.tok_embeddings,
        "blk.1.attn_q.weight": model.layers[1].attention.wq,
        "blk.0.attn_k.weight": model.layers[0].attention.wk,
        "blk.1.ffn_gate.weight": model.layers[1].feed_forward.w1,
        "blk.1.ffn_down.weight": model.layers[1].feed_forward.w2,
        "blk.1.ffn_up.weight": model.layers[1].feed_forward.w3,
        "blk.0.attn_norm.weight": model.layers[0].attention_norm,
        "blk.0.ffn_norm.weight": model.layers[0].ffn_norm,
    }.items():
        assert np.array_equal(tensors[name].data, weight.weight.detach().numpy()), name


@pytest.mark.parametrize(("kind", "tied"), [("F32", False), ("F16", True), ("Q8_0", False)])
def test_a_file_gives_the_rounded_model_back(tmp_path, kind, tied):
    model = lively(GROUPED, tied)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    after = open_model(written(tmp_path / "a.gguf", model, kind))
    assert (after.args, after.tied) == (GROUPED, tied)
    for name, weight in model.state_dict().items():
        found = after.state_dict()[name]
        assert torch.equal(weight, before[name]), "the given model is left alone"
        if weight.dim() == 1 or kind == "F32":
            assert torch.equal(found, weight)
        elif kind == "F16":
            assert torch.equal(found, weight.half().float())
        else:  # int8 by groups of 32 with a scale in float16
            # Each number is within half a step and what the scale lost.
            groups, back = weight.view(-1, 32), found.view(-1, 32)
            assert ((groups - back).abs() <= groups.abs().amax(1, keepdim=True) * (0.5 / 127 + 2e-3)).all()
            assert not torch.equal(found, weight)
    assert open_model(tmp_path / "a.gguf", 90).args.max_seq_len == 90
    with pytest.raises(ValueError, match="max_seq_len is 0"):
        open_model(tmp_path / "a.gguf", 0)


def test_what_a_type_cannot_hold_is_refused(tmp_path):
    huge = lively(GROUPED)
    huge.layers[0].attention.wv.weight.data[0, 0] = 70000
    with pytest.raises(ValueError, match="beyond 65,504"):
        written(tmp_path / "a.gguf", huge, "F16")
    with pytest.raises(
        ValueError, match=r"tok4096\.model has 4096 tokens, but the model was trained with 80"
    ):
        written(tmp_path / "a.gguf", build(dataclasses.replace(TINY, vocab_size=80)))
    assert os.listdir(tmp_path) == []


def test_rows_that_q8_0_does_not_divide_are_stored_in_f16(tmp_path):
    model = lively(dataclasses.replace(GROUPED, hidden_dim=80))
    path = written(tmp_path / "a.gguf", model, "Q8_0")
    types = {tensor.name: tensor.tensor_type.name for tensor in package.GGUFReader(path).tensors}
    assert (types["blk.0.ffn_down.weight"], types["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")
    w2 = open_model(path).layers[0].feed_forward.w2.weight
    assert torch.equal(w2, model.layers[0].feed_forward.w2.weight.half().float())


def test_the_same_model_makes_the_same_bytes():
    options = Options(tokenizer=SHIPPED, gguf_type="Q8_0")
    assert gguf.to_bytes(lively(GROUPED), options) == gguf.to_bytes(lively(GROUPED), options)


def test_a_missing_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    source = saved(tmp_path)
    with pytest.raises(
        config.UsageError, match="GGUF needs the package gguf, which is not installed: pip install gguf"
    ):
        main(words(tmp_path / "a.gguf", source))
    assert os.listdir(tmp_path) == ["base.pt"]


# ---- Ollama ----


def rendered(template: str, messages: list[tuple[str, str]]) -> str:
    """What Go's templates make of the few words that ours uses."""
    body = template.removeprefix("{{ range .Messages }}")
    assert body != template
    branches, ending = body.split("{{ end }}{{ end }}")
    user, rest = branches.removeprefix('{{ if eq .Role "user" }}').split('{{ else if eq .Role "assistant" }}')
    assistant, other = rest.split("{{ else }}")
    parts = {"user": user, "assistant": assistant}
    return (
        "".join(parts.get(role, other).replace("{{ .Content }}", content) for role, content in messages)
        + ending
    )


def test_the_modelfile_renders_the_conversation(exported):
    found = (exported.parent / "a.Modelfile").read_text()
    template = found.split('TEMPLATE """')[1].split('"""')[0]
    asked = rendered(
        template, [("system", "Be calm."), ("user", "Who?"), ("assistant", "I."), ("user", "Why?")]
    )
    assert asked == render("Who?", "I.", "Be calm.") + "<s>" + prompt("Why?")
    lines = found.splitlines()
    assert "FROM ./a.gguf" in lines and 'PARAMETER stop "<s>"' in lines and "PARAMETER num_ctx 64" in lines
    assert "<<" not in found and ">>" not in found


# ---- what cannot be read ----


def string(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def after(data: bytes, key: bytes, offset: int, value: bytes) -> bytes:
    """The file with other bytes `offset` behind the end of a key."""
    at = data.index(string(key)) + 8 + len(key) + offset
    return data[:at] + value + data[at + len(value) :]


def number(key: bytes, value: int):
    return lambda d: after(d, key, 4, struct.pack("<I", value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: b"", r"is no GGUF file or damaged \(0 bytes\): it begins with b'', not"),
        (lambda d: d[:20], "it ends too early"),
        (lambda d: b"GGML" + d[4:], "it begins with b'GGML', not with b'GGUF'"),
        (lambda d: d[:4] + struct.pack("<I", 9) + d[8:], "it is of version 9; 2 and 3 can be read"),
        (lambda d: d[:1000], "it ends too early"),
        (lambda d: d[:-32], "it ends too early"),
        (lambda d: d + bytes(32), "its 20 tensors end at byte"),
        (lambda d: d[:8] + struct.pack("<Q", 1 << 60) + d[16:], "is no GGUF file or damaged"),
        (lambda d: d[:16] + struct.pack("<Q", 1 << 60) + d[24:], "is no GGUF file or damaged"),
        (lambda d: after(d, b"general.name", 4, struct.pack("<Q", 1 << 62)), "it ends too early"),
        (lambda d: after(d, b"general.name", 0, struct.pack("<I", 77)), DAMAGED),
        (
            lambda d: after(d, b"tokenizer.ggml.scores", 8, struct.pack("<Q", 1 << 60)),
            "it ends too early|more than 1,048,576 values",
        ),
        (lambda d: after(d, b"tokenizer.ggml.scores", 4, struct.pack("<I", 9)), "or damaged "),
        (lambda d: after(d, b"blk.0.attn_q.weight", 0, struct.pack("<I", 1 << 30)), "it ends too early"),
        (
            lambda d: after(d, b"blk.0.attn_q.weight", 4 + 16, struct.pack("<I", 12)),
            r"(quantised model \(Q4_K\)|or damaged)",
        ),
        (
            lambda d: after(d, b"blk.0.attn_q.weight", 4, struct.pack("<QQ", 32, 128)),
            r"attn_q.weight is \(128, 32\), but .* \(64, 64\)",
        ),
        (lambda d: after(d, b"blk.0.attn_q.weight", 4, struct.pack("<QQ", 1 << 40, 1 << 40)), "or damaged "),
        (
            lambda d: d.replace(b"blk.1.attn_q", b"blk.7.attn_q"),
            r"lacks blk\.1\.attn_q\.weight \(1 missing, 1 too many\)",
        ),
        (lambda d: d.replace(b"blk.1.attn_q", b"blk.0.attn_q"), DAMAGED),
        (lambda d: d.replace(b"blk.1.attn_q", b"\xff" * 12), DAMAGED),
        (
            lambda d: after(d, b"general.architecture", 12, b"gemma"),
            "architecture 'gemma'; only 'llama' can be read",
        ),
        (
            lambda d: d.replace(b"llama.embedding_length", b"llama.embedding_lengtX"),
            "has no embedding_length, which is a part of the model's shape",
        ),
        (number(b"llama.embedding_length", 0), "dim is 0"),
        (number(b"llama.block_count", 1 << 30), "n_layers is 1073741824"),
        (number(b"llama.block_count", 3), r"lacks blk\.2\."),
        (number(b"llama.attention.head_count", 5), "do not fit together"),
        (
            number(b"llama.rope.dimension_count", 8),
            "has rope.dimension_count 8; llama2.c's programs compute with 16",
        ),
        (
            lambda d: after(d, b"llama.rope.freq_base", 4, struct.pack("<f", 5e5)),
            r"has rope.freq_base 500000\.0",
        ),
        (
            lambda d: after(d, b"llama.attention.layer_norm_rms_epsilon", 4, struct.pack("<f", 1e-6)),
            "has attention.layer_norm_rms_epsilon",
        ),
        (lambda d: d[:-4] + struct.pack("<f", np.inf), "holds NaN or infinity"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, exported, change, message):
    path = tmp_path / "a.gguf"
    path.write_bytes(change(exported.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        open_model(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def without_weights(path) -> None:
    """A vocabulary alone, as llama.cpp's models/ggml-vocab-*.gguf are."""
    writer = package.GGUFWriter(path, "llama")
    for key, value in gguf.metadata(GROUPED, vocabulary.pieces(SHIPPED), "F32").items():
        gguf.add(writer, key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantised(path) -> None:
    writer = package.GGUFWriter(path, "llama")
    writer.add_tensor(
        "token_embd.weight", np.zeros((2, 18), np.uint8), raw_dtype=package.GGMLQuantizationType.Q4_0
    )
    gguf.add(writer, "llama.embedding_length", 32)
    for key, value in gguf.metadata(GROUPED, vocabulary.pieces(SHIPPED), "F32").items():
        if key != "llama.embedding_length":
            gguf.add(writer, key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_weights, "holds a vocabulary and no weights"),
        (quantised, r"is a quantised model \(Q4_0\), .* Use the model's F32, F16 or Q8_0 file"),
    ],
)
def test_a_file_that_is_no_whole_model_is_said_to_be_that(tmp_path, make, message):
    make(tmp_path / "a.gguf")
    with pytest.raises(ValueError, match=message):
        open_model(tmp_path / "a.gguf")


def test_a_list_that_is_long_beyond_measure_is_not_read_to_its_end(tmp_path, exported, monkeypatch):
    monkeypatch.setattr(gguf, "MOST_PIECES", 5000)
    with pytest.raises(ValueError, match="it has more than 5,000 values"):
        open_model(exported)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.gguf is missing"):
        open_model(tmp_path / "none.gguf")


def test_any_damaged_byte_ahead_of_the_tensors_is_one_sentence_or_harmless(tmp_path, exported):
    data, rng, path = exported.read_bytes(), np.random.default_rng(0), tmp_path / "a.gguf"
    tokens, tensors = data.index(b"tokenizer.ggml.tokens"), data.index(b"token_embd.weight")
    places = [*rng.integers(0, tokens + 60, 12), *rng.integers(tensors - 300, tensors + 1100, 12)]
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            gguf.read(path)
        except ValueError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error), (place, error)


def test_a_tokenizer_that_does_not_belong_to_a_file_is_refused(tmp_path, exported):
    formats.check_tokenizer(exported, SHIPPED)
    path = tmp_path / "a.gguf"
    path.write_bytes(
        exported.read_bytes().replace(string("\u2581the".encode()), string("\u2581tha".encode()), 1)
    )
    with pytest.raises(
        ValueError,
        match="tok4096.model does not belong to .*a.gguf: 1 of its 4096 entries in tokenizer.ggml.tokens",
    ):
        formats.check_tokenizer(path, SHIPPED)


# ---- the command ----


def saved(folder):
    checkpoint.save(folder / "base.pt", checkpoint.pack(lively(GROUPED)))
    return folder / "base.pt"


def words(out, source, *more) -> list[str]:
    return [str(out), f"--checkpoint={source}", "--format=gguf", f"--tokenizer={SHIPPED.path}", *more]


def test_the_command_tells_what_rounding_changes(tmp_path, capsys):
    source, out = saved(tmp_path), tmp_path / "a.gguf"
    assert main(words(out, source)) == 0
    assert (
        capsys.readouterr().out
        == f"wrote {out}: {out.stat().st_size:,} bytes, read back, its logits are the model's\n"
    )
    for kind in ("F16", "Q8_0"):
        assert main(words(out, source, f"--gguf_type={kind}", "--force")) == 0
        computed = gguf.stored(lively(GROUPED), Options(gguf_type=kind))
        computed = compute_in_int8(computed, 32, half_scales=True) if kind == "Q8_0" else computed
        assert (
            f"differ from the model's by up to {largest_difference(lively(GROUPED), computed):.3g} ("
            in capsys.readouterr().out
        )
    assert sorted(os.listdir(tmp_path)) == ["a.Modelfile", "a.gguf", "base.pt"]
    with pytest.raises(config.UsageError, match="--gguf_type goes with --format=gguf"):
        main([str(tmp_path / "a.bin"), f"--checkpoint={source}", "--gguf_type=F16"])


def test_a_file_that_is_there_is_kept_unless_forced(tmp_path):
    source, out = saved(tmp_path), tmp_path / "a.gguf"
    for name in ("a.gguf", "a.Modelfile"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(
            config.UsageError, match=f"{name} exists and was not made by this run; .* --force"
        ):
            main(words(out, source))
        assert (
            sorted(os.listdir(tmp_path)) == sorted([name, "base.pt"])
            and (tmp_path / name).read_text() == "mine"
        )
        (tmp_path / name).unlink()
    assert main(words(out, source)) == 0 and main(words(tmp_path / "b.gguf", source)) == 0
    assert "FROM ./b.gguf" in (tmp_path / "b.Modelfile").read_text()
    assert "FROM ./a.gguf" in (tmp_path / "a.Modelfile").read_text()
    (tmp_path / "a.Modelfile").write_text("mine")
    assert main(words(out, source, "--force")) == 0
    assert "FROM ./a.gguf" in (tmp_path / "a.Modelfile").read_text()


def test_a_file_of_ours_can_be_fine_tuned(tmp_path, exported):
    assert main([str(tmp_path / "a.pt"), f"--checkpoint={exported}", "--format=checkpoint"]) == 0
    assert torch.equal(
        open_model(tmp_path / "a.pt").layers[1].attention.wq.weight,
        lively(GROUPED).layers[1].attention.wq.weight,
    )


# ---- by llama.cpp itself ----


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_llama_cpp_gives_the_same_tokens_and_the_same_greedy_answers(tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    model = lively(dataclasses.replace(GROUPED, max_seq_len=256))
    exact = {
        "type_k": 0,
        "type_v": 0,
        "flash_attn": False,
    }  # keys and values in F32; else they are rounded to float16
    path = str(written(tmp_path / "a.gguf", model))
    llama = llama_cpp.Llama(path, n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False, **exact)
    held = [
        json.loads(line) for line in (ROOT / "data/arianna_conversations.jsonl").read_text().splitlines()[:40]
    ]
    texts = [message["content"] for messages in held for message in messages][:50] + [
        *vocabulary.TRIED[1:],
        "",
        " ",
        "\n",
        "a",
    ]
    assert len(texts) >= 50
    for words in texts:
        assert llama.tokenize(words.encode(), add_bos=True, special=False) == SHIPPED.encode(
            words, bos=True
        ), words
    turns = f"{render('a', 'b')}<s>{prompt('c')}"
    expected = [1, *SHIPPED.encode(render("a", "b")), 1, *SHIPPED.encode(prompt("c"))]
    assert llama.tokenize(turns.encode(), add_bos=True, special=True) == expected
    assert all(
        llama_cpp.llama_vocab_is_eog(llama_cpp.llama_model_get_vocab(llama.model), token) for token in (1, 2)
    )
    rng = np.random.default_rng(0)
    for n in rng.integers(1, 30, 50):
        given = [1, *rng.integers(259, 4096, n).tolist()]
        found = []
        for token in llama.generate(given, temp=0.0, repeat_penalty=1.0):
            if token in (1, 2) or len(found) == 40:
                break
            found.append(token)
        assert found == generate(model, [given], 40, temperature=0)[0]
