// One latent beside its partner, or beside another latent of the partner's seed.

// Opens a latent of the first seed beside `other` of the second, its partner unless given.
function openDetail(latent, other = view.core.target[latent]) {
  opened = { latent, other };
  drawDetail();
  drawRows("always");
  $("detail").focus();
}

function drawDetail() {
  const { latent, other } = opened;
  const [a, b] = view.seeds;
  const title = other < 0 ? `Latent ${latent} of seed ${a}` : `Latent ${latent} of seed ${a} and latent ${other} of seed ${b}`;
  const sides = [side(a, latent, view.first), ...(other < 0 ? [] : [side(b, other, view.second)])];
  $("detail").replaceChildren(
    make("h3", { id: "browser-detail-title" }, title),
    buttons(),
    ...sentences(latent).map((text) => make("p", {}, text)),
    make("div", { className: "sides" }, ...sides),
    ...neighbours(latent, other),
  );
  $("detail").hidden = false;
}

function closeDetail() {
  opened = null;
  $("detail").hidden = true;
}

function buttons() {
  const at = order.indexOf(opened.latent);
  const step = (by) => () => (goTo(at + by), openDetail(order[at + by]));
  const found = [
    make("button", { type: "button", onclick: step(-1), disabled: at < 1 }, "Previous in the list"),
    make("button", { type: "button", onclick: step(1), disabled: at < 0 || at + 1 >= order.length }, "Next in the list"),
    make("button", { type: "button", onclick: backToList }, "Back to the list"),
  ];
  return make("p", { className: "buttons" }, ...found);
}

function backToList() {
  const at = order.indexOf(opened.latent);
  closeDetail();
  goTo(at);
  $("body").querySelector("[tabindex='0']")?.focus();
}

// What the pair has in common, in words.
function sentences(latent) {
  const { core, details, seeds, threshold } = view;
  const target = partnerName(core.target[latent]);
  const encoderTarget = partnerName(core.encoder_target[latent]);
  const [decoder, encoder] = [cosine(core.decoder[latent]), cosine(core.encoder[latent])];
  const verdict = [
    `Not shared: the decoder matching pairs ${latent} with ${target} (cosine ${decoder}), the encoder ` +
      `matching with ${encoderTarget} (cosine ${encoder})`,
    `Not shared: both matchings pair ${latent} with ${target}, but not with both cosines at least ` +
      `${threshold} (decoder ${decoder}, encoder ${encoder})`,
    `Shared: both matchings pair ${latent} with ${target}, with cosines of at least ${threshold} ` +
      `(decoder ${decoder}, encoder ${encoder})`,
  ];
  const found = [`${verdict[core.kind[latent]]}.`];
  const row = view.place ? rowOf(view.place, seeds[0], latent) : -1;
  if (core.jaccard) {
    const both = row < 0 || !details.both ? "" : ` on ${numbers.format(details.both[row])} tokens`;
    found.push(`${latent} and ${target} fire together${both}: Jaccard ${cosine(core.jaccard[latent])}, ` +
      `correlation ${cosine(core.correlation[latent])}.`);
  }
  if (row >= 0 && details.entropy) {
    const entropy = details.entropy[row];
    found.push(`Entropic plan (epsilon ${view.epsilon}): ${Math.exp(entropy).toFixed(2)} effective partners ` +
      `(entropy ${entropy.toFixed(3)} nats); the likeliest is ${details.likeliest[row]} with ` +
      `${percent(details.weight[row] / 10000)} of the mass; expected cosine ${cosine(details.expected[row])}.`);
  }
  return found;
}

// One latent: how often it fires, its snippets, its logit-lens tokens.
function side(seed, latent, core) {
  const { place } = view;
  const made = make("section", {}, make("h4", {}, `Seed ${seed}, latent ${latent}`), ...explanations(seed, latent));
  if (!core) {
    made.append(make("p", { className: "about" }, "Its texts and tokens are not in this page; see above."));
    return made;
  }
  const { num_tokens: numTokens } = view.home.seeds[seed];
  const rate = core.rate[latent];
  made.append(make("p", { className: "about" }, rate === 0
    ? `Never fires on ${numbers.format(numTokens)} tokens.`
    : `Fires on ${percent(rate)} of ${numbers.format(numTokens)} tokens; largest value ` +
      `${significant.format(core.max[latent])}, mean ${significant.format(core.mean[latent])}.`));
  if (!place) return made;
  if (rowOf(place, seed, latent) < 0) {
    made.append(make("p", { className: "about" }, "Its texts and tokens were left out to keep this page small."));
    return made;
  }
  const found = snippetsOf(place, seed, latent);
  if (found.length) {
    made.append(make("h5", {}, "Text that activates it most; thicker lines under tokens are larger values"),
      make("ol", { className: "snippets" }, ...found.map((pieces) => snippet(pieces, core.max[latent]))));
  }
  const tokens = lensOf(place, seed, latent);
  const half = tokens.length / 2;
  made.append(make("h5", {}, "Tokens it promotes (logit)"), tokenList(tokens.slice(0, half)),
    make("h5", {}, "Tokens it suppresses (logit)"), tokenList(tokens.slice(half)));
  return made;
}

function explanations(seed, latent) {
  return (explained(seed, latent)?.said ?? []).flatMap(({ by, text, scores }) =>
    [make("h5", {}, `Explained by ${by}: ${scores}`), make("p", { dir: "auto" }, text)]);
}

function snippet(pieces, max) {
  const peak = strongest(pieces);
  const marked = pieces.map((piece) => {
    if (!piece.value) return piece.text;
    const mark = make("mark", { className: `v${Math.ceil((4 * piece.value) / 255)}`,
      title: rough.format((piece.value * max) / 255) });
    mark.append(piece === peak ? make("strong", {}, piece.text) : piece.text);
    return mark;
  });
  return make("li", { dir: "auto" }, ...marked);
}

function tokenList(tokens) {
  const items = tokens.map(({ text, logit }) =>
    make("li", {}, text.replace(/^ | $/g, "\u2423"), make("small", {}, rough.format(logit))));
  return make("ul", { className: "tokens" }, ...items);
}

// The most similar decoders of the other seed, each of which can be put beside the latent.
function neighbours(latent, other) {
  const { details, core, place, seeds } = view;
  const row = place ? rowOf(place, seeds[0], latent) : -1;
  if (row < 0 || !details.neighbour) return [];
  const size = details.neighbour.length / details.both.length;
  const rows = Array.from({ length: size }, (_, r) => {
    const candidate = details.neighbour[row * size + r];
    const role = candidate === core.target[latent] ? "partner"
      : candidate === core.encoder_target[latent] ? "partner by the encoders" : "runner-up";
    const button = make("button", { type: "button", disabled: candidate === other,
      onclick: () => openDetail(latent, candidate) }, candidate === other ? "Shown" : "Show beside");
    button.ariaLabel = `${button.textContent}: latent ${candidate}`;
    return make("tr", {}, make("th", { scope: "row" }, String(candidate)),
      make("td", {}, cosine(details.neighbour_cosine[row * size + r])), make("td", {}, role), make("td", {}, button));
  });
  const head = ["Latent", "Decoder cosine", "Role", ""].map((text) => make(text ? "th" : "td", text ? { scope: "col" } : {}, text));
  return [make("h4", {}, `Most similar decoders in seed ${seeds[1]}`),
    make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows))];
}

$("detail").addEventListener("keydown", (event) => {
  if (event.key === "Escape") backToList();
});
