//! `acl --for BROKER`: the access rules as another broker reads them.

use super::UsageError;
use super::args::AclBroker;
use crate::chat::access::{ADMIN, BAL, BRIDGE, Grant, Rules, USER, covers};
use crate::ops::print;

/// What one client does on a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Publish,
    Read,
    Both,
}

/// What is granted to one user, or to everybody.
struct Section {
    /// The user; `None` is everybody who logs in, with `%u` for the name.
    user: Option<String>,
    lines: Vec<(Access, &'static str)>,
}

/// Prints the rules for one broker; `direct`: users may write into inboxes of others.
///
/// # Errors
/// When a name is none that an MQTT user may have in such a file.
pub(super) fn run(broker: AclBroker, (bridge, admin): (&str, Option<&str>), direct: bool) -> anyhow::Result<()> {
    for name in [Some(bridge), admin].into_iter().flatten() {
        if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\\')) {
            let text = format!("{name:?} cannot be a user here: it is empty, or has a space, a quote or a backslash");
            return Err(UsageError(text).into());
        }
    }
    print::line(text(broker, (bridge, admin), direct).trim_end())?;
    Ok(())
}

fn text(broker: AclBroker, names: (&str, Option<&str>), direct: bool) -> String {
    let sections = sections(names, direct);
    match broker {
        AclBroker::Mosquitto => mosquitto(&sections),
        AclBroker::Vernemq => vernemq(&sections),
        AclBroker::Emqx => emqx(&sections),
    }
}

/// Brokers of others know no roles: everybody is granted what BALs and chat users are.
fn sections((bridge, admin): (&str, Option<&str>), direct: bool) -> Vec<Section> {
    let mut sections = vec![Section { user: Some(bridge.to_owned()), lines: lines(&[BRIDGE]) }];
    // The bridge takes no commands there: only the embedded broker knows who logged in.
    let admins = Rules { publish: &[], ..ADMIN };
    sections.extend(admin.map(|name| Section { user: Some(name.to_owned()), lines: lines(&[admins]) }));
    let mut all = lines(&[BAL, USER]);
    if direct {
        // A list of filters cannot leave anybody's inbox out.
        all.extend(USER.routed.iter().map(|grant| (Access::Publish, grant.filter)));
    }
    sections.push(Section { user: None, lines: all });
    sections
}

/// The filters of some rules, each once. A list of filters has no exceptions, so a grant that has some is left out; and so is
/// what another filter covers.
fn lines(rules: &[Rules]) -> Vec<(Access, &'static str)> {
    let filters = |grants: fn(&Rules) -> &'static [Grant]| {
        let all = rules.iter().flat_map(grants).filter(|grant| grant.but.is_empty());
        let mut filters: Vec<&'static str> = Vec::new();
        for filter in all.map(|grant| grant.filter) {
            if !filters.iter().any(|other| covers(other, filter)) {
                filters.retain(|other| !covers(filter, other));
                filters.push(filter);
            }
        }
        filters
    };
    let (publish, read) = (filters(|rules| rules.publish), filters(|rules| rules.read));
    let written =
        publish.iter().map(|filter| (if read.contains(filter) { Access::Both } else { Access::Publish }, *filter));
    let only_read = read.iter().filter(|filter| !publish.contains(filter)).map(|filter| (Access::Read, *filter));
    written.chain(only_read).collect()
}

fn mosquitto(sections: &[Section]) -> String {
    let mut text = String::new();
    for Section { user, lines } in sections {
        let keyword = match user {
            Some(user) => {
                text += &format!("user {user}\n");
                "topic"
            }
            None => "pattern",
        };
        for (access, filter) in lines {
            let access = match access {
                Access::Publish => "write",
                Access::Read => "read",
                Access::Both => "readwrite",
            };
            text += &format!("{keyword} {access} {filter}\n");
        }
        text.push('\n');
    }
    text
}

/// The same language without `readwrite`. Its reader wants no empty line (vernemq/vernemq#1897).
fn vernemq(sections: &[Section]) -> String {
    let mut text = "# Written after VerneMQ's documentation, not tried with a VerneMQ.\n".to_owned();
    let plain = mosquitto(sections);
    for line in plain.lines().filter(|line| !line.is_empty()) {
        text += &line.replacen(" readwrite ", " ", 1);
        text.push('\n');
    }
    text
}

/// Terms of Erlang, for `acl.conf` of EMQX 5.
fn emqx(sections: &[Section]) -> String {
    let mut text = "%% Written after EMQX's documentation, not tried with an EMQX.\n".to_owned();
    for Section { user, lines } in sections {
        let who = user.as_ref().map_or_else(|| "all".to_owned(), |user| format!("{{username, \"{user}\"}}"));
        for (what, access) in [("all", Access::Both), ("publish", Access::Publish), ("subscribe", Access::Read)] {
            let filters = lines.iter().filter(|line| line.0 == access);
            let filters: Vec<_> =
                filters.map(|(_, filter)| format!("\"{}\"", filter.replace("%u", "${username}"))).collect();
            if !filters.is_empty() {
                text += &format!("{{allow, {who}, {what}, [{}]}}.\n", filters.join(", "));
            }
        }
    }
    text + "{deny, all}.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emqx_gets_terms_that_end_with_a_refusal() {
        let text = text(AclBroker::Emqx, ("bridge", Some("root")), false);
        let rules: Vec<_> = text.lines().filter(|line| !line.starts_with("%%")).collect();
        assert_eq!(
            rules,
            [
                r#"{allow, {username, "bridge"}, all, ["+/others/#", "+/self/#", "_bridge/#"]}."#,
                r##"{allow, {username, "root"}, subscribe, ["#"]}."##,
                r#"{allow, all, publish, ["${username}/self/#"]}."#,
                r#"{allow, all, subscribe, ["${username}/others/#", "+/self/presence", "_bridge/status", "${username}/self/presence/+", "+/self/profile"]}."#,
                "{deny, all}.",
            ]
        );
    }

    #[test]
    fn vernemq_gets_no_empty_line_and_no_word_that_it_does_not_know() {
        let text = text(AclBroker::Vernemq, ("bridge", None), false);
        assert!(text.lines().all(|line| !line.is_empty() && line == line.trim()), "{text}");
        assert!(!text.contains("readwrite") && text.contains("\ntopic +/self/#\n"), "{text}");
        assert!(text.contains("\npattern write %u/self/#\n"), "{text}");
    }

    #[test]
    fn where_users_are_trusted_they_may_write_what_the_bridge_reads_along() {
        let rules = |direct| text(AclBroker::Mosquitto, ("bridge", None), direct);
        let (usual, direct) = (rules(false), rules(true));
        let more: Vec<_> = direct.lines().filter(|line| !usual.lines().any(|other| other == *line)).collect();
        let wanted = crate::chat::topic::DIRECT_FILTERS.map(|filter| format!("pattern write {filter}"));
        assert_eq!(more, wanted);
    }

    #[test]
    fn names_that_would_end_a_line_or_a_text_are_refused() {
        for name in ["", "a b", "a\nuser eve", "a\"b", "a\\"] {
            run(AclBroker::Mosquitto, (name, None), false).unwrap_err();
        }
    }
}
