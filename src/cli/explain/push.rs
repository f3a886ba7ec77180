//! `explain push USER SID`: why the devices of a user were pushed for a message to it, or were not.

use crate::chat::delivery::State;
use crate::chat::id::{Owner, Sid};
use crate::chat::push_decision::{Asked, Matter, Rule, Verdict, Wish};
use crate::cli::store_place::StorePlace;
use crate::cli::{UsageError, json_rows, shown};
use crate::ops::clock::utc;
use crate::ops::print;
use crate::store::{ExplainedDevice, ExplainedPush, PushExplanation};
use anyhow::bail;
use std::slice;

/// Prints what was asked, the rule for each device, and what became of each push.
///
/// # Errors
/// When `user` or `sid` can be none; or the file is no store, cannot be read, or knows no such message to the user.
pub(in crate::cli) fn run(place: &StorePlace, user: &str, sid: &str, json: bool) -> anyhow::Result<()> {
    let owner = Owner::new(user).map_err(|fault| UsageError(format!("`{}` is no user: it {fault}", shown(user))))?;
    let sid = Sid::parse(sid).ok_or_else(|| UsageError(format!("`{}` is not the `sid` of a message", shown(sid))))?;
    let Some(explanation) = place.open()?.explain_push(&owner, sid)? else {
        let kept = "a message is kept for a limited time (chat.keep_days, chat.keep_bytes)";
        bail!("{} knows no message `{sid}` to `{owner}`; {kept}", place.path().display());
    };
    let text = if json { json_rows(slice::from_ref(&explanation))? } else { story(&owner, &explanation) };
    print::line(text.trim_end())?;
    Ok(())
}

fn story(user: &Owner, told: &PushExplanation) -> String {
    let mut text = format!("{} of {} to {user}\n  {}  stored\n", told.sid, told.from, utc(told.ts));
    let (Some(at), Some(asked)) = (told.decided_at, &told.asked) else {
        return text
            + &match told.rule {
                None | Some(Rule::NoToken) => format!("  no push: {user} had no device with a token (rule 2)\n"),
                Some(rule) => format!("  no push: {} (rule {})\n", words(rule), rule.number()),
            };
    };
    text += &format!("  {}  decided: {}; attended: {}\n", utc(at), inputs(asked), attended(told, asked));
    for device in &told.devices {
        text += &of_device(device, told.waits);
    }
    text
}

/// What was asked, the same for all devices.
fn inputs(asked: &Asked) -> String {
    let matter = match asked.matter {
        Matter::Message => "a message",
        Matter::Reaction => "a reaction",
        Matter::Invitation => "an invitation",
        Matter::Call => "a call",
    };
    let wish = match asked.wish {
        Wish::Auto => "auto",
        Wish::Always => "always",
        Wish::Never => "never",
        Wish::Silent => "silent",
    };
    let writer = if asked.own { "its reader" } else { "somebody else" };
    let or_not = |is: bool| if is { "" } else { "not " };
    let (blocked, muted) = (or_not(asked.blocked), or_not(asked.muted));
    format!("{matter} by {writer}, `push` {wish}, {blocked}blocked, {muted}muted")
}

fn attended(told: &PushExplanation, asked: &Asked) -> String {
    match (told.attended.is_empty(), asked.attended) {
        (false, _) => told.attended.join(", "),
        (true, true) => "a device".to_owned(),
        (true, false) => "no device".to_owned(),
    }
}

fn of_device(device: &ExplainedDevice, waits: bool) -> String {
    let verdict = match device.verdict {
        Verdict::None => "no push",
        Verdict::Wait if device.confirmed => "no push, for it confirmed the message",
        Verdict::Wait if waits && device.rule == Rule::NoRoom => "no push yet",
        Verdict::Wait if waits => "no push yet, it waits for the confirmation of an attended device",
        Verdict::Wait => "no push, for the message was confirmed or read while the push waited",
        Verdict::Push => "pushed",
        Verdict::PushSilently => "pushed with data only",
    };
    let (number, rule) = (device.rule.number(), words(device.rule));
    let push = match &device.push {
        Some(push) => format!("    {}\n", of_push(push)),
        None if matches!(device.verdict, Verdict::Push | Verdict::PushSilently) => {
            "    what became of the push is no longer remembered\n".to_owned()
        }
        None => String::new(),
    };
    format!("  {}: {verdict}; {rule} (rule {number})\n{push}", device.dev)
}

/// What a rule says.
fn words(rule: Rule) -> &'static str {
    match rule {
        Rule::Never => "its writer asked for none",
        Rule::Blocked => "its writer is blocked",
        Rule::Muted => "the conversation is muted",
        Rule::OwnDevice => "the user wrote it",
        Rule::Reaction => "a reaction is pushed only when its writer asks for it",
        Rule::NoToken => "the device has no token",
        Rule::Attended => "somebody looks at a device",
        Rule::Unattended => "nobody looks at a device",
        Rule::First => "the device wants one push for an absence, and has had it",
        Rule::Quiet => "nobody looks at a device, and it is within its quiet hours",
        Rule::NoRoom => "the queue has no room for the push yet",
        Rule::Always => "rule 3 is left out: `push` is always, or chat.push_when",
    }
}

