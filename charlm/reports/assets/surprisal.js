const limits = JSON.parse(document.querySelector(".text").dataset.limits);
const blocks = new IntersectionObserver(entries => entries.forEach(show), {rootMargin: "100%"});
function show(entry) {
  const block = entry.target;
  block.text ??= [...block.textContent];
  if (!entry.isIntersecting) { if (block.shaded) block.textContent = block.text.join(""); block.shaded = false; return }
  if (block.shaded) return;
  const bytes = atob(block.dataset.scores), shaded = document.createDocumentFragment();
  block.text.forEach((character, i) => {
    const [a, b, c] = [0, 1, 2].map(k => bytes.charCodeAt(3 * i + k)), bits = (a * 16 + (b >> 4)) / 100;
    const span = document.createElement("span");
    span.className = "s" + limits.filter(limit => bits >= limit).length;
    span.title = `${bits.toFixed(2)} bits, rank ${(b % 16) * 256 + c}`;
    if (character === "\n") span.appendChild(document.createElement("u")).textContent = "\u21b5";
    span.append(character);
    shaded.append(span);
  });
  block.replaceChildren(shaded);
  block.shaded = true;
}
document.querySelectorAll(".text div").forEach(block => blocks.observe(block));
