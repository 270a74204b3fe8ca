"use strict";
/* Orders of the patches of a photograph, computed as the Python package computes them, with its weights (weights.js).

   Tensors are flat typed arrays, row-major: images (H, W, 3) in [-1, 1], tokens (N, C), graphs (N, N) by target and source.
   Letters: N patches of an R x Q grid, C values of a token, D width of a network. tests/test_page.py compares with Python. */

const cop = {};

/* The script weights.js -> settings, and tensors by name: {data: Float32Array, shape}. */
cop.load = ({ tensors, base64, ...settings }) => {
  const text = atob(base64), bytes = new Uint8Array(text.length), all = new Float32Array(bytes.buffer), found = {};
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  for (const [name, { at, shape }] of Object.entries(tensors)) {
    found[name] = { data: all.subarray(at, at + shape.reduce((a, b) => a * b, 1)), shape };
  }
  return { ...settings, tensors: found };
};

/* ------------------------------------------------------------------------------------------------------- pixels */

/* RGBA bytes (h, w, 4), halved `times` times with a box as Pillow does, -> {image (H, W, 3) in [-1, 1], height, width}. */
cop.pixels = (rgba, width, height, times) => {
  let now = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) now.set(rgba.subarray(4 * i, 4 * i + 3), 3 * i);
  for (; times > 0; times--) {
    const W = width >> 1, H = height >> 1, half = new Uint8Array(W * H * 3);
    for (let y = 0; y < H; y++) for (let x = 0; x < W; x++) for (let c = 0; c < 3; c++) {
      const at = (2 * y * width + 2 * x) * 3 + c, below = at + width * 3;
      half[(y * W + x) * 3 + c] = (((now[at] + now[at + 3] + 1) >> 1) + ((now[below] + now[below + 3] + 1) >> 1) + 1) >> 1;
    }
    [now, width, height] = [half, W, H];
  }
  return { image: Float32Array.from(now, (v) => Math.fround(v / 127.5) - 1), width, height };
};

/* An image as its patches, (N, p p 3), and the grid: {patches, rows, columns, N}. */
cop.patchify = ({ image, width, height }, p) => {
  const rows = height / p, columns = width / p, patches = new Float32Array(image.length);
  for (let n = 0, at = 0; n < rows * columns; n++) for (let y = 0; y < p; y++, at += 3 * p) {
    const from = ((Math.floor(n / columns) * p + y) * width + (n % columns) * p) * 3;
    patches.set(image.subarray(from, from + 3 * p), at);
  }
  return { patches, rows, columns, N: rows * columns };
};

/* Of every patch: its mean colour (N, 3), and the variance of its grey pixels (N); greys in float32 as in Python, for ties. */
cop.statistics = (patches, N) => {
  const size = patches.length / N / 3, colours = new Float64Array(3 * N), variance = new Float64Array(N), grey = new Float32Array(size);
  for (let n = 0; n < N; n++) {
    let mean = 0;
    for (let i = 0; i < size; i++) {
      const at = 3 * (n * size + i);
      for (let c = 0; c < 3; c++) colours[3 * n + c] += patches[at + c] / size;
      grey[i] = Math.fround(Math.fround(patches[at] + patches[at + 1]) + patches[at + 2]) / 3;
      mean += grey[i] / size;
    }
    for (const value of grey) variance[n] += (value - mean) ** 2 / size;
  }
  return { colours, variance };
};

/* ----------------------------------------------------------------------------------------------------- networks */

/* x (n, I) by the weights `name` -> (n, O). */
const linear = (model, name, x) => {
  const { data: w, shape: [O, I] } = model.tensors[`${name}.weight`], b = model.tensors[`${name}.bias`].data;
  const n = x.length / I, y = new Float64Array(n * O);
  for (let i = 0; i < n; i++) for (let o = 0; o < O; o++) {
    let sum = b[o];
    for (let k = 0, at = o * I, from = i * I; k < I; k++) sum += w[at + k] * x[from + k];
    y[i * O + o] = sum;
  }
  return y;
};

const add = (x, y) => x.map((v, i) => v + y[i]);

/* The error function, to 1.2e-7. */
const ERF = [0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368,
  -1.26551223];
