// The parts of a dataset. Each takes the view - {contents, rows, a, b, choose, matches} - and gives
// what is shown; a and b are the rows looked at, b may be absent.
const kindOf = (view, row) => row === view.a ? "a" : row === view.b ? "b" : null;
const letter = kind => el("b", {class: `letter ${kind}`}, kind.toUpperCase());
const pair = view => [["a", view.a], ["b", view.b]].filter(([, row]) => row);

const COSTS = {
  fps: {name: "images per second", of: row => row.fps, unit: "images/s"},
  parameters: {name: "parameters, millions", of: row => row.parameters / 1e6, unit: "M parameters"},
  flops: {name: "GFLOPs of one image", of: row => row.flops / 1e9, unit: "GFLOPs"},
};

function speedPart(view) {
  const place = el("div");
  const show = key => {
    const cost = COSTS[key], front = new Set(view.contents.fronts[key]);
    const points = view.rows.map((row, index) => ({
      row, x: cost.of(row), y: 100 * row.miou, short: row.short, front: front.has(index),
      low: row.interval && 100 * row.interval[0], high: row.interval && 100 * row.interval[1],
      kind: kindOf(view, row), hidden: !view.matches(row),
      tip: `${row.short}\n${percent(row.miou)} % mIoU, ${short(cost.of(row))} ${cost.unit}`,
    }));
    const values = points.map(point => point.x);
    place.replaceChildren(scatter(points, {
      label: `mIoU against ${cost.name}`, x: cost.name, y: "mIoU %",
      log: Math.max(...values) > 4 * Math.min(...values), chosen: point => view.choose("a", point.row),
    }));
  };
  const choice = el("select", {onchange: event => show(view.memory.cost = event.target.value)},
    Object.entries(COSTS).map(([key, cost]) =>
      el("option", {value: key, selected: key === view.memory.cost}, cost.name)));
  show(view.memory.cost ?? "fps");
  return [
    el("div", {class: "controls"}, el("label", {}, "mIoU against ", choice),
      el("p", {class: "note"}, "Filled, on the dotted line: no other row is better in both. Whiskers: 95 % intervals.")),
    place];
}

function trainingPart(view) {
  const series = key => view.rows.filter(row => view.matches(row)).map(row =>
    ({name: row.short, kind: kindOf(view, row), points: row[key].map(([step, value]) =>
      [step, key === "curve" ? 100 * value : value])}));
  return el("div", {class: "pair"},
    el("figure", {}, el("figcaption", {}, "Loss, the mean over short spans of steps"),
      lineChart(series("loss"), {label: "Training loss by step", x: "step", y: "loss", log: true, zero: true})),
    el("figure", {}, el("figcaption", {}, "Validation mIoU"),
      lineChart(series("curve"), {label: "Validation mIoU by step", x: "step", y: "mIoU %", zero: true})));
}

function classesPart(view) {
  const {classes, colours, pixels} = view.contents, {a, b} = view;
  const total = Math.max(pixels.reduce((sum, each) => sum + each, 0), 1);
  const alike = view.rows.filter(row => row.split === a.split && row.protocol === a.protocol);
  const best = classes.map((_, c) => alike.filter(row => known(row.iou[c]))
    .reduce((one, row) => one && one.iou[c] >= row.iou[c] ? one : row, null));
  const bars = c => el("div", {class: "bars", "aria-hidden": "true"},
    pair(view).map(([kind, row]) => known(row.iou[c]) &&
      el("i", {class: kind, style: `width:${100 * row.iou[c]}%`})),
    best[c] && el("u", {style: `left:${100 * best[c].iou[c]}%`}));
  const columns = [
    {name: "class", value: c => classes[c], cell: c => [swatch(colours[c]), classes[c]]},
    {name: "pixels %", number: true, value: c => pixels[c] / total, cell: c => percent(pixels[c] / total)},
    {name: "IoU", number: true, class: "wide", value: c => a.iou[c], cell: c => known(a.iou[c]) ? bars(c) : el("em", {}, "absent")},
    {name: b ? "A %" : "IoU %", number: true, value: c => a.iou[c], cell: c => percent(a.iou[c], 1)},
    b && {name: "B %", number: true, value: c => b.iou[c], cell: c => percent(b.iou[c], 1)},
    b && {name: "A − B", number: true, value: c => known(a.iou[c]) && known(b.iou[c]) ? a.iou[c] - b.iou[c] : null,
      cell: c => known(a.iou[c]) && known(b.iou[c]) ? signed(a.iou[c] - b.iou[c]) : "–"},
    {name: "accuracy %", number: true, tip: "Share of the class's pixels that A finds",
      value: c => a.accuracy[c], cell: c => percent(a.accuracy[c], 1)},
    alike.length > 1 && {name: "best %", number: true, value: c => best[c]?.iou[c],
      cell: c => percent(best[c]?.iou[c], 1)},
    alike.length > 1 && {name: "by", value: c => best[c]?.short ?? ""},
  ].filter(Boolean);
  return [
    el("p", {class: "note"}, "Intersection over union of each class. ",
      alike.length > 1 && "The mark on a bar is the best of all rows that were measured as A was."),
    scrolled("Classes", table(columns, classes.map((_, c) => c), {class: "classes"}), "tall")];
}

