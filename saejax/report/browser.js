// The latent browser: a list that is sorted, filtered and searched, and one latent at a time.
// Reads the page through browser_data.js, which comes before this file in the page.

const $ = (name) => document.getElementById(`browser-${name}`);
const KINDS = ["partners differ", "same partner", "shared"];
const numbers = new Intl.NumberFormat("en");
const significant = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
// Of values that the page holds in 127ths or 255ths of the largest.
const rough = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const percent = (fraction) => `${significant.format(100 * fraction)}\u00a0%`;
const cosine = (tenThousandths) => (tenThousandths / 10000).toFixed(3);

let view; // a pair of seeds: its record in the manifest, arrays, and texts once they are decoded
let order = []; // latents of the list
let sort = { column: "decoder", falling: true };
let active = 0; // place in the list of the row that the keyboard is on
let opened = null; // { latent, other }: what the detail shows
let rowHeight = 36;
let drawn = "";

// Columns of the list; one without `value` cannot be sorted by.
const COLUMNS = {
  latent: { label: () => `Latent of seed ${view.seeds[0]}`, value: (i) => i },
  partner: { label: () => `Partner in seed ${view.seeds[1]}`, value: (i) => view.core.target[i],
    text: (i) => partnerName(view.core.target[i]) },
  decoder: { label: () => "Decoder cosine", value: (i) => view.core.decoder[i],
    text: (i) => cosine(view.core.decoder[i]) },
  encoder: { label: () => "Encoder cosine", value: (i) => view.core.encoder[i],
    text: (i) => cosine(view.core.encoder[i]) },
  kind: { label: () => "Found again", value: (i) => view.core.kind[i], text: (i) => KINDS[view.core.kind[i]] },
  jaccard: { label: () => "Fire together (Jaccard)", shown: () => view.core.jaccard,
    value: (i) => view.core.jaccard[i], text: (i) => cosine(view.core.jaccard[i]) },
  score: { label: () => "Explanation score", shown: () => view.home.explained[view.seeds[0]],
    value: (i) => explained(view.seeds[0], i)?.score ?? -1,
    text: (i) => explained(view.seeds[0], i)?.score?.toFixed(3) ?? "" },
  rate: { label: () => "Fires on", shown: () => view.first, value: (i) => view.first.rate[i],
    text: (i) => percent(view.first.rate[i]) },
  peaks: { label: () => "Strongest at", shown: () => view.place?.seeds[view.seeds[0]], text: peaksOf },
};

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const partnerName = (latent) => (latent < 0 ? "none" : String(latent));
const shownColumns = () => Object.entries(COLUMNS).filter(([, column]) => !column.shown || column.shown());

// What is said of a latent in words, and its score.
const explained = (seed, latent) => view.home.explained[seed]?.[latent];

// The tokens of the three strongest snippets that activate a latent most.
function peaksOf(latent) {
  if (rowOf(view.place, view.seeds[0], latent) < 0) return "";
  const found = snippetsOf(view.place, view.seeds[0], latent, 3).map(strongest);
  return found.map(({ text }) => text.trim()).join("  ");
}

const strongest = (pieces) => pieces.reduce((best, piece) => (piece.value > best.value ? piece : best));

async function setView(number) {
  const record = manifest.views[number];
  const { seeds } = manifest.places[record.place];
  const core = await arrays(record.core);
  const [first, second] = await Promise.all(record.seeds.map((s) => seeds[s] && arrays(seeds[s].core)));
  view = { ...record, home: manifest.places[record.place], core, first, second, place: null };
  $("range-rate").hidden = !first;
  if (!shownColumns().some(([name]) => name === sort.column)) sort = { column: "decoder", falling: true };
  closeDetail();
  update();
  // The list is there; texts follow.
  const [place, details] = await Promise.all([loadPlace(record.place), arrays(record.details)]);
  if (view.core !== core) return; // another pair was chosen meanwhile
  Object.assign(view, { place, details });
  update();
}

// Whether each latent fits the search, null for all.
function searched() {
  const query = $("query").value.toLowerCase();
  if (!query.trim()) return null;
  const { target } = view.core;
  const where = $("where").value;
  if (where === "number") {
    const wanted = query.trim();
    return (i) => String(i) === wanted || partnerName(target[i]) === wanted;
  }
  if (!view.place) return null;
  const search = { snippets: inSnippets, lens: inLens, explanations: inExplanations }[where];
  const inside = search(view.place, query);
  const [a, b] = view.seeds;
  return (i) => inside(a, i) || (target[i] >= 0 && inside(b, target[i]));
}

function inExplanations(place, query) {
  return (seed, i) => explained(seed, i)?.said.some(({ text }) => text.toLowerCase().includes(query));
}

function filters() {
  const found = [];
  if ($("show").value !== "all") {
    const kind = Number($("show").value);
    found.push((i) => view.core.kind[i] === kind);
  }
  const units = { decoder: 10000, encoder: 10000, rate: 0.01 };
  for (const [name, unit] of Object.entries(units)) {
    const [low, high] = ["from", "to"].map((end) => $(`${name}-${end}`).valueAsNumber);
    const { value } = COLUMNS[name];
    if (name === "rate" && !view.first) continue;
    if (!Number.isNaN(low)) found.push((i) => value(i) / unit >= low);
    if (!Number.isNaN(high)) found.push((i) => value(i) / unit <= high);
  }
  const search = searched();
  if (search) found.push(search);
  return found;
}

