//! What templates that ask for the date are told.

use minijinja::Error;

use crate::limits::failure;

/// A local time, as C's struct tm has it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct LocalTime {
    pub year: i32,  // 2026
    pub month: i32, // 1 to 12
    pub day: i32,   // 1 to 31
    pub hour: i32,  // 0 to 23
    pub minute: i32,
    pub second: i32,
    pub weekday: i32,  // 0 is Sunday
    pub year_day: i32, // 1 to 366
}

/// C's strftime in English, with the conversions that dates are written in.
pub fn strftime(time: &LocalTime, format: &str) -> Result<String, Error> {
    const DAYS: [&str; 7] =
        ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let day = DAYS[time.weekday.rem_euclid(7) as usize];
    let month = MONTHS[(time.month - 1).rem_euclid(12) as usize];
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (unpadded, conversion) = match rest.next() {
            Some('-') => (true, rest.next()),
            conversion => (false, conversion),
        };
        let (number, width) = match conversion {
            Some('%') => {
                out.push('%');
                continue;
            }
            Some('A') => {
                out.push_str(day);
                continue;
            }
            Some('a') => {
                out.push_str(&day[..3]);
                continue;
            }
            Some('B') => {
                out.push_str(month);
                continue;
            }
            Some('b' | 'h') => {
                out.push_str(&month[..3]);
                continue;
            }
            Some('p') => {
                out.push_str(if time.hour < 12 { "AM" } else { "PM" });
                continue;
            }
            Some('F') => {
                out.push_str(&strftime(time, "%Y-%m-%d")?);
                continue;
            }
            Some('T') => {
                out.push_str(&strftime(time, "%H:%M:%S")?);
                continue;
            }
            Some('Y') => (time.year, 4),
            Some('y') => (time.year.rem_euclid(100), 2),
            Some('m') => (time.month, 2),
            Some('d') => (time.day, 2),
            Some('H') => (time.hour, 2),
            Some('I') => ((time.hour + 11) % 12 + 1, 2),
            Some('M') => (time.minute, 2),
            Some('S') => (time.second, 2),
            Some('j') => (time.year_day, 3),
            other => {
                let named = other.map_or_else(String::new, String::from);
                return Err(failure(format!("strftime_now() does not know %{named}")));
            }
        };
        let width = if unpadded { 0 } else { width };
        out.push_str(&format!("{number:0width$}"));
    }
    Ok(out)
}
