//! The header `Retry-After`, in both of its forms (RFC 9110, section 10.2.3).

use std::time::{Duration, UNIX_EPOCH};

/// Shortest wait that is obeyed: a server that says 0, or a time that is over, must not be asked in a tight loop.
const MIN: Duration = Duration::from_secs(1);
/// Longest wait that is obeyed: Google itself advises to give up after an hour.
const MAX: Duration = Duration::from_secs(3600);

/// How long to wait from `now_unix_s`; `None` if the header is neither seconds nor a date.
pub(super) fn parse(header: &str, now_unix_s: u64) -> Option<Duration> {
    let header = header.trim();
    let seconds = if !header.is_empty() && header.bytes().all(|c| c.is_ascii_digit()) {
        // More digits than a u64 has are a long time all the same.
        header.parse().unwrap_or(u64::MAX)
    } else {
        let at = httpdate::parse_http_date(header).ok()?;
        at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).saturating_sub(now_unix_s)
    };
    Some(Duration::from_secs(seconds).clamp(MIN, MAX))
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
            assert_eq!(parse(header, NOW).map(|d| d.as_secs()), seconds, "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(header: String, now: u64) {
            if let Some(wait) = parse(&header, now) {
                prop_assert!((MIN..=MAX).contains(&wait));
            }
        }
    }
}