const NUMBERED = 24;
// The classes that take part in the most wrong pixels, in their own order.
function confused(view, row) {
  const {classes, pixels} = view.contents, weight = classes.map(() => 0);
  row.confusion.forEach((found, i) => found.forEach(([j, share]) => {
    if (i === j) return;
    weight[i] += share * pixels[i];
    weight[j] += share * pixels[i];
  }));
  return classes.map((_, c) => c).sort((i, j) => weight[j] - weight[i]).slice(0, NUMBERED)
    .sort((i, j) => i - j);
}

function matrix(view, row, chosen) {
  const {classes} = view.contents, few = chosen.length <= NUMBERED, cell = few ? 34 : 13;
  const place = new Map(chosen.map((c, index) => [c, index]));
  const edge = Math.min(Math.max(...chosen.map(c => classes[c].length)) * 6.9 + 16, 180);
  const head = few ? edge * 0.72 + 14 : edge, side = chosen.length * cell;
  const cut = name => name.length * 6.9 > 170 ? `${name.slice(0, 22)}…` : name;
  const middle = index => cell * (index + 0.5);
  const size = {width: edge + side + (few ? edge * 0.6 : 12), height: head + side + 4};
  return draw("svg", {...size, class: few ? "matrix" : "matrix small", role: "img",
    "aria-label": `Confusion matrix of ${row.short}`},
    draw("g", {transform: `translate(${edge} ${head})`},
      draw("rect", {class: "sheet", width: side, height: side}),
      chosen.map((c, i) => [
        draw("text", {x: -8, y: middle(i) + 4, "text-anchor": "end"}, cut(classes[c])),
        draw("text", {transform: `translate(${middle(i) + 3} -8) rotate(${few ? -45 : -90})`}, cut(classes[c]))]),
      chosen.flatMap((c, i) => row.confusion[c].filter(([j]) => place.has(j)).map(([found, share]) => {
        const j = place.get(found), right = c === found;
        const tip = `${percent(share, 1)} % of ${classes[c]}\n${right ? "is found" : `is called ${classes[found]}`}`;
        return draw("g", {class: right ? "hit" : "miss", "data-tip": tip},
          draw("rect", {x: j * cell + 0.5, y: i * cell + 0.5, width: cell - 1, height: cell - 1, rx: few ? 3 : 1,
            "fill-opacity": (right ? 0.06 + 0.94 * share : Math.min(1, 0.08 + 1.3 * share)).toFixed(2)}),
          few && share >= 0.005 && draw("text", {class: share > (right ? 0.5 : 0.4) ? "strong" : null,
            x: middle(j), y: middle(i) + 4, "text-anchor": "middle"}, percent(share, 0)));
      }))));
}

