"""A group talks while the bridge is killed again and again: what was acknowledged comes to every device of every member, those who
sleep are pushed, the roster has one history, and in the end all devices of all members are told the same."""

import random
from collections import defaultdict

import pytest
from chat_kills import BEGINNING, Killer, Talk, all_pages, applied, check_pushes, firsts, is_cleared, rounds
from harness import eventually

STEPS = 45
# Who sleeps, and the registration of the phone.
ASLEEP = {"carol": "carols-token", "dave": "daves-token"}


class Team:
    """alice with two devices, bob, and eve, all of them there; carol and dave sleep, and of dave the broker keeps a session. dave
    and eve come and go."""

    def __init__(self, chat, dice: random.Random):
        self.chat, self.dice, self.talk = chat, dice, Talk()
        for member in ("bob", "carol", "dave", "eve"):
            chat.befriend("alice", member)
        for user, token in ASLEEP.items():
            chat.register(user, "phone", token)
        chat.device("dave", "laptop", kept=True).close()
        self.phone, self.laptop = chat.device("alice", "phone", kept=True), chat.device("alice", "laptop", kept=True)
        self.bob, self.eve = chat.device("bob", "web", kept=True), chat.device("eve", "web", kept=True)
        self.awake = [self.phone, self.laptop, self.bob, self.eve]
        self.group = self.phone.told("group.create", members=["bob", "carol", "dave", "eve"], name="Team")["group"]
        chat.mark(*self.awake)
        # By id: who wrote it, on what, and whether a phone is to be pushed.
        self.written: dict[str, tuple] = {}
        self.reads: dict[str, set[str]] = defaultdict(set)
        self.changes = 0

    def write(self):
        device = self.dice.choice(self.awake)
        message, push = f"m{len(self.written)}", self.dice.choice(["auto", "auto", "always", "never"])
        self.written[message] = (device, push)
        self.talk.begin(device, "messages", {"id": message, "to": self.group, "body": f"the text of {message}", "push": push})

    def amend(self):
        device = self.dice.choice(self.awake)
        own = device.on("messages", type="text", group=self.group, **{"from": device.user})
        if own:
            self.changes += 1
            document = {"id": f"c{self.changes}", "to": self.group, "ref": self.dice.choice(own)["sid"], "type": "retract"}
            if self.dice.random() < 0.7:
                document |= {"type": "edit", "body": f"the text of c{self.changes}"}
            self.talk.begin(device, "messages", document)

    def read(self):
        device = self.dice.choice(self.awake)
        theirs = device.on("messages", group=self.group)
        if theirs:
            sid = self.dice.choice(theirs)["sid"]
            self.reads[device.user].add(sid)
            self.talk.begin(device, "read", {"with": self.group, "sid": sid})

    def change(self):
        self.changes += 1
        device, member = self.dice.choice([self.phone, self.laptop]), self.dice.choice(["dave", "eve"])
        op, fields = self.dice.choice(
            [
                ("group.add", {"members": [member]}),
                ("group.remove", {"members": [member]}),
                ("group.rename", {"name": f"Team {self.changes}"}),
                ("group.promote", {"members": ["bob"]}),
                ("group.demote", {"members": ["bob"]}),
            ]
        )
        request = {"id": f"c{self.changes}", "op": op, "group": self.group, **fields}
        self.talk.begin(device, f"requests/{device.dev}", request)

    def go_on(self, killer: Killer):
        killer.start()
        for _ in range(STEPS):
            step = self.dice.choices([self.write, self.amend, self.read, self.change], [5, 2, 2, 2])[0]
            step()
            killer.stopped.wait(self.dice.uniform(0, 0.12))
        killer.end()
        self.talk.end()


