// The state of the page, which its address holds too, and what changes it.
const view = {layer: content.first.layer, unit: content.first.unit, signal: content.first_signal, at: Math.min(characters.length - 1, 20)};
const layerChoice = document.getElementById("layer-choice"), signalChoice = document.getElementById("signal-choice");
const unitInput = document.getElementById("unit");

let marked; // the character at which the page is

function choice(group, name, value, text) {
  const input = element("input", {type: "radio", name, value, id: `${name}-${value}`});
  group.append(element("label", {}, input, text));
}

function showUnit() { // all that depends on layer, unit or signal
  const units = content.layers[view.layer - 1].units;
  document.getElementById(`layer-${view.layer}`).checked = true;
  document.getElementById(`signal-${view.signal}`).checked = true;
  unitInput.value = view.unit;
  unitInput.max = content.hidden_size;
  document.getElementById("unit-range").textContent = units.length === content.hidden_size
    ? `of ${count(content.hidden_size)}` : `(${count(units.length)} of ${count(content.hidden_size)} are in this page)`;
  document.getElementById("unit-list").replaceChildren(...units.length < content.hidden_size ? units.map(unit => element("option", {value: unit})) : []);
  document.getElementById("step-unit").textContent = `layer ${view.layer}, unit ${view.unit}`;
  shadeText(view);
  showLegend(view);
  showExplanation(view);
  showPlace();
}

function showPlace() { // all that depends on the character
  marked?.classList.remove("at");
  marked = spans[view.at];
  marked.classList.add("at");
  const card = showCard(view, view.at);
  showStep(view);
  return card;
}

function keepInSight(span) { // by scrolling the text, never the page
  const panel = textPanel.getBoundingClientRect(), place = span.getBoundingClientRect();
  if (place.top < panel.top) textPanel.scrollTop -= panel.top - place.top + 40;
  else if (place.bottom > panel.bottom) textPanel.scrollTop += place.bottom - panel.bottom + 40;
}

function note() {
  history.replaceState(null, "", `#unit=${view.layer}:${view.unit}&show=${view.signal}&at=${view.at + 1}`);
}

function complain(text) {
  document.getElementById("problem").textContent = text;
}

function select(layer, unit, signal) {
  if (placeOf(layer, unit) < 0) {
    const exists = unit >= 1 && unit <= content.hidden_size && content.layers[layer - 1];
    complain(exists ? `Layer ${layer}, unit ${unit} is not in this page. Write another one with --neuron ${layer}:${unit}.`
      : `There is no unit ${unit}: they go from 1 to ${count(content.hidden_size)}.`);
    unitInput.value = view.unit;
    return false;
  }
  complain("");
  Object.assign(view, {layer, unit, signal: kind.signals[signal] ? signal : view.signal});
  showUnit();
  return true;
}

function move(to) {
  const index = Math.max(0, Math.min(characters.length - 1, to));
  if (index === view.at) return;
  view.at = index;
  document.getElementById("live").textContent = showPlace();
  keepInSight(spans[index]);
  note();
}

function readAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1)), unit = /^(\d+):(\d+)$/.exec(wanted.get("unit") ?? "");
  if (!unit) return false;
  const at = Number(wanted.get("at")) - 1;
  if (at >= 0 && at < characters.length) view.at = at;
  return select(Number(unit[1]), Number(unit[2]), wanted.get("show"));
}

// The next unit of the layer that is in the page, before or after this one
function neighbor(direction) {
  const units = content.layers[view.layer - 1].units, place = placeOf(view.layer, view.unit);
  return units[(place + direction + units.length) % units.length];
}

