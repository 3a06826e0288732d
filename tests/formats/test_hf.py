"""The Hugging Face folder: by an independent reader, by transformers themselves where they are installed, and
back in."""

import copy
import dataclasses
import json
import os
import struct
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import REPORT, ROOT, TINY, build, lively, logits, tokens_of, train_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from arianna import formats
from arianna.corpus import encoding
from arianna.corpus.conversations import Conversation
from arianna.corpus.template import openings, prompt, render
from arianna.export import main
from arianna.formats import checkpoint, hf, open_model, vocabulary
from arianna.formats.options import Options
from arianna.formats.write import UnfaithfulError, update_model, write_model
from arianna.generate import generate
from arianna.system import config
from arianna.system.files import sha256
from model import ModelArgs, Transformer
from tokenizer import Tokenizer

GROUPED = dataclasses.replace(TINY, n_heads=4, n_kv_heads=2, n_layers=3)
SHAPES = {
    "as shipped, but small": (TINY, True),
    "output of its own": (TINY, False),
    "grouped heads": (GROUPED, True),
    "one key head, a width of its own": (dataclasses.replace(GROUPED, n_kv_heads=1, hidden_dim=40), False),
}
SHIPPED = Tokenizer(ROOT / "data/tok4096.model")
PIECES = [SHIPPED.sp.id_to_piece(i).replace("\u2581", " ") for i in range(259, 4096)]
TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="ab e.-=\n\t'0", max_size=60),
    st.lists(st.sampled_from(PIECES), max_size=20).map("".join),
    st.text(alphabet=st.characters(codec="utf-8", min_codepoint=0x80), max_size=20),
)


