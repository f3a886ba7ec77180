use std::collections::HashSet;
use std::io;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use super::log_limit::{FIRSTS_PER_MINUTE, MINUTE, OTHERS_PER_MINUTE, REMEMBERED};
use super::*;

/// What is logged, in memory.
#[derive(Clone, Default)]
pub(in crate::broker) struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    /// What is told while the guard lives.
    pub(in crate::broker) fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let subscriber = tracing_subscriber::fmt().with_writer(self.clone()).with_ansi(false).finish();
        // A line that another thread comes to first, where nobody listens, would be taken for one that is never heard.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        tracing::subscriber::set_default(subscriber)
    }

    pub(in crate::broker) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn somebody() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 4000))
}

#[test]
fn the_table_is_in_the_order_of_the_enum_and_each_label_stands_for_one_reason() {
    let mut labels = HashSet::new();
    for (place, row) in TABLE.iter().enumerate() {
        assert_eq!(row.refusal as usize, place, "{} is out of place", row.label);
        assert!(labels.insert(row.label), "{} is there twice", row.label);
        assert!(row.label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{}", row.label);
        assert!(row.code >= 0x80, "{}: codes below mean success", row.label);
        assert!(row.connack <= 5, "{}", row.label);
        assert!((10..=90).contains(&row.rule.len()), "{}: a reason string is one short sentence", row.label);
    }
    assert_eq!(TABLE.len(), Refusal::DocumentSize as usize + 1);
}

#[test]
fn the_limit_that_a_rule_names_is_the_one_that_holds() {
    let named = crate::broker::identity::CLIENT_ID_MAX.to_string();
    assert!(Refusal::ClientIdLength.rule().contains(&named));
}

#[tokio::test(start_paused = true)]
async fn a_line_names_address_user_client_id_and_rule_and_nothing_breaks_it() {
    let log = Log::default();
    let guard = log.listen();
    let refusals = Refusals::new(Arc::new(Metrics::new()));
    let who = Who::named(somebody(), Some("a\nlice"), &"x\u{1b}".repeat(500));
    refusals.report(Refusal::SubscribeDenied, &who, "eve/others/#\r\n".repeat(100));
    drop(guard);
    let text = log.text();
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in
        ["INFO", "192.0.2.7:4000", r#"user="a\\nlice""#, r#"reason="subscribe_denied""#, "may not read", "eve/others"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.len() < 1_000 && !text.contains('\u{1b}'), "{text}");
    assert_eq!(refusals.metrics().get(Metric::SubscriptionsDenied), 1);
    assert_eq!(refusals.metrics().clients_refused("subscribe_denied"), 1);
}

#[tokio::test(start_paused = true)]
async fn each_reason_has_so_many_lines_in_a_minute_and_the_next_one_says_how_many_were_left_out() {
    let log = Log::default();
    let guard = log.listen();
    let refusals = Refusals::new(Arc::new(Metrics::new()));
    let who = Who::at(somebody());
    for _ in 0..1_000 {
        refusals.report(Refusal::Mqtt31, &who, "");
    }
    refusals.report(Refusal::NoUser, &who, "");
    let told = 1 + OTHERS_PER_MINUTE;
    assert_eq!(log.text().lines().count(), 1 + told as usize, "another reason is told all the same");
    tokio::time::advance(MINUTE / OTHERS_PER_MINUTE).await;
    refusals.report(Refusal::Mqtt31, &who, "");
    drop(guard);
    let last = log.text().lines().last().unwrap().to_owned();
    assert!(last.contains("mqtt_3_1") && last.contains(&format!("untold={}", 1_000 - told)), "{last}");
    assert_eq!(refusals.metrics().clients_refused("mqtt_3_1"), 1_001, "all are counted");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_tries_again_and_again_hides_no_other_with_the_same_trouble() {
    let log = Log::default();
    let guard = log.listen();
    let refusals = Refusals::new(Arc::new(Metrics::new()));
    let at = |host| Who::at(SocketAddr::from(([192, 0, 2, host], 4000)));
    // A minute of it, and what is left of the lines is always used up.
    for second in 0..60 {
        for _ in 0..100 {
            refusals.report(Refusal::Credentials, &at(1), "");
        }
        if second % 10 == 0 {
            refusals.report(Refusal::Credentials, &at(2 + second / 10), "");
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    drop(guard);
    for host in 1..8 {
        assert!(log.text().contains(&format!("address=192.0.2.{host}:")), "{host}: {}", log.text());
    }
    let most = FIRSTS_PER_MINUTE + 2 * OTHERS_PER_MINUTE;
    assert!(log.text().lines().count() <= most as usize, "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_addresses_has_no_more_lines_than_there_are_and_not_all_are_remembered() {
    let mut lines = LogLimit::new(2);
    let crowd = (0..100_000_u32).filter(|n| lines.take(0, IpAddr::from(n.to_be_bytes())).is_some()).count();
    assert_eq!(crowd, (FIRSTS_PER_MINUTE + OTHERS_PER_MINUTE) as usize);
    for n in 0..1_000_u32 {
        tokio::time::advance(MINUTE).await;
        lines.take(1, IpAddr::from(n.to_be_bytes())).unwrap();
    }
    assert_eq!(lines.remembered(), REMEMBERED);
}

#[test]
fn a_reason_that_never_occurred_is_counted_as_zero() {
    let refusals = Refusals::new(Arc::new(Metrics::new()));
    let text = String::from_utf8(refusals.metrics().render()).unwrap();
    for row in TABLE {
        assert!(text.contains(&format!("bridge_broker_refusals_total{{reason=\"{}\"}} 0\n", row.label)), "{text}");
    }
}

#[test]
fn topics_md_names_every_refusal_with_its_codes() {
    let text = include_str!("../../../topics.md");
    let section = text.split("## When you are refused").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut rows = section.lines().filter(|line| line.starts_with("| `"));
    for row in TABLE {
        let line = rows.next().unwrap_or_else(|| panic!("{} is missing", row.label));
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, label, code, connack, rule, _] = cells[..] else { panic!("{line}") };
        assert_eq!((label, rule), (&*format!("`{}`", row.label), row.rule));
        assert!(code == "-" || code == format!("0x{:02X}", row.code), "{line}");
        assert!(
            connack == "-" || Some(connack) == row.refusal.connack().map(|code| code.to_string()).as_deref(),
            "{line}"
        );
    }
    assert_eq!(rows.next(), None);
}
