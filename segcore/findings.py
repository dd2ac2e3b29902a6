"""What a search found: its best trial, the fastest of each accuracy, the spread over seeds."""

from typing import Any

from segcore.errors import InputError
from segcore.search import Search

Trial = dict[str, Any]


def note(trials: dict[int, Trial], event: dict[str, Any]) -> Trial:
    """Enters an event of a search (pipelines/cluster/course.py) into the table of its trials."""
    number = event["trial"]
    entry = {"id": f"{number:03d}", "values": event.get("values", {}), "miou": None}
    entry |= {"steps": 0, "status": "running", "history": []}
    trial = trials.setdefault(number, entry)
    match event["event"]:
        case "started":
            if trial["values"] != event["values"]:  # in a population
                trial.setdefault("former", []).append([trial["steps"], trial["values"]])
            trial |= {"values": event["values"], "status": "running"}
        case "reported":
            trial["history"].append([event["step"], event["miou"]])
            trial |= {"steps": event["step"], "miou": max(event["miou"], trial["miou"] or 0.0)}
            trial |= {name: event[name] for name in event.keys() & {"latency_ms"}}
        case "ended" | "dropped":
            trial |= {name: event[name] for name in event.keys() & {"status", "error"}}
    return trial


def found(search: Search, trials: list[Trial], importance: dict[str, float]) -> dict[str, Any]:
    """``search.json``. Raises InputError where no trial is fit to be the best."""
    best = _best(search, trials)
    result = {
        "metric": "miou",
        "space": search.model_dump(mode="json")["space"],
        "best": best["values"],
        "best_trial": best["id"],
        "trials": trials,
        "importance": importance,
    }
    if search.latency:
        result["front"] = _front([trial for trial in trials if _is_scored(trial)])
    return result


def _best(search: Search, trials: list[Trial]) -> Trial:
    """The trial of highest mIoU, among those that are fast enough."""
    scored = [trial for trial in trials if _is_scored(trial)]
    if not scored:
        why = next((f"; the first: {t['error']}" for t in trials if "error" in t), "")
        raise InputError(f"all {len(trials)} trials failed{why}")
    limit = search.most_latency_ms
    fast = [trial for trial in scored if limit is None or trial["latency_ms"] <= limit]
    if not fast:
        fastest = min(trial["latency_ms"] for trial in scored)
        raise InputError(
            f"no trial is as fast as most_latency_ms {limit}: the fastest takes {fastest:.2f} ms; "
            "raise the limit, or let the space hold smaller networks"
        )
    return max(fast, key=lambda trial: trial["miou"])


def _is_scored(trial: Trial) -> bool:
    return trial["miou"] is not None and trial["status"] != "failed"


def _front(scored: list[Trial]) -> list[str]:
    """The trials that no other beats in mIoU and latency, the fastest first."""
    front = list[Trial]()
    for trial in sorted(scored, key=lambda trial: (trial["latency_ms"], -trial["miou"])):
        if not front or trial["miou"] > front[-1]["miou"]:
            front.append(trial)
    return [trial["id"] for trial in front]


def over_seeds(trials: list[Trial]) -> dict[str, Any]:
    """Mean and spread of the best values under several seeds, with Student's 95 % interval.

    Raises InputError where fewer than two of them have a score.
    """
    from scipy.stats import t  # a row without a search passes in a moment

    scored = [trial for trial in trials if _is_scored(trial)]
    scores = [trial["miou"] for trial in scored]
    if len(scores) < 2:
        raise InputError("the best values failed under all seeds but one; try another space")
    count, mean = len(scores), sum(scores) / len(scores)
    deviation = (sum((score - mean) ** 2 for score in scores) / (count - 1)) ** 0.5
    half = float(t.ppf(0.975, count - 1)) * deviation / count**0.5
    return {
        "mean": mean,
        "deviation": deviation,
        "interval": [mean - half, mean + half],
        "scores": {str(trial["values"]["seed"]): trial["miou"] for trial in scored},
    }