function confusionPart(view) {
  const {classes} = view.contents, place = el("div");
  const show = () => {
    const row = view.memory.matrix === "b" && view.b ? view.b : view.a;
    const all = classes.map((_, c) => c), large = classes.length > NUMBERED;
    const chosen = large && !view.memory.whole ? confused(view, row) : all;
    const worst = row.confusion.flatMap((found, i) => found.filter(([j]) => j !== i)
      .map(([j, share]) => [share, i, j])).sort((one, other) => other[0] - one[0]).slice(0, 10);
    const button = (text, on, act) =>
      el("button", {type: "button", "aria-pressed": String(on), onclick: () => { act(); show(); }}, text);
    place.replaceChildren(
      el("div", {class: "controls"},
        view.b && el("div", {class: "choice", role: "group", "aria-label": "Row"}, pair(view).map(([kind, each]) =>
          button([letter(kind), " ", each.short], each === row, () => { view.memory.matrix = kind; }))),
        large && el("div", {class: "choice", role: "group", "aria-label": "Classes"},
          button(`the ${NUMBERED} most confused`, !view.memory.whole, () => { view.memory.whole = false; }),
          button(`all ${classes.length}`, view.memory.whole, () => { view.memory.whole = true; }))),
      el("div", {class: "confusion"},
        scrolled("Confusion matrix", matrix(view, row, chosen), chosen.length > NUMBERED ? "tall" : ""),
        el("div", {}, el("h5", {}, "Worst confusions"), el("ol", {}, worst.map(([share, i, j]) =>
          el("li", {}, el("b", {class: "n"}, `${percent(share, 1)} %`), " of ", el("em", {}, classes[i]),
            " called ", el("em", {}, classes[j])))), !worst.length && el("p", {class: "note"}, "none"))));
  };
  show();
  return [el("p", {class: "note"},
    "A line is what became of the pixels of one class, in percent: blue is right, orange is what they were taken for."), place];
}

// What is known of both rows, and where they differ.
function factsPart(view) {
  const {a, b} = view;
  const facts = row => {
    const cost = row.benchmark, {versions, hardware, ...rest} = row.lineage ?? {};
    return {
      ...Object.fromEntries(Object.entries(row.protocols).flatMap(([name, {images, figures, intervals}]) => [
        [`${name}: images`, images],
        ...Object.entries(figures).map(([figure, share]) => [`${name}: ${figure.replace("miou", "mIoU")} %`,
          percent(share) + (intervals[figure] ? ` (${intervals[figure].map(end => percent(end)).join(" – ")})` : "")])])),
      ...Object.fromEntries(Object.entries(row.refined?.splits ?? {}).flatMap(([name, {figures}]) =>
        Object.entries(figures).map(([figure, {after, gain, interval}]) =>
          [`${name}, refined by ${row.refined.refined_by.row}: ${figure.replace("miou", "mIoU")} %`,
            `${percent(after)}, gained ${signed(gain, 2)} (${interval.map(end => signed(end, 2)).join(" – ")})`]))),
      ...Object.fromEntries(Object.entries(row.looked_at).map(([name, how]) =>
        [name ? `${name} looks at` : "looked at", how])),
      "published by": row.published_by,
      "published on crops, mIoU %": known(row.published_crop_miou) ? percent(row.published_crop_miou) : null,
      "the paper's own mIoU %": known(row.paper_miou) ? percent(row.paper_miou) : null,
      "published FPS": row.published_fps,
      "parameters": cost.parameters.toLocaleString("en"),
      "GFLOPs": (cost.flops / 1e9).toFixed(3),
      "measured at": `${cost.image_size.join(" × ")}, ${cost.precision}, ${cost.device}, ${plural(cost.threads, "thread")}`,
      "measures": cost.measures,
      "rounds, and those before them": [cost.rounds, cost.warm_up_rounds],
      "layout, compiled": [cost.layout, cost.compiled ? "yes" : "no"],
      "latency, median, 90th and 95th percentile, ms": Object.values(cost.latency_ms).map(short),
      "peak memory, MB": short(cost.peak_memory_mb),
      ...rest, ...hardware, ...versions, ...row.config,
    };
  };
  const found = facts(a), others = b ? facts(b) : {}, place = el("div");
  const keys = [...new Set([...Object.keys(found), ...Object.keys(others)])];
  const differs = key => shown(found[key]) !== shown(others[key]);
  const show = only => place.replaceChildren(scrolled("Facts", table([
    {name: "fact", value: key => key.replaceAll("_", " ")},
    {name: a.short, class: "fact", value: key => shown(found[key])},
    b && {name: b.short, class: "fact", value: key => shown(others[key])},
  ].filter(Boolean), keys.filter(key => !only || differs(key)), {class: "facts"}), "tall"));
  show(Boolean(b));
  return [b && el("label", {class: "controls"}, el("input",
    {type: "checkbox", checked: true, onchange: event => show(event.target.checked)}), " only where they differ"), place];
}

