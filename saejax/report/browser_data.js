// What the page carries for its latent browser, decoded when it is asked for; see browser.py.

const manifest = JSON.parse(document.getElementById("browser-manifest").textContent);
const decoded = new Map();

// The arrays of a block, by name.
function arrays(id) {
  if (!decoded.has(id)) decoded.set(id, decode(id));
  return decoded.get(id);
}

async function decode(id) {
  const text = atob(document.getElementById(id).textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const found = {};
  let offset = 0;
  for (const [name, type, length] of manifest.blocks[id]) {
    found[name] = new globalThis[type](buffer, offset, length);
    offset += found[name].byteLength;
  }
  return found;
}

// Numbers of tokens, whose low and high bytes are stored apart.
function joined(planes) {
  const length = planes.length / manifest.planes;
  const numbers = new Uint32Array(length);
  for (let x = 0; x < manifest.planes; x++) {
    for (let i = 0; i < length; i++) numbers[i] |= planes[x * length + i] << (8 * x);
  }
  return numbers;
}

// Bytes of all tokens, and where those of each start; set by loadPlace.
let tokens;

async function loadTokens() {
  const { size, byte } = await arrays(manifest.tokens);
  const start = new Uint32Array(size.length + 1);
  for (let t = 0; t < size.length; t++) start[t + 1] = start[t] + size[t];
  tokens = { byte, start, count: size.length };
}

const tokenBytes = (token) => tokens.byte.subarray(tokens.start[token], tokens.start[token + 1]);

const places = new Map();

// Snippets and logit-lens tokens of a hook point, by seed.
function loadPlace(number) {
  if (!places.has(number)) places.set(number, readPlace(manifest.places[number]));
  return places.get(number);
}

async function readPlace(record) {
  await loadTokens();
  const described = record.described && (await arrays(record.described));
  const ranks = await Promise.all(record.snippets.map(arrays));
  const parts = ranks.map((rank) => joined(rank.token));
  const texts = new Uint32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let end = 0;
  for (const part of parts) {
    texts.set(part, end);
    end += part.length;
  }
  const place = { texts, width: 1, seeds: {}, rows: {} };
  for (const [name, latents] of Object.entries(described ?? {})) {
    const row = new Int32Array(record.num_latents).fill(-1);
    latents.forEach((latent, at) => (row[latent] = at));
    place.rows[name.slice("seed".length)] = row;
  }
  for (const [seed, { lens }] of Object.entries(record.seeds)) {
    const { token, logit, scale } = await arrays(lens);
    const snippets = ranks.map((rank) => ({ text: rank[`text${seed}`], value: rank[`value${seed}`] }));
    place.width = snippets[0].value.length / snippets[0].text.length;
    place.seeds[seed] = { snippets, token: joined(token), logit, scale };
  }
  return place;
}

// Where the descriptions of a latent stand, -1 if they are not in the page.
const rowOf = (place, seed, latent) => (place.rows[seed] ? place.rows[seed][latent] : latent);

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const loose = new TextDecoder("utf-8", { ignoreBOM: true });

function whole(bytes) {
  try {
    return strict.decode(bytes);
  } catch {
    return null;
  }
}

// Whether bytes end within a character, which the next token may complete.
function unfinished(bytes) {
  if (bytes[bytes.length - 1] < 128) return false;
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: true });
  } catch {
    return false;
  }
  return whole(bytes) === null;
}

// Text of bytes; those that are no characters are spelt out.
function spell(bytes) {
  const hex = (b) => "\\x" + b.toString(16).padStart(2, "0");
  return visible(whole(bytes) ?? Array.from(bytes, (b) => (b < 128 ? String.fromCharCode(b) : hex(b))).join(""));
}

// Line ends, other controls, and marks that would turn the direction of the text around them.
function visible(text) {
  return text.replace(/[\0-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, (c) => {
    if (c === "\n") return "\u21b5";
    if (c === "\t") return "\u21e5";
    return `[U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;
  });
}

// The first snippets of a latent: pieces of text, each a token or those that share a character, with
// the value there in 255ths of the latent's largest.
function snippetsOf(place, seed, latent, most = Infinity) {
  const row = rowOf(place, seed, latent);
  const found = [];
  for (const { text, value } of place.seeds[seed].snippets.slice(0, most)) {
    if (text[row] < 0) continue;
    const pieces = [];
    let bytes = [];
    let peak = 0;
    for (let p = 0; p < place.width; p++) {
      const token = place.texts[text[row] * place.width + p];
      bytes.push(...tokenBytes(token));
      peak = Math.max(peak, value[row * place.width + p]);
      const read = Uint8Array.from(bytes);
      if (!read.length || (unfinished(read) && p + 1 < place.width)) continue;
      pieces.push({ text: spell(read), value: peak });
      bytes = [];
      peak = 0;
    }
    if (pieces.length) found.push(pieces);
  }
  return found;
}

// Logit-lens tokens of a latent, promoted ones first: half of them.
function lensOf(place, seed, latent) {
  const { token, logit, scale } = place.seeds[seed];
  const row = rowOf(place, seed, latent);
  const size = token.length / scale.length;
  return Array.from({ length: size }, (_, p) => ({
    text: spell(tokenBytes(token[row * size + p])),
    logit: (logit[row * size + p] * scale[row]) / 127,
  }));
}

// All texts of a place in lower case, a NUL behind each, and where they end. One string is made
// and searched ten times as fast as one for each text.
function searchable(place) {
  const { byte, start } = tokens;
  const count = place.texts.length / place.width;
  let size = count;
  for (const token of place.texts) size += start[token + 1] - start[token];
  const bytes = new Uint8Array(size);
  for (let t = 0, p = 0, at = 0; t < count; t++, at++) {
    for (const end = p + place.width; p < end; p++) {
      const token = place.texts[p];
      // A NUL of a text's own becomes a space.
      for (let b = start[token]; b < start[token + 1]; b++) bytes[at++] = byte[b] || 32;
    }
  }
  const text = loose.decode(bytes).toLowerCase();
  const ends = new Uint32Array(count);
  for (let t = 0, from = 0; t < count; t++, from = ends[t - 1] + 1) ends[t] = text.indexOf("\0", from);
  return { text, ends };
}

// Whether any snippet of (seed, latent) holds the lower-case query.
function inSnippets(place, query) {
  const { text: all, ends } = (place.searchable ??= searchable(place));
  const hit = new Uint8Array(ends.length);
  for (let t = 0, at = all.indexOf(query); at >= 0; at = all.indexOf(query, ends[t])) {
    while (ends[t] < at) t++;
    hit[t] = 1;
  }
  return (seed, latent) => {
    const row = rowOf(place, seed, latent);
    return row >= 0 && Boolean(place.seeds[seed]?.snippets.some(({ text }) => text[row] >= 0 && hit[text[row]]));
  };
}

// Whether any logit-lens token of (seed, latent) holds the lower-case query.
function inLens(place, query) {
  const hit = Array.from({ length: tokens.count }, (_, t) => loose.decode(tokenBytes(t)).toLowerCase().includes(query));
  return (seed, latent) => {
    const row = rowOf(place, seed, latent);
    if (row < 0 || !place.seeds[seed]) return false;
    const { token, scale } = place.seeds[seed];
    const size = token.length / scale.length;
    return token.subarray(row * size, (row + 1) * size).some((t) => hit[t]);
  };
}
