"""Calls while the bridge is killed again and again: they ring, are answered once and end once, and nothing rings after that."""

import random
from collections import Counter

import pytest
from chat_clients import EMBEDDED
from chat_kills import BEGINNING, KILLS, Killer, Talk, all_pages, firsts, rounds
from harness import eventually

# The phones of bob, which sleep.
TOKENS = {"phone": "bobs-token", "tablet": "bobs-tablet"}
# For how long a call rings that nobody answers, and one that somebody does, in seconds.
MISSED_TTL, TTL = 3, 60
OVER = {"end", "reject"}


class Line:
    """alice with two devices calls bob, who has two that are there, two phones that sleep, and a laptop that is switched off."""

    def __init__(self, chat, dice: random.Random):
        self.chat, self.dice, self.talk = chat, dice, Talk()
        chat.befriend("alice", "bob")
        for dev, token in TOKENS.items():
            chat.register("bob", dev, token)
        chat.device("bob", "laptop", kept=True).close()
        self.alices = [chat.device("alice", dev, kept=True) for dev in ("phone", "laptop")]
        self.bobs = [chat.device("bob", dev, kept=True) for dev in ("web", "desk")]
        self.outcomes: dict[str, str] = {}
        self.signals = 0

    def say(self, device, call: str, kind: str, **fields):
        self.signals += 1
        to = "bob" if device.user == "alice" else "alice"
        document = {"id": f"s{self.signals}-{kind}", "call": call, "to": to, "type": kind, "data": {"of": call}, **fields}
        self.talk.begin(device, "calls", document)

    def call(self, outcome: str):
        call = f"call-{len(self.outcomes)}"
        self.outcomes[call] = outcome
        caller, bobs = self.dice.choice(self.alices), self.dice.sample(self.bobs, 2)
        self.say(caller, call, "offer", ttl=MISSED_TTL if outcome == "missed" else TTL)
        for device in self.bobs:
            device.wait_for("calls", type="offer", call=call)
        if self.dice.random() < 0.5:
            self.say(bobs[0], call, "ringing")
        self.chat_pause()
        getattr(self, outcome)(call, caller, bobs)
        self.chat_pause()

    def chat_pause(self):
        self.killer.stopped.wait(self.dice.uniform(0, 0.3))

    def missed(self, call, caller, _bobs):
        caller.wait_for("calls", type="end", call=call)

    def cancelled(self, call, caller, _bobs):
        self.say(caller, call, "end")

    def rejected(self, call, _caller, bobs):
        self.say(bobs[0], call, "reject")

    def answered(self, call, caller, bobs):
        for device in bobs:
            self.say(device, call, "answer")
        caller.wait_for("calls", type="answer", call=call)
        for device in [caller, *bobs]:
            self.say(device, call, "ice")
        self.chat_pause()
        self.say(self.dice.choice([caller, *bobs]), call, "end")

    def go_on(self, killer: Killer):
        self.killer = killer
        killer.start()
        outcomes = ["missed", "answered", "rejected", "cancelled", self.dice.choice(["answered", "cancelled"])]
        for outcome in self.dice.sample(outcomes, len(outcomes)):
            self.call(outcome)
        killer.end()
        self.talk.end()


@pytest.mark.behaviour(60)
@pytest.mark.parametrize("seed", rounds(2))
def test_calls_survive_kills(make_chat, seed):
    dice = random.Random(seed)
    # The phones are pushed whoever looks at what.
    chat = make_chat(EMBEDDED, 'push_when = "always"')
    line = Line(chat, dice)
    line.go_on(Killer(chat, dice, longest=1.4))
    for device in [*line.alices, *line.bobs]:
        for call in line.outcomes:
            device.wait_for("messages", type="call", call=call)
    chat.mark(*line.alices, *line.bobs)
    for device in [*line.alices, *line.bobs]:
        check_signals(line, device)
        check_outcomes(line, device)
    check_answers(line)
    check_pushes_of_calls(line)
    check_late_devices(line)


