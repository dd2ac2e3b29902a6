// The image browser: input, label, prediction, errors; two rows under one slider.
async function pixelsOf(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  const {naturalWidth: width, naturalHeight: height} = image;
  const context = filled(document.createElement("canvas"), {width, height}, [])
    .getContext("2d", {willReadFrequently: true});
  context.drawImage(image, 0, 0);
  return {width, height, data: context.getImageData(0, 0, width, height).data};
}

// colour(i) gives red, green, blue of the pixel whose four values begin at i.
function painted({width, height}, colour) {
  const canvas = filled(document.createElement("canvas"), {width, height}, []);
  const context = canvas.getContext("2d"), result = context.createImageData(width, height);
  for (let i = 0; i < result.data.length; i += 4) result.data.set([...colour(i), 255], i);
  context.putImageData(result, 0, 0);
  return canvas;
}

const IGNORE = 255, VOID = [128, 128, 128];
function mixed(input, labels, colours, opacity) {
  return painted(input, i => {
    const colour = colours[labels.data[i]], kept = input.data;
    if (!colour) return [kept[i], kept[i + 1], kept[i + 2]];
    return colour.map((value, c) => opacity * value + (1 - opacity) * kept[i + c]);
  });
}
function errors(input, labels, found) {
  return painted(input, i => {
    const grey = 0.3 * input.data[i] + 0.59 * input.data[i + 1] + 0.11 * input.data[i + 2];
    if (labels.data[i] === IGNORE) return VOID;
    if (labels.data[i] !== found.data[i]) return [222, 45, 38];
    return [1, 1, 1].map(() => 150 + 0.4 * grey);
  });
}

function slider(below, above, names) {
  const range = el("input", {type: "range", min: 0, max: 100, value: 50, "aria-label": `${names[0]} on the left, ${names[1]} on the right`});
  const edge = el("i", {class: "edge"});
  const box = el("div", {class: "over"}, below, above, edge);
  const move = () => {
    above.style.clipPath = `inset(0 0 0 ${range.value}%)`;
    edge.style.left = `${range.value}%`;
  };
  const drag = event => {
    if (event.type === "pointermove" && !event.buttons) return;
    const place = box.getBoundingClientRect();
    range.value = 100 * (event.clientX - place.left) / place.width;
    move();
  };
  box.addEventListener("pointerdown", drag);
  box.addEventListener("pointermove", drag);
  range.addEventListener("input", move);
  move();
  return [box, range];
}

const ORDERS = {
  worst: {name: "worst first", of: (image, view) => view.a.scores[image] ?? 2},
  best: {name: "best first", of: (image, view) => -(view.a.scores[image] ?? -1)},
  apart: {name: "where A and B differ most", both: true,
    of: (image, view) => -Math.abs((view.a.scores[image] ?? 0) - (view.b.scores[image] ?? 0))},
};