def written(folder, model: Transformer | None = None, **options):
    write_model(model or lively(GROUPED), folder, "hf", tokenizer=SHIPPED, **options)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder of the lively model, only to be read."""
    return written(tmp_path_factory.mktemp("hf") / "model")


# ---- an independent reader: LlamaForCausalLM of transformers, written anew with numpy ----


def numpy_logits(folder, tokens: np.ndarray) -> np.ndarray:
    """What LlamaForCausalLM computes, from config.json and model.safetensors alone."""
    c, data = json.loads((folder / "config.json").read_text()), (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    w = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            assert entry["dtype"] == "F32"
            first, end = entry["data_offsets"]
            w[name] = np.frombuffer(data[8 + length + first : 8 + length + end], "<f4").reshape(
                entry["shape"]
            )
    heads, kv, size = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    frequencies = 1.0 / c["rope_theta"] ** (np.arange(0, size, 2) / size)
    angles = np.tile(
        np.outer(np.arange(len(tokens)), frequencies), 2
    )  # the two halves of a head turn by the same angles

    def norm(x, name):
        return w[name] * x / np.sqrt((x * x).mean(-1, keepdims=True) + c["rms_norm_eps"])

    def turned(x):  # (H, T, D)
        first, second = np.split(x, 2, axis=-1)
        return x * np.cos(angles) + np.concatenate([-second, first], -1) * np.sin(angles)

    x = w["model.embed_tokens.weight"][tokens]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        h = norm(x, layer + "input_layernorm.weight")
        q, k, v = (
            (h @ w[f"{layer}self_attn.{n}_proj.weight"].T).reshape(len(tokens), -1, size).transpose(1, 0, 2)
            for n in ("q", "k", "v")
        )
        k, v = np.repeat(turned(k), heads // kv, 0), np.repeat(v, heads // kv, 0)
        scores = np.where(
            np.tri(len(tokens), dtype=bool), turned(q) @ k.transpose(0, 2, 1) / np.sqrt(size), -np.inf
        )
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out = (weights / weights.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(tokens), -1)
        x = x + out @ w[layer + "self_attn.o_proj.weight"].T
        h = norm(x, layer + "post_attention_layernorm.weight")
        gate = h @ w[layer + "mlp.gate_proj.weight"].T
        x = (
            x
            + (gate / (1 + np.exp(-gate)) * (h @ w[layer + "mlp.up_proj.weight"].T))
            @ w[layer + "mlp.down_proj.weight"].T
        )
    output = w["model.embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight"]
    return norm(x, "model.norm.weight") @ output.T


@pytest.mark.parametrize("name", SHAPES)
def test_a_llama_of_two_halves_computes_the_same_logits(tmp_path, name):
    args, tied = SHAPES[name]
    model, tokens = lively(args, tied), tokens_of(args)
    found, expected = numpy_logits(written(tmp_path / "a", model), tokens), logits(model, tokens)
    assert np.abs(found - expected).max() < 1e-4 < np.abs(expected).max() / 100, (
        "and 1e-4 is little beside them"
    )


@pytest.mark.parametrize("name", SHAPES)
def test_a_folder_gives_the_model_back(tmp_path, name):
    args, tied = SHAPES[name]
    before = lively(args, tied)
    after = open_model(written(tmp_path / "a", before))
    assert (after.args, after.tied) == (args, tied)
    assert all(torch.equal(v, after.state_dict()[k]) for k, v in before.state_dict().items())
    assert open_model(tmp_path / "a", 90).args == dataclasses.replace(args, max_seq_len=90)
    with pytest.raises(ValueError, match="max_seq_len is 0"):
        open_model(tmp_path / "a", 0)


def test_the_shipped_shape_is_told_as_it_is():
    found = hf.model_config(SimpleNamespace(args=ModelArgs(), tied=True))
    shape = {
        "hidden_size": 288,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
    }
    rest = {
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "max_position_embeddings": 256,
        "vocab_size": 4096,
    }
    assert found.items() >= (shape | rest).items()


def test_a_generation_ends_where_ours_ends(exported):
    found = json.loads((exported / "generation_config.json").read_text())
    assert (found["eos_token_id"], found["max_length"]) == ([1, 2], GROUPED.max_seq_len)


# ---- the tokenizer, by the rules of tokenizer.json ----


def by_rank(rules: dict, words: str) -> list[int]:
    """BPE as the tokenizers library does it: of all pairs the one of lowest rank first, the leftmost of
    equals."""
    vocab, ranks = (
        rules["model"]["vocab"],
        {tuple(pair): i for i, pair in enumerate(rules["model"]["merges"])},
    )
    symbols = list(f"\u2581{words}".replace(" ", "\u2581")) if words else []
    symbols = [
        s for c in symbols for s in ([c] if c in vocab else [f"<0x{byte:02X}>" for byte in c.encode()])
    ]
    while pairs := [
        (ranks[p], i) for i, p in enumerate(zip(symbols, symbols[1:], strict=False)) if p in ranks
    ]:
        i = min(pairs)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    return [vocab[s] for s in symbols]


@settings(max_examples=150)
@given(TEXTS)
def test_its_rules_give_our_tokens(words):
    assert by_rank(RULES, words) == SHIPPED.encode(words)


RULES = json.loads(json.dumps(vocabulary.tokenizer_json(vocabulary.pieces(SHIPPED))))


def test_a_tokenizer_that_is_no_plain_bpe_is_refused(tmp_path):
    other = train_tokenizer(tmp_path / "unigram.model", model_type="unigram", split_digits=True)
    with pytest.raises(ValueError, match="splits .* differently from the plain BPE"):
        hf.to_bytes(build(dataclasses.replace(TINY, vocab_size=other.vocab_size)), Options(tokenizer=other))


@pytest.mark.parametrize(
    "options", [{"remove_extra_whitespaces": True}, {"normalization_rule_name": "nfkc"}], ids=str
)
def test_a_tokenizer_that_changes_rare_text_is_exported_and_what_differs_is_told(tmp_path, options, capsys):
    tokenizer = train_tokenizer(tmp_path / "a.model", **options)
    rules = vocabulary.tokenizer_json(vocabulary.pieces(tokenizer), vocabulary.collapses(tokenizer))
    library = pytest.importorskip("tokenizers").Tokenizer.from_str(json.dumps(rules))
    texts = [
        "Who are you?",
        "Q: What is silence?\nA: A rest.\n",
        *vocabulary.ORDINARY,
        " a  b ",
        "  ",
        "a\n b ",
    ]
    for text in texts:
        assert library.encode(text, add_special_tokens=False).ids == tokenizer.encode(text), text
    source = saved(tmp_path, lively(dataclasses.replace(GROUPED, vocab_size=tokenizer.vocab_size)))
    flags = [f"--checkpoint={source}", f"--tokenizer={tokenizer.path}"]
    assert main([str(tmp_path / "a"), "--format=hf", *flags]) == 0
    nfkc = "normalization_rule_name" in options
    assert ("signs that Unicode's NFKC replaces" in capsys.readouterr().out) == nfkc
    pytest.importorskip("gguf")
    assert main([str(tmp_path / "a.gguf"), "--format=gguf", *flags]) == 0
    sentence = (
        "signs that Unicode's NFKC replaces"
        if nfkc
        else "texts with spaces at their ends or several in a row get other"
    )
    assert sentence in capsys.readouterr().out


def test_the_chat_template_joins_parts_of_text_and_refuses_others():
    jinja2 = pytest.importorskip("jinja2")
    environment = jinja2.Environment()
    environment.globals["raise_exception"] = lambda sentence: (_ for _ in ()).throw(ValueError(sentence))
    template = environment.from_string(vocabulary.CHAT_TEMPLATE)
    parts = [{"type": "text", "text": " Who are"}, {"type": "text", "text": "you? "}]
    asked = template.render(
        messages=[{"role": "user", "content": parts}], bos_token="<s>", add_generation_prompt=True
    )
    assert asked == "<s>Q: Who are\nyou?\nA:"
    with pytest.raises(ValueError, match="only text parts can be read"):
        template.render(
            messages=[{"role": "user", "content": [{"type": "image", "image": "a.png"}]}], bos_token="<s>"
        )


def test_a_tokenizer_of_another_size_is_refused():
    with pytest.raises(
        ValueError, match=r"tok4096\.model has 4096 tokens, but the model was trained with 80"
    ):
        hf.to_bytes(build(dataclasses.replace(TINY, vocab_size=80)), Options(tokenizer=SHIPPED))


CONVERSATIONS = [
    Conversation((("Who are you?", "A small model."),)),
    Conversation((("a\nb", "c  d"), ("e", "f")), "Be calm."),
    Conversation((("1", "2"), ("3", "4"), ("5\n\n6", "\u2018seven\u2019"))),
]


def messages(conversation: Conversation) -> list[dict[str, str]]:
    said = [{"role": "system", "content": conversation.system}] if conversation.system else []
    for question, answer in conversation.turns:
        said += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return said


def test_the_chat_template_is_the_conversations():
    jinja2 = pytest.importorskip("jinja2")
    template = jinja2.Environment().from_string(vocabulary.CHAT_TEMPLATE)
    for c in CONVERSATIONS:
        turns = [render(*turn, *opening) for turn, opening in zip(c.turns, openings(c), strict=True)]
        assert template.render(messages=messages(c), bos_token="<s>") == "<s>" + "".join(
            f"{t}<s>" for t in turns
        )
    asked = [{"role": "system", "content": " "}, {"role": "user", "content": " Who?\n"}]
    assert (
        template.render(messages=asked, bos_token="<s>", add_generation_prompt=True) == f"<s>{prompt('Who?')}"
    )


# ---- by transformers themselves ----


@pytest.fixture(scope="module")
def theirs(exported):
    """Tokenizer and model as transformers load them, without a network."""
    pytest.importorskip("transformers")
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        return AutoTokenizer.from_pretrained(exported), AutoModelForCausalLM.from_pretrained(exported)


def test_transformers_give_the_same_logits(theirs):
    tokens = tokens_of(GROUPED)
    with torch.no_grad():
        found = theirs[1](torch.from_numpy(tokens)[None]).logits[0].numpy()
    assert np.abs(found - logits(lively(GROUPED), tokens)).max() < 1e-4


@pytest.mark.filterwarnings("ignore")
def test_transformers_give_the_same_greedy_answers_to_50_prompts(theirs):
    rng, model = np.random.default_rng(1), lively(GROUPED)
    for n in rng.integers(1, 30, 50):
        prompt = [1, *rng.integers(259, 4096, n).tolist()]
        found = theirs[1].generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, n + 1), do_sample=False, max_new_tokens=16
        )[0]
        assert [t for t in found[len(prompt) :].tolist() if t not in (1, 2)] == generate(
            model, [prompt], 16, temperature=0
        )[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stop", [1, 2])
def test_transformers_stop_at_bos_and_at_eos(tmp_path, theirs, stop):
    from transformers import AutoModelForCausalLM

    model = lively(TINY, tied=False)
    model.layers.requires_grad_(False)
    model.output.weight.data[stop] = 50 * model.hidden_states(torch.tensor([[1, 300]]))[0, -1].detach()
    loaded = AutoModelForCausalLM.from_pretrained(written(tmp_path / "a", model))
    assert loaded.generate(torch.tensor([[1, 300]]), do_sample=False).tolist() == [[1, 300, stop]]


@settings(max_examples=350)
@given(TEXTS)
def test_the_tokenizers_library_gives_our_tokens(words):
    tokenizers = pytest.importorskip("tokenizers")
    if "library" not in LOADED:
        LOADED["library"] = tokenizers.Tokenizer.from_str(json.dumps(RULES))
    assert LOADED["library"].encode(words).ids == SHIPPED.encode(words, bos=True)


LOADED: dict = {}


def test_transformers_give_our_tokens_and_our_text(theirs):
    tokenizer = theirs[0]
    for words in [
        "hello",
        "",
        " x",
        "a  b\n\nc\t",
        "Q: hi\nA:",
        *vocabulary.TRIED,
        *(bytes([b]).decode("latin-1") for b in range(256)),
    ]:
        ids = SHIPPED.encode(words, bos=True)
        assert tokenizer(words)["input_ids"] == ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == SHIPPED.decode(ids)
    padded = tokenizer(["a", "a longer one"], padding=True)
    assert padded["input_ids"][0][-2:] == SHIPPED.encode("a", bos=True) and padded["attention_mask"][0][
        -2:
    ] == [1, 1]


def test_transformers_encode_conversations_as_the_training_does(theirs):
    for c in CONVERSATIONS:
        found = theirs[0].apply_chat_template(messages(c), return_dict=True)["input_ids"]
        assert found == encoding.encode_turns(c, SHIPPED)[0].tolist()
    asked = [{"role": "user", "content": "Who are you?"}]
    found = theirs[0].apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert found == SHIPPED.encode(prompt("Who are you?"), bos=True)


def test_the_safetensors_package_reads_the_weights(exported):
    package = pytest.importorskip("safetensors.torch")
    found, model = package.load_file(exported / "model.safetensors"), lively(GROUPED)
    assert torch.equal(found["model.layers.2.mlp.down_proj.weight"], model.layers[2].feed_forward.w2.weight)
    assert not torch.equal(
        found["model.layers.0.self_attn.q_proj.weight"], model.layers[0].attention.wq.weight
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_transformers_save_can_be_read(tmp_path, theirs, dtype):
    copy.deepcopy(theirs[1]).to(getattr(torch, dtype)).save_pretrained(tmp_path / "a")
    found, expected = open_model(tmp_path / "a"), lively(GROUPED)
    assert found.args == GROUPED
    weight = expected.layers[1].attention.wk.weight
    assert torch.equal(found.layers[1].attention.wk.weight, weight.to(getattr(torch, dtype)).float())


# ---- the card ----


def test_the_card_tells_what_the_runs_report_says(tmp_path):
    card = (written(tmp_path / "a", report=REPORT) / "README.md").read_text()
    assert "\nBetter: 4.33 to 3.03.\n" in card and "Use out/" not in card
    assert "| held-out answers, nats a token | 4.330 before, 3.031 after |" in card
    assert "| base text (text), nats a token | 3.000 before, 3.050 after |" in card
    assert (
        "| training | 300 iterations, peak rate 0.0001 |\n| blended with the base | 70% of the way |\n"
        in card
    )
    assert card.startswith("---\nlibrary_name: transformers\n") and "{" not in card.replace(
        '{"role"', ""
    ).replace('"}]', "")


def test_the_card_does_without_a_report(exported):
    card = (exported / "README.md").read_text()
    assert "How it was made" not in card and "| what |" not in card and card.endswith("```\n\n")


def test_the_code_on_the_card_runs(exported, theirs, capsys):
    code = (exported / "README.md").read_text().split("```python\n")[1].split("```")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code.replace('folder = "."', f"folder = {str(exported)!r}"), {})
    assert capsys.readouterr().out.strip()


# ---- what cannot be read ----


def change_config(folder, **changes):
    found = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in found.items() if v != "gone"}))


def change_header(folder, change):
    """Rewrite the header of model.safetensors; the numbers stay."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + length :])


