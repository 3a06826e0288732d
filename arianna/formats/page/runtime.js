// The model: from its text in the page to the next token. It runs in a Web Worker (talk.js).
//
// The formulas are llama2.c's run.c. Weights are float32 once they are here; sums are JavaScript's float64.
"use strict";

const BOS = 1, EOS = 2, FIRST_BYTE = 3, FIRST_PIECE = 259; // ids as llama2.c's programs count on them
const SPACE = "\u2581"; // SentencePiece's sign for a space
const DIGITS = "!#$%()*+,.0123456789:;=?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_abcdefghijklmnopqrstuvwxyz{|}~";
const AT_ONCE = 8; // tokens of a prompt that share a walk through the weights

// ---- bytes from text: five digits of base 85 are four bytes, in 80 ms for 8 MB ----

function decode85(text) {
  const value = new Uint8Array(128);
  for (let i = 0; i < DIGITS.length; i++) value[DIGITS.charCodeAt(i)] = i;
  const digits = text.replace(/\s+/g, "");
  const words = new Uint32Array(Math.floor(digits.length / 5)); // little-endian, as browsers' machines are
  for (let word = 0, at = 0; word < words.length; word++) {
    let number = 0;
    for (const end = at + 5; at < end; at++) number = number * 85 + value[digits.charCodeAt(at)];
    words[word] = number;
  }
  return words.buffer;
}

// ---- tokens: SentencePiece's BPE ----

class Tokenizer {
  // pieces: the text of each id, SPACE for a space. A smaller id is merged first; the first 259 never are.
  constructor({ pieces, collapses, ascii }) {
    this.pieces = pieces;
    this.ascii = ascii; // quotes, dashes and the like that have no piece, and what training puts in their place
    this.collapses = collapses; // whether it takes spaces at the ends away and makes one of several
    this.ids = new Map(pieces.slice(FIRST_PIECE).map((piece, i) => [piece, FIRST_PIECE + i]));
    this.longest = Math.max(...pieces.map((piece) => piece.length));
    this.splits = !pieces.some((piece) => piece.includes(SPACE, 1)); // then no merge goes across words
    this.bytes = new TextEncoder();
  }

  encode(text) {
    if (this.collapses) text = text.replace(/^ +|[ \u2581]+$/g, "").replace(/ +/g, " ");
    if (!text) return [];
    const spelled = SPACE + text.replaceAll(" ", SPACE);
    const parts = this.splits ? spelled.split(/(?=\u2581)/) : [spelled];
    return parts.flatMap((part) => this.merge(Array.from(part)));
  }

  // Merge the pair of neighbours with the smallest id, the leftmost of equals, until no pair is a piece.
  merge(symbols) {
    for (;;) {
      let best = Infinity, at = -1;
      for (let i = 0; i + 1 < symbols.length; i++) {
        const id = this.ids.get(symbols[i] + symbols[i + 1]);
        if (id < best) [best, at] = [id, i];
      }
      if (at < 0) return symbols.flatMap((symbol) => this.ids.get(symbol) ?? this.spell(symbol));
      symbols.splice(at, 2, this.pieces[best]);
    }
  }

  spell(character) { // half of a surrogate pair becomes U+FFFD here
    return Array.from(this.bytes.encode(character), (byte) => FIRST_BYTE + byte);
  }

  // The bytes of a token behind another; BOS and EOS have none.
  bytesOf(id) {
    if (id < FIRST_BYTE) return new Uint8Array();
    if (id < FIRST_PIECE) return Uint8Array.of(id - FIRST_BYTE);
    return this.bytes.encode(this.pieces[id].replaceAll(SPACE, " "));
  }

  decode(ids) {
    const text = new TextDecoder();
    return ids.map((id) => text.decode(this.bytesOf(id), { stream: true })).join("") + text.decode();
  }
}

// ---- weights ----

// Tensors one behind the other: norms in float32; then matrices in float32, float16, or int8 with a scale
// for each group behind each.
class Reader {
  constructor(buffer, type, group) {
    Object.assign(this, { buffer, type, group, at: 0 });
  }

  floats(count) {
    this.at += 4 * count;
    return new Float32Array(this.buffer, this.at - 4 * count, count);
  }

  matrix(rows, width) {
    const count = rows * width;
    if (this.type === "F32") return this.floats(count);
    if (this.type === "F16") {
      this.at += 2 * count;
      return fromHalves(new Uint16Array(this.buffer, this.at - 2 * count, count));
    }
    const whole = new Int8Array(this.buffer, this.at, count);
    this.at += count;
    const scales = this.floats(count / this.group), numbers = new Float32Array(count);
    for (let i = 0, g = 0; i < count; g++) {
      const scale = scales[g];
      for (const end = i + this.group; i < end; i++) numbers[i] = whole[i] * scale;
    }
    return numbers;
  }
}

function fromHalves(halves) {
  const table = new Float32Array(1 << 16); // of every float16
  for (let bits = 0; bits < table.length; bits++) {
    const exponent = (bits >> 10) & 31, fraction = (bits & 1023) / 1024;
    const size = exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction;
    table[bits] = bits >> 15 ? -size : size;
  }
  return Float32Array.from(halves, (bits) => table[bits]);
}

