// The step view: one unit at one character, drawn as in the walk-throughs, with its numbers.
const SVG = "http://www.w3.org/2000/svg";

function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const wire = (d, type = "wire") => drawn("path", {d, class: type, "marker-end": type === "wire" ? "url(#arrow)" : "url(#big-arrow)"});
const line = d => drawn("path", {d, class: "wire"});
const dot = (x, y) => drawn("circle", {cx: x, cy: y, r: 4, fill: "var(--muted)"});

// A letter with its index, a text or a number
function label(x, y, anchor, ...parts) {
  const text = drawn("text", {x, y, "text-anchor": anchor});
  for (const part of parts) {
    if (typeof part === "string") { text.append(drawn("tspan", {}, part)); continue }
    const {symbol, index, value, ink, note} = part;
    if (symbol) {
      text.append(drawn("tspan", {class: "symbol"}, symbol));
      if (index) text.append(drawn("tspan", {class: "symbol", "font-size": 13, dy: 4}, index), drawn("tspan", {dy: -4}, "\u200b"));
    }
    if (value !== undefined) text.append(drawn("tspan", {class: "value" + (ink ? ` ${ink}` : "")}, number(value)));
    if (note) text.append(drawn("tspan", {class: "note"}, note));
  }
  return text;
}

const signInk = value => Math.abs(value) < .005 ? "" : value < 0 ? "negative-ink" : "positive-ink";
const labelled = (x, y, anchor, symbol, value, ink = "gate-ink") => label(x, y, anchor, {symbol}, " ", {value, ink});
const signed = (x, y, anchor, symbol, value) => labelled(x, y, anchor, symbol, value, signInk(value));

function node(x, y, sign) {
  return drawn("g", {}, drawn("circle", {cx: x, cy: y, r: 18, class: "node"}),
    drawn("text", {x, y: y + 8, "text-anchor": "middle", "font-size": 26}, sign));
}

// A gate as a box that is filled as far as it is open; a candidate, from the middle up or down
function box(x, sign, name, value, isOpen) {
  const width = 76, height = 52, top = 248, left = x - width / 2, size = Math.min(1, Math.abs(value));
  const filled = isOpen
    ? {y: top + height * (1 - size), height: height * size, class: "gate-fill"}
    : {y: value < 0 ? top + height / 2 : top + height / 2 * (1 - size), height: height / 2 * size,
       class: value < 0 ? "negative-fill" : "positive-fill"};
  return drawn("g", {},
    drawn("rect", {x: left, y: top, width, height, rx: 8, class: "box"}),
    drawn("rect", {x: left + 1, width: width - 2, rx: 7, ...filled}),
    drawn("rect", {x: left, y: top, width, height, rx: 8, fill: "none", stroke: "var(--ink)", "stroke-width": 1.5}),
    drawn("text", {x, y: top + 33, "text-anchor": "middle", "font-size": 21}, sign),
    label(x, 362, "middle", {note: name}));
}

// The input and the old hidden values, which all boxes read
function inputs(view, index, xs) {
  const fromBelow = view.layer > 1;
  const shown = fromBelow ? `layer ${view.layer - 1}` : resets.has(index) ? "the start token" : nameOf(characters[index]);
  return [
    line(`M20 330 H${xs[xs.length - 1]}`), line("M80 428 V330"), dot(80, 330),
    ...xs.map(x => wire(`M${x} 330 V304`)), ...xs.slice(0, -1).map(x => dot(x, 330)),
    label(94, 426, "start", {symbol: "x", index: "t"}, " ", {note: fromBelow ? "hidden values of " : resets.has(index) ? "" : `the ${content.unit} `}, shown),
    label(16, 318, "start", {symbol: "h", index: "t−1"}),
    label(14, 356, "start", {note: `all ${content.hidden_size}`}), label(14, 375, "start", {note: "units"}),
  ];
}

function memoryLine(symbol, before, after) {
  return [
    label(16, 70, "start", {symbol, index: "t−1"}), label(16, 122, "start", {value: before, ink: signInk(before)}),
    label(684, 70, "end", {symbol, index: "t"}), label(684, 122, "end", {value: after, ink: signInk(after)}),
  ];
}

