"""Counts, control chart, scores and false alarms, against naive counts of the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from offnominal.station import lines, setup
from offnominal.station.database import Database
from offnominal.station.statistics import (
    TAIL,
    Period,
    binomial_limits,
    clopper_pearson,
    control_chart,
    counts,
    false_alarms,
    scores,
)
from offnominal.station.tables import NG, OK, UNREADABLE, Inspection
from station.conftest import StationFactory
from station.servers import LINE

START = datetime(2026, 11, 30, 5, 50, tzinfo=UTC)


def row(number: int, version: int, rng: np.random.Generator) -> Inspection:
    """A part, judged four minutes after the one before."""
    at, verdict = START + timedelta(minutes=4 * number), str(rng.choice([OK, OK, OK, NG, UNREADABLE]))
    return Inspection(
        id=f"{number:032x}", line_id=1, model_version_id=version, serial=str(number),
        lot=f"L{number // 25}" if number > 9 else None,
        taken_at=None, judged_at=at, verdict=verdict, threshold=3.0,
        score=None if verdict == UNREADABLE else float(number), p_value=0.5, whole_p_value=None,
        regions=[], appearance=None, error=None, width=1, height=1, duration_ms=1.0,
        source="http", by="test", image_name="a.png", image_file="image.png", image_sha256="0" * 64, media_bytes=0,
        media_kept=False, idempotency_key=None, request_sha256=None,
        review=None if verdict == UNREADABLE or rng.random() < 0.5 else str(rng.choice([OK, NG])),
    )  # fmt: skip


def hour_of(part: Inspection) -> str:
    return part.judged_at.replace(minute=0, second=0, microsecond=0).isoformat()


def lot_of(part: Inspection) -> str:
    return part.lot or "no lot"


@pytest.fixture
def filled(station_folder: StationFactory, database_url: str | None) -> Iterator[tuple[Database, list[Inspection]]]:
    """A station with 120 judged parts."""
    home = station_folder(database=database_url)
    with setup.Setup(home.root) as opened:
        with opened.database.write() as session:
            version = lines.active(session, lines.line_named(session, LINE))
            assert version is not None
            rng = np.random.default_rng(0)
            rows = [row(number, version.id, rng) for number in range(120)]
            session.add_all(rows)
        yield opened.database, rows


def test_counts_charts_and_scores_are_those_of_the_rows(filled: tuple[Database, list[Inspection]]) -> None:
    database, rows = filled
    since, until = rows[7].judged_at, rows[110].judged_at
    period, inside = Period(1, since, until), rows[7:110]
    with database.read() as session:
        assert counts(session, period) == Counter(one.verdict for one in inside)
        assert [score["score"] for score in scores(session, period)] == [one.score for one in inside if one.score is not None]
        by_hour, by_lot = control_chart(session, period, "hour"), control_chart(session, period, "lot")
    judged = [one for one in inside if one.verdict != UNREADABLE]
    for chart, key in ((by_hour, hour_of), (by_lot, lot_of)):
        total, bad = Counter(map(key, judged)), Counter(key(one) for one in judged if one.verdict == NG)
        assert list(total) == [group["name"] for group in chart["groups"]]  # in the order of time
        assert total == {group["name"]: group["n"] for group in chart["groups"]}
        assert bad == Counter({group["name"]: group["ng"] for group in chart["groups"]})
        assert chart["centre"] == pytest.approx(sum(bad.values()) / len(judged))
        for group in chart["groups"]:
            assert group["out"] == (not group["lower"] <= group["share"] <= group["upper"])


def test_false_alarms_count_reviews(filled: tuple[Database, list[Inspection]]) -> None:
    database, rows = filled
    with database.read() as session:
        result = false_alarms(session, Period(1))
    alarms = sum(one.verdict == NG and one.review == OK for one in rows)
    unknown = sum(one.verdict == NG and one.review is None for one in rows)
    good = alarms + sum(one.verdict == OK and one.review != NG for one in rows)
    assert (result["false_alarms"], result["unreviewed"], result["good"]) == (alarms, unknown, good)
    assert result["low"] <= alarms / good <= result["high"]
    assert result["low"] == pytest.approx(binomtest(alarms, good + unknown).proportion_ci().low)
    assert result["high"] == pytest.approx(binomtest(alarms + unknown, good + unknown).proportion_ci().high)
    assert "above the stated rate of 10.00%" in result["sentence"] or "in agreement with the stated rate" in result["sentence"]


def test_a_line_without_parts(station_folder: StationFactory) -> None:
    with setup.Setup(station_folder().root) as opened, opened.database.read() as session:
        assert control_chart(session, Period(1), "hour")["groups"] == []
        assert false_alarms(session, Period(1))["rate"] is None
        assert false_alarms(session, Period(1))["sentence"] == "No part has been judged."


@pytest.mark.parametrize("share", [0.0, 0.004, 0.3, 1.0])
def test_control_limits_hold_all_but_the_tails(share: float) -> None:
    sizes = [1, 2, 10, 333, 5000]
    for n, low, high in zip(sizes, *binomial_limits(sizes, share), strict=True):
        chances = binom.pmf(np.arange(n + 1), n, share)
        shares = np.arange(n + 1) / n
        assert chances[shares < low].sum() <= TAIL + 1e-12
        assert chances[shares > high].sum() <= TAIL + 1e-12
        assert (low, high) == pytest.approx((max(binom.ppf(TAIL, n, share), 0) / n, binom.ppf(1 - TAIL, n, share) / n))


@pytest.mark.parametrize(("count", "total"), [(0, 0), (0, 5), (5, 5), (3, 100), (99, 100)])
def test_the_interval_is_that_of_clopper_and_pearson(count: int, total: int) -> None:
    low, high = clopper_pearson(count, total)
    expected = binomtest(count, total).proportion_ci() if total else None
    assert (low, high) == pytest.approx((0.0, 1.0) if expected is None else (expected.low, expected.high))