// ---- the forward pass ----

// out (n, rows) = x (n, width) times the transposed weight (rows, width). Two rows by four tokens, or four
// rows by one, share what is loaded.
function product(out, x, weight, rows, width, n) {
  let token = 0;
  for (; token + 4 <= n; token += 4) {
    fourTokens(out.subarray(token * rows), x.subarray(token * width), weight, rows, width);
  }
  for (; token < n; token++) {
    oneToken(out.subarray(token * rows), x.subarray(token * width), weight, rows, width);
  }
}

function oneToken(out, x, weight, rows, width) {
  let row = 0;
  for (; row + 4 <= rows; row += 4) {
    let a = 0, b = 0, c = 0, d = 0;
    let i = row * width, j = i + width, k = j + width, l = k + width;
    for (let at = 0; at < width; at += 2) { // every width is even
      const v = x[at], w = x[at + 1];
      a += weight[i] * v + weight[i + 1] * w;
      b += weight[j] * v + weight[j + 1] * w;
      c += weight[k] * v + weight[k + 1] * w;
      d += weight[l] * v + weight[l + 1] * w;
      i += 2; j += 2; k += 2; l += 2;
    }
    out[row] = a; out[row + 1] = b; out[row + 2] = c; out[row + 3] = d;
  }
  for (; row < rows; row++) out[row] = dot(x, 0, weight, row * width, width);
}

function fourTokens(out, x, weight, rows, width) {
  let row = 0;
  for (; row + 2 <= rows; row += 2) {
    let a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
    let i = row * width, j = i + width;
    for (let at = 0; at < width; at++) {
      const v = weight[i++], w = weight[j++];
      const p = x[at], q = x[at + width], r = x[at + 2 * width], s = x[at + 3 * width];
      a += p * v; b += q * v; c += r * v; d += s * v;
      e += p * w; f += q * w; g += r * w; h += s * w;
    }
    out[row] = a; out[rows + row] = b; out[2 * rows + row] = c; out[3 * rows + row] = d;
    out[row + 1] = e; out[rows + row + 1] = f; out[2 * rows + row + 1] = g; out[3 * rows + row + 1] = h;
  }
  for (; row < rows; row++) {
    for (let t = 0; t < 4; t++) out[t * rows + row] = dot(x, t * width, weight, row * width, width);
  }
}

function dot(a, i, b, j, count) {
  let sum = 0;
  for (const end = i + count; i < end; i++, j++) sum += a[i] * b[j];
  return sum;
}

class Model {
  // shape: what the page's `models` says of one; buffer: its weights
  constructor(shape, buffer) {
    Object.assign(this, shape);
    this.head = this.dim / this.n_heads;
    this.kv = this.head * this.n_kv_heads;
    const reader = new Reader(buffer, this.type, this.group);
    const of = (read) => Array.from({ length: this.n_layers }, read);
    const each = (rows, width) => of(() => reader.matrix(rows, width));
    this.attentionNorm = of(() => reader.floats(this.dim));
    this.ffnNorm = of(() => reader.floats(this.dim));
    this.norm = reader.floats(this.dim);
    this.embeddings = reader.matrix(this.vocab_size, this.dim);
    this.wq = each(this.dim, this.dim);
    this.wk = each(this.kv, this.dim);
    this.wv = each(this.kv, this.dim);
    this.wo = each(this.dim, this.dim);
    this.w1 = each(this.hidden, this.dim);
    this.w2 = each(this.dim, this.hidden);
    this.w3 = each(this.hidden, this.dim);
    this.output = this.tied ? this.embeddings : reader.matrix(this.vocab_size, this.dim);
    this.makeRoom();
    this.tokens = []; // whose keys and values are in the cache
  }

  makeRoom() {
    const rows = (width) => new Float32Array(AT_ONCE * width);
    const places = this.max_seq_len * this.kv;
    const cache = () => Array.from({ length: this.n_layers }, () => new Float32Array(places));
    this.x = rows(this.dim); this.h = rows(this.dim); this.q = rows(this.dim); this.read = rows(this.dim);
    this.gate = rows(this.hidden); this.up = rows(this.hidden);
    this.keys = cache(); this.values = cache();
    this.scores = new Float32Array(this.max_seq_len);
    this.logits = new Float32Array(this.vocab_size);
    this.frequencies = new Float32Array(this.head / 2); // float32 at each step, as torch has them
    for (let i = 0; i < this.frequencies.length; i++) {
      this.frequencies[i] = 1 / Math.fround(this.rope_theta ** Math.fround((2 * i) / this.head));
    }
  }

  // How many of these tokens are in the cache already. The last one is never counted: its logits are wanted.
  known(tokens) {
    let same = 0;
    const most = Math.min(this.tokens.length, tokens.length - 1);
    while (same < most && this.tokens[same] === tokens[same]) same++;
    return same;
  }

