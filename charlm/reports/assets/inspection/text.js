// The text, shaded by one signal of one unit, and the card of one character.
const textPanel = document.getElementById("text");
const spans = characters.map((character, index) => {
  const span = document.createElement("span");
  if (character === "\n") span.appendChild(document.createElement("u")).textContent = "↵";
  span.append(character);
  span.index = index;
  return span;
});

function shadeText(view) {
  const fractions = fractionsOf(view.layer, view.unit, view.signal);
  for (const span of spans) span.style.backgroundColor = colorOf(fractions[span.index + 1], view.signal);
}

function showLegend(view) {
  const {title, symbol} = kind.signals[view.signal], scale = scaleOf(view.layer, view.unit, view.signal);
  const low = isGate(view.signal) ? 0 : -1;
  const steps = Array.from({length: 11}, (_, k) => colorOf(low + (1 - low) * k / 10, view.signal) || "transparent");
  const ends = [low * scale, scale].map(value => isGate(view.signal) ? String(value) : number(value, scale < 10 ? 2 : 1));
  if (scale === 1) ends.splice(0, 2, minus(String(low)), "1");
  const [left, right] = isGate(view.signal) ? [" closed", " open"] : ["", ""];
  document.getElementById("legend").replaceChildren(
    element("b", {text: `Layer ${view.layer}, unit ${view.unit}: ${title.toLowerCase()} ${symbol}`}),
    element("span", {class: "scale"}, ends[0] + left,
      element("span", {class: "bar", "aria-hidden": "true", style: {background: `linear-gradient(90deg, ${steps.join()})`}}), ends[1] + right),
  );
}

function showExplanation(view) {
  const {title, symbol, words, equation} = kind.signals[view.signal];
  const shown = document.getElementById("explanation");
  shown.replaceChildren(element("h3", {text: `${title} ${symbol}`}), element("p", {text: words}));
  shown.insertAdjacentHTML("beforeend", `<p class="equation">${equation}</p><p class="muted small">${symbolsExplained}</p>`);
}

function showCard(view, index) {
  const character = characters[index], next = characters[index + 1];
  const value = valueAt(view.layer, view.unit, view.signal, index), bits = bitsAt(index);
  const items = nextAt(index).map(({label, probability}) => element("li", {class: label === next ? "came" : undefined},
    glyph(label),
    element("span", {class: "meter", "aria-hidden": "true"}, element("i", {style: {width: `${100 * probability}%`}})),
    element("span", {class: "number", text: percent(probability) + (label === next ? " ✓" : "")})));
  const card = document.getElementById("card");
  card.replaceChildren(
    element("h3", {}, "At ", glyph(character), element("span", {class: "muted small", text: ` ${content.unit} ${count(index + 1)}`})),
    element("p", {}, `It was a surprise of `, element("b", {text: `${number(bits)} bits`}),
      ` (probability ${percent(2 ** -bits)}, rank ${count(rankAt(index))}). The ${kind.signals[view.signal].title.toLowerCase()} is `,
      element("b", {text: number(value)}), "."),
    element("div", {text: "After it, the network expects:"}),
    element("ol", {}, ...items),
  );
  return card.textContent;
}

// One line up or down, in the same column where there is one
function lineAway(index, direction) {
  const lineStart = at => characters.lastIndexOf("\n", at - 1) + 1;
  const start = lineStart(index), column = index - start;
  if (direction < 0) return start ? Math.min(lineStart(start - 1) + column, start - 1) : index;
  const end = characters.indexOf("\n", index);
  if (end < 0 || end + 1 >= characters.length) return index;
  const nextEnd = characters.indexOf("\n", end + 1);
  return Math.min(end + 1 + column, nextEnd < 0 ? characters.length - 1 : nextEnd);
}