function dataPart(view) {
  const {data} = view.contents, {classes, colours} = data, splits = Object.entries(data.splits);
  const share = (facts, c) => facts.pixels[c] / Math.max(facts.pixels.reduce((sum, each) => sum + each, 0), 1);
  const audit = [
    {name: "split", value: ([split]) => split},
    {name: "images", number: true, value: ([, facts]) => facts.images},
    {name: "not labelled %", number: true, value: ([, facts]) => facts.ignored, cell: ([, facts]) => percent(facts.ignored)},
    {name: "images without a label", number: true, value: ([, facts]) => facts.unlabelled_images},
    {name: "sizes", number: true, value: ([, facts]) => facts.sizes},
    {name: "smallest, largest height × width", value: ([, facts]) => facts.smallest[0],
      cell: ([, facts]) => `${facts.smallest.join(" × ")}, ${facts.largest.join(" × ")}`},
    {name: "mean colour", value: ([, facts]) => facts.mean[0],
      cell: ([, facts]) => [swatch(facts.mean), facts.mean.map(Math.round).join(", ")]},
    {name: "absent classes", value: ([, facts]) => facts.absent.join(", ") || "none"},
  ];
  const balance = [
    {name: "class", value: c => classes[c], cell: c => [swatch(colours[c]), classes[c]]},
    ...splits.flatMap(([split, facts]) => [
      {name: `${split}: pixels %`, number: true, value: c => share(facts, c), cell: c => [
        el("i", {class: "gauge", style: `--v:${Math.sqrt(share(facts, c)).toFixed(3)}`}),
        el("span", {class: "figure"}, percent(share(facts, c)))]},
      {name: "images %", tip: `Images of ${split} that hold the class`, number: true,
        value: c => facts.images_with[c] / facts.images, cell: c => percent(facts.images_with[c] / facts.images, 0)}]),
  ];
  const {across_splits: across, within_splits: within, first} = data.same_pictures;
  const notes = [
    `Pictures that stand in several splits: ${across}; more than once in one split: ${within}; samples left out: ${data.skipped.length}.`,
    ...first.slice(0, 3).map(group => `The same picture: ${group.slice(0, 4).map(place => place.join("/")).join(", ")}.`),
    ...data.skipped.slice(0, 3).map(bad => `Left out: ${bad.split}/${bad.id}, ${bad.reason}.`),
    `Licence: ${data.licence}. Data hash: ${data.data_hash.slice(0, 12)}.`,
  ];
  return [
    scrolled("Audit of the splits", table(audit, splits)),
    el("p", {class: across ? "warning" : "note"}, notes.join(" ")),
    el("h4", {}, "How often each class occurs"),
    scrolled("Class balance", table(balance, classes.map((_, c) => c), {class: "classes"}), "tall"),
    el("h4", {}, "Samples from all over each split, and their labels"),
    el("img", {class: "sheet", src: data.sheet, alt: "Samples of every split with their labels"})];
}

function lineagePart(view) {
  const of = key => row => row.lineage?.[key] ?? "";
  const cut = (text, length) => el("code", {"data-tip": text || null}, String(text).slice(0, length) || "–");
  return [
    el("p", {class: "note"}, "What every figure above was measured on: the registered version of the row's model, the run that trained it, the data, the code."),
    scrolled("Lineage", table([
      {name: "row", value: row => row.short},
      {name: "version", number: true, value: row => Number(row.lineage?.version ?? NaN) || null, cell: row => of("version")(row) || "–"},
      {name: "aliases", value: row => (row.lineage?.aliases ?? []).join(", ")},
      {name: "run", value: of("run_id"), cell: row => cut(of("run_id")(row), 8)},
      {name: "data hash", value: row => row.data_hash, cell: row => cut(row.data_hash, 12)},
      {name: "commit", value: of("commit"), cell: row => [cut(of("commit")(row), 10),
        row.lineage?.dirty && el("small", {class: "down"}, " changed")]},
      {name: "evaluated", value: of("evaluated_at"), cell: row => of("evaluated_at")(row).slice(0, 16).replace("T", " ") || "–"},
      {name: "on", value: row => row.lineage?.hardware?.gpus?.[0] || row.lineage?.hardware?.processor || "–"},
      {name: "torch", value: row => row.lineage?.versions?.torch ?? "–"},
    ], view.rows, {class: "lineage"}), "tall")];
}
