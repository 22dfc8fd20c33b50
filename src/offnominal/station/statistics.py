"""Figures of a line over time: counts, a control chart of the share of NG, scores, and false alarms as reviewed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVarTuple

import numpy as np
from scipy.special import bdtr, bdtrik, betaincinv
from sqlalchemy import BigInteger, Select, and_, case, func, select, type_coerce
from sqlalchemy.orm import Session

from offnominal.station import lines
from offnominal.station.tables import NG, OK, UNREADABLE, Inspection, Line

#: Groups of a control chart, and scores in a plot: the latest ones.
MOST_GROUPS, MOST_SCORES = 200, 1000
#: Probabilities outside the control limits, below and above; those of three standard deviations of a normal distribution.
TAIL = 0.00135
HOUR = 3_600_000_000

By = Literal["hour", "lot"]
Columns = TypeVarTuple("Columns")


@dataclass(frozen=True)
class Period:
    """A line, and the time in which its parts were judged; None is open."""

    line_id: int
    since: datetime | None = None
    until: datetime | None = None

    def applied(self, rows: Select[*Columns]) -> Select[*Columns]:
        """The statement for the parts of this period."""
        rows = rows.where(Inspection.line_id == self.line_id)
        rows = rows if self.since is None else rows.where(Inspection.judged_at >= self.since)
        return rows if self.until is None else rows.where(Inspection.judged_at < self.until)


def counts(session: Session, period: Period) -> dict[str, int]:
    """Number of parts by verdict."""
    rows = session.execute(period.applied(select(Inspection.verdict, func.count())).group_by(Inspection.verdict)).all()
    return dict.fromkeys((OK, NG, UNREADABLE), 0) | {row[0]: row[1] for row in rows}


def control_chart(session: Session, period: Period, by: By) -> dict[str, Any]:
    """Share of NG per hour or lot with control limits (a p-chart).

    The limits of a group of n parts are the quantiles 0.135 % and 99.865 % of the binomial distribution with the share of all
    parts, divided by n: those of three standard deviations, but also right for few parts and small shares.
    """
    hour = type_coerce(Inspection.judged_at, BigInteger) // HOUR
    key = hour if by == "hour" else Inspection.lot
    flagged = func.sum(case((Inspection.verdict == NG, 1), else_=0))
    rows = session.execute(
        period.applied(select(key, func.count(), flagged, func.min(Inspection.judged_at)))
        .where(Inspection.verdict != UNREADABLE)
        .group_by(key)
        .order_by(func.min(Inspection.id).desc())
        .limit(MOST_GROUPS)
    ).all()
    groups = [(name, int(n), int(ng), start) for name, n, ng, start in reversed(rows)]
    total, bad = sum(n for _, n, _, _ in groups), sum(ng for _, _, ng, _ in groups)
    centre = bad / total if total else 0.0
    lower, upper = binomial_limits([n for _, n, _, _ in groups], centre)
    return {
        "by": by,
        "centre": centre,
        "groups": [
            {
                "name": _name(name, by),
                "start": start,
                "n": n,
                "ng": ng,
                "share": ng / n,
                "lower": low,
                "upper": high,
                "out": not low <= ng / n <= high,
            }
            for (name, n, ng, start), low, high in zip(groups, lower, upper, strict=True)
        ],
    }


def binomial_limits(sizes: Sequence[int], share: float) -> tuple[list[float], list[float]]:
    """Control limits of the share in groups of these sizes, if the true share is `share`.

    Examples
    --------
    >>> binomial_limits([10, 1000], 0.01)
    ([0.0, 0.002], [0.2, 0.021])
    """
    n = np.array(sizes, dtype=np.float64)
    if not len(n):
        return [], []
    low, high = (_binomial_quantile(tail, n, share) / n for tail in (TAIL, 1 - TAIL))
    return low.tolist(), high.tolist()


def _binomial_quantile(probability: float, n: np.ndarray[Any, Any], share: float) -> np.ndarray[Any, Any]:
    """Smallest k with P(X <= k) >= probability. The inverse of the distribution is a real number near k or k + 1."""
    if share in (0.0, 1.0):
        return n * share
    upper = np.ceil(bdtrik(probability, n, share))
    lower = np.maximum(upper - 1, 0)
    return np.asarray(np.where(bdtr(lower, n.astype(np.int64), share) >= probability, lower, upper))


def scores(session: Session, period: Period) -> list[dict[str, Any]]:
    """The latest scores with the threshold that applied, oldest first."""
    columns = (Inspection.id, Inspection.judged_at, Inspection.score, Inspection.threshold, Inspection.verdict)
    rows = session.execute(
        period.applied(select(*columns)).where(Inspection.score.is_not(None)).order_by(Inspection.id.desc()).limit(MOST_SCORES)
    ).all()
    return [
        {"id": id, "at": at, "score": score, "threshold": threshold, "verdict": verdict}
        for id, at, score, threshold, verdict in reversed(rows)
    ]


def false_alarms(session: Session, period: Period) -> dict[str, Any]:
    """Share of good parts that were flagged, as far as reviews tell, against the stated rate.

    A flagged part that was reviewed OK is a false alarm. A part that passed counts as good unless a review says NG. A flagged
    part without a review may be either, so the interval covers both: from the lower 95 % Clopper-Pearson limit with all of them
    bad to the upper limit with all of them good.
    """
    flagged, passed = Inspection.verdict == NG, Inspection.verdict == OK

    def number(condition: Any) -> Any:
        return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)

    alarms, unknown, good = session.execute(
        period.applied(
            select(
                number(and_(flagged, Inspection.review == OK)),
                number(and_(flagged, Inspection.review.is_(None))),
                number(and_(passed, func.coalesce(Inspection.review, OK) == OK)),
            )
        )
    ).one()
    alarms, unknown, good = int(alarms), int(unknown), int(good) + int(alarms)
    low = clopper_pearson(alarms, good + unknown)[0]
    high = clopper_pearson(alarms + unknown, good + unknown)[1]
    line = session.get(Line, period.line_id)
    version = None if line is None else lines.active(session, line)
    stated = None if version is None else version.false_alarm_rate
    return {
        "false_alarms": alarms,
        "good": good,
        "unreviewed": unknown,
        "rate": alarms / good if good else None,
        "low": low,
        "high": high,
        "stated": stated,
        "sentence": _sentence(alarms, good, unknown, low, high, stated),
    }


def clopper_pearson(count: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact confidence interval of a share (Clopper and Pearson 1934).

    Examples
    --------
    >>> [round(limit, 4) for limit in clopper_pearson(2, 100)]
    [0.0024, 0.0704]
    """
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(betaincinv(count + 1, total - count, 1 - tail))
    return low, high


def _sentence(alarms: int, good: int, unknown: int, low: float, high: float, stated: float | None) -> str:
    if not good and not unknown:
        return "No part has been judged."
    rate = f"{alarms / good:.2%}" if good else "–"
    text = f"{alarms} of {good} good parts were flagged ({rate}; 95 % interval {low:.2%} to {high:.2%})."
    if unknown:
        text += f" {unknown} flagged parts have no review and may be good or bad; the interval covers both."
    if stated is None:
        return text
    verdict = "above" if low > stated else "below" if high < stated else "in agreement with"
    return f"{text} This is {verdict} the stated rate of {stated:.2%}."


def _name(key: Any, by: By) -> str:
    if by == "lot":
        return "no lot" if key is None else str(key)
    return datetime.fromtimestamp(int(key) * 3600, UTC).isoformat()
