// A talk: what the model is given to answer, and its answer as it comes. Behind runtime.js in the Web Worker.
"use strict";

const MOST_NEW = 200; // tokens that are kept free for an answer, if the context has twice as many
const NEW_LINE = /\r\n?|[\u2028\u2029]/g;
// controls, and what turns the direction of text
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g;

class Talk {
  // template: what a question and an answer begin with ("Q:", "A:")
  constructor(model, tokenizer, { user, assistant }) {
    Object.assign(this, { model, tokenizer, user, assistant, stopped: false });
    this.forged = new RegExp(`^[^\\S\\n]*(?:${user}|${assistant})`); // a line that would look like a turn
    // a question begun or, at the text's end, perhaps begun
    this.next = new RegExp(`\\n[^\\S\\n]*(?:${user}|${user[0]}?$)`);
  }

  // ---- the template ----

  prompt(question, system) {
    return `${system ? `${system}\n` : ""}${this.user} ${question}\n${this.assistant}`;
  }

  // Text as training has it: without spaces at its ends, quotes and dashes in ASCII if they have no piece;
  // lines that would forge a turn are joined to the line before.
  clean(text) {
    const lines = [], { ascii } = this.tokenizer;
    const plain = Array.from(text, (character) => ascii[character] ?? character).join("");
    for (const line of plain.replace(NEW_LINE, "\n").replace(UNSEEN, "").trim().split("\n")) {
      if (!lines.length || !this.forged.test(line)) lines.push(line);
      else {
        while (!lines[lines.length - 1].trim()) lines.pop(); // the first is not blank
        lines.push(`${lines.pop().trimEnd()} ${line.trimStart()}`);
      }
    }
    return lines.join("\n");
  }

  // System text begins no turn: what would forge one is taken off.
  cleanSystem(text) {
    let system = this.clean(text);
    while (this.forged.test(system)) system = system.replace(this.forged, "").trim();
    return system;
  }

  // Tokens of turns [question, answer], each with a BOS behind it, and of a question. System text stands
  // ahead of the first.
  encode(turns, question, system) {
    const ids = [BOS];
    for (const [asked, answer] of turns) {
      ids.push(...this.tokenizer.encode(`${this.prompt(asked, system)} ${answer}\n`), BOS);
      system = "";
    }
    return [...ids, ...this.tokenizer.encode(this.prompt(question, system))];
  }

  // What is read before an answer: {ids, question, system, dropped, notes}. The oldest turns are dropped to
  // leave room for the answer; of a question that is itself too long the end is kept.
  prepare({ turns, question, system }) {
    const context = this.model.max_seq_len, notes = [];
    const most = context - Math.min(MOST_NEW, context >> 1);
    const cleaned = turns.map((turn) => turn.map((text) => this.clean(text)));
    [question, system] = [this.clean(question), this.cleanSystem(system)];
    if (system.length > this.longest(most) || this.encode([], "", system).length > most / 2) {
      system = "";
      notes.push(`The system text is left out: it is too long for a model that sees ${context} tokens.`);
    }
    for (let dropped = 0; dropped <= turns.length && question.length <= this.longest(most); dropped++) {
      const ids = this.encode(cleaned.slice(dropped), question, system);
      if (ids.length <= most) return { ids, question, system, dropped, notes };
    }
    question = this.end(question, system, most);
    const from = `from “${question.slice(0, 40)}…” on`;
    const why = `Your question was too long for a model that sees ${context} tokens.`;
    notes.push(`${why} It read the end, ${from}.`);
    return { ids: this.encode([], question, system), question, system, dropped: turns.length, notes };
  }

  // Characters that so many tokens can have at most; more are not worth encoding.
  longest(tokens) {
    return tokens * this.tokenizer.longest;
  }

  // The end of a question, from a word on, with which the prompt has at most `most` tokens.
  end(question, system, most) {
    const ids = this.tokenizer.encode(question.slice(-this.longest(most)));
    for (let count = most; count > 0; count--) {
      const last = this.tokenizer.decode(ids.slice(-count));
      const text = last.replace(/^\S{0,30}\s+/, "").replace(/^\ufffd+/, "").trim();
      if (text && this.encode([], text, system).length <= most) return text;
    }
    return "";
  }

  // ---- the answer ----