const drawings = {
  lstm(view, index, v) {
    return [
      drawn("rect", {x: 92, y: 34, width: 508, height: 344, rx: 22, class: "body"}),
      ...inputs(view, index, [165, 265, 355, 457]),
      wire("M20 90 H676", "memory"),
      wire("M165 248 V113"), line("M265 248 V185"), wire("M265 185 H332"), wire("M355 248 V208"), wire("M355 167 V113"),
      wire("M545 92 V117"), wire("M545 156 V192"), line("M457 248 V215"), wire("M457 215 H522"),
      line("M545 233 V330"), wire("M545 330 H676"),
      drawn("ellipse", {cx: 545, cy: 138, rx: 33, ry: 18, class: "node"}),
      drawn("text", {x: 545, y: 144, "text-anchor": "middle"}, "tanh"),
      node(165, 90, "×"), node(355, 90, "+"), node(355, 185, "×"), node(545, 215, "×"),
      box(165, "σ", "forget", v.forget, true), box(265, "σ", "input", v.input, true),
      box(355, "tanh", "candidate", v.candidate, false), box(457, "σ", "output", v.output, true),
      labelled(157, 176, "end", "f", v.forget), labelled(274, 175, "start", "i", v.input),
      signed(364, 238, "start", "g", v.candidate), labelled(459, 206, "start", "o", v.output),
      signed(260, 76, "middle", "f·c", v.forget * v.before), signed(365, 146, "start", "i·g", v.input * v.candidate),
      label(556, 181, "start", {value: Math.tanh(v.cell), ink: signInk(v.cell)}),
      ...memoryLine("c", v.before, v.cell),
      label(684, 318, "end", {symbol: "h", index: "t"}), label(684, 358, "end", {value: v.hidden, ink: signInk(v.hidden)}),
    ];
  },
  gru(view, index, v) {
    const rest = 1 - v.update;
    return [
      drawn("rect", {x: 92, y: 34, width: 508, height: 344, rx: 22, class: "body"}),
      ...inputs(view, index, [165, 275, 395]),
      wire("M20 90 H676", "memory"),
      wire("M165 248 V113"), line("M165 165 H440"), wire("M440 165 H457"), dot(165, 165),
      line("M395 248 V225 H480"), wire("M480 225 V188"), wire("M480 147 V113"), wire("M313 274 H352"),
      node(165, 90, "×"), node(480, 90, "+"), node(480, 165, "×"),
      box(165, "σ", "update", v.update, true), box(275, "σ", "reset", v.reset, true), box(395, "tanh", "candidate", v.candidate, false),
      labelled(157, 205, "end", "z", v.update), labelled(275, 240, "middle", "r", v.reset),
      labelled(300, 155, "middle", "1 − z", rest), signed(490, 220, "start", "n", v.candidate),
      signed(320, 76, "middle", "z·h", v.update * v.before), label(490, 136, "start", {value: rest * v.candidate, ink: signInk(v.candidate)}),
      ...memoryLine("h", v.before, v.hidden),
    ];
  },
  rnn(view, index, v) {
    return [
      drawn("rect", {x: 92, y: 34, width: 508, height: 344, rx: 22, class: "body"}),
      ...inputs(view, index, [320]), line("M320 248 V90"), wire("M320 90 H676", "memory"),
      box(320, "tanh", "the new state", v.hidden, false),
      label(16, 70, "start", {symbol: "h", index: "t−1"}), label(16, 122, "start", {value: v.before, ink: signInk(v.before)}),
      label(16, 145, "start", {note: "not kept"}),
      label(684, 70, "end", {symbol: "h", index: "t"}), label(684, 122, "end", {value: v.hidden, ink: signInk(v.hidden)}),
    ];
  },
};

