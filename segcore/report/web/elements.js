// Building blocks: elements, numbers as people read them, one tooltip for the whole page.
const known = value => value !== null && value !== undefined;
const SVG = document.getElementById("svg").namespaceURI;

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (!known(value) || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter(child => known(child) && child !== false));
  return element;
}
const el = (tag, attributes = {}, ...children) =>
  filled(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, tag), attributes, children);

const percent = (share, digits = 2) => known(share) ? (100 * share).toFixed(digits) : "–";
const signed = (share, digits = 1) => {
  const text = (100 * Math.abs(share)).toFixed(digits);
  return (Number(text) === 0 ? "" : share < 0 ? "−" : "+") + text;
};
const short = value => typeof value !== "number" ? shown(value)
  : Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
function shown(value) {
  if (!known(value)) return "–";
  if (Array.isArray(value)) return value.map(shown).join(", ") || "–";
  if (typeof value === "object")
    return Object.entries(value).map(([key, each]) => `${key}: ${shown(each)}`).join("; ") || "–";
  return String(value);
}
const swatch = colour => el("i", {class: "swatch", style: `background:rgb(${colour.join(",")})`});
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// A box that is drawn anew for its own width, so that letters keep their size on any screen.
function responsive(drawing, minimum = 0) {
  let last = 0;
  const box = el("div", {class: minimum ? "chart scroll" : "chart"});
  new ResizeObserver(([entry]) => {
    const width = Math.max(Math.floor(entry.contentRect.width), minimum);
    if (width <= 0 || width === last) return;
    last = width;
    requestAnimationFrame(() => box.replaceChildren(drawing(width)));  // not while sizes are told
  }).observe(box);
  return box;
}

const tooltip = el("div", {class: "tooltip", role: "tooltip", hidden: true});
document.body.append(tooltip);
function tell(text, left, top) {
  tooltip.hidden = !text;
  if (!text) return;
  tooltip.textContent = text;
  const {offsetWidth: width, offsetHeight: height} = tooltip;
  tooltip.style.left = `${Math.max(8, Math.min(left - width / 2, innerWidth - width - 8))}px`;
  tooltip.style.top = `${top - height - 12 < 0 ? top + 20 : top - height - 12}px`;
}
document.addEventListener("pointermove", event =>
  tell(event.target.closest?.("[data-tip]")?.dataset.tip, event.clientX, event.clientY));
document.addEventListener("pointerleave", () => tell(""));
document.addEventListener("focusin", event => {
  if (!event.target.matches(":focus-visible")) return;
  const place = event.target.getBoundingClientRect();
  tell(event.target.dataset?.tip, place.left + place.width / 2, place.top);
});
document.addEventListener("focusout", () => tell(""));
document.addEventListener("keydown", event => event.key === "Escape" && tell(""));