def change_bytes(folder, change, name="model.safetensors"):
    (folder / name).write_bytes(change((folder / name).read_bytes()))


def sharded(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


NORM = "model.norm.weight"
DAMAGED = r"is cut off, damaged or no safetensors file \([\d,]+ bytes\)\. Use another copy of it"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: (f / "config.json").unlink(),
            "config.json is missing; a Hugging Face model's folder has one",
        ),
        (
            lambda f: (f / "model.safetensors").unlink(),
            "model.safetensors is missing; the weights are needed there",
        ),
        (sharded, "has its weights in several files"),
        (pickled, "has pytorch_model.bin, which is not opened; model.safetensors is needed"),
        (
            lambda f: change_bytes(f, lambda d: d[:-9], "config.json"),
            "config.json is damaged: what should be JSON is not",
        ),
        (
            lambda f: (f / "config.json").write_text("[" * 100_000),
            "config.json is damaged: what should be JSON is not",
        ),
        (lambda f: (f / "config.json").write_text("[1]"), "config.json is not a JSON object"),
        (
            lambda f: (f / "config.json").write_bytes(bytes(17 << 20)),
            "config.json has 17,825,792 bytes; .* at most",
        ),
        (
            lambda f: change_config(f, model_type="mistral"),
            "a model of type 'mistral' .*; only LlamaForCausalLM can be read",
        ),
        (
            lambda f: change_config(f, architectures=["LlamaForSequenceClassification"]),
            "only LlamaForCausalLM can be read",
        ),
        (
            lambda f: change_config(f, rms_norm_eps=1e-6),
            "has rms_norm_eps 1e-06; llama2.c's programs compute with 1e-05",
        ),
        (lambda f: change_config(f, rms_norm_eps="gone"), "has rms_norm_eps 1e-06"),
        (
            lambda f: change_config(f, rope_theta=500000.0),
            r"has rope_theta 500000\.0; llama2.c's programs compute with 10000\.0",
        ),
        (
            lambda f: change_config(f, rope_parameters={"rope_theta": 5e5, "rope_type": "default"}),
            "has rope_theta",
        ),
        (
            lambda f: change_config(f, rope_scaling={"type": "linear", "factor": 2.0}),
            "has rope_type 'linear'",
        ),
        (lambda f: change_config(f, rope_parameters={"rope_type": "llama3"}), "has rope_type 'llama3'"),
        (lambda f: change_config(f, rope_parameters=[1]), "has rope_parameters"),
        (lambda f: change_config(f, partial_rotary_factor=0.5), "has partial_rotary_factor 0.5"),
        (lambda f: change_config(f, head_dim=64), "has head_dim 64; llama2.c's programs compute with 8"),
        (lambda f: change_config(f, hidden_act="gelu"), "has hidden_act 'gelu'"),
        (lambda f: change_config(f, attention_bias=True), "has attention_bias True"),
        (lambda f: change_config(f, mlp_bias=True), "has mlp_bias True"),
        (lambda f: change_config(f, quantization_config={"bits": 4}), "has quantization_config"),
        (lambda f: change_config(f, hidden_size="32"), "config.json: dim is '32'; it must be a whole number"),
        (lambda f: change_config(f, num_attention_heads=5), "do not fit together"),
        (lambda f: change_config(f, num_hidden_layers="gone"), "has no num_hidden_layers, which"),
        (lambda f: change_config(f, num_hidden_layers=1 << 40), "n_layers is 1099511627776"),
        (
            lambda f: change_config(f, num_hidden_layers=4),
            r"lacks model\.layers\.3\..* \(9 missing, 0 too many\)",
        ),
        (
            lambda f: change_config(f, num_hidden_layers=2),
            r"has model\.layers\.2\..*, which no Llama model of its shape has",
        ),
        (
            lambda f: change_config(f, intermediate_size=100),
            r"mlp.*weight is \(.*\), but its config.json asks for",
        ),
        (lambda f: change_config(f, tie_word_embeddings=False), "lacks lm_head.weight"),
        (
            lambda f: change_bytes(f, lambda d: d[:-4]),
            DAMAGED,
        ),
        (lambda f: change_bytes(f, lambda d: d + bytes(4)), DAMAGED),
        (lambda f: change_bytes(f, lambda d: d[:7]), r"no safetensors file \(7 bytes\)"),
        (
            lambda f: change_bytes(f, lambda d: struct.pack("<Q", 1 << 60) + d[8:]),
            DAMAGED,
        ),
        (lambda f: change_bytes(f, lambda d: d[:8] + b"x" + d[9:]), DAMAGED),
        (lambda f: change_header(f, lambda h: h[NORM].update(shape=[31])), DAMAGED),
        (lambda f: change_header(f, lambda h: h[NORM].update(shape=[-32])), DAMAGED),
        (lambda f: change_header(f, lambda h: h[NORM].update(data_offsets=[0, 128])), DAMAGED),
        (lambda f: change_header(f, lambda h: h[NORM].pop("data_offsets")), DAMAGED),
        (lambda f: change_header(f, lambda h: h.update({NORM: 7})), DAMAGED),
        (
            lambda f: change_header(f, lambda h: h[NORM].update(dtype="I32")),
            "model.norm.weight holds I32; F32, F16, BF16 can be read",
        ),
        (
            lambda f: change_header(f, lambda h: h[NORM].update(shape=[4, 8])),
            r"model.norm.weight is \(4, 8\), but its config",
        ),
        (lambda f: change_bytes(f, lambda d: d[:-4] + struct.pack("<f", np.nan)), "holds NaN or infinity"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path, exported, change, message):
    folder = tmp_path / "a"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((exported / name).read_bytes())
    assert open_model(folder).args == GROUPED
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        open_model(folder)
    assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value)
    with pytest.raises(config.UsageError, match=message):
        main([str(tmp_path / "b.bin"), f"--checkpoint={folder}"])
    assert os.listdir(tmp_path) == ["a"]


