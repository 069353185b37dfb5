// What holds for whole layers, and the units that track something.
const tau = value => value >= 1e5 ? "more than 100,000" : value < 10 ? number(value, 1) : count(Math.round(value));
const mean = values => values.reduce((total, value) => total + value, 0) / values.length;

function linkTo(layer, unit, signal, text = `${layer}:${unit}`) {
  if (placeOf(layer, unit) < 0) return element("span", {class: "muted", text, title: "not in this page"});
  return element("a", {href: `#unit=${layer}:${unit}&show=${signal}`, "aria-label": `Show layer ${layer}, unit ${unit}`, text});
}

function showTracked() {
  document.getElementById("tracking-lead").textContent = content.tracked.length
    ? `Some units follow a property of the text that nobody told the network about. These are the ones whose ${content.memory} state follows best. They were
      chosen on the first half of the text, the best first; the number says how well they did on the second half. For yes-or-no properties it is the area under the ROC curve:
      0.5 is chance, 1 is perfect. For numbers it is R²: 0 is no better than always guessing the mean, 1 is perfect. ↓ marks units that go down where others go up.`
    : "This text is too short to tell, or too uniform: a property counts only if it occurs at least 20 times in each half of the text.";
  document.getElementById("tracked").replaceChildren(...content.tracked.map(property => element("div", {class: "panel"},
    element("h3", {text: property.name[0].toUpperCase() + property.name.slice(1)}),
    element("div", {class: "muted small", text: property.is_number
      ? `a number (R²), not 0 at ${count(property.num_characters)} ${content.unit}s`
      : `yes or no (area under the ROC curve), at ${count(property.num_characters)} ${content.unit}s in ${count(property.num_places)} ${property.num_places === 1 ? "place" : "places"}`}),
    element("ol", {}, ...property.units.map(({layer, unit, score, is_inverted}) => {
      const share = property.is_number ? score : 2 * score - 1;
      return element("li", {}, element("span", {}, linkTo(layer, unit, content.memory), is_inverted ? " ↓" : ""),
        element("span", {class: "meter", "aria-hidden": "true"}, element("i", {style: {width: `${100 * Math.max(0, share)}%`}})),
        element("span", {class: "number", text: number(score)}));
    })))));
}

function shares(layer) {
  const rows = gateNames.flatMap(name => {
    const closed = mean(layer.closed[name]), open = mean(layer.open[name]), between = 1 - closed - open;
    const part = (type, value) => element("span", {class: type, style: {flex: `${value} 0 0`}, title: `${type}: ${percent(value)}`,
      text: value > .1 ? percent(value) : ""});
    return [element("span", {text: shortNames[name]}), element("div", {class: "stack", role: "img",
      "aria-label": `${shortNames[name]}: closed ${percent(closed)}, between ${percent(between)}, open ${percent(open)}`},
      part("closed", closed), part("between", between), part("open", open))];
  });
  const key = [["closed", "closed (below 0.1)"], ["between", "between"], ["open", "open (above 0.9)"]].map(([type, text]) =>
    element("span", {class: "stack"}, element("i", {class: type}), text));
  return element("div", {}, element("p", {class: "key muted small"}, ...key), element("div", {class: "shares"}, ...rows));
}

