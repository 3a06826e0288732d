"""Checkpoints in and out: nothing in a file is trusted before it has been looked at."""

import argparse
import ast
import dataclasses
import io
import os
import random
import re
import struct
import zipfile

import numpy as np
import pytest
import torch
from helpers import ROOT, build
from safetensors.torch import save

from arianna.formats import checkpoint, open_model
from model import ModelArgs, Transformer

SMALL = ModelArgs(dim=32, n_layers=1, n_heads=4, n_kv_heads=2, vocab_size=64, max_seq_len=32)
KEYS = [
    "tok_embeddings.weight",
    "layers.0.attention.wq.weight",
    "layers.0.attention.wk.weight",
    "layers.0.attention.wv.weight",
    "layers.0.attention.wo.weight",
    "layers.0.feed_forward.w1.weight",
    "layers.0.feed_forward.w2.weight",
    "layers.0.feed_forward.w3.weight",
    "layers.0.attention_norm.weight",
    "layers.0.ffn_norm.weight",
    "norm.weight",
    "output.weight",
]


@pytest.fixture
def model() -> Transformer:
    return build(SMALL)


def logits(model: Transformer) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(32)[None])


def reload(path, **options) -> Transformer:
    return checkpoint.build_model(checkpoint.load(path), path, **options)


def refused(path) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(ValueError) as caught:
        reload(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    return str(caught.value)


# ---- out and back in ----


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back(tmp_path, tied):
    before = build(SMALL, tied)
    checkpoint.save(tmp_path / "a.pt", checkpoint.pack(before))
    after = reload(tmp_path / "a.pt")
    assert after.args == before.args and after.tied == tied
    assert torch.equal(logits(after), logits(before))
    assert (after.output.weight is after.tok_embeddings.weight) == tied


def test_the_file_has_llama2c_entries_and_no_others(tmp_path, model):
    checkpoint.save(tmp_path / "a.pt", checkpoint.pack(model, iter_num=3, best_val_loss=1.5, optimizer={}))
    found = torch.load(tmp_path / "a.pt", weights_only=True)
    assert sorted(found) == ["best_val_loss", "config", "iter_num", "model", "model_args", "optimizer"]
    assert sorted(found["model"]) == sorted(KEYS)
    assert found["config"]["vocab_source"] == "custom"
    shape = {
        "dim": 32,
        "n_layers": 1,
        "n_heads": 4,
        "n_kv_heads": 2,
        "vocab_size": 64,
        "multiple_of": 32,
        "max_seq_len": 32,
    }
    assert found["model_args"] == {**shape, "dropout": 0.0}
    assert (found["iter_num"], found["best_val_loss"]) == (3, 1.5)


def test_a_width_of_its_own_is_kept(tmp_path):
    before = build(dataclasses.replace(SMALL, hidden_dim=40))
    checkpoint.save(tmp_path / "a.pt", checkpoint.pack(before))
    assert reload(tmp_path / "a.pt").args == before.args


@pytest.mark.parametrize(("half", "size"), [(False, 4), (True, 2)])
def test_tied_weights_are_stored_once(tmp_path, half, size):
    model = build(dataclasses.replace(SMALL, vocab_size=4096))
    checkpoint.save(tmp_path / "a.pt", checkpoint.pack(model, half))
    numbers = sum(p.numel() for p in model.parameters())
    assert size * numbers < (tmp_path / "a.pt").stat().st_size < size * numbers + 10_000
    found = torch.load(tmp_path / "a.pt", weights_only=True)["model"]
    assert found["output.weight"].data_ptr() == found["tok_embeddings.weight"].data_ptr()
    after = reload(tmp_path / "a.pt")
    assert after.output.weight is after.tok_embeddings.weight and after.output.weight.dtype == torch.float32


def test_half_stores_the_nearest_of_float16(tmp_path, model):
    checkpoint.save(tmp_path / "a.pt", checkpoint.pack(model, half=True))
    for name, weight in reload(tmp_path / "a.pt").state_dict().items():
        assert torch.equal(weight, model.state_dict()[name].half().float())


def test_a_weight_beyond_float16_is_not_stored_in_half(model):
    model.norm.weight.data[0] = 70_000.0
    with pytest.raises(ValueError, match="beyond 65,504"):
        checkpoint.pack(model, half=True)


def test_the_files_of_compiled_and_of_older_llama2c_models_are_read(tmp_path, model):
    packed = checkpoint.pack(model)
    packed["model"] = {f"_orig_mod.{k}": v for k, v in packed["model"].items()}
    packed["model"] |= {"_orig_mod.freqs_cos": model.freqs_cos, "_orig_mod.freqs_sin": model.freqs_sin}
    checkpoint.save(tmp_path / "a.pt", packed)
    after = reload(tmp_path / "a.pt")
    assert after.tied and torch.equal(logits(after), logits(model))


def test_equal_matrices_of_two_storages_are_tied_and_unlike_ones_are_not(tmp_path, model):
    packed = checkpoint.pack(model)
    packed["model"]["output.weight"] = packed["model"]["output.weight"].clone()
    checkpoint.save(tmp_path / "a.pt", packed)
    assert reload(tmp_path / "a.pt").tied
    packed["model"]["output.weight"][0, 0] += 1
    checkpoint.save(tmp_path / "a.pt", packed)
    assert not reload(tmp_path / "a.pt").tied


def test_a_file_without_the_second_tied_name_is_read(tmp_path, model):
    packed = checkpoint.pack(model)
    del packed["model"]["output.weight"]
    checkpoint.save(tmp_path / "a.pt", packed)
    after = reload(tmp_path / "a.pt")
    assert after.tied and torch.equal(logits(after), logits(model))


def test_another_context_can_be_given(tmp_path, model):
    checkpoint.save(tmp_path / "a.pt", checkpoint.pack(model))
    longer = reload(tmp_path / "a.pt", max_seq_len=50)
    assert longer.args == dataclasses.replace(SMALL, max_seq_len=50)
    assert torch.equal(logits(longer), logits(model))


def test_the_state_of_an_optimizer_comes_back(tmp_path, model):
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.rand(64, 32), "exp_avg_sq": torch.rand(64, 32)}
    groups = [{"lr": 1e-5, "betas": (0.9, 0.95), "foreach": None, "fused": True, "params": [0]}]
    checkpoint.save(
        tmp_path / "a.pt", checkpoint.pack(model, optimizer={"state": {0: moments}, "param_groups": groups})
    )
    found = checkpoint.load(tmp_path / "a.pt")["optimizer"]
    assert found["param_groups"] == groups
    assert all(torch.equal(moments[k], found["state"][0][k]) for k in moments)