function start() {
  document.getElementById("title").textContent = content.title;
  const bits = `${number(content.bits_per_character)} bits per ${content.unit}`, layers = content.layers.length;
  document.getElementById("facts").textContent = `${kind.name[0].toUpperCase()}${kind.name.slice(1)}, ${layers} ${layers === 1 ? "layer" : "layers"} of ` +
    `${count(content.hidden_size)} units · ${count(characters.length)} ${content.unit}${characters.length === 1 ? "" : "s"} · ${bits}`;
  for (const word of document.querySelectorAll(".unit-word")) word.textContent = content.unit;
  content.layers.forEach((layer, index) => layer.units.length && choice(layerChoice, "layer", index + 1, String(index + 1)));
  signalOrder.forEach(signal => choice(signalChoice, "signal", signal, shortNames[signal]));
  textPanel.setAttribute("aria-label", `The text. Arrow keys move from ${content.unit} to ${content.unit}.`);
  textPanel.append(...spans);
  const kept = content.layers.reduce((total, layer) => total + layer.units.length, 0), all = layers * content.hidden_size;
  const contents = document.getElementById("contents");
  if (kept === all) contents.textContent = `All ${count(all)} units are in this page.`;
  else {
    contents.append(`The text is too long for all ${count(all)} units. This page holds ${count(kept)}: those that track something, and those that were named (`);
    content.layers.flatMap((layer, index) => layer.units.map(unit => linkTo(index + 1, unit, content.memory)))
      .forEach((link, place) => contents.append(place ? ", " : "", link));
    contents.append("). To see others, name them when you write the page, at most 64: ",
      element("code", {text: `charlm inspect RUN TEXT --html FILE --neuron ${layers}:1`}),
      `. Of a text of at most ${count(content.max_characters)} ${content.unit}s, all units fit.`);
  }
  document.getElementById("step-lead").textContent = stepLeads[content.cell];
  showTracked();
  showOverview();
  if (!readAddress()) showUnit();
}

const stepLeads = {
  lstm: "The thick line is the unit’s memory, the cell state. It comes in at the left, is multiplied by the forget gate, receives what the input gate lets in, and goes on to the next step. " +
    "The output gate decides what the rest of the network gets to see. Each gate reads the input and all hidden values of the step before; a box is filled as far as the gate is open.",
  gru: "The thick line is the unit’s memory, the hidden state. The update gate decides how much of it is kept, and how much is replaced by the candidate. A box is filled as far as the gate is open.",
  rnn: "At each step, the unit’s value is computed anew from the input and all hidden values of the step before.",
};

layerChoice.addEventListener("change", event => {
  const layer = Number(event.target.value), units = content.layers[layer - 1].units;
  select(layer, placeOf(layer, view.unit) < 0 ? units[0] : view.unit, view.signal);
  note();
});
signalChoice.addEventListener("change", event => { select(view.layer, view.unit, event.target.value); note() });
unitInput.addEventListener("change", () => { select(view.layer, Number(unitInput.value), view.signal); note() });
document.getElementById("controls").addEventListener("submit", event => event.preventDefault());
document.getElementById("unit-before").addEventListener("click", () => { select(view.layer, neighbor(-1), view.signal); note() });
document.getElementById("unit-after").addEventListener("click", () => { select(view.layer, neighbor(1), view.signal); note() });
document.getElementById("step-before").addEventListener("click", () => move(view.at - 1));
document.getElementById("step-after").addEventListener("click", () => move(view.at + 1));
const spanOf = target => target.nodeType === 1 && target.closest("#text span");
textPanel.addEventListener("click", event => { const span = spanOf(event.target); if (span) move(span.index) });
textPanel.addEventListener("mouseover", event => { const span = spanOf(event.target); if (span) showCard(view, span.index) });
textPanel.addEventListener("mouseleave", () => showCard(view, view.at));
document.addEventListener("keydown", event => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input")) return;
  const inText = document.activeElement === textPanel;
  const to = {ArrowLeft: view.at - 1, ArrowRight: view.at + 1, ...inText ? {ArrowUp: lineAway(view.at, -1), ArrowDown: lineAway(view.at, 1),
    Home: 0, End: characters.length - 1} : {}}[event.key];
  if (to === undefined) return;
  event.preventDefault();
  move(to);
});
addEventListener("hashchange", () => { if (readAddress()) document.getElementById("read").scrollIntoView() });
start();