def check_signals(line: Line, device):
    """Each signal once or marked, and the last one of a call ends it."""
    told = firsts(device, "calls", "sid")
    for call in line.outcomes:
        kinds = [document["type"] for document in told if document["call"] == call]
        assert kinds.count("offer") == 1 and OVER & set(kinds), (device.dev, call, kinds)
        ringing = kinds[: next(place for place, kind in enumerate(kinds) if kind in OVER)]
        assert "offer" in ringing and "offer" not in kinds[len(ringing) :], (device.dev, call, kinds)


def check_outcomes(line: Line, device):
    """How each call ended is one message, in the history as it came."""
    told = firsts(device, "messages", "sid", type="call")
    assert Counter((one["call"], one["outcome"]) for one in told) == Counter(line.outcomes.items()), (device.dev, told)
    assert all(one["from"] == "alice" and 0 <= one["seconds"] < TTL for one in told), told
    items = all_pages(device, "history", "after", after=BEGINNING, **{"with": "bob" if device.user == "alice" else "alice"})
    assert [item["sid"] for item in items if item["type"] == "call"] == [one["sid"] for one in told]
    places = [item["n"] for item in items]
    assert places == list(range(places[0], places[0] + len(places))), "no hole"
    if device.user == "bob":
        [screen] = [item for item in device.told("conversations")["items"] if item["with"] == "alice"]
        assert screen["unread"] == list(line.outcomes.values()).count("missed")


def check_answers(line: Line):
    """One of the two that answered won, and the other one was told so."""
    for call in [call for call, outcome in line.outcomes.items() if outcome == "answered"]:
        winners = set()
        for device in [*line.alices, *line.bobs]:
            [answer] = firsts(device, "calls", "sid", type="answer", call=call)
            winners.add(answer["dev"])
        for device in line.bobs:
            [taken] = firsts(device, "calls", "sid", type="taken", call=call)
            winners.add(taken["dev"])
        assert len(winners) == 1, (call, winners)
        [loser] = [device for device in line.bobs if device.dev not in winners]
        refused = {f"{error.get('ref')}": error["code"] for error in loser.on("errors")}
        answers = [ref for ref, code in refused.items() if ref.endswith("-answer") and code == "DUPLICATE"]
        assert answers, (call, refused)


def check_pushes_of_calls(line: Line):
    """A phone that was pushed is told the end last; a missed call is pushed as a message, and no other is."""
    line.chat.pushed(*TOKENS.values())
    missed = {one["sid"] for one in line.bobs[0].on("messages", type="call", outcome="missed")}
    others = {one["sid"] for one in line.bobs[0].on("messages", type="call")} - missed
    for token in TOKENS.values():
        pushes = line.chat.pushes(token)
        for call, outcome in line.outcomes.items():
            told = lambda c=call, t=token: [p["type"] for p in line.chat.pushes(t) if p.get("call") == c]  # noqa: E731
            if outcome == "missed" or told():
                eventually(lambda t=told: t()[-1:] == ["clear"], f"{token} is told that {call} is over; {told()}")
                assert 1 <= told().count("call") <= 1 + KILLS, (token, call, told())
        messages = Counter(push["sid"] for push in pushes if push["type"] == "message")
        assert not messages.keys() & others, messages
        for sid in missed:
            assert messages[sid] <= 1 + KILLS and (messages[sid] or is_taken_back(line.chat, sid)), (token, pushes)


def is_taken_back(chat, sid: str) -> bool:
    """Whether a device that somebody looked at had it before the push left."""
    with chat.visit("bob", "asks") as bob:
        items = bob.told("explain", sid=sid)["items"]
    return all(item.get("push", {}).get("state") == "cancelled" for item in items if item["dev"] in TOKENS)


def check_late_devices(line: Line):
    """Nothing rings on a laptop that is switched on now, or on a new device."""
    for dev, kept in [("laptop", True), ("new", False)]:
        late = line.chat.device("bob", dev, kept=kept)
        if kept:
            for call in line.outcomes:
                late.wait_for("messages", type="call", call=call)
        line.chat.mark(late)
        assert "offer" not in [document["type"] for document in late.on("calls")], late.on("calls")