# ---- damage ----


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path, model):
    path = tmp_path / "a.pt"
    checkpoint.save(path, checkpoint.pack(model))
    whole, chosen, noticed = path.read_bytes(), random.Random(0), 0
    for _ in range(80):
        data = bytearray(whole)
        data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        path.write_bytes(data)
        try:
            after = reload(path)
        except ValueError as error:
            assert str(error).startswith(str(path))
            noticed += 1
            continue
        assert torch.equal(logits(after), logits(model))
    assert noticed > 40


def test_a_changed_number_fails_its_check_sum(tmp_path, model):
    path = tmp_path / "a.pt"
    checkpoint.save(path, checkpoint.pack(model))
    number = struct.pack("<f", model.layers[0].attention.wq.weight[0, 0].item())
    data = path.read_bytes().replace(number, struct.pack("<f", 1.5))
    path.write_bytes(data)
    assert "the check sum of" in refused(path)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(tmp_path, model, share):
    path = tmp_path / "a.pt"
    checkpoint.save(path, checkpoint.pack(model))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "is damaged or not a checkpoint" in refused(path)


@pytest.mark.parametrize("data", [b"\x01\x02te", bytes(9), b"PK\x03\x04" + bytes(100)])
def test_what_is_no_zip_archive_is_refused(tmp_path, data):
    (tmp_path / "a.pt").write_bytes(data)
    assert "is no zip archive" in refused(tmp_path / "a.pt")


def legacy(path, model):
    torch.save(checkpoint.pack(model), path, _use_new_zipfile_serialization=False)


def with_numpy(path, model):
    torch.save({**checkpoint.pack(model), "best_val_loss": np.float64(1.5)}, path)


def with_object(path, model):
    torch.save({**checkpoint.pack(model), "config": argparse.Namespace(a=1)}, path)


def like_hf(path, model):
    torch.save({"model.embed_tokens.weight": model.output.weight.detach()}, path)