function imagesPart(view) {
  const {images, classes, colours} = view.contents, memory = view.memory;
  const listed = Object.keys(images).filter(image => images[image].predicted[view.a.row]);
  if (!listed.length) return el("p", {class: "note"}, "No image of this row is on this page.");
  memory.order = ORDERS[memory.order]?.both && !view.b ? "worst" : memory.order ?? "worst";
  const stage = el("div", {class: "stage", "aria-live": "polite"}), film = el("div", {class: "film", role: "listbox", "aria-label": "Images"});
  let turn = 0;

  async function show(image) {
    const mine = ++turn, facts = images[image];
    memory.image = image;
    for (const each of film.children) {
      const on = each.dataset.image === image;
      each.setAttribute("aria-selected", String(on));
      each.tabIndex = on ? 0 : -1;
      if (on) film.scrollTo({left: each.offsetLeft - film.clientWidth / 2 + each.clientWidth / 2});
    }
    const rows = pair(view).filter(([, row]) => facts.predicted[row.row]);
    const [input, label, ...found] = await Promise.all(
      [facts.input, facts.label, ...rows.map(([, row]) => facts.predicted[row.row])].map(pixelsOf));
    if (mine !== turn) return;
    const opacity = (memory.opacity ?? 70) / 100;
    const here = new Set([label, ...found].flatMap(each => [...new Set(each.data.filter((_, i) => i % 4 === 0))]));
    const panel = (title, ...content) => el("figure", {class: "panel"}, el("figcaption", {}, title), content);
    const readout = el("p", {class: "note readout"}, " ");
    const views = found.map(each => mixed(input, each, colours, opacity));
    stage.replaceChildren(
      el("p", {class: "caption"}, el("strong", {}, image),
        rows.map(([kind, row]) => el("span", {}, view.b && letter(kind), ` ${percent(row.scores[image])} % mIoU`)),
        view.b && rows.length < 2 && el("span", {class: "note"}, "B was not drawn on this image"),
        el("span", {class: "note"}, `${facts.height} × ${facts.width}`)),
      el("div", {class: rows.length === 2 ? "panels both" : "panels"},
        panel("input", painted(input, i => [input.data[i], input.data[i + 1], input.data[i + 2]])),
        panel("label", mixed(input, label, colours, opacity)),
        rows.map(([kind, row], i) => [
          panel([view.b && letter(kind), " prediction"], views[i]),
          panel([view.b && letter(kind), ` errors, ${percent(wrong(label, found[i]), 1)} % of the labelled pixels`],
            errors(input, label, found[i]))])),
      rows.length === 2 && el("figure", {class: "panel compare"},
        el("figcaption", {}, letter("a"), " left, ", letter("b"), " right of the line"),
        slider(mixed(input, found[0], colours, opacity), mixed(input, found[1], colours, opacity),
          rows.map(([, row]) => row.short))),
      readout,
      el("ul", {class: "key"}, classes.map((name, c) => here.has(c) && el("li", {}, swatch(colours[c]), name))));
    const name = value => classes[value] ?? "not labelled";
    stage.onpointermove = event => {
      const canvas = event.target.closest("canvas");
      if (!canvas) return;
      const place = canvas.getBoundingClientRect();
      const x = Math.min(label.width - 1, Math.floor(label.width * (event.clientX - place.left) / place.width));
      const y = Math.min(label.height - 1, Math.floor(label.height * (event.clientY - place.top) / place.height));
      const at = 4 * (Math.max(0, y) * label.width + Math.max(0, x));
      readout.replaceChildren("label ", el("b", {}, name(label.data[at])), rows.map(([kind, row], i) =>
        [` · ${view.b ? kind.toUpperCase() : "prediction"} `, el("b", {}, name(found[i].data[at]))]));
    };
  }
  function wrong(label, found) {
    let all = 0, bad = 0;
    for (let i = 0; i < label.data.length; i += 4) if (label.data[i] !== IGNORE) {
      all++;
      bad += label.data[i] !== found.data[i];
    }
    return bad / Math.max(all, 1);
  }
  function order() {
    const key = image => ORDERS[memory.order].of(image, view);
    listed.sort((one, other) => key(one) - key(other) || (one < other ? -1 : 1));
    film.replaceChildren(...listed.map(image => el("button",
      {type: "button", role: "option", "data-image": image, "data-tip": image, onclick: () => show(image)},
      el("img", {src: images[image].input, alt: image, loading: "lazy"}),
      el("span", {}, percent(view.a.scores[image], 1)))));
  }
  film.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    event.preventDefault();
    const next = film.children[[...film.children].findIndex(each => each.dataset.image === memory.image) + step];
    if (next) { show(next.dataset.image); next.focus(); }
  });
  order();
  show(listed.includes(memory.image) ? memory.image : listed[0]);
  return [
    el("div", {class: "controls"},
      el("label", {}, "order ", el("select", {onchange: event => { memory.order = event.target.value; order(); show(listed[0]); }},
        Object.entries(ORDERS).filter(([, each]) => view.b || !each.both).map(([key, each]) =>
          el("option", {value: key, selected: key === memory.order}, each.name)))),
      el("label", {}, "colours ", el("input", {type: "range", min: 0, max: 100, value: memory.opacity ?? 70,
        oninput: event => { memory.opacity = Number(event.target.value); show(memory.image); }})),
      el("p", {class: "note"}, `${plural(listed.length, "image")} of the ${view.a.split} split; mIoU of A in percent. Arrow keys turn the pages.`)),
    film, stage];
}
