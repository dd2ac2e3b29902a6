// Tables that a click on a heading sorts; cells without a value stay last.
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const numeric = head.dataset.sort === "number";
    const before = head.getAttribute("aria-sort") ?? (numeric ? "ascending" : "descending");
    const sign = before === "ascending" ? -1 : 1;
    const value = row => {
      const cell = row.cells[column], text = cell.dataset.value ?? cell.textContent.trim();
      return numeric ? (text === "" || isNaN(text) ? null : Number(text)) : text;
    };
    const compare = (a, b) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (numeric ? a - b : a.localeCompare(b, "en", {numeric: true}));
    };
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
    body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
  }));
  return table;
}

// A column: name, value(row) to sort by, cell(row) to show (the value unless given), number, tip.
function table(columns, rows, attributes = {}) {
  const heads = columns.map(column => el("th",
    {scope: "col", class: column.class ?? (column.number && "n"), "data-sort": column.number ? "number" : "text"},
    el("button", {type: "button", "data-tip": column.tip}, column.name)));
  const body = rows.map(row => el("tr", {}, columns.map((column, index) => {
    const value = column.value(row), cell = column.cell ? column.cell(row) : shown(value);
    const facts = {class: column.class ?? (column.number && "n"), "data-value": known(value) ? value : ""};
    return el(index ? "td" : "th", index ? facts : {...facts, scope: "row"}, cell);
  })));
  const made = el("table", {...attributes, class: `sortable ${attributes.class ?? ""}`},
    el("thead", {}, el("tr", {}, heads)), el("tbody", {}, body));
  return sortable(made);
}
const scrolled = (label, content, kind = "") =>
  el("div", {class: `scroll ${kind}`, tabindex: 0, role: "region", "aria-label": label}, content);
