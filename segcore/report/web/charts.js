// Charts as SVG. A series is {name, points, kind}; kind is "a" or "b" for the rows looked at.
function ticksOf(low, high, log, most) {
  if (log) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const digit of [1, 2, 5]) found.push(digit * 10 ** power);
    const inside = found.filter(value => value >= low * 0.999 && value <= high * 1.001);
    const decades = inside.filter(value => Math.abs(Math.log10(value) % 1) < 1e-9);
    if (inside.length >= 2) return inside.length > most && decades.length > 1 ? decades : inside;
  }
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find(each => each * power >= raw * 0.999);
  const first = Math.ceil(low / step - 1e-9), found = [];
  for (let i = first; i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}
function tickText(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(4))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(4))}k`;
  return String(Number(value.toPrecision(6)));
}
function axis(values, {log = false, zero = false, most = 6, exact = false} = {}) {
  let low = Math.min(...values), high = Math.max(...values);
  if (!values.length) [low, high] = [0, 1];
  if (!exact && log) [low, high] = [low / 1.15, high * 1.15];
  else if (!exact) {
    const margin = 0.06 * (high - low) || 0.1 * Math.abs(high) || 0.5;
    [low, high] = [zero ? Math.min(0, low) : low - margin, high + margin];
  }
  const at = log ? value => Math.log(value / low) / Math.log(high / low)
    : value => high === low ? 0.5 : (value - low) / (high - low);
  return {at, log, ticks: ticksOf(low, high, log, most).map(value => [at(value), tickText(value)])};
}

const MARGIN = {left: 44, right: 14, top: 24, bottom: 44};
function plot(width, height, x, y, label, xLabel, yLabel, marks) {
  const w = width - MARGIN.left - MARGIN.right, h = height - MARGIN.top - MARGIN.bottom;
  const px = value => w * x.at(value), py = value => h * (1 - y.at(value));
  return draw("svg", {width, height, role: "img", "aria-label": label},
    draw("g", {transform: `translate(${MARGIN.left} ${MARGIN.top})`},
      y.ticks.map(([at, text]) => [
        draw("line", {class: "grid", x2: w, y1: h * (1 - at), y2: h * (1 - at)}),
        draw("text", {x: -8, y: h * (1 - at) + 4, "text-anchor": "end"}, text)]),
      x.ticks.map(([at, text]) => draw("text",
        {x: w * at, y: h + 19, "text-anchor": "middle"}, text)),
      draw("line", {class: "base", x2: w, y1: h, y2: h}),
      draw("text", {x: w, y: h + 38, "text-anchor": "end"}, xLabel + (x.log ? " (log)" : "")),
      draw("text", {x: -MARGIN.left, y: -11}, yLabel + (y.log ? " (log)" : "")),
      marks(px, py, w, h)));
}

const ORDER = {b: 1, a: 2};
function lineChart(series, {label, x, y, log = false, zero = false, height = 280}) {
  const drawn = series.filter(each => each.points.length)
    .sort((one, other) => (ORDER[one.kind] ?? 0) - (ORDER[other.kind] ?? 0));
  const all = drawn.flatMap(each => each.points), ys = all.map(point => point[1]);
  const logged = log && Math.min(...ys) > 0 && Math.max(...ys) > 20 * Math.min(...ys);
  return responsive(width => {
    const xs = axis(all.map(point => point[0]), {zero: true, most: width / 90});
    return plot(width, height, xs, axis(ys, {log: logged, zero}), label, x, y, (px, py) =>
      drawn.map(({name, points, kind, dashed}) => {
        const path = points.map(([a, b]) => `${px(a).toFixed(1)},${py(b).toFixed(1)}`).join(" ");
        const [step, last] = points.at(-1);
        return draw("g", {class: `series ${kind ?? "other"}`, "data-tip":
          `${name}\n${y} ${short(last)} at ${x} ${short(step)}`},
          draw("polyline", {class: "aim", points: path}),
          draw("polyline", {class: dashed ? "line dashed" : "line", points: path}),
          points.length <= 24 && points.map(([a, b]) =>
            draw("circle", {class: "dot", r: 2.4, cx: px(a).toFixed(1), cy: py(b).toFixed(1)})));
      }));
  });
}

// Places for the names of points (x, y): beside them where that covers nothing drawn before.
const LETTER = 7.6;  // pixels, in bold
function placed(points, names, width) {
  const taken = points.map(([x, y]) => [x - 6, y - 6, x + 6, y + 6]);
  const free = box => taken.every(other =>
    box[0] >= other[2] || other[0] >= box[2] || box[1] >= other[3] || other[1] >= box[3]);
  return points.map(([x, y], index) => {
    if (!names[index]) return null;
    const length = LETTER * names[index].length;
    const lefts = [x + 10, x - 10 - length, x - length / 2];
    const tries = [[lefts[0], y + 4], [lefts[1], y + 4],
      ...[-12, 20, -27, 35].flatMap(drop => lefts.map(left => [left, y + drop]))];
    for (const [left, base] of tries) {
      const box = [left, base - 11, left + length, base + 3];
      if (left < 0 || left + length > width || base < 0 || !free(box)) continue;
      taken.push(box);
      return [left, base];
    }
    return null;  // its tip says it
  });
}

// points: {x, y, low, high, name, kind, hidden, front}; chosen(index) when one is picked.
function scatter(points, {label, x, y, log, chosen, height = 380}) {
  return responsive(width => {
    const seen = points.filter(point => !point.hidden);
    const xs = axis(points.map(point => point.x), {log, most: width / 110});
    const ys = axis(points.flatMap(point => [point.y, point.low, point.high].filter(known)));
    return plot(width, height, xs, ys, label, x, y, (px, py, w) => {
      const front = points.filter(point => point.front).sort((a, b) => a.x - b.x);
      const at = point => [px(point.x), py(point.y)];
      const names = seen.map(point =>
        point.kind || point.front || seen.length <= 14 ? point.short : "");
      const order = seen.map((_, i) => i).sort((i, j) => Number(!!names[j]) - Number(!!names[i]));
      const places = placed(order.map(i => at(seen[i])), order.map(i => names[i]), w);
      return [
        draw("polyline", {class: "front", points: front.map(p => at(p).join(",")).join(" ")}),
        order.map((i, place) => {
          const point = seen[i], [left, top] = at(point);
          return draw("g", {class: `mark ${point.kind ?? "other"}${point.front ? " first" : ""}`,
            tabindex: 0, role: "button", "aria-label": point.tip, "data-tip": point.tip,
            onclick: () => chosen(point), onkeydown: event =>
              (event.key === "Enter" || event.key === " ") && (event.preventDefault(), chosen(point))},
            known(point.low) && draw("line",
              {class: "range", x1: left, x2: left, y1: py(point.low), y2: py(point.high)}),
            draw("circle", {class: "aim", r: 12, cx: left, cy: top}),
            draw("circle", {class: "point", r: 5, cx: left, cy: top}),
            places[place] && draw("text",
              {class: "label", x: places[place][0], y: places[place][1]}, point.short));
        })];
    });
  });
}

// axes: {name, at(value), ticks}; lines: {values, kind, tip, strength, dashed}
function parallel(axes, lines) {
  const height = 300, top = 50, bottom = 16, tall = height - top - bottom;
  return responsive(width => {
    const step = (width - 130) / Math.max(axes.length - 1, 1);
    const x = index => 78 + index * step, y = at => top + tall * (1 - at);
    return draw("svg", {width, height, role: "img", "aria-label": "Values and mIoU of every trial"},
      lines.map(line => {
        const path = axes.map((each, i) => [x(i), line.values[i]])
          .filter(([, value]) => known(value)).map(([left, value], i) => [left, value]);
        const points = axes.map((each, i) => known(line.values[i])
          ? `${x(i).toFixed(1)},${y(each.at(line.values[i])).toFixed(1)}` : "").filter(Boolean);
        return path.length > 1 && draw("g", {class: `series ${line.kind ?? "other"}`, "data-tip": line.tip},
          draw("polyline", {class: "aim", points: points.join(" ")}),
          draw("polyline", {class: line.dashed ? "line dashed" : "line",
            style: `stroke-opacity:${line.kind ? 1 : line.strength.toFixed(2)}`, points: points.join(" ")}));
      }),
      axes.map((each, i) => draw("g", {},
        draw("line", {class: "base", x1: x(i), x2: x(i), y1: y(0), y2: y(1)}),
        draw("text", {class: "label", x: x(i), y: 18, "text-anchor": "middle"}, each.name),
        each.log && draw("text", {x: x(i), y: 34, "text-anchor": "middle"}, "log"),
        each.ticks.map(([at, text]) => draw("text",
          {class: "halo", x: x(i) - 7, y: y(at) + 4, "text-anchor": "end"}, text)))));
  }, 120 * axes.length + 60);
}
