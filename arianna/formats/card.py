"""The model card of a Hugging Face folder: what the model is, how to ask it, what its run's report says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from arianna.formats.vocabulary import MADE_BY
from arianna.system.commands import TEMPERATURE

if TYPE_CHECKING:  # the package of the command that exports takes no torch before its arguments are checked
    from model import Transformer


def card(model: Transformer, report: dict[str, Any] | None) -> str:
    """The card in Markdown. `report`: the contents of a run's report.json, where there is one."""
    a, more = model.args, []
    if report:
        named_figures = figures(report)
        verdict = named_figures.pop("verdict")
        rows = [f"| {name} | {value} |" for name, value in named_figures.items()]
        more = ["## How it was made", "", verdict, "", "| what | value |", "|---|---|", *rows, ""]
    return CARD.format(
        parameters=f"{sum(p.numel() for p in model.parameters()):,}",
        shape=f"dim {a.dim}, {a.n_layers} layers, {a.n_heads} heads, "
        f"{a.vocab_size} tokens, a context of {a.max_seq_len}",
        temperature=TEMPERATURE,
        more="\n".join(more),
    )


def figures(report: dict[str, Any]) -> dict[str, str]:
    """Facts of a run's report by name. Raises KeyError, TypeError or ValueError for what is no report."""
    run, counts, choice = report["run"], report["conversations"], report["choice"]
    before, after = (report["scores"][name]["answers"]["loss"] for name in ("base", "tuned"))
    used = choice["used"]
    texts = {name: (loss, used["base_text"][name]) for name, loss in choice["base"]["base_text"].items()}
    blend = "no" if used["blend"] == 1 else f"{used['blend']:.0%} of the way"
    return {
        # without the sentence that tells who trained it which file to use
        "verdict": re.split(r"(?<=\.) (?:Use|Keep) ", report["verdict"]["sentence"])[0],
        "held-out answers, nats a token": f"{before:.3f} before, {after:.3f} after",
        **{
            f"base text ({n.removeprefix('val_')}), nats a token": f"{b:.3f} before, {t:.3f} after"
            for n, (b, t) in texts.items()
        },
        "conversations": f"{counts['train']} trained on, {counts['held_out']} held out",
        "training": f"{used['step']} iterations, peak rate {run['peak']:g}",
        "blended with the base": blend,
    }


CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [llama, llama2.c]
---

# A small model that answers questions

A Llama model of {parameters} parameters ({shape}), trained for llama2.c and exported by {made_by}.
It is asked as `Q: ...`, a new line, `A:`, and ends its answer with `<s>`.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
asked = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "What is silence?"}}], add_generation_prompt=True, \
return_tensors="pt", return_dict=True
)
out = model.generate(**asked, do_sample=True, temperature={temperature})
print(tokenizer.decode(out[0, asked["input_ids"].shape[1]:], skip_special_tokens=True))
```

{{more}}""".replace("{made_by}", MADE_BY).replace("{{more}}", "{more}")