def test_old_names_that_follow_from_the_shape_are_passed_over(tmp_path):
    folder, model = written(tmp_path / "a"), lively(GROUPED)
    tensors = hf.weights(model) | {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "lm_head.weight": torch.ones(2),
    }
    (folder / "model.safetensors").write_bytes(save(tensors))
    assert torch.equal(open_model(folder).layers[0].attention.wq.weight, model.layers[0].attention.wq.weight)


def test_an_output_equal_to_the_embeddings_is_tied(tmp_path):
    folder, model = written(tmp_path / "a"), lively(GROUPED)
    change_config(folder, tie_word_embeddings=False)
    (folder / "model.safetensors").write_bytes(
        save(hf.weights(model) | {"lm_head.weight": model.output.weight.detach().clone()})
    )
    assert open_model(folder).tied


def test_a_tokenizer_that_does_not_belong_to_a_folder_is_refused(tmp_path, exported):
    formats.check_tokenizer(exported, SHIPPED)
    folder = written(tmp_path / "a")
    rules = json.loads((folder / "tokenizer.json").read_text())
    a, b = list(rules["model"]["vocab"])[300:302]
    rules["model"]["vocab"] |= {a: 301, b: 300}
    (folder / "tokenizer.json").write_text(json.dumps(rules))
    with pytest.raises(
        ValueError,
        match="tok4096.model does not belong to .*: 2 of its 4096 tokens are others .*tokenizer.model",
    ):
        formats.check_tokenizer(folder, SHIPPED)
    with pytest.raises(config.UsageError, match="does not belong to"):
        main([str(tmp_path / "b"), f"--checkpoint={folder}", "--format=hf", f"--tokenizer={SHIPPED.path}"])
    (folder / "tokenizer.json").write_text("[]")
    with pytest.raises(ValueError, match="tokenizer.json is damaged"):
        formats.check_tokenizer(folder, SHIPPED)
    (folder / "tokenizer.json").unlink()
    formats.check_tokenizer(folder, SHIPPED)


