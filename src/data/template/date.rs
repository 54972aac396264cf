//! The day that templates see, and Python's `strftime`.

use std::fmt::Write;

use minijinja::Error;

use super::python::failed;

/// A day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// Year.
    pub year: u16,
    /// Month, from 1.
    pub month: u8,
    /// Day of the month, from 1.
    pub day: u8,
}

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
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

impl Date {
    /// Reads `2024-07-26`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('-');
        let (year, month, day) = (numbers.next()?, numbers.next()?, numbers.next()?);
        if numbers.next().is_some() || (year.len(), month.len(), day.len()) != (4, 2, 2) {
            return None;
        }
        let date = Date {
            year: year.parse().ok()?,
            month: month.parse().ok()?,
            day: day.parse().ok()?,
        };
        let valid = date.year > 0
            && (1..=12).contains(&date.month)
            && (1..=date.days_in_month(date.month)).contains(&date.day);
        valid.then_some(date)
    }

    fn is_leap_year(self) -> bool {
        let year = self.year;
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    }

    fn days_in_month(self, month: u8) -> u8 {
        match month {
            2 if self.is_leap_year() => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    fn day_of_year(self) -> u32 {
        let before: u32 = (1..self.month)
            .map(|month| u32::from(self.days_in_month(month)))
            .sum();
        before + u32::from(self.day)
    }

    /// From Sunday, 0. Day 1 of year 1 was a Monday.
    fn weekday(self) -> usize {
        let years = u32::from(self.year) - 1;
        let days = years * 365 + years / 4 - years / 100 + years / 400 + self.day_of_year();
        (days % 7) as usize
    }

    /// Python's `strftime`, at midnight.
    pub(super) fn format(self, format: &str) -> Result<String, Error> {
        let mut text = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let (month, weekday) = (MONTHS[usize::from(self.month) - 1], DAYS[self.weekday()]);
            let _ = match chars.next() {
                Some('Y') => write!(text, "{:04}", self.year),
                Some('y') => write!(text, "{:02}", self.year % 100),
                Some('m') => write!(text, "{:02}", self.month),
                Some('d') => write!(text, "{:02}", self.day),
                Some('e') => write!(text, "{:2}", self.day),
                Some('j') => write!(text, "{:03}", self.day_of_year()),
                Some('B') => write!(text, "{month}"),
                Some('b' | 'h') => write!(text, "{}", &month[..3]),
                Some('A') => write!(text, "{weekday}"),
                Some('a') => write!(text, "{}", &weekday[..3]),
                Some('H' | 'M' | 'S') => write!(text, "00"),
                Some('F') => write!(text, "{:04}-{:02}-{:02}", self.year, self.month, self.day),
                Some('%') => write!(text, "%"),
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(failed(format!("strftime_now: %{other} is not known")));
                }
            };
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from Python's `datetime`.
    #[test]
    fn dates_are_those_of_the_calendar() {
        let format = |date: &str, format: &str| Date::parse(date).unwrap().format(format).unwrap();
        assert_eq!(format("2024-07-26", "%d %b %Y"), "26 Jul 2024");
        assert_eq!(
            format("2024-02-29", "%A, %B %d (%j) %y-%m %a %%"),
            "Thursday, February 29 (060) 24-02 Thu %"
        );
        assert_eq!(format("2000-01-01", "%F %a"), "2000-01-01 Sat");
        for wrong in [
            "2023-02-29",
            "2024-13-01",
            "24-01-01",
            "2024-1-1",
            "2024-01-01-01",
            "x",
        ] {
            assert_eq!(Date::parse(wrong), None, "{wrong}");
        }
        assert!(Date::parse("2024-01-01").unwrap().format("%Q").is_err());
    }
}