// Each unit is a dot: how often its gate is closed, to the right, and open, upwards
function scatter(layer, layerNumber, name) {
  const x = value => 26 + 164 * value, y = value => 174 - 164 * value;
  const dots = layer.closed[name].map((closed, unit) => `M${x(closed).toFixed(1)} ${y(layer.open[name][unit]).toFixed(1)}h0`).join("");
  const size = Math.max(2.5, Math.min(6, 80 / Math.sqrt(content.hidden_size)));
  const picture = drawn("svg", {viewBox: "0 0 200 206", class: "small scatter", role: "img",
    "aria-label": `${shortNames[name]} of layer ${layerNumber}: for each unit, how often it is closed and how often it is open`},
    drawn("path", {d: "M26 10V174H190 M26 10L190 174", class: "axis"}),
    drawn("path", {d: dots, class: "dots", "stroke-width": size}),
    drawn("text", {x: 108, y: 196, "text-anchor": "middle"}, "closed →"),
    drawn("text", {x: 16, y: 92, "text-anchor": "middle", transform: "rotate(-90 16 92)"}, "open →"));
  picture.addEventListener("click", event => {
    const bounds = picture.getBoundingClientRect(), scale = 200 / bounds.width;
    const [px, py] = [(event.clientX - bounds.left) * scale, (event.clientY - bounds.top) * scale];
    const away = unit => Math.hypot(x(layer.closed[name][unit - 1]) - px, y(layer.open[name][unit - 1]) - py);
    const nearest = layer.units.reduce((best, unit) => best === undefined || away(unit) < away(best) ? unit : best, undefined);
    if (nearest !== undefined && away(nearest) < 12) location.hash = `unit=${layerNumber}:${nearest}&show=${name}`;
  });
  return element("figure", {}, picture, element("figcaption", {text: shortNames[name]}));
}

function timeConstants(layer, layerNumber) {
  const constants = layer.time_constants, limits = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, Infinity];
  const counts = limits.slice(0, -1).map((limit, k) => constants.filter(value => value >= limit && value < limits[k + 1]).length);
  const most = Math.max(...counts), step = 560 / counts.length;
  const names = ["<1", "1", "2", "4", "8", "16", "32", "64", "128", "256", "512+"];
  const bars = counts.flatMap((amount, k) => {
    const height = 110 * amount / most, left = 20 + k * step;
    return [drawn("rect", {x: left + 3, y: 132 - height, width: step - 6, height, rx: 3, class: "bars"}),
      drawn("text", {x: left + step / 2, y: 152, "text-anchor": "middle", "font-size": 14}, names[k]),
      ...amount ? [drawn("text", {x: left + step / 2, y: 126 - height, "text-anchor": "middle", "font-size": 14}, String(amount))] : []];
  });
  const sorted = [...constants].sort((a, b) => a - b), median = sorted[Math.floor((sorted.length - 1) / 2)];
  const longest = constants.indexOf(sorted[sorted.length - 1]) + 1;
  return element("figure", {},
    element("p", {}, `Half of the units have a time constant below ${tau(median)} ${content.unit}s; the longest is `,
      `${tau(sorted[sorted.length - 1])} (`, linkTo(layerNumber, longest, content.memory, `unit ${longest}`), ")."),
    drawn("svg", {viewBox: "0 0 600 178", class: "small", role: "img", "aria-label": `Units of layer ${layerNumber} by time constant`}, ...bars,
      drawn("path", {d: "M20 132H580", class: "axis"}),
      drawn("text", {x: 300, y: 173, "text-anchor": "middle", "font-size": 14}, `time constant τ in ${content.unit}s; height: number of units`)));
}

function showOverview() {
  const shown = document.getElementById("overview");
  if (!gateNames.length) {
    shown.append(element("p", {text: "A simple recurrent network has no gates: nothing to be open or closed, and no forget gate that would say how long a unit remembers."}));
    return;
  }
  shown.append(element("p", {text: `A gate that is nearly always below 0.1 (closed) or above 0.9 (open) makes yes-or-no decisions; one in between mixes. The bars add up all units and
    ${content.unit}s. In the plots each dot is a unit: how often its gate is closed (to the right) and open (upwards). Dots near the slanted line are always one or the other;
    dots near the corner at the lower left hardly ever are. Click a dot to see the unit.`}));
  shown.append(element("p", {text: `A unit that keeps a share f of its memory at every step has lost most of it (63%) after τ = −1 / ln f steps. This time constant is
    computed from the mean of each unit’s ${kind.keeping}.`}));
  content.layers.forEach((layer, index) => {
    const constants = layer.time_constants ? [element("div", {}, element("h3", {text: "How long it remembers"}), timeConstants(layer, index + 1))] : [];
    shown.append(element("div", {class: "panel layer"}, element("h3", {text: `Layer ${index + 1}`}), element("div", {class: "layer-grid"},
      element("div", {}, shares(layer), element("div", {class: "scatters"}, ...gateNames.map(name => scatter(layer, index + 1, name)))), ...constants)));
  });
}
