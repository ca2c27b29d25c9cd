"""Numbers of a run that several sections share, each with what it was measured from."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from corestone.core.format import clock, si
from corestone.core.metric import Metric
from corestone.core.runlog import Event, number
from corestone.report.folder import Run, find
from corestone.report.units import BESIDES, interval, judges, quality, seen, told, unit_of


@dataclass(frozen=True)
class Figure:
    """One number on the page: what it is, the value as text (None: not measured), its unit and a remark."""

    label: str
    text: str | None
    unit: str = ""
    remark: str = ""

    @property
    def full(self) -> str | None:
        """Value and unit."""
        return None if self.text is None else f"{self.text} {self.unit}".rstrip()


def quantity(label: str, value: float | None, unit: str, remark: str = "") -> Figure:
    """A number with an SI prefix, which stands with the unit."""
    if value is None:
        return Figure(label, None)
    number_text, _, prefixed = si(value, unit).partition(" ")
    return Figure(label, number_text, prefixed, remark)


def column(events: Sequence[Event], key: str, nested: str | None = None) -> tuple[list[float], list[float]]:
    """Tokens or pictures, and values, of the events that have a number under the key (inside `nested`, where given)."""
    x, y = [], []
    for event in events:
        inner = event if nested is None else event.get(nested)
        value = number(inner, key) if isinstance(inner, dict) else None
        at = seen(event)
        if value is not None and at is not None:
            x.append(at)
            y.append(value)
    return x, y


def finite(events: Sequence[Event], key: str) -> list[float]:
    """The finite values under a key."""
    return [value for value in column(events, key)[1] if math.isfinite(value)]


def held_out(run: Run) -> Metric | None:
    """The figure by which the run is judged: from evaluation.json, None where it was not evaluated."""
    return next((metric for metric in run.metrics("model") if judges(metric, quality(run))), None)


def best_floor(run: Run) -> Metric | None:
    """The best floor of that figure."""
    by = quality(run)
    floors = [metric for metric in run.metrics("floors") if judges(metric, by, floor=True)]
    best = by.best(metric.value for metric in floors)
    return next((metric for metric in floors if metric.value == best), None)


def parameters(run: Run) -> int | None:
    """The model's parameter count, where environment.json tells it."""
    value = run.environment.get("parameters")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def units_seen(run: Run) -> float | None:
    """Training tokens or pictures up to the last event."""
    return max((value for row in run.events.rows if (value := seen(row)) is not None), default=None)


def training_clock(run: Run) -> tuple[list[float], list[float]]:
    """Tokens or pictures, and the seconds spent on training steps, up to each log line: what lies between lines over
    their logged speed.

    Evaluation, samples, checkpoints and the pauses of a resumed run are not in it.
    """
    ends, seconds, unit = [0.0], [0.0], unit_of(run)
    for event in run.events.of("train"):
        at, speed = number(event, unit.key), number(event, unit.speed_key)
        if at is None or not speed or not math.isfinite(speed):
            continue
        seconds.append(seconds[-1] + (at - ends[-1]) / speed)
        ends.append(at)
    return ends, seconds


def training_time(run: Run) -> float | None:
    """Seconds spent on training steps."""
    return training_clock(run)[1][-1] or None


def elapsed(run: Run) -> float | None:
    """Seconds from the first to the last event."""
    times = [value for row in run.events.rows if (value := number(row, "time")) is not None]
    return max(times) - min(times) if len(times) > 1 else None


def whole_time(run: Run) -> float | None:
    """Seconds from the start of the run (`core.environment.began_for`) to the end of its command, with all that came
    between: data, training, evaluation, samples, checkpoints, floors, report. None where several processes trained, or
    the command has not come to its end."""
    began, finished = number(run.environment, "began"), number(run.environment, "finished")
    first = min((value for row in run.events.rows if (value := number(row, "time")) is not None), default=0.0)
    return finished - began if began is not None and finished is not None and began < first else None


