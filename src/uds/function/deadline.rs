//! `Fn-Deadline`: RFC 3339, UTC, whole seconds (the strictest FDKs parse no more).

use crate::model::Timestamp;

/// Appends `2026-11-24T02:41:13Z`; milliseconds are cut off, so a function
/// never believes it has longer than it has.
pub(super) fn push_rfc3339(at: Timestamp, out: &mut Vec<u8>) {
    // Years 0000 to 9999 have four digits; others cannot come from a clock.
    let seconds = at.0.div_euclid(1000).clamp(-62_167_219_200, 253_402_300_799);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00Z";
    for (at, number) in [(0, year / 100), (2, year % 100), (5, month), (8, day), (11, second / 3600), (14, second / 60 % 60), (17, second % 60)] {
        // Within 0 to 99, all of them.
        let number = u8::try_from(number).unwrap_or(0);
        text[at] += number / 10;
        text[at + 1] += number % 10;
    }
    out.extend_from_slice(&text);
}

/// Year, month, day of a day counted from 1970-01-01, proleptic Gregorian. The
/// year is counted from March, so that the leap day is its last.
fn civil(days: i64) -> (i64, i64, i64) {
    let from_0000_03_01 = days + 719_468;
    let era = from_0000_03_01.div_euclid(146_097);
    let day_of_era = from_0000_03_01.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        let text = |ms| {
            let mut out = Vec::new();
            push_rfc3339(Timestamp(ms), &mut out);
            String::from_utf8(out).expect("ascii")
        };
        for (ms, wanted) in [
            (0, "1970-01-01T00:00:00Z"),
            (999, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20Z"),
            (1_795_488_073_999, "2026-11-24T02:41:13Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
            (i64::MAX, "9999-12-31T23:59:59Z"),
            (i64::MIN, "0000-01-01T00:00:00Z"),
        ] {
            assert_eq!(text(ms), wanted);
        }
    }
}