// Makes the list anew, after a change of its pair, filters or order.
function update() {
  const wanted = filters();
  const { value, label } = COLUMNS[sort.column];
  const sign = sort.falling ? -1 : 1;
  const size = view.core.target.length;
  order = Array.from({ length: size }, (_, i) => i).filter((i) => wanted.every((fits) => fits(i)));
  const keys = Float64Array.from({ length: size }, (_, i) => value(i));
  order.sort((i, j) => sign * (keys[i] - keys[j]) || i - j);
  active = 0;
  drawHead();
  $("view").scrollTop = 0;
  drawRows("always");
  if (opened) drawDetail();
  const missing = view.place ? "" : " Reading texts...";
  $("status").textContent =
    `${numbers.format(order.length)} of ${numbers.format(size)} latents, by ` +
    `${label().toLowerCase()}, ${sort.falling ? "falling" : "rising"}.${missing}`;
}

function drawHead() {
  const focused = document.activeElement.dataset.column;
  const cells = shownColumns().map(([name, { label, value }]) => {
    const sorted = sort.column === name;
    const arrow = sorted ? (sort.falling ? " \u2193" : " \u2191") : "";
    const cell = make("th", { scope: "col", className: name });
    if (!value) cell.append(label());
    else {
      const button = make("button", { type: "button", onclick: () => sortBy(name) }, label() + arrow);
      button.dataset.column = name;
      cell.append(button);
      cell.ariaSort = sorted ? (sort.falling ? "descending" : "ascending") : "none";
    }
    return cell;
  });
  $("head").replaceChildren(...cells);
  if (focused) $("head").querySelector(`[data-column=${focused}]`)?.focus();
}

function sortBy(column) {
  // Cosines and rates start with the largest, numbers of latents with the smallest.
  const falling = !["latent", "partner"].includes(column);
  sort = { column, falling: sort.column === column ? !sort.falling : falling };
  update();
}

// Draws the rows that are in sight, and a few around them.
function drawRows(when) {
  const box = $("view");
  const top = Math.floor(box.scrollTop / rowHeight);
  const inSight = Math.ceil(box.clientHeight / rowHeight);
  const first = Math.max(0, top - 10);
  const last = Math.min(order.length, top + inSight + 10);
  const state = `${first} ${last} ${active}`;
  if (when !== "always" && state === drawn) return;
  drawn = state;
  // The row that Tab reaches is in sight.
  const reached = Math.min(Math.max(active, top), Math.max(top, Math.min(top + inSight - 2, order.length - 1)));
  const columns = shownColumns();
  const focused = $("body").contains(document.activeElement);
  const rows = order.slice(first, last).map((latent, k) => row(latent, first + k, first + k === reached, columns));
  $("body").replaceChildren(space(first, columns), ...rows, space(order.length - last, columns));
  $("table").ariaRowCount = order.length + 1;
  if (focused) $("body").querySelector("[tabindex='0']")?.focus({ preventScroll: true });
  const height = rows[0]?.getBoundingClientRect().height;
  if (height && Math.abs(height - rowHeight) > 0.01) {
    rowHeight = height;
    drawRows("always");
  }
}

// What stands for the rows above or below that are not drawn.
function space(count, columns) {
  const cell = make("td", { colSpan: columns.length });
  cell.style.height = `${count * rowHeight}px`;
  const row = make("tr", { className: "space", hidden: !count }, cell);
  row.ariaHidden = "true";
  return row;
}

function row(latent, place, reached, columns) {
  const cells = columns.map(([name, { value, text }]) => {
    if (name !== "latent") return make("td", { className: name }, text(latent));
    const button = make("button", { type: "button", tabIndex: reached ? 0 : -1 }, String(value(latent)));
    button.ariaLabel = `Open latent ${latent} of seed ${view.seeds[0]}`;
    return make("th", { scope: "row" }, button);
  });
  const made = make("tr", { onclick: () => ((active = place), openDetail(latent)) }, ...cells);
  made.ariaRowIndex = place + 2;
  if (opened?.latent === latent) made.ariaCurrent = "true";
  return made;
}

// Moves the keyboard to a row of the list.
function goTo(place) {
  active = Math.min(Math.max(place, 0), order.length - 1);
  const box = $("view");
  const room = box.clientHeight - $("head").getBoundingClientRect().height;
  const top = active * rowHeight;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + rowHeight > box.scrollTop + room) box.scrollTop = top + rowHeight - room;
  drawRows("always");
}

const STEPS = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };

function onKey(event) {
  if (!(event.key in STEPS)) return;
  event.preventDefault();
  goTo(active + STEPS[event.key]);
}

async function start() {
  $("open").disabled = true;
  try {
    if (!globalThis.DecompressionStream) throw new Error("this browser cannot decompress; it is too old");
    $("panel").hidden = false;
    $("pair").replaceChildren(...manifest.views.map(({ place, seeds, method }, value) =>
      make("option", { value }, `${manifest.places[place].hookpoint}: ${seeds.join(" and ")} (${method})`)));
    await setView(0);
    $("open").hidden = true;
    $("pair").focus();
  } catch (error) {
    $("panel").hidden = true;
    $("failure").textContent = `The latents cannot be shown: ${error.message}.`;
    throw error;
  }
}

let pending;
const soon = () => (clearTimeout(pending), (pending = setTimeout(update, 150)));

$("open").addEventListener("click", start);
$("pair").addEventListener("change", () => setView(Number($("pair").value)));
$("body").addEventListener("keydown", onKey);
$("view").addEventListener("scroll", () => drawRows("changed"));
for (const name of ["show", "where"]) $(name).addEventListener("change", update);
for (const input of document.querySelectorAll(".controls input")) input.addEventListener("input", soon);
$("reset").addEventListener("click", () => {
  for (const input of document.querySelectorAll(".controls input")) input.value = "";
  $("show").value = "all";
  update();
});