OTHERS = {
    "a legacy file": (legacy, "is in torch's old format, .* save it again"),
    "a state_dict": (
        lambda path, model: torch.save(model.state_dict(), path),
        "is a state_dict: weights without their model's shape",
    ),
    "a state_dict of transformers": (like_hf, "is the state_dict of a Hugging Face model; give its folder"),
    "numbers of numpy": (with_numpy, r"holds numbers of numpy \(numpy.*float\(best_val_loss\)"),
    "an object": (with_object, "it asks for argparse.Namespace. Nothing in it was run"),
    "safetensors": (
        lambda path, model: path.write_bytes(save({"a": torch.ones(3)})),
        "is a safetensors file, .* give its folder",
    ),
    "a pickle": (
        lambda path, model: path.write_bytes(b"\x80\x02}q\x00."),
        "is a pickle and no archive of torch.save",
    ),
    "a pointer of Git LFS": (
        lambda path, model: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"),
        "git lfs pull",
    ),
    "a web page": (
        lambda path, model: path.write_bytes(b"<!DOCTYPE html><html>"),
        "is a web page; download the file itself",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_kind_is_said_to_be_that(tmp_path, model, name):
    make, message = OTHERS[name]
    make(tmp_path / "a.pt", model)
    sentence = refused(tmp_path / "a.pt")
    assert (
        re.search(message, sentence) and "damaged or not" not in sentence and "another copy" not in sentence
    )


def test_a_zip_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("hello.txt", "not a model")
    assert "not a checkpoint of tensors and plain values" in refused(tmp_path / "a.pt")


def test_compressed_entries_are_refused(tmp_path, model):
    checkpoint.save(tmp_path / "a.pt", checkpoint.pack(model))
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as whole,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in whole.namelist():
            packed.writestr(entry, whole.read(entry))
    assert "has compressed or too many entries" in refused(tmp_path / "b.pt")


def test_too_many_entries_are_refused(tmp_path, model, monkeypatch):
    checkpoint.save(tmp_path / "a.pt", checkpoint.pack(model))
    monkeypatch.setattr(checkpoint, "MAX_ENTRIES", 5)
    assert "has compressed or too many entries" in refused(tmp_path / "a.pt")


def test_entries_that_claim_more_than_the_file_are_refused(tmp_path, model):
    path = tmp_path / "a.pt"
    checkpoint.save(path, checkpoint.pack(model))
    data = bytearray(path.read_bytes())
    struct.pack_into(
        "<I", data, data.index(b"PK\x01\x02") + 24, 1 << 30
    )  # the size of the first entry in the archive's list
    path.write_bytes(data)
    assert f"claim more bytes than its {len(data):,}" in refused(path)


def test_a_missing_file_is_told(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match="is missing; a checkpoint file is needed there"):
            checkpoint.load(path)


# ---- what a file must not do ----


class Command:
    """Unpickled without care, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_a_command_is_refused_and_not_run(tmp_path, model, zipped):
    trap = tmp_path / "trap"
    torch.save(
        {**checkpoint.pack(model), "run": Command(trap)},
        tmp_path / "a.pt",
        _use_new_zipfile_serialization=zipped,
    )
    said = refused(tmp_path / "a.pt")
    assert not trap.exists()
    assert ".mkdir" in said or not zipped
    assert "weights_only=False" not in said and "weights_only argument" not in said, (
        "torch's own message tells how to open it all the same"
    )


def test_nothing_here_loads_without_weights_only():
    sources = [*ROOT.glob("*.py"), *ROOT.glob("arianna/**/*.py"), *ROOT.glob("data/*.py")]
    assert len(sources) > 40
    calls = []
    for source in sources:
        tree = ast.parse(source.read_text(encoding="utf-8"))
        imported = [
            a.name for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names
        ]
        assert "pickle" not in imported, f"{source.name} imports pickle"
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
            name = ast.unparse(call.func)
            if name in ("torch.load", "np.load", "numpy.load"):
                calls.append(name)
                options = {k.arg: ast.unparse(k.value) for k in call.keywords}
                assert name != "torch.load" or options.get("weights_only") == "True", (
                    f"{source.name}:{call.lineno}"
                )
                assert "allow_pickle" not in options, f"{source.name}:{call.lineno}"
    assert "torch.load" in calls


# ---- contents ----


def expanded(shape) -> torch.Tensor:
    return torch.zeros(1).expand(shape)


NORM = "layers.0.ffn_norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(NORM), rf"lacks {NORM} \(1 missing, 0 too many\)"),
        (
            lambda w: w.update({"layers.1.ffn_norm.weight": torch.ones(32)}),
            r"has layers\.1\.ffn_norm\.weight, which no Llama model",
        ),
        (
            lambda w: w.update({NORM: torch.ones(33)}),
            rf"{NORM} is \(33,\), but its model_args ask for \(32,\)",
        ),
        (lambda w: w.update({NORM: torch.ones(32, 1)}), rf"{NORM} is \(32, 1\)"),
        (
            lambda w: w.update({NORM: torch.ones(32, dtype=torch.int64)}),
            f"{NORM} is torch.int64, not a plain tensor of floats",
        ),
        (lambda w: w.update({NORM: torch.ones(32, dtype=torch.float64)}), f"{NORM} is torch.float64"),
        (
            lambda w: w.update({NORM: torch.ones(32).to_sparse()}),
            f"{NORM} is torch.float32, not a plain tensor",
        ),
        (
            lambda w: w.update({NORM: torch.ones(32, device="meta")}),
            f"{NORM} is torch.float32, not a plain tensor",
        ),
        (lambda w: w.update({NORM: [1.0] * 32}), f"{NORM} is list, not a plain tensor"),
        (lambda w: w.update({NORM: expanded(32)}), f"{NORM} claims 32 numbers, more than the file holds"),
        (lambda w: w[NORM].__setitem__(3, torch.nan), f"{NORM} holds NaN or infinity"),
        (lambda w: w[NORM].__setitem__(3, -torch.inf), f"{NORM} holds NaN or infinity"),
    ],
)
def test_wrong_weights_are_refused(tmp_path, model, change, message):
    packed = checkpoint.pack(model)
    change(packed["model"])
    checkpoint.save(tmp_path / "a.pt", packed)
    with pytest.raises(ValueError, match=message):
        reload(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 64}, r"tok_embeddings\.weight is \(64, 32\), but its model_args ask for \(64, 64\)"),
        ({"n_layers": 2}, r"lacks layers\.1\.attention\.wk\.weight \(9 missing"),
        ({"n_layers": 1 << 40}, "n_layers is 1099511627776; it must be a whole number from 1 to 4096"),
        ({"max_seq_len": 1 << 40}, "max_seq_len is 1099511627776"),
        ({"dim": "32"}, "dim is '32'; it must be a whole number"),
        ({"n_heads": torch.ones(2)}, "n_heads is tensor"),
        ({"hidden_dim": -1}, "hidden_dim is -1"),
        ({"norm_eps": 1e-6}, "has norm_eps 1e-06; llama2.c's programs compute with 1e-05"),
        ({"norm_eps": torch.ones(2)}, "norm_eps is tensor"),
        ({"rope_theta": 5e5}, "has model_args unknown to llama2.c: rope_theta"),
    ],
)
def test_wrong_model_args_are_refused(tmp_path, model, change, message):
    packed = checkpoint.pack(model)
    packed["model_args"].update(change)
    checkpoint.save(tmp_path / "a.pt", packed)
    with pytest.raises(ValueError, match=message):
        reload(tmp_path / "a.pt")


def test_model_args_without_a_shape_are_refused(tmp_path, model):
    packed = checkpoint.pack(model)
    del packed["model_args"]["dim"], packed["model_args"]["vocab_size"]
    checkpoint.save(tmp_path / "a.pt", packed)
    assert "lacks dim, vocab_size in its model_args" in refused(tmp_path / "a.pt")


@pytest.mark.parametrize("found", [{}, {"model": {}}, {"model": {}, "model_args": 3}, [1, 2], torch.ones(3)])
def test_another_kind_of_content_is_refused(tmp_path, found):
    torch.save(found, tmp_path / "a.pt")
    assert "needs the entries 'model' and 'model_args'" in refused(tmp_path / "a.pt")


def test_a_crafted_pickle_is_refused_in_one_sentence(tmp_path, model):
    """Right check sums, wrong contents: whatever the unpickler raises, the user reads a sentence."""
    buffer, chosen = io.BytesIO(), random.Random(1)
    torch.save(checkpoint.pack(model), buffer)
    with zipfile.ZipFile(buffer) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    path = tmp_path / "a.pt"
    for _ in range(100):
        data = bytearray(entries[pickled])
        data[chosen.randrange(len(data))] = chosen.randrange(256)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, bytes(data) if name == pickled else content)
        try:
            reload(path)
        except ValueError as error:
            assert str(error).startswith(str(path)), error


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty; fetch or copy it again"),
        (b"A stone lies by the road.\n", "is a text and no model"),
        (b'{"prompt": "why", "completion": "so"}\n', "conversations belong behind --conversations"),
        ((ROOT / "data/tok4096.model").read_bytes(), "is a tokenizer, which belongs behind --tokenizer"),
    ],
)
def test_another_kind_of_file_is_not_called_damaged(tmp_path, data, told):
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(ValueError, match=told) as error:
        checkpoint.load(tmp_path / "a.pt")
    assert "damaged" not in str(error.value)


def test_an_address_is_no_path():
    with pytest.raises(ValueError, match="https://example.org/a.pt is an address; nothing is fetched"):
        open_model("https://example.org/a.pt")


def test_an_adapter_is_told_from_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is an adapter without its base; merge both"):
        open_model(tmp_path)