const erf = (x) => {
  const t = 1 / (1 + Math.abs(x) / 2);
  let p = 0;
  for (let i = 0; i < 10; i++) p = p * t + ERF[i];
  const rest = t * Math.exp(p - x * x);
  return x >= 0 ? 1 - rest : rest - 1;
};
const gelu = (x) => x.map((v) => (v / 2) * (1 + erf(v * Math.SQRT1_2)));

const layerNorm = (model, name, x) => {
  const w = model.tensors[`${name}.weight`].data, b = model.tensors[`${name}.bias`].data, D = w.length;
  const y = new Float64Array(x.length);
  for (let from = 0; from < x.length; from += D) {
    let mean = 0, square = 0;
    for (let k = 0; k < D; k++) mean += x[from + k] / D;
    for (let k = 0; k < D; k++) square += (x[from + k] - mean) ** 2 / D;
    for (let k = 0; k < D; k++) y[from + k] = ((x[from + k] - mean) / Math.sqrt(square + 1e-5)) * w[k] + b[k];
  }
  return y;
};

/* Cosines and sines (N, E / 2) of the places of a grid, rows in the first half and columns in the second (2-D RoPE). */
const angles = (grid, E) => {
  const turns = Array.from({ length: grid ** 2 * (E / 2) }, (_, i) => {
    const n = Math.floor(i / (E / 2)), e = i % (E / 2);
    return (e < E / 4 ? Math.floor(n / grid) : n % grid) * 100 ** (-(e % (E / 4)) / (E / 4));
  });
  return { cos: turns.map(Math.cos), sin: turns.map(Math.sin) };
};

/* Rotate the pairs of the queries or keys of one head, (N, E) from `at` in rows of `stride` values. */
const rotate = (qkv, stride, at, E, { cos, sin }) => {
  for (let i = 0, row = at; i < cos.length; row += stride) for (let k = row; k < row + E; k += 2, i++) {
    const a = qkv[k], b = qkv[k + 1];
    qkv[k] = a * cos[i] - b * sin[i], qkv[k + 1] = a * sin[i] + b * cos[i];
  }
};

/* One block of a transformer: x (N, D) -> (N, D). */
const block = (model, name, x, heads) => {
  const N = model.grid ** 2, D = x.length / N, E = D / heads, qkv = linear(model, `${name}.qkv`, layerNorm(model, `${name}.norm1`, x));
  const out = new Float64Array(N * D), row = new Float64Array(N), turned = (model.angles ??= {})[E] ??= angles(model.grid, E);
  for (let h = 0; h < heads; h++) {
    rotate(qkv, 3 * D, h * E, E, turned);
    rotate(qkv, 3 * D, D + h * E, E, turned);
    for (let i = 0; i < N; i++) {
      let most = -Infinity, total = 0;
      for (let j = 0; j < N; j++) {
        let sum = 0;
        for (let e = 0, q = i * 3 * D + h * E, k = j * 3 * D + D + h * E; e < E; e++) sum += qkv[q + e] * qkv[k + e];
        row[j] = sum / Math.sqrt(E), most = Math.max(most, row[j]);
      }
      for (let j = 0; j < N; j++) total += row[j] = Math.exp(row[j] - most);
      for (let j = 0; j < N; j++) for (let e = 0, v = j * 3 * D + 2 * D + h * E, to = i * D + h * E; e < E; e++) {
        out[to + e] += (row[j] / total) * qkv[v + e];
      }
    }
  }
  x = add(x, linear(model, `${name}.proj`, out));
  const hidden = gelu(linear(model, `${name}.mlp.0`, layerNorm(model, `${name}.norm2`, x)));
  return add(x, linear(model, `${name}.mlp.2`, hidden));
};

const blocks = (model, name, x, { depth, heads }) => {
  for (let i = 0; i < depth; i++) x = block(model, `${name}.blocks.${i}`, x, heads);
  return layerNorm(model, `${name}.norm`, x);
};

/* Patches (N, p p 3) -> tokens (N, C). */
cop.encode = (model, patches) => linear(model, "tokens", patches);