class History:
    """What was said in the group, as a device that was there all the time was told; and who was in it when."""

    def __init__(self, team: Team):
        told = firsts(team.laptop, "messages", "sid", group=team.group)
        self.items = [item for item in told if "n" in item]
        self.shown = applied(told)
        self.version, self.name = 0, None
        self.members: set[str] = set()
        # The items of each member: those of all the time, and those since the last time that it came.
        self.all_of, self.latest_of = defaultdict(list), defaultdict(list)
        for item in self.items:
            leaving = self.follow(item) if item["type"] == "notice" else set()
            for user in self.members | leaving:
                self.all_of[user].append(item["sid"])
                self.latest_of[user].append(item["sid"])

    def follow(self, notice: dict) -> set[str]:
        """Who goes by a notice."""
        assert notice["version"] == self.version + 1, f"version {self.version}, then {notice}"
        self.version, self.name = notice["version"], notice.get("name", self.name)
        who = set(notice.get("who", []))
        if notice["event"] in ("created", "added"):
            self.members |= who | {notice["by"]}
            for user in who:
                self.latest_of[user] = []
        if notice["event"] == "removed":
            self.members -= who
            return who
        return set()

    def unread(self, user: str, read: str) -> int:
        """How many of these are unread: no notices, and nothing that was taken back."""
        shown = [self.shown[sid] for sid in self.latest_of[user] if sid > read]
        return sum(item["type"] == "text" and item["from"] != user for item in shown)


@pytest.mark.behaviour(50, 51, 53, 54)
@pytest.mark.parametrize("seed", rounds(2))
def test_a_group_that_talks_survives_kills(chat, seed):
    dice = random.Random(seed)
    team = Team(chat, dice)
    team.go_on(Killer(chat, dice, longest=0.5))
    chat.mark(*team.awake)
    history = History(team)
    assert [item["n"] for item in history.items] == list(range(1, len(history.items) + 1)), "no hole"
    check_acknowledged(team, history)
    check_sleepers(team, history)
    dave = chat.device("dave", "laptop", kept=True)
    chat.mark(dave)
    for device in [*team.awake, dave]:
        check_live(team, history, device)
    check_ticks(team, history)
    check_screens(team, history)


def check_acknowledged(team: Team, history: History):
    """Each message is in the group, or its writer, who was in it no longer, was told so."""
    by_id = {item["id"]: item for item in history.items if item.get("id") in team.written}
    for message, (device, _) in team.written.items():
        statuses = set(device.statuses(message))
        if message in by_id:
            assert "failed" not in statuses, (message, statuses)
            assert by_id[message]["body"] == f"the text of {message}"
        else:
            assert device.user == "eve" and statuses <= {"failed"}, (message, device.user, statuses)
            # Of more than ten errors in a second there is a summary; the receipt is always there.
            assert device.wait_for("receipts", id=message, status="failed")["code"] == "NOT_MEMBER"


def check_live(team: Team, history: History, device):
    """A device whose session is kept got all of it, in order, and nothing after it was removed."""
    told = firsts(device, "messages", "sid", group=team.group)
    assert [item["sid"] for item in told if "n" in item] == history.all_of[device.user], (device.user, device.dev)
    assert [item["sid"] for item in told] == sorted(item["sid"] for item in told), "in order"
    shown = applied(told)
    if device.user in history.members and history.all_of[device.user] == history.latest_of[device.user]:
        assert {sid: item.get("body") for sid, item in shown.items()} == {
            sid: history.shown[sid].get("body") for sid in history.all_of[device.user]
        }


def check_sleepers(team: Team, history: History):
    """Whoever sleeps was pushed for what others wrote while they were members, and for nothing else."""
    pushed = dict(zip(ASLEEP, team.chat.pushed(*ASLEEP.values()), strict=True))
    texts = {item["sid"]: item for item in history.items if item["type"] == "text"}
    for user, pushes in pushed.items():
        own = [push for push in pushes if push.get("with") == team.group]
        told = set(history.all_of[user]) & texts.keys()
        wanted = {sid for sid in told if team.written[texts[sid]["id"]][1] != "never"}
        retracted = {sid for sid in wanted if history.shown[sid]["type"] == "tombstone"}
        # What waits for somebody who is removed is taken back with the place in the group.
        certain = wanted & set(history.latest_of[user]) if user in history.members else set()
        check_pushes(own, certain - retracted, texts.keys() - wanted)
        for sid in retracted & {push["sid"] for push in own if push["type"] == "message"}:
            cleared = lambda u=user, s=sid: is_cleared(team.chat.pushes(ASLEEP[u], type="clear"), s)  # noqa: E731
            eventually(cleared, f"{user} is told that {sid} was taken back")