# ---- the command ----


def saved(folder, model: Transformer | None = None):
    checkpoint.save(folder / "base.pt", checkpoint.pack(model or lively(GROUPED)))
    return folder / "base.pt"


def words(out, source, *more) -> list[str]:
    return [str(out), f"--checkpoint={source}", "--format=hf", f"--tokenizer={SHIPPED.path}", *more]


def test_the_command_writes_a_folder_and_makes_a_checkpoint_of_it(tmp_path, capsys):
    source, out = saved(tmp_path), tmp_path / "model"
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    assert main(words(out, source, f"--report={tmp_path / 'report.json'}")) == 0
    size = sum(p.stat().st_size for p in out.iterdir())
    assert capsys.readouterr().out == f"wrote {out}: {size:,} bytes, read back, its logits are the model's\n"
    assert set(os.listdir(out)) == hf.FILES and "Better: 4.33 to 3.03." in (out / "README.md").read_text()
    assert main([str(tmp_path / "b.pt"), f"--checkpoint={out}", "--format=checkpoint"]) == 0
    weights = checkpoint.load(source)["model"]
    assert all(
        torch.equal(weight, weights[name])
        for name, weight in checkpoint.load(tmp_path / "b.pt")["model"].items()
    )
    assert formats.find_tokenizer(tmp_path / "b.pt") == out / "tokenizer.model", "the folder's own is noted"