def conclusion_time(run: Run) -> float | None:
    """Seconds from the end of training to that of the command: evaluation, floors, report."""
    finished, ends = number(run.environment, "finished"), run.events.of("end")
    end = number(ends[-1], "time") if ends else None
    return finished - end if finished is not None and end is not None else None


def time_figure(run: Run) -> Figure:
    """How long the run trained, and what passed meanwhile on the clock."""
    seconds, passed = training_time(run), elapsed(run)
    if seconds is None:
        return Figure("Training time", None)
    shown = "" if passed is None else f"{clock(passed)} {clock_unit(passed)} from first to last event"
    return Figure("Training time", clock(seconds), clock_unit(seconds), shown)


def state(run: Run) -> tuple[str, str]:
    """How the run stands: a word for the page's colours (`good`, `open`, `bad`) and a sentence."""
    rows = run.events.rows
    if not rows:
        return "bad", "No event was logged."
    last = rows[-1]
    if last["event"] == "end":
        reason = str(last.get("reason", "finished"))
        word = "good" if reason in ("finished", "completed", "done") else "open"
        return word, f"{reason.capitalize()} at step {last['step']:,}."
    return "open", f"No end was logged: still going, or stopped at step {last['step']:,}."


def headline(run: Run) -> list[Figure]:
    """The numbers at the top of the page."""
    amount, size, unit = units_seen(run), parameters(run), unit_of(run)
    return [
        _quality(run),
        *_besides(run),
        _floor(run),
        Figure(f"{unit.key.capitalize()} seen", None if amount is None else si(amount), unit.key, _epochs(run, amount)),
        time_figure(run),
        Figure("Parameters", None) if size is None else Figure("Parameters", si(size), "", f"{size:,} in all"),
    ]


def clock_unit(seconds: float) -> str:
    """The unit of what `clock` prints."""
    return "h:min:s" if round(seconds) >= 3600 else "min:s"


def _quality(run: Run) -> Figure:
    metric, by = held_out(run), quality(run)
    if metric is not None:
        span = "" if metric.interval is None else f", 95 % interval {interval(metric)}"
        return Figure(by.name, *told(metric.value, by.unit), unit_of(run).held_out + span)
    _, values = column(run.events.of("evaluate"), by.key, "metrics")
    if values:
        return Figure(by.name, *told(values[-1], by.unit), "last while training; not evaluated")
    return Figure(by.name, None, remark="not evaluated")


def _besides(run: Run) -> list[Figure]:
    """The figures of a model of pairs besides the one by which it is judged."""
    found = {metric.name: metric for metric in run.metrics("model")}
    return [
        Figure(name, *told(found[key].value, found[key].unit), f"95 % interval {interval(found[key])}")
        for key, name in BESIDES
        if key in found
    ]


def _floor(run: Run) -> Figure:
    floor, model = best_floor(run), held_out(run)
    if floor is None:
        return Figure("Best floor", None, remark="not evaluated")
    remark = floor_name(floor)
    if model is not None:
        change = 100 * (model.value - floor.value if quality(run).share else model.value / floor.value - 1)
        far = f"{abs(change):.1f} {'points' if quality(run).share else '%'}"
        remark += f"; the model is {far} {'below' if change < 0 else 'above'} it"
    return Figure("Best floor", *told(floor.value, floor.unit), remark)


def floor_name(metric: Metric) -> str:
    """A floor's method without the words that only say its unit (`xz bits per byte` -> `xz`)."""
    words = metric.name.replace("_", " ")
    for unit in ("bits per byte", "bits/byte", "bpb", "nats per target", "accuracy"):
        words = words.replace(unit, "")
    return " ".join(words.split()).strip(" ,:()") or metric.name