  // Read at most AT_ONCE tokens behind the first `position` in the cache. this.logits are the last one's.
  forward(tokens, position, last = true) {
    const n = tokens.length, { dim, hidden, kv } = this;
    this.tokens.length = position;
    this.tokens.push(...tokens);
    tokens.forEach((id, t) => this.x.set(this.embeddings.subarray(id * dim, (id + 1) * dim), t * dim));
    for (let layer = 0; layer < this.n_layers; layer++) {
      const keys = this.keys[layer].subarray(position * kv);
      const values = this.values[layer].subarray(position * kv);
      this.normalize(this.attentionNorm[layer], n);
      product(this.q, this.h, this.wq[layer], dim, dim, n);
      product(keys, this.h, this.wk[layer], kv, dim, n);
      product(values, this.h, this.wv[layer], kv, dim, n);
      for (let t = 0; t < n; t++) {
        this.rotate(this.q.subarray(t * dim, (t + 1) * dim), position + t);
        this.rotate(keys.subarray(t * kv, (t + 1) * kv), position + t);
      }
      for (let t = 0; t < n; t++) this.attend(layer, t, position + t);
      product(this.h, this.read, this.wo[layer], dim, dim, n);
      this.add(n);
      this.normalize(this.ffnNorm[layer], n);
      product(this.gate, this.h, this.w1[layer], hidden, dim, n);
      product(this.up, this.h, this.w3[layer], hidden, dim, n);
      for (let i = 0; i < n * hidden; i++) this.gate[i] *= this.up[i] / (1 + Math.exp(-this.gate[i]));
      product(this.h, this.gate, this.w2[layer], dim, hidden, n);
      this.add(n);
    }
    if (!last) return;
    this.x.copyWithin(0, (n - 1) * dim, n * dim);
    this.normalize(this.norm, 1);
    product(this.logits, this.h, this.output, this.vocab_size, dim, 1);
  }

  // h = RMSNorm of x
  normalize(weight, n) {
    for (let at = 0; at < n * this.dim; at += this.dim) {
      const factor = 1 / Math.sqrt(dot(this.x, at, this.x, at, this.dim) / this.dim + this.norm_eps);
      for (let i = 0; i < this.dim; i++) this.h[at + i] = weight[i] * (this.x[at + i] * factor);
    }
  }

  add(n) {
    for (let i = 0; i < n * this.dim; i++) this.x[i] += this.h[i];
  }

  // Turn each pair of neighbours by its position's angle (RoPE).
  rotate(heads, position) {
    for (let i = 0; i < heads.length; i += 2) {
      const angle = Math.fround(position * this.frequencies[(i % this.head) / 2]);
      const cos = Math.cos(angle), sin = Math.sin(angle), a = heads[i], b = heads[i + 1];
      heads[i] = a * cos - b * sin;
      heads[i + 1] = a * sin + b * cos;
    }
  }

  // What each head of the t-th token reads from the values up to `position`; heads may share keys and values.
  attend(layer, t, position) {
    const { head, kv, scores } = this, keys = this.keys[layer], values = this.values[layer];
    for (let i = 0; i < this.n_heads; i++) {
      const mine = t * this.dim + i * head;
      const theirs = Math.floor((i * this.n_kv_heads) / this.n_heads) * head;
      let most = -Infinity, sum = 0;
      for (let at = 0; at <= position; at++) {
        scores[at] = dot(this.q, mine, keys, at * kv + theirs, head) / Math.sqrt(head);
        if (scores[at] > most) most = scores[at];
      }
      for (let at = 0; at <= position; at++) sum += scores[at] = Math.exp(scores[at] - most);
      this.read.fill(0, mine, mine + head);
      for (let at = 0; at <= position; at++) {
        const weight = scores[at] / sum, from = at * kv + theirs;
        for (let j = 0; j < head; j++) this.read[mine + j] += weight * values[from + j];
      }
    }
  }
}

// ---- the choice of the next token ----

// Numbers in [0, 1) that follow from a seed (mulberry32).
function chances(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

// The log-likelihood of a token, in nats, at temperature 1.
function logLikelihood(logits, token) {
  const most = logits.reduce((a, b) => Math.max(a, b));
  return logits[token] - most - Math.log(logits.reduce((sum, value) => sum + Math.exp(value - most), 0));
}

// top_k: only the k likeliest (0: all); top_p: of these the fewest whose probability reaches p.
// Temperature 0: always the likeliest.
function pick(logits, { temperature, top_k, top_p }, chance) {
  if (temperature === 0) return logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
  const k = Math.min(top_k || logits.length, logits.length);
  const least = Float32Array.from(logits).sort()[logits.length - k];
  const ids = [];
  for (let id = 0; id < logits.length; id++) if (logits[id] >= least) ids.push(id);
  ids.sort((a, b) => logits[b] - logits[a] || a - b);
  ids.length = k; // of equals at the border some are too many
  const weights = ids.map((id) => Math.exp((logits[id] - logits[ids[0]]) / temperature));
  const whole = weights.reduce((a, b) => a + b);
  let count = 0, total = 0;
  while (count < k && (count === 0 || total < top_p * whole)) total += weights[count++];
  let left = chance() * total;
  for (let i = 0; i < count; i++) if ((left -= weights[i]) < 0) return ids[i];
  return ids[count - 1];
}