def check_ticks(team: Team, history: History):
    """The writer was told `sent` once, and that bob, who was always there, has it."""
    for item in history.items:
        if item["type"] != "text":
            continue
        writer = team.written[item["id"]][0]
        told = firsts(writer, "receipts", "status", "by", sid=item["sid"])
        assert told and told[0]["status"] == "sent", (item, told)
        if writer.user == "alice" and history.shown[item["sid"]]["type"] == "text":
            writer.wait(lambda w=writer, s=item["sid"]: is_delivered(w, s, team.group), f"bob has {item['id']}")


def is_delivered(device, sid: str, group: str) -> bool:
    told = [r for r in device.on("receipts") if r["status"] in ("delivered", "read") and r.get("by") == "bob"]
    of_group = {m["sid"] for m in device.on("messages", group=group)}
    return any(r["sid"] == sid or r.get("up_to") and r["sid"] >= sid for r in told if r["sid"] in of_group)


def check_screens(team: Team, history: History):
    """A device with an empty storage, and all the others, are told the same: the list, the history, and all since the beginning."""
    devices = defaultdict(list)
    for device in team.awake:
        devices[device.user].append(device)
    for user in ["alice", "bob", "carol", "dave", "eve"]:
        devices[user].append(team.chat.device(user, "new"))
        listed, histories, synced = [], [], []
        for device in devices[user]:
            page = device.told("conversations")
            listed.append({name: page[name] for name in ("items", "unread", "mentions", "complete")})
            histories.append(all_pages(device, "history", "after", **{"with": team.group, "after": BEGINNING}))
            synced.append(all_pages(device, "sync", "since", since=BEGINNING))
        for answers in (listed, histories, synced):
            assert all(answer == answers[0] for answer in answers), (user, answers)
        check_rebuilt(team, history, user, (listed[0], histories[0], synced[0]))


def check_rebuilt(team: Team, history: History, user: str, answers: tuple):
    listed, items, synced = answers
    expected, latest = history.all_of[user], set(history.latest_of[user])
    assert [item["sid"] for item in items] == expected, user
    # What was changed while a user was out, or since it has been, shows its text to nobody who was not there.
    shown, newest = ({item["sid"]: item.get("body") for item in of} for of in (items, history.shown.values()))
    hidden = {sid for sid in expected if shown[sid] is None and newest[sid] is not None}
    assert {sid: shown[sid] for sid in latest - hidden} == {sid: newest[sid] for sid in latest - hidden}, user
    assert user not in history.members or not hidden & latest, (user, hidden)
    since = applied([item for item in synced if item.get("group") == team.group])
    assert since.keys() == shown.keys(), user
    assert {sid: since[sid].get("body") for sid in latest} == {sid: shown[sid] for sid in latest}
    [screen] = [item for item in listed["items"] if item["with"] == team.group]
    assert (screen["last"]["sid"], screen["n"]) == (items[-1]["sid"], items[-1]["n"])
    assert listed["unread"] == sum(item["unread"] for item in listed["items"])
    if user in history.members:
        own = {sid for sid in latest if history.shown[sid]["from"] == user and history.shown[sid]["type"] != "notice"}
        places = own | team.reads[user] & latest
        assert screen["read"] >= max(places, default=""), (user, screen)
        assert screen["unread"] == history.unread(user, screen["read"]), (user, screen)
        with team.chat.visit("bob", "asks") as bob:
            page = bob.told("group.get", group=team.group)
        assert (page["version"], page["name"]) == (history.version, history.name)
        assert {item["user"] for item in page["items"]} == history.members
