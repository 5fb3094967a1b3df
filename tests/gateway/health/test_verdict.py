"""What is called ok, degraded and failed, and in which words."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.health import Facts, Level, LinkFacts, judge

STREAMING = LinkFacts("streaming", True)
AWAY = LinkFacts("out of reach", False)


def test_all_well():
    verdict = judge(Facts(wearables={"left": STREAMING, "right": STREAMING}))
    assert str(verdict) == "ok: 2 of 2 wearables streaming"


def test_a_broker_that_is_away_degrades_and_says_what_waits():
    facts = Facts(
        broker_connected=False, broker="refused the password", events_waiting=7, wearables={"left": STREAMING}
    )
    assert str(judge(facts)) == "degraded: 1 of 1 wearables streaming; broker: refused the password, 7 events wait"


def test_a_broker_that_refuses_events_degrades_and_says_how_many_and_why():
    facts = Facts(events_refused=7, refusal="Not authorized", wearables={"left": STREAMING})
    assert str(judge(facts)) == "degraded: 1 of 1 wearables streaming; broker refuses 7 events: Not authorized"


def test_a_wearable_out_of_reach_degrades_and_is_named():
    verdict = judge(Facts(wearables={"left": STREAMING, "right": AWAY}))
    assert str(verdict) == "degraded: 1 of 2 wearables streaming; right: out of reach"


def test_a_store_that_cannot_write_fails_and_comes_first():
    verdict = judge(Facts(store_fault="disk full", broker_connected=False, broker="away", wearables={"left": AWAY}))
    assert verdict.level is Level.FAILED
    assert verdict.reasons == ("store: disk full", "broker: away", "left: out of reach")


def test_a_doubt_about_a_wearable_degrades_and_is_named():
    verdict = judge(Facts(wearables={"left": STREAMING}, doubts={"left": "gravity contradicts its mounting x,y,z"}))
    assert str(verdict) == "degraded: 1 of 1 wearables streaming; left: gravity contradicts its mounting x,y,z"


def test_without_a_radio_nothing_collects():
    assert judge(Facts(radio_fault="adapter hci0 is missing")).level is Level.FAILED


FAULTS = st.none() | st.sampled_from(["a", "b"])
FACTS = st.builds(
    Facts,
    radio_fault=FAULTS,
    store_fault=FAULTS,
    broker_connected=st.booleans(),
    events_refused=st.integers(0, 2),
    doubts=st.dictionaries(st.sampled_from("lr"), st.just("a doubt")),
    wearables=st.dictionaries(st.sampled_from("lr"), st.sampled_from([STREAMING, AWAY])),
)


@given(FACTS)
def test_only_ok_has_no_reasons(facts):
    verdict = judge(facts)
    assert (verdict.level is Level.OK) == (not verdict.reasons)