/* What the predictor doubts of every patch once those of `seen` (N booleans) are known: the sum of its scales, 0 at seen ones. */
cop.doubt = (model, tokens, seen) => {
  const N = seen.length, x = linear(model, "predictor.embed", tokens), mask = model.tensors["predictor.mask_token"].data, D = mask.length;
  for (let n = 0; n < N; n++) if (!seen[n]) x.set(mask, n * D);
  const told = linear(model, "predictor.head",
    blocks(model, "predictor", add(x, model.tensors["predictor.position"].data), model.predictor));
  const C = told.length / N / 2, doubt = new Float64Array(N);
  for (let n = 0; n < N; n++) for (let c = 0; c < C && !seen[n]; c++) {
    doubt[n] += model.floor + Math.log1p(Math.exp(told[n * 2 * C + C + c]));
  }
  return doubt;
};

/* The measured graph as a ranker of one pass knows it. name: `placed` of the model's square, `offsets` of any grid. */
cop.measured = (model, tokens, rows, columns, name) => {
  const N = rows * columns, side = 2 * model.grid - 1, A = new Float64Array(N * N), place = model.tensors[`${name}.position`];
  let x = linear(model, `${name}.embed`, tokens);
  if (place) x = add(x, place.data);
  for (let i = 1; i < 2 * model.onepass.depth - 1; i += 2) x = linear(model, `${name}.body.${i}`, gelu(x));
  const told = linear(model, `${name}.head`, gelu(x));
  for (let n = 0; n < N; n++) for (let j = 0; j < N; j++) {
    const dy = Math.floor(n / columns) - Math.floor(j / columns), dx = (n % columns) - (j % columns);
    if (n === j || Math.max(Math.abs(dy), Math.abs(dx)) >= model.grid) continue;
    A[n * N + j] = Math.min(1, Math.max(0, told[j * side * side + (dy + model.grid - 1) * side + dx + model.grid - 1]));
  }
  return A;
};

/* The graph of CoMAE, the paper's autoencoder, as a graph network knows it. */
cop.comae = (model, tokens) => {
  const N = model.grid ** 2, edges = model.tensors["graphnet.edges"].data, A = new Float64Array(N * N);
  const x = blocks(model, "graphnet", add(linear(model, "graphnet.embed", tokens), model.tensors["graphnet.position"].data), model.graphnet);
  const target = linear(model, "graphnet.target", x), source = linear(model, "graphnet.source", x), D = x.length / N;
  for (let i = 0; i < N; i++) for (let j = 0; j < N; j++) {
    let sum = 0;
    for (let k = 0; k < D; k++) sum += target[i * D + k] * source[j * D + k];
    if (i !== j) A[i * N + j] = 1 / (1 + Math.exp(-(sum / Math.sqrt(D) + edges[i * N + j])));
  }
  return A;
};

/* ------------------------------------------------------------------------------------------------------- orders */

/* Patches by descending score, equal ones by lower index. */
cop.descending = (scores) => [...scores.keys()].sort((a, b) => scores[b] - scores[a] || a - b);

/* PageRank of a graph (N, N) -> (N), which sums to 1. */
cop.pagerank = (A, N, damping) => {
  const share = new Float64Array(N * N);
  for (let i = 0; i < N; i++) {
    const row = A.subarray(i * N, i * N + N), total = row.reduce((a, b) => a + b, 0);
    for (let j = 0; j < N; j++) share[i * N + j] = total > 0 ? row[j] / total : 1 / N;
  }
  let r = new Float64Array(N).fill(1 / N), moved = 1;
  while (moved > 1e-12) {
    const next = new Float64Array(N).fill((1 - damping) / N);
    for (let i = 0; i < N; i++) for (let j = 0; j < N; j++) next[j] += damping * r[i] * share[i * N + j];
    moved = Math.max(...next.map((v, i) => Math.abs(v - r[i])));
    r = next;
  }
  return r;
};

/* exp(-d^2 / 2 width^2) of the distance of two patches, in patches. */
const near = (a, b, columns, width) => Math.exp(-squared(a, b, columns) / (2 * width ** 2));
const squared = (a, b, columns) => (Math.floor(a / columns) - Math.floor(b / columns)) ** 2 + ((a % columns) - (b % columns)) ** 2;

