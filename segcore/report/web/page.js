// The page: which two rows are looked at, which rows the filter leaves, which parts are drawn.
const PARTS = {
  all: [["Accuracy against cost", speedPart], ["Training", trainingPart]],
  picked: [["Classes", classesPart], ["Confusion", confusionPart], ["Images", imagesPart],
    ["Search", searchPart], ["Facts", factsPart]],
  end: [["Data", dataPart], ["Lineage", lineagePart]],
};

// A part is drawn when it comes near the window, and again when what it shows changes.
function lazy(title, content, view) {
  const body = el("div", {class: "body"}), part = el("section", {class: "part"}, el("h3", {}, title), body);
  const state = {part, drawn: false, fresh: false, near: false};
  state.draw = () => {
    if (state.fresh) return;
    state.fresh = state.drawn = true;
    body.replaceChildren(...[content(view)].flat(Infinity).filter(Boolean));
  };
  state.stale = () => {
    state.fresh = false;
    if (state.near) state.draw();
  };
  new IntersectionObserver(([entry]) => {
    state.near = entry.isIntersecting;
    if (state.near) state.draw();
  }, {rootMargin: "400px"}).observe(part);
  return state;
}

function dataset(section, contents) {
  const rows = contents.rows, lines = [...section.querySelectorAll("tr[data-row]")];
  const view = {contents, rows, a: rows[0], b: rows[1] ?? null, memory: {}, matches: () => true};
  const make = group => group.map(([title, content]) => lazy(title, content, view));
  const all = make(PARTS.all), picked = make(PARTS.picked);
  const end = make(PARTS.end.filter(([, content]) => content !== dataPart || contents.data));
  const selects = {};

  view.choose = (which, row) => {
    const other = which === "a" ? "b" : "a";
    if (row && row === view[other]) view[other] = view[which];
    view[which] = row;
    if (!view.a) [view.a, view.b] = [view.b, null];
    update();
  };
  function update() {
    for (const [which, select] of Object.entries(selects)) select.value = rows.indexOf(view[which]);
    for (const line of lines) for (const button of line.querySelectorAll(".pick button"))
      button.setAttribute("aria-pressed", String(rows[line.dataset.row] === view[button.dataset.which]));
    for (const part of [...all, ...picked]) part.stale();
  }
  for (const line of lines) line.querySelector(".pick").append(...["a", "b"].slice(0, rows.length).map(which =>
    el("button", {type: "button", class: which, "data-which": which,
      "aria-label": `Show ${rows[line.dataset.row].short} as ${which.toUpperCase()}`,
      onclick: () => {
        const row = rows[line.dataset.row];
        view.choose(which, which === "b" && row === view.b ? null : row);
      }}, which.toUpperCase())));

  const filter = section.querySelector(".filter"), [input, count] = filter.children;
  filter.hidden = rows.length < 2;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    view.matches = row => words.every(word => row.row.toLowerCase().includes(word));
    for (const line of lines) line.hidden = !view.matches(rows[line.dataset.row]);
    const left = lines.filter(line => !line.hidden).length;
    count.textContent = left === rows.length ? plural(left, "row") : `${left} of ${plural(rows.length, "row")}`;
    for (const part of all) part.stale();
  });

  const choice = (which, name) => el("label", {class: which}, letter(which),
    selects[which] = el("select", {"aria-label": name, onchange: event => view.choose(which, rows[event.target.value] ?? null)},
      which === "b" && el("option", {value: -1}, "no other row"),
      rows.map((row, index) => el("option", {value: index}, `${row.short}  ${percent(row.miou, 1)}`))));
  const bar = el("div", {class: "bar", role: "group", "aria-label": "Rows looked at"},
    el("span", {class: "where"}, contents.board), choice("a", "Row A"),
    rows.length > 1 && [el("button", {type: "button", "aria-label": "Swap A and B", "data-tip": "Swap A and B",
      onclick: () => view.b && view.choose("a", view.b)}, "⇄"), choice("b", "Row B")]);
  const places = parts => parts.map(state => state.part);
  section.querySelector(".parts").append(...places(all),
    el("div", {class: "picked"}, bar, ...places(picked)), ...places(end));
  update();
  addEventListener("beforeprint", () => [...all, ...picked, ...end].forEach(state => state.draw()));
}

const contents = JSON.parse(document.getElementById("contents").textContent);
document.querySelectorAll("table.leaderboard").forEach(sortable);
document.querySelectorAll("section.dataset").forEach((section, index) => dataset(section, contents[index]));