function showStep(view) {
  const index = view.at, values = {before: stateBefore(view.layer, view.unit, content.memory, index)};
  for (const signal of content.signals) values[signal] = valueAt(view.layer, view.unit, signal, index);
  const steps = sentences[content.cell](view, index, values);
  const arrow = (id, size) => drawn("marker", {id, viewBox: "0 0 10 10", refX: 8, refY: 5, markerWidth: size, markerHeight: size, orient: "auto"},
    drawn("path", {d: "M0 0 L10 5 L0 10 z", fill: id === "arrow" ? "var(--muted)" : "var(--ink)"}));
  document.getElementById("drawing").replaceChildren(drawn("svg",
    {viewBox: "0 0 700 440", role: "img", "aria-label": `The cell at the ${content.unit} ${nameOf(characters[index])}; the numbers are in the list that follows`},
    drawn("defs", {}, arrow("arrow", 6), arrow("big-arrow", 4)), ...drawings[content.cell](view, index, values)));
  document.getElementById("step-words").replaceChildren(...steps.map(([title, ...parts]) =>
    element("li", {}, element("b", {class: "title", text: title}), " ", element("span", {}, ...parts))));
  showContext(index);
}

function showContext(index) {
  const visible = part => part.map(character => character === "\n" ? "↵" : character === "\t" ? "→" : character).join("");
  const past = visible(characters.slice(Math.max(0, index - 60), index));
  document.getElementById("step-context").replaceChildren(
    element("span", {class: "past"}, element("bdo", {dir: "ltr", text: past})),
    element("span", {class: "at", text: visible([characters[index]])}),
    element("span", {class: "future", text: visible(characters.slice(index + 1, index + 61))}));
}

const strong = (value, ink) => element("b", {class: ink, text: typeof value === "number" ? number(value) : value});
const share = value => strong(percent(value), "gate-ink");
const amount = value => strong(value, signInk(value));
const verdict = (value, low, high, between) => value < .1 ? low : value > .9 ? high : between;
const memoryBefore = (view, index, v, name) => resets.has(index)
  ? ["A new document begins here, so the network has forgotten everything: the ", name, " is ", amount(0), ". "] : [];

// What happens in a step, as headings and sentences
const sentences = {
  lstm: (view, index, v) => [
    ["Forget", ...memoryBefore(view, index, v, "memory"), verdict(v.forget, "The forget gate is nearly closed: the unit keeps only ",
      "The forget gate is wide open: the unit keeps ", "The unit keeps "), share(v.forget), " of its memory of ", amount(v.before),
      ", which leaves ", amount(v.forget * v.before), "."],
    ["Write", "The candidate is ", amount(v.candidate), ". ", verdict(v.input, "The input gate is nearly closed and lets only ",
      "The input gate is wide open and lets ", "The input gate lets "), share(v.input), " of it in, which adds ", amount(v.input * v.candidate), "."],
    ["Remember", "Together that makes the new memory: ", amount(v.cell), "."],
    ["Show", verdict(v.output, "The output gate is nearly closed. It lets out only ", "The output gate is wide open. It lets out ", "The output gate lets out "),
      share(v.output), ` of tanh(${number(v.cell)}) = ${number(Math.tanh(v.cell))}, so the rest of the network sees `, amount(v.hidden), "."],
  ],
  gru: (view, index, v) => [
    ["Keep", ...memoryBefore(view, index, v, "old value"), verdict(v.update, "The update gate is nearly closed: the unit keeps only ",
      "The update gate is wide open: the unit keeps ", "The unit keeps "), share(v.update), " of its old value of ", amount(v.before),
      ", which leaves ", amount(v.update * v.before), "."],
    ["Replace", "The rest comes from the candidate, ", amount(v.candidate), ": ", share(1 - v.update), " of it is ", amount((1 - v.update) * v.candidate),
      ". In the candidate, the old hidden values counted ", share(v.reset), "."],
    ["Show", "Together that makes the new value, which the rest of the network sees too: ", amount(v.hidden), "."],
  ],
  rnn: (view, index, v) => [
    ["Compute", ...memoryBefore(view, index, v, "old value"), "The unit goes from ", amount(v.before), " to ", amount(v.hidden),
      ". The new value is computed from the input and all hidden values of the step before; there is no gate that could keep the old one."],
  ],
};