/* What patches give away of each other if they are near and alike: colours (N, 3) -> (N, N). */
cop.bilateral = (colours, columns, { near: width, alike }) => {
  const N = colours.length / 3, A = new Float64Array(N * N);
  for (let i = 0; i < N; i++) for (let j = 0; j < N; j++) {
    let unlike = 0;
    for (let c = 0; c < 3; c++) unlike += (colours[3 * i + c] - colours[3 * j + c]) ** 2;
    A[i * N + j] = near(i, j, columns, width) * Math.exp(-unlike / (2 * alike ** 2));
  }
  return A;
};

/* The greedy order of what the graph A covers, weighed by what there is to learn at each patch, u (N). */
cop.coverage = (A, u) => {
  const N = u.length, left = Float64Array.from(u), taken = new Uint8Array(N), order = [];
  while (order.length < N) {
    const gain = new Float64Array(N);
    for (let i = 0; i < N; i++) for (let j = 0; j < N; j++) gain[j] += left[i] * (i === j ? 1 : A[i * N + j]);
    let best = -1;
    for (let j = 0; j < N; j++) if (!taken[j] && (best < 0 || gain[j] > gain[best])) best = j;
    taken[best] = 1, order.push(best);
    for (let i = 0; i < N; i++) left[i] *= i === best ? 0 : 1 - A[i * N + best];
  }
  return order;
};

/* Cells in the order in which a Halton sequence (bases 2, 3) first falls into them. */
cop.lowDiscrepancy = (rows, columns) => {
  const radical = (i, base) => {
    let value = 0;
    for (let part = 1 / base; i > 0; i = Math.floor(i / base), part /= base) value += (i % base) * part;
    return value;
  };
  const order = new Set();
  for (let i = 1; order.size < rows * columns; i++) {
    order.add(Math.floor(radical(i, 2) * rows) * columns + Math.floor(radical(i, 3) * columns));
  }
  return [...order];
};

/* A random order, the same for the same seed (a linear congruential generator; other draws than Python's). */
cop.random = (N, seed) => {
  let state = seed >>> 0;
  return cop.descending(Float64Array.from({ length: N }, () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0)));
};

/* Looking where the predictor doubts most, a step at a time: a generator of the order so far, which returns all of it. */
cop.active = function* (model, tokens) {
  const N = model.grid ** 2, { width, per_step: perStep } = model.looking, seen = new Array(N).fill(false), order = [];
  while (order.length < N) {
    const doubt = cop.doubt(model, tokens, seen), score = new Float64Array(N), crowded = new Array(N).fill(false);
    for (let i = 0; i < N; i++) for (let j = 0; j < N; j++) score[j] += doubt[i] * near(i, j, model.grid, width);
    for (let step = 0; step < perStep && order.length < N; step++) {
      const ranked = cop.descending(score).filter((n) => !seen[n]), best = ranked.find((n) => !crowded[n]) ?? ranked[0];
      seen[best] = true, order.push(best);
      for (let n = 0; n < N; n++) crowded[n] ||= squared(best, n, model.grid) <= 2;
    }
    yield order;
  }
  return order;
};

/* The orders of the page by name: what a menu says, whether the model's square is needed, and a function of
   {model, patches, tokens, rows, columns, N} that returns the order, or a generator that does. */
const byRank = (x, A) => cop.descending(cop.pagerank(A, x.N, x.model.damping));
const variance = (x) => cop.statistics(x.patches, x.N).variance;
cop.ORDERS = {
  measured: { title: "collapse order, measured graph (ours)",
    of: (x) => byRank(x, cop.measured(x.model, x.tokens, x.rows, x.columns, x.rows === x.columns ? "placed" : "offsets")) },
  collapse: { title: "collapse order, the paper's graph", square: true, of: (x) => byRank(x, cop.comae(x.model, x.tokens)) },
  coverage: { title: "coverage (ours)", of: (x) => {
    const { looking } = x.model, { colours, variance: v } = cop.statistics(x.patches, x.N);
    return cop.coverage(cop.bilateral(colours, x.columns, looking), v.map((value) => value ** looking.gamma));
  } },
  active: { title: "active looking (ours)", square: true, of: (x) => cop.active(x.model, x.tokens) },
  variance: { title: "variance of each patch", of: (x) => cop.descending(variance(x)) },
  "low-discrepancy": { title: "low discrepancy", of: (x) => cop.lowDiscrepancy(x.rows, x.columns) },
  random: { title: "random", of: (x) => cop.random(x.N, 1) },
};

globalThis.cop = cop;
