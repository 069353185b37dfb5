// The numbers of the page: what the blocks of base64 hold, decoded when it is asked for.
const content = JSON.parse(document.getElementById("content").textContent);
const characters = [...content.text];
const gateNames = Object.keys(content.layers[0].closed);
const resets = new Set(content.resets);
const decoded = new Map();

function once(name, make) {
  if (!decoded.has(name)) decoded.set(name, make());
  return decoded.get(name);
}

// Some of the bytes of a block, and no more: four characters of base64 are three bytes
function bytesOf(name, start, end) {
  const text = once(name, () => document.getElementById(name).textContent), first = Math.floor(start / 3);
  const binary = atob(text.slice(4 * first, 4 * Math.ceil(end / 3)));
  return Uint8Array.from({length: end - start}, (_, i) => binary.charCodeAt(start - 3 * first + i));
}

function wordsOf(name) { // numbers of 16 bits, the lower byte first
  return once(`${name}:words`, () => {
    const binary = atob(document.getElementById(name).textContent);
    return Uint16Array.from({length: binary.length / 2}, (_, i) => binary.charCodeAt(2 * i) + 256 * binary.charCodeAt(2 * i + 1));
  });
}

// A signal of a unit that is in the page: a byte for the start token, then one for each character
function rowOf(layer, unit, signal) {
  const length = characters.length + 1, start = placeOf(layer, unit) * length, name = `layer-${layer}-${signal}`;
  return once(`${name}:${unit}`, () => bytesOf(name, start, start + length));
}

const isGate = signal => gateNames.includes(signal);

// Where a unit of a layer, both counted from 1, is among those in the page; -1: it is not there
const places = content.layers.map(layer => new Map(layer.units.map((unit, place) => [unit, place])));
const placeOf = (layer, unit) => places[layer - 1]?.get(unit) ?? -1;

function scaleOf(layer, unit, signal) {
  return signal === "cell" ? content.layers[layer - 1].cell_scales[placeOf(layer, unit)] : 1;
}

// A signal at all characters, from -1 to 1 or 0 to 1 of its scale
function fractionsOf(layer, unit, signal) {
  return Float32Array.from(rowOf(layer, unit, signal), isGate(signal) ? byte => byte / 255 : byte => (byte - 127) / 127);
}

// A signal at one character; index -1: at the start token
function valueAt(layer, unit, signal, index) {
  const byte = rowOf(layer, unit, signal)[index + 1];
  return isGate(signal) ? byte / 255 : (byte - 127) / 127 * scaleOf(layer, unit, signal);
}

const stateBefore = (layer, unit, signal, index) => resets.has(index) ? 0 : valueAt(layer, unit, signal, index - 1);

const bitsAt = index => wordsOf("bits")[index] / 100;
const rankAt = index => wordsOf("ranks")[index];
const numNext = Math.min(5, content.labels.length);
function nextAt(index) {
  return Array.from({length: numNext}, (_, k) => ({
    label: content.labels[wordsOf("next-ids")[index * numNext + k]],
    probability: wordsOf("next-probabilities")[index * numNext + k] / 65535,
  }));
}

// Numbers and characters for people
const minus = text => text.replace("-", "−");
const number = (value, digits = 2) => {
  const text = value.toFixed(digits);
  return minus(Number(text) === 0 ? text.replace("-", "") : text);
};
const count = value => value.toLocaleString("en-US");
const percent = share => share > 0 && share < .005 ? "<1%" : share < 1 && share > .995 ? ">99%" : `${Math.round(100 * share)}%`;
const named = {" ": "space", "\n": "newline", "\t": "tab"};
const nameOf = label => named[label] ?? label;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name === "style") Object.assign(made.style, value);
    else if (value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}
const glyph = label => element("span", {class: "glyph", text: nameOf(label)});

// The color of a value from -1 to 1, or 0 to 1 of a gate; it follows the colors of the page
function colorOf(fraction, signal) {
  const hue = isGate(signal) ? "gate" : fraction < 0 ? "negative" : "positive";
  const strength = Math.abs(fraction);
  return strength < .02 ? "" : `rgb(var(--${hue}) / ${strength.toFixed(2)})`;
}
