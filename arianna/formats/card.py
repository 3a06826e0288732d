"""The model card of a Hugging Face folder: what the model is, how it is asked, and what its run's report
says of it."""

from __future__ import annotations

import re
from typing import Any

from arianna.formats.vocabulary import MADE_BY
from model import Transformer


def card(model: Transformer, report: dict[str, Any] | None) -> str:
    """In Markdown. `report`: what a run's report.json holds, where there is one."""
    a = model.args
    found = figures(report) if report else {}
    rows = [f"| {name} | {value} |" for name, value in found.items() if name != "verdict"]
    return CARD.format(
        parameters=f"{sum(p.numel() for p in model.parameters()):,}",
        shape=f"dim {a.dim}, {a.n_layers} layers, {a.n_heads} heads, "
        f"{a.vocab_size} tokens, a context of {a.max_seq_len}",
        more="\n".join(
            ["## How it was made", "", found["verdict"], "", "| what | value |", "|---|---|", *rows, ""]
            if found
            else []
        ),
    )


def figures(report: dict[str, Any]) -> dict[str, str]:
    """What a run's report says of the model, in words by name. Raises KeyError, TypeError or ValueError
    for what is no report."""
    run, counts, choice = report["run"], report["conversations"], report["choice"]
    before, after = (report["scores"][name]["answers"]["loss"] for name in ("base", "tuned"))
    texts = {
        name: (loss, choice["used"]["base_text"][name]) for name, loss in choice["base"]["base_text"].items()
    }
    return {
        # which file to use is told to who trained it
        "verdict": re.split(r"(?<=\.) (?:Use|Keep) ", report["verdict"]["sentence"])[0],
        "held-out answers, nats a token": f"{before:.3f} before, {after:.3f} after",
        **{
            f"base text ({n.removeprefix('val_')}), nats a token": f"{b:.3f} before, {t:.3f} after"
            for n, (b, t) in texts.items()
        },
        "conversations": f"{counts['train']} trained on, {counts['held_out']} held out",
        "training": f"{choice['used']['step']} iterations, peak rate {run['peak']:g}",
        "blended with the base": "no"
        if choice["used"]["blend"] == 1
        else f"{choice['used']['blend']:.0%} of the way",
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
out = model.generate(**asked, do_sample=True, temperature=0.8)
print(tokenizer.decode(out[0, asked["input_ids"].shape[1]:], skip_special_tokens=True))
```

{{more}}""".replace("{made_by}", MADE_BY).replace("{{more}}", "{more}")
