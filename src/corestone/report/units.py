"""What a run counts in and what it is judged by: all that differs between the pages of runs on text and on pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from corestone.core.errors import CheckpointError
from corestone.core.metric import Metric
from corestone.core.runlog import Event, number
from corestone.report.folder import Run


@dataclass(frozen=True)
class Unit:
    """What a run counts its progress in.

    Attributes:
        key: its name, in logs as on the page.
        kinds: of the recipe's data that are counted so.
        material: what the data are made of.
        items: what preparing the data keeps or drops.
        batch: the recipe's key for how many of them a step has.
        amounts: how its held-out data differ in size.
        watched: what the curve of the held-out figure is of, beside what the table has.
    """

    key: str
    kinds: tuple[str, ...]
    material: str
    items: str
    batch: str
    amounts: str
    watched: str

    @property
    def speed(self) -> str:
        """The unit of speed."""
        return f"{self.key}/s"

    @property
    def speed_key(self) -> str:
        """What speed is called in logs."""
        return f"{self.key}_per_second"

    @property
    def axis(self) -> str:
        """What a curve is drawn over."""
        return f"training {self.key}"

    @property
    def held_out(self) -> str:
        """What a model is scored on."""
        return f"held-out {self.material}"


TEXT = Unit(
    key="tokens",
    kinds=("text",),
    material="text",
    items="documents",
    batch="training.batch_tokens",
    amounts="amounts of text",
    watched="only the beginning of the held-out text is scored; the table has all of it",
)
PICTURES = Unit(
    key="pictures",
    kinds=("images", "pairs"),
    material="pictures",
    items="pictures",
    batch="training.batch_examples",
    amounts="numbers of pictures",
    watched="the validation side is scored, or its first pictures; the table has the test side, where there is one",
)
UNITS = (TEXT, PICTURES)


def known_unit(run: Run) -> Unit | None:
    """What a run counts in, by its log, else by its recipe; None where neither tells."""
    keys = {key for row in run.events.rows for key in row}
    data = (run.recipe or {}).get("data")
    kind = data.get("kind") if isinstance(data, dict) else None
    return next((unit for unit in UNITS if unit.key in keys), None) or next(
        (unit for unit in UNITS if kind in unit.kinds), None
    )


def unit_of(run: Run) -> Unit:
    """What a run counts in; tokens where nothing tells."""
    return known_unit(run) or TEXT


def common_unit(runs: Sequence[Run]) -> Unit:
    """What all of several runs count in. Raises CheckpointError where some count in another unit than others."""
    known = [(run, unit) for run in runs if (unit := known_unit(run)) is not None]
    for run, unit in known:
        first, other = known[0]
        if unit != other:
            raise CheckpointError(
                f"{run.folder}: a run on {unit.material} does not compare with {first.folder}, a run on "
                f"{other.material}; give runs of one kind"
            )
    return known[0][1] if known else TEXT


def seen(event: Event) -> float | None:
    """Tokens or pictures up to an event."""
    return next((value for unit in UNITS if (value := number(event, unit.key)) is not None), None)


@dataclass(frozen=True)
class Quality:
    """The held-out figure by which runs of a kind are judged.

    Attributes:
        key: its name in logs.
        name: its name on the page.
        unit: that of the metric.
        share: what is counted is what was right, so that more is better; other metrics of a model are shares too.
    """

    key: str
    name: str
    unit: str
    share: bool = False

    @property
    def shown_unit(self) -> str:
        """Its unit on the page."""
        return told(0.0, self.unit)[1]

    @property
    def direction(self) -> str:
        """Which way is better."""
        return "Higher is better" if self.share else "Lower is better"

    def best(self, values: Iterable[float]) -> float | None:
        """The best of some values; None of none."""
        return max(values, default=None) if self.share else min(values, default=None)


QUALITIES = (
    Quality("bits_per_byte", "Bits per byte", "bits/byte"),
    Quality("nats_per_target", "Nats per target", "nats/target"),
    Quality("detection_nats", "Detection loss", "nats/token"),
    Quality("top1_accuracy", "Top-1 accuracy", "share of pictures", share=True),
    Quality("text_recall_at_1", "Text recall@1", "share of pictures", share=True),
)
BITS, ACCURACY = QUALITIES[0], QUALITIES[3]
BESIDES = (
    ("image_recall_at_1", "Image recall@1"),
    ("exact_name_rate", "Exact names"),
)
"""Figures of models of pairs that stand beside the one by which these are judged, with their names on the page."""
SHARES = ("share of pictures", "share of texts")
"""Units that the page shows in percent."""


def quality_of(names: Iterable[str], default: Quality = BITS) -> Quality:
    """The figure that stands among metrics of these names; `default` where none does."""
    names = set(names)
    return next((quality for quality in QUALITIES if quality.key in names), default)


def quality(run: Run) -> Quality:
    """The figure by which a run is judged."""
    logged = [event["metrics"] for event in run.events.of("evaluate") if isinstance(event.get("metrics"), dict)]
    names = [metric.name for metric in run.metrics("model")] or (logged[-1] if logged else ())
    return quality_of(names, ACCURACY if unit_of(run) == PICTURES else BITS)


def judges(metric: Metric, by: Quality, floor: bool = False) -> bool:
    """Whether a metric, of a model or a floor, is that figure."""
    if by.share and not floor:
        return metric.name == by.key
    return is_bits_per_byte(metric) if by is BITS else metric.unit == by.unit


def is_bits_per_byte(metric: Metric) -> bool:
    """Whether a metric is bits per byte of text, the one unit in which models and compressors compare."""
    words = f"{metric.name} {metric.unit}".lower()
    for short, full in (("_", " "), ("/", " per "), ("bpb", "bits per byte")):
        words = words.replace(short, full)
    return "bits per byte" in " ".join(words.split())


def told(value: float, unit: str) -> tuple[str, str]:
    """A measured value and its unit as the page shows them: a share of pictures or texts in percent, others with three
    decimals below a thousand, whole and grouped above."""
    if unit in SHARES:
        return f"{100 * value:.2f}", "%"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}", unit


def interval(metric: Metric) -> str:
    """A metric's interval as text, in the metric's unit."""
    if metric.interval is None:
        return ""
    low, high = (told(end, metric.unit)[0] for end in metric.interval)
    return f"{low} to {high}"