fn of_push(push: &ExplainedPush) -> String {
    let ExplainedPush { sid, transport, state, attempt, code } = push;
    let code = code.as_ref().map(|code| format!(": {code}")).unwrap_or_default();
    let became = match state {
        State::Due | State::Waiting if *attempt == 0 => "waits to be sent",
        State::Due | State::Waiting => "was refused for now, and waits to be sent again",
        State::InFlight => "is with the push service, unanswered",
        State::Sent => "the push service has taken it",
        State::Delivered => "the device has it",
        State::Failed => "failed",
        State::Expired => "expired",
        State::Cancelled => "was withdrawn before it was sent",
    };
    format!("{became}{code} ({transport}, attempt {attempt}; `trace {sid}` tells more)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::StoreArgs;

    const ASKED: Asked = Asked::of(Matter::Message, Wish::Auto);

    fn device(dev: &str, verdict: Verdict, rule: Rule) -> ExplainedDevice {
        ExplainedDevice { dev: dev.to_owned(), verdict, rule, confirmed: false, push: None }
    }

    fn explanation(asked: Option<Asked>, devices: Vec<ExplainedDevice>) -> PushExplanation {
        PushExplanation {
            sid: "06eqbd3gy0001ab2".to_owned(),
            from: "alice".to_owned(),
            ts: 1_000,
            decided_at: asked.is_some().then_some(16_000),
            asked,
            attended: Vec::new(),
            waits: false,
            received: false,
            devices,
            rule: None,
        }
    }

    fn told(explanation: &PushExplanation) -> String {
        story(&Owner::new("bob").unwrap(), explanation)
    }

    #[test]
    fn a_push_to_a_sleeping_phone_is_told_with_what_was_asked_and_what_became_of_it() {
        let push = ExplainedPush {
            sid: "06eqbd3gy0001ab3".to_owned(),
            transport: "fcm-v1".to_owned(),
            state: State::Failed,
            attempt: 1,
            code: Some("DEVICE_UNREGISTERED".to_owned()),
        };
        let phone = ExplainedDevice { push: Some(push), ..device("phone", Verdict::Push, Rule::Unattended) };
        let tablet = device("tablet", Verdict::PushSilently, Rule::Always);
        let expected = "06eqbd3gy0001ab2 of alice to bob\n  \
            1970-01-01T00:00:01.000Z  stored\n  \
            1970-01-01T00:00:16.000Z  decided: a message by somebody else, `push` auto, not blocked, not muted; \
            attended: no device\n  \
            phone: pushed; nobody looks at a device (rule 4)\n    \
            failed: DEVICE_UNREGISTERED (fcm-v1, attempt 1; `trace 06eqbd3gy0001ab3` tells more)\n  \
            tablet: pushed with data only; rule 3 is left out: `push` is always, or chat.push_when (rule 4)\n    \
            what became of the push is no longer remembered\n";
        assert_eq!(told(&explanation(Some(ASKED), vec![phone, tablet])), expected);
    }

    #[test]
    fn a_push_that_waits_names_the_devices_at_which_somebody_looks() {
        let asked = Asked { attended: true, ..ASKED };
        let waiting = PushExplanation {
            attended: vec!["laptop".to_owned(), "web".to_owned()],
            waits: true,
            ..explanation(Some(asked), vec![device("phone", Verdict::Wait, Rule::Attended)])
        };
        let text = told(&waiting);
        assert!(text.contains("not muted; attended: laptop, web\n"), "{text}");
        assert!(text.contains("phone: no push yet, it waits for the confirmation of an attended device; "), "{text}");
        let over = told(&PushExplanation { waits: false, ..waiting.clone() });
        assert!(over.contains("phone: no push, for the message was confirmed or read while the push waited"), "{over}");
        let mut confirmed = waiting;
        confirmed.devices[0].confirmed = true;
        assert!(told(&confirmed).contains("phone: no push, for it confirmed the message"), "{confirmed:?}");
    }

    #[test]
    fn every_rule_has_its_number_and_its_words() {
        let all = [
            (Rule::Never, 1),
            (Rule::Blocked, 1),
            (Rule::Muted, 1),
            (Rule::OwnDevice, 1),
            (Rule::Reaction, 1),
            (Rule::NoToken, 2),
            (Rule::Attended, 3),
            (Rule::Unattended, 4),
            (Rule::Always, 4),
            (Rule::NoRoom, 4),
            (Rule::First, 5),
            (Rule::Quiet, 5),
        ];
        let mut said: Vec<_> = all.iter().map(|(name, _)| words(*name)).collect();
        for (name, number) in all {
            assert_eq!(name.number(), number, "{name:?}");
            let text = told(&explanation(Some(ASKED), vec![device("phone", Verdict::None, name)]));
            assert!(text.ends_with(&format!("  phone: no push; {} (rule {number})\n", words(name))), "{text}");
        }
        said.sort_unstable();
        said.dedup();
        assert_eq!(said.len(), all.len(), "each has words of its own");
    }

    #[test]
    fn a_user_without_a_phone_is_not_pushed() {
        let text = told(&explanation(None, Vec::new()));
        assert!(text.ends_with("  no push: bob had no device with a token (rule 2)\n"), "{text}");
    }

    #[test]
    fn what_can_be_no_user_and_no_sid_is_wrong_usage() {
        for (user, sid) in [("a/b", "06eqbd3gy0001ab2"), ("bob", "m1")] {
            let store = StoreArgs { config: None, store: Some("/nowhere".into()) };
            let error = run(&StorePlace::of(store).unwrap(), user, sid, false).unwrap_err();
            assert!(error.is::<UsageError>(), "{user} {sid}: {error}");
        }
    }
}