def test_a_folder_that_is_there_is_refused_and_kept_under_another_name_if_forced(tmp_path, capsys):
    source, out = saved(tmp_path), tmp_path / "model"
    out.mkdir()
    assert main(words(out, source)) == 0, "nothing is lost in an empty folder"
    (out / "notes.txt").write_text("mine")
    with pytest.raises(config.UsageError, match="model exists and was not made by this run; .*--force"):
        main(words(out, source))
    assert sorted(os.listdir(tmp_path)) == ["base.pt", "model"]
    assert main(words(out, source, "--force")) == 0
    assert (tmp_path / "model-1" / "notes.txt").read_text() == "mine" and set(os.listdir(out)) == hf.FILES
    assert f"the old {out} is now model-1" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["base.pt", "model", "model-1"]


def test_paths_that_cannot_be_are_told(tmp_path):
    source = saved(tmp_path)
    (tmp_path / "file").write_text("x")
    for out, message in {
        tmp_path / "file": "file is a file; give the path of a folder",
        tmp_path: "would be written, but .*, an input of this run, lies in it",
        tmp_path / "none" / "a": "cannot be written",
    }.items():
        with pytest.raises(config.UsageError, match=message):
            main(words(out, source, "--force"))
    folder = written(tmp_path / "a")
    with pytest.raises(config.UsageError, match="would be written, but it is an input"):
        main(words(folder, folder))
    with pytest.raises(config.UsageError, match="nowhere.model is missing"):
        main([str(tmp_path / "b"), f"--checkpoint={source}", "--format=hf", "--tokenizer=nowhere.model"])
    (tmp_path / "report.json").write_text("x")
    with pytest.raises(config.UsageError, match="report.json is not JSON"):
        main(words(tmp_path / "b", source, f"--report={tmp_path / 'report.json'}"))
    for other in ("[]", "{}", '{"run": {}, "conversations": [], "choice": 1}'):
        (tmp_path / "report.json").write_text(other)
        with pytest.raises(config.UsageError, match="report.json is no report of a run"):
            main(words(tmp_path / "b", source, f"--report={tmp_path / 'report.json'}"))
    with pytest.raises(config.UsageError, match="--report goes with --format=hf or html"):
        main([str(tmp_path / "b.bin"), f"--checkpoint={source}", "--report=x"])
    assert sorted(os.listdir(tmp_path)) == ["a", "base.pt", "file", "report.json"]