  // Tells {kind: "prompt"}, then {kind: "text"} with the answer so far again and again, and {kind: "end"}. Of
  // several answers (best_of) the likeliest is told when it is found, as arianna/best_of.py finds it.
  async answer(request, tell) {
    this.stopped = false;
    const { ids, ...read } = this.prepare(request), chance = chances(request.seed);
    tell({ kind: "prompt", ...read });
    await this.read(ids);
    const began = performance.now(), ahead = this.model.logits.slice(), { sampling } = request;
    const several = sampling.best_of > 1 && sampling.temperature > 0;
    let best = await this.draw(ids, sampling, chance, several ? () => {} : tell), drawn = best.tokens;
    // a model that fills its context does not end by itself: one answer of it is enough
    for (let n = 1; several && n < sampling.best_of && best.why !== "full" && !this.stopped; n++) {
      this.model.logits.set(ahead);
      const next = await this.draw(ids, sampling, chance, () => {}, best.whole ? best.nats : -Infinity);
      drawn += next.tokens;
      if (before(next, best)) best = next;
    }
    const { text, tokens } = best, why = this.stopped ? "stopped" : best.why;
    tell({ kind: "end", why, text, tokens, drawn, seconds: (performance.now() - began) / 1000 });
  }

  // One answer behind a prompt: its text, why it ended, its tokens, its log-likelihood in nats, and whether it
  // is whole. It is given up as soon as it is less likely than `least`: that only falls.
  async draw(prompt, sampling, chance, tell, least = -Infinity) {
    const ids = [...prompt], decoder = new TextDecoder();
    let raw = "", nats = 0, why = this.stopped ? "stopped" : "";
    while (!why) {
      const token = pick(this.model.logits, sampling, chance);
      if (sampling.best_of > 1) nats += logLikelihood(this.model.logits, token);
      if (token === BOS || token === EOS) why = "end";
      else {
        ids.push(token);
        raw += decoder.decode(this.tokenizer.bytesOf(token), { stream: true });
        if (this.next.exec(raw)?.[0].endsWith(this.user)) why = "end"; // an untaught model asks itself on
        else if (ids.length === this.model.max_seq_len) why = "full";
        else this.model.forward([token], ids.length - 1);
      }
      tell({ kind: "text", text: this.shown(raw, !why) });
      await this.breathe();
      if (this.stopped) why ||= "stopped";
      else if (nats < least) why ||= "unlikely";
    }
    const text = this.clean(this.shown(raw + decoder.decode(), false));
    const whole = text !== "" && why === "end" && !repeats(text);
    return { why, text, tokens: ids.length - prompt.length, nats, whole };
  }

  // Read what is not in the cache yet, some tokens at a time.
  async read(ids) {
    for (let at = this.model.known(ids); at < ids.length && !this.stopped; at += AT_ONCE) {
      this.model.forward(ids.slice(at, at + AT_ONCE), at, at + AT_ONCE >= ids.length);
      await this.breathe();
    }
  }

  // What of a text is shown: nothing from a next question on; while it is growing, not what may become one.
  shown(raw, growing) {
    const found = this.next.exec(raw);
    const text = found && (growing || found[0].endsWith(this.user)) ? raw.slice(0, found.index) : raw;
    return text.replace(UNSEEN, "").trimStart();
  }

  // Let messages in (stop, say): a timer would wait 4 ms.
  breathe() {
    return new Promise((go) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => (port1.close(), go());
      port2.postMessage(null);
    });
  }
}

// ---- the likeliest of several answers ----

const RUN = 3; // words

// Whether RUN words in a row stand in a text twice.
function repeats(text) {
  const words = text.toLowerCase().match(/[\p{L}\p{N}_']+/gu) ?? [];
  const runs = words.slice(RUN - 1).map((_, i) => words.slice(i, i + RUN).join(" "));
  return new Set(runs).size < runs.length;
}

// Whether an answer goes before another one: with text, ended, without repetition, and likelier.
function before(one, other) {
  const rank = ({ text, why, whole, nats }) => [text !== "", why === "end", whole, nats];
  const [a, b] = [rank(one), rank(other)], place = a.findIndex((value, i) => value !== b[i]);
  return place >= 0 && a[place] > b[place];
}

// ---- messages from the page ----

function listen() {
  let talk = null;
  const tell = (message) => postMessage(message);
  const handle = {
    open({ about, shape, text }) {
      talk = new Talk(new Model(shape, decode85(text)), new Tokenizer(about.tokenizer), about.template);
      tell({ kind: "ready" });
    },
    stop() {
      talk.stopped = true;
    },
    answer: (request) => talk.answer(request, tell),
  };
  onmessage = async ({ data }) => {
    try {
      await handle[data.kind](data);
    } catch (error) {
      tell({ kind: "failed", message: String(error) });
    }
  };
}

if (typeof WorkerGlobalScope !== "undefined") listen();
