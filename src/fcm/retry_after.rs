//! The header `Retry-After`, in both of its forms (RFC 9110, section 10.2.3).

use std::time::{Duration, UNIX_EPOCH};

/// Shortest wait that is obeyed: a server that says 0, or a time that is over, must not be asked in a tight loop.
const MIN: Duration = Duration::from_secs(1);
/// Longest wait that is obeyed: Google itself advises to give up after an hour.
const MAX: Duration = Duration::from_secs(3600);

/// How long to wait; `None` if the header is neither seconds nor a date. A date is counted from `date`, the time of the answer by
/// the server's own clock, or from `now_unix_s` where it does not say that: ours may be wrong.
pub fn parse(header: &str, date: Option<&str>, now_unix_s: u64) -> Option<Duration> {
    let header = header.trim();
    let seconds = if !header.is_empty() && header.bytes().all(|c| c.is_ascii_digit()) {
        // More digits than a u64 has are a long time all the same.
        header.parse().unwrap_or(u64::MAX)
    } else {
        unix_s(header)?.saturating_sub(date.and_then(unix_s).unwrap_or(now_unix_s))
    };
    Some(Duration::from_secs(seconds).clamp(MIN, MAX))
}

fn unix_s(date: &str) -> Option<u64> {
    let at = httpdate::parse_http_date(date.trim()).ok()?;
    Some(at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn seconds_and_dates_are_both_read() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        const NOW: u64 = 784_111_777;
        for (header, seconds) in [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("0", Some(1)),
            ("86400", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 08:50:37 1994", Some(60)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", Some(1)),
            ("Mon, 07 Nov 1994 08:49:37 GMT", Some(3600)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("Sun, 06 Nov 1994", None),
        ] {
            assert_eq!(parse(header, None, NOW).map(|d| d.as_secs()), seconds, "{header:?}");
        }
    }

    #[test]
    fn a_date_is_counted_from_the_servers_own_clock() {
        const NOW: u64 = 784_111_777;
        let at = "Sun, 06 Nov 1994 08:50:37 GMT";
        for (date, now, seconds) in [
            (Some("Sun, 06 Nov 1994 08:49:37 GMT"), NOW + 3_000, 60),
            (Some("Sun, 06 Nov 1994 08:49:37 GMT"), NOW - 3_000, 60),
            (Some("yesterday"), NOW, 60),
            (None, NOW, 60),
        ] {
            assert_eq!(parse(at, date, now), Some(Duration::from_secs(seconds)), "{date:?}");
        }
        let ahead = Some("Sun, 06 Nov 1994 09:49:37 GMT");
        assert_eq!(parse("7", ahead, NOW), Some(Duration::from_secs(7)));
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(header: String, date: Option<String>, now: u64) {
            if let Some(wait) = parse(&header, date.as_deref(), now) {
                prop_assert!((MIN..=MAX).contains(&wait));
            }
        }
    }
}