def test_a_folder_that_is_not_the_model_does_not_take_its_place(tmp_path, monkeypatch):
    out = written(tmp_path / "model")
    before = sha256(out)
    monkeypatch.setattr(hf, "to_halves", lambda weight, heads: weight)
    with pytest.raises(
        UnfaithfulError,
        match="model is not written: read back, its layers.0.attention.wq.weight is not the model's",
    ):
        written(out, build(GROUPED))
    assert sha256(out) == before and os.listdir(tmp_path) == ["model"]


def test_a_failed_rename_leaves_the_old_folder(tmp_path, monkeypatch):
    out = written(tmp_path / "model")
    before, rename = sha256(out), os.rename

    def fail(self, target):
        if self.name.endswith(".tmp"):
            raise OSError(28, "No space left on device")
        rename(self, target)

    monkeypatch.setattr(type(out), "rename", fail)
    with pytest.raises(OSError, match="No space left"):
        written(out, build(GROUPED))
    assert sha256(out) == before and os.listdir(tmp_path) == ["model"]


def test_a_folder_that_is_right_already_is_kept(tmp_path):
    out = tmp_path / "model"
    assert update_model(lively(GROUPED), out, "hf", tokenizer=SHIPPED)
    assert not update_model(lively(GROUPED), out, "hf", tokenizer=SHIPPED)
    (out / "config.json").write_text("{}")
    assert update_model(lively(GROUPED), out, "hf", tokenizer=SHIPPED)


def test_the_hash_of_a_folder_is_of_its_files(tmp_path):
    out = written(tmp_path / "model")
    before = sha256(out)
    assert sha256(out) == before
    change_bytes(out, lambda d: d + b" ", "config.json")
    assert sha256(out) != before
