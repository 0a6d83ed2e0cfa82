"""The autoscaler of the calculation, held against examples of Kubernetes' documentation, and a pod against its record."""

import pytest

from load_tests.autoscaling import RECORD, Autoscaler, Pod, Replicas, day, decide, desired, measured, simulate

POD = Pod(capacity=100, curve=((10, 0.01, 0.02), (90, 0.1, 0.2)))


@pytest.mark.parametrize(
    ("current", "average", "wanted"),
    [(3, 200, 6), (4, 50, 2), (10, 109, 10), (10, 91, 10), (10, 111, 12), (3, 34, 2)],
    ids=["twice as much", "half", "within the tolerance", "within it below", "beyond it", "rounded up"],
)
def test_the_formula(current: int, average: float, wanted: int) -> None:
    assert desired(current, current, average, 100, of_all=True) == wanted
    assert desired(current, current, average, 100, of_all=False) == wanted


def test_a_pod_that_starts_counts_as_idle_when_cpu_would_scale_up() -> None:
    assert desired(4, 2, 200, 100, of_all=False) == 4  # 2 busy and 2 that start: 100 on average
    assert desired(4, 3, 200, 100, of_all=False) == 6


def test_a_policy_bounds_a_step_up() -> None:
    scaler = Autoscaler("in flight", 8, most=100)
    assert decide(scaler, Replicas([0.0] * 3), 50, now=0) == 7  # by 4 pods
    assert decide(scaler, Replicas([0.0] * 10), 50, now=0) == 20  # by 100%


def test_the_largest_of_the_last_minutes_answers_counts_on_the_way_down() -> None:
    scaler, replicas = Autoscaler("in flight", 8), Replicas([0.0] * 10)
    decide(scaler, replicas, 9, now=0)
    assert decide(scaler, replicas, 2, now=299) == 9
    assert decide(scaler, replicas, 2, now=301) == 5  # half of the pods a minute


def test_a_decision_stays_within_its_bounds() -> None:
    scaler = Autoscaler("in flight", 8, least=2, most=5)
    assert decide(scaler, Replicas([0.0] * 4), 50, now=0) == 5
    assert decide(scaler, Replicas([0.0] * 2), 0, now=0) == 2


def test_a_pod_is_what_the_record_measured() -> None:
    pod = measured(RECORD, "Valence float32")
    assert 700 < pod.capacity < 750
    rates, p50s, p99s = zip(*pod.curve, strict=True)
    assert list(rates) == sorted(rates)
    assert all(p50 < p99 for p50, p99 in zip(p50s, p99s, strict=True))


def test_what_the_pods_cannot_take_waits_and_is_then_refused() -> None:
    scaler = Autoscaler("cpu", 0.5, least=2, most=2)
    seconds = list(simulate(POD, scaler, [300.0] * 60, start_s=10))
    assert seconds[1].p99_s > seconds[0].p99_s
    assert seconds[0].refused == 0
    assert seconds[-1].refused == pytest.approx(100)  # of 300, two pods take 200


@pytest.mark.parametrize("on", ["in flight", "log", "cpu"])
def test_more_pods_come_for_more_requests(on: str) -> None:
    scaler = Autoscaler(on, 0.6 if on == "cpu" else 4)
    seconds = list(simulate(POD, scaler, [100.0] * 120 + [500.0] * 300, start_s=10))
    assert seconds[0].replicas == 2
    assert seconds[-1].replicas >= 6
    assert seconds[-1].refused == 0


def test_a_day_has_a_spike() -> None:
    rates = day(night=100, peak=1000, spike=3, spike_at_s=72_000, spike_s=600)
    assert len(rates) == 86_400
    assert rates[72_100] == pytest.approx(3 * rates[71_900], rel=0.3)
