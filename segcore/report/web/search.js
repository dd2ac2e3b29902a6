// What a search of row A tried: histories, the best so far, values, a table of trials.
function scaleOf(key, space, trials) {
  const values = trials.map(trial => trial.values[key]).filter(known);
  const numeric = values.every(value => typeof value === "number");
  if ("choice" in space || !numeric) {
    const choices = (space.choice ?? [...new Set(values)]).map(shown);
    const at = value => (choices.indexOf(shown(value)) + 0.5) / choices.length;
    return {name: key, at, ticks: choices.map((choice, i) => [(i + 0.5) / choices.length, choice])};
  }
  const bounds = Object.values(space).find(each => Array.isArray(each) && each.length === 2) ?? values;
  return {name: key, ...axis([...bounds, ...values], {log: "loguniform" in space, exact: true, most: 5})};
}

function searchPart(view) {
  const {search} = view.a;
  if (!search) {
    const others = view.rows.filter(row => row.search);
    return el("p", {class: "note"}, `${view.a.short} was not searched: its values are those of params.yaml. `,
      others.length ? ["Searched: ", others.slice(0, 12).map((row, i) => [i ? ", " : "",
        el("button", {type: "button", class: "link", onclick: () => view.choose("a", row)}, row.short)])] : "");
  }
  const trials = search.trials.filter(trial => known(trial.miou));
  const best = trials.find(trial => trial.id === search.best_trial)
    ?? trials.reduce((one, trial) => trial.miou > one.miou ? trial : one);
  const tip = trial => `trial ${trial.id}: ${percent(trial.miou)} % mIoU, ${trial.status}`;
  const curves = trials.map(trial => ({name: `trial ${trial.id}, ${trial.status}`, dashed: trial.status === "stopped",
    kind: trial === best ? "a" : null, points: trial.history.map(([step, miou]) => [step, 100 * miou])}));
  let high = 0;
  const climb = trials.map((trial, i) => [i + 1, high = Math.max(high, 100 * trial.miou)]);
  const keys = Object.keys(search.space);
  const scores = trials.map(trial => 100 * trial.miou), low = Math.min(...scores), top = Math.max(...scores);
  const axes = [...keys.map(key => scaleOf(key, search.space[key], trials)), {name: "mIoU %", ...axis(scores, {most: 5})}];
  const lines = [...trials].sort((one, other) => one.miou - other.miou).map(trial => ({
    values: [...keys.map(key => trial.values[key]), 100 * trial.miou], tip: tip(trial),
    kind: trial === best ? "a" : null, dashed: trial.status === "stopped",
    strength: 0.45 + 0.55 * (100 * trial.miou - low) / Math.max(top - low, 1e-9)}));
  const failed = search.trials.length - trials.length;
  const stopped = trials.filter(trial => trial.status === "stopped").length;
  const figure = (caption, content) => el("figure", {}, el("figcaption", {}, caption), content);
  const columns = [
    {name: "trial", value: trial => trial.id},
    {name: "mIoU %", number: true, value: trial => trial.miou, cell: trial => percent(trial.miou)},
    {name: "steps", number: true, value: trial => trial.steps},
    {name: "status", value: trial => trial.status},
    trials.some(trial => known(trial.latency_ms)) && {name: "latency ms", number: true,
      value: trial => trial.latency_ms, cell: trial => short(trial.latency_ms)},
    ...keys.map(key => ({name: key, number: "choice" in search.space[key] ? false : true,
      value: trial => trial.values[key], cell: trial => short(trial.values[key])})),
  ].filter(Boolean);
  const {seeds, importance} = search;
  return [
    el("p", {}, `${plural(trials.length, "trial")} of ${view.a.short}, ${stopped} of them stopped early${failed ? `, ${failed} without a score` : ""}. Best values: `,
      Object.entries(search.best).map(([key, value]) => el("span", {class: "value"}, el("code", {}, key), ` ${short(value)}`))),
    seeds && el("p", {}, `These values with ${plural(seeds.scores.length, "seed")}: ${percent(seeds.mean)} % mIoU, 95 % interval ${seeds.interval.map(end => percent(end)).join(" – ")}.`),
    importance && Object.keys(importance).length > 0 && el("p", {class: "note"}, "How much of the differences each key explains: ",
      Object.entries(importance).map(([key, share]) => el("span", {class: "value"}, el("code", {}, key), ` ${percent(share, 0)} %`))),
    el("div", {class: "pair"},
      figure("mIoU of every trial; the best in blue, those stopped early dashed",
        lineChart(curves, {label: "mIoU of every trial by step", x: "step", y: "mIoU %"})),
      figure("Best so far, by trial",
        lineChart([{name: "best so far", kind: "a", points: climb}], {label: "Best mIoU so far by trial", x: "trial", y: "mIoU %"}))),
    figure("Values of every trial: the stronger a line, the better", parallel(axes, lines)),
    scrolled("Trials", table(columns, [...trials].sort((one, other) => other.miou - one.miou), {class: "trials"}), "tall")];
}