def _epochs(run: Run, amount: float | None) -> str:
    """How often the data was seen, where one prepared set makes that a plain quotient."""
    if amount is None or len(run.data) != 1:
        return ""
    unit = unit_of(run).key
    size = find(find(run.data[0], "train"), unit)
    return f"{amount / size:.2f} epochs of {si(size)} {unit}" if isinstance(size, int) and size else ""


def speed(run: Run) -> float | None:
    """Training tokens or pictures per second: the median log line's."""
    return _median(finite(run.events.of("train"), unit_of(run).speed_key))


def arithmetic(run: Run) -> float | None:
    """FLOP/s of the model's arithmetic: the median log line's."""
    return _median(finite(run.events.of("train"), "flops_per_second"))


def utilisation(run: Run) -> float | None:
    """Share of the GEMM peak: the median log line's."""
    return _median(finite(run.events.of("train"), "utilisation"))


def memory(run: Run) -> float | None:
    """The most bytes that were logged."""
    return max(finite(run.events.of("train"), "memory_bytes"), default=None)


def measured(run: Run) -> dict[str, float]:
    """What a plan is held to, of what was measured, by the plan's names: parameters, peak_bytes and, where all planned
    steps were taken and no more, flops, training_seconds, conclusion_seconds, total_seconds (where one process took
    them all), loss (nats per token of held-out text). Of a rehearsal neither times, which at toy width are those of
    overheads, nor loss."""
    rate, per_second, units = speed(run), arithmetic(run), units_seen(run)
    held = held_out(run)
    found = {
        "parameters": parameters(run),
        "peak_bytes": memory(run),
    }
    if as_planned(run):
        found["flops"] = per_second / rate * units if rate and per_second and units else None
    if as_planned(run) and run.rehearsal is None:
        found |= {
            "training_seconds": training_time(run),
            "conclusion_seconds": conclusion_time(run),
            "total_seconds": whole_time(run),
            "loss": held.value if held is not None and held.unit == "nats/token" else None,
        }
    return {name: float(value) for name, value in found.items() if value}


def as_planned(run: Run) -> bool:
    """Whether the run took as many steps as its plan has: not fewer, and not more after its end was put off."""
    steps = [row["step"] for row in run.events.rows if isinstance(row.get("step"), int)]
    return run.plan is not None and max(steps, default=0) == find(find(run.plan, "time"), "steps")


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def throughput(run: Run) -> list[Figure]:
    """Speed, utilisation, waiting and memory over the run's train events."""
    train, unit = run.events.of("train"), unit_of(run)
    rate, share, wait = speed(run), utilisation(run), _median(finite(train, "data_wait_share"))

    def lines(key: str) -> str:
        count = len(finite(train, key))
        return f"median of {count:,} log lines" if count else ""

    use = "" if share is None else f"of the GEMM peak, {lines('utilisation')}"
    return [
        Figure("Training speed", None if rate is None else f"{rate:,.0f}", unit.speed, lines(unit.speed_key)),
        quantity("Model arithmetic", arithmetic(run), "FLOP/s", lines("flops_per_second")),
        Figure("Utilisation", _percent(share, 1), "%", use),
        _peak(run),
        Figure("Waiting for data", _percent(wait, 2), "% of the time", lines("data_wait_share")),
        quantity("Memory", memory(run), "B", "highest logged"),
    ]


def _peak(run: Run) -> Figure:
    """The best matrix product measured on this machine, in the fastest format first."""
    told = run.environment.get("gemm_peak_flops")
    peaks = told.items() if isinstance(told, dict) else ()
    found = sorted(((value, kind) for kind, value in peaks if isinstance(value, (int, float))), reverse=True)
    remark = f"matrix products in {found[0][1]}, measured here" if found else ""
    others = [f"{si(value, 'FLOP/s')} in {kind}" for value, kind in found[1:]]
    return quantity("GEMM peak", found[0][0] if found else None, "FLOP/s", "; ".join([remark, *others]))


def _percent(share: float | None, digits: int) -> str | None:
    return None if share is None else f"{100 * share:.{digits}f}"
