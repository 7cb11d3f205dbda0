//! Days of the week, months, and days of a month picked by date or by position, with the names that Azure gives them.

use crate::arm_enum::arm_enum;
use jiff::civil::{self, Date};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

arm_enum!(
    /// A day of the week. Ordered from Sunday, as Azure lists them.
    Weekday { Sunday, Monday, Tuesday, Wednesday, Thursday, Friday, Saturday }
);
arm_enum!(
    /// A month of the year.
    Month {
        January, February, March, April, May, June, July, August, September, October, November, December
    }
);
arm_enum!(
    /// Which of a month's Sundays (Mondays, …) is meant.
    WeekOfMonth { First, Second, Third, Fourth, Last }
);

impl Weekday {
    /// The day of a date.
    pub fn of(date: Date) -> Self {
        match date.weekday() {
            civil::Weekday::Sunday => Self::Sunday,
            civil::Weekday::Monday => Self::Monday,
            civil::Weekday::Tuesday => Self::Tuesday,
            civil::Weekday::Wednesday => Self::Wednesday,
            civil::Weekday::Thursday => Self::Thursday,
            civil::Weekday::Friday => Self::Friday,
            civil::Weekday::Saturday => Self::Saturday,
        }
    }
}

impl Month {
    /// 1 for January.
    pub fn number(self) -> i8 {
        self as i8 + 1
    }

    /// The month of a date.
    pub fn of(date: Date) -> Self {
        // A date's month is 1 to 12.
        Self::ALL[usize::from(date.month().unsigned_abs()).clamp(1, 12) - 1]
    }
}

impl WeekOfMonth {
    /// Whether `date` is this one of its month's days of its name: the 8th is always a second one.
    pub fn matches(self, date: Date) -> bool {
        let nth = (date.day() - 1) / 7;
        match self {
            Self::First => nth == 0,
            Self::Second => nth == 1,
            Self::Third => nth == 2,
            Self::Fourth => nth == 3,
            Self::Last => date.day() + 7 > date.days_in_month(),
        }
    }
}

/// Days of a month, by date or by position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonthPick {
    /// Dates from 1 to 31; `last` is the month's last day, whichever that is. A month without a 31st has none.
    Dates {
        /// 1 to 31.
        #[serde(default)]
        days: BTreeSet<u8>,
        /// The last day of the month, too.
        #[serde(default)]
        last: bool,
    },
    /// "First and third Sunday": every one of `days_of_week` in every one of `weeks`.
    Positions {
        /// Which ones of the month.
        weeks: BTreeSet<WeekOfMonth>,
        /// Of these weekdays.
        days_of_week: BTreeSet<Weekday>,
    },
}

impl MonthPick {
    /// Whether it picks this day.
    pub fn matches(&self, date: Date) -> bool {
        match self {
            Self::Dates { days, last } => {
                days.contains(&date.day().unsigned_abs()) || (*last && date.day() == date.days_in_month())
            }
            Self::Positions { weeks, days_of_week } => {
                days_of_week.contains(&Weekday::of(date)) && weeks.iter().any(|week| week.matches(date))
            }
        }
    }

    /// Whether every day that `other` names is named here too, in the same way.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dates { days, last }, Self::Dates { days: others, last: other_last }) => {
                days.is_superset(others) && (*last || !other_last)
            }
            (
                Self::Positions { weeks, days_of_week },
                Self::Positions { weeks: other_weeks, days_of_week: other_days },
            ) => weeks.is_superset(other_weeks) && days_of_week.is_superset(other_days),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn names_are_read_back_in_any_case() {
        for day in Weekday::ALL {
            assert_eq!(Weekday::from_arm(&day.arm_name().to_uppercase()), Some(day));
        }
        assert_eq!(Month::from_arm("february"), Some(Month::February));
        assert_eq!(Month::of(date(2026, 12, 1)), Month::December);
        assert_eq!(Month::December.number(), 12);
        assert_eq!(WeekOfMonth::from_arm("Fifth"), None);
        assert_eq!(serde_json::to_string(&Weekday::Sunday).unwrap(), "\"sunday\"");
    }

    #[test]
    fn picks_days_of_a_month() {
        let dates = MonthPick::Dates { days: [1, 31].into(), last: true };
        let picked: Vec<i8> = (1..=28).filter(|&day| dates.matches(date(2026, 2, day))).collect();
        assert_eq!(picked, [1, 28]);
        assert!(dates.matches(date(2026, 3, 31)) && !dates.matches(date(2026, 3, 30)));
        assert!(dates.matches(date(2028, 2, 29)) && !dates.matches(date(2028, 2, 28)));
        let positions = MonthPick::Positions {
            weeks: [WeekOfMonth::First, WeekOfMonth::Last].into(),
            days_of_week: [Weekday::Sunday].into(),
        };
        // Sundays of November 2026: 1, 8, 15, 22, 29.
        let picked: Vec<i8> = (1..=30).filter(|&day| positions.matches(date(2026, 11, day))).collect();
        assert_eq!(picked, [1, 29]);
        // Four Sundays: the fourth is the last one as well.
        let fourth = MonthPick::Positions {
            weeks: [WeekOfMonth::Fourth, WeekOfMonth::Last].into(),
            days_of_week: [Weekday::Sunday].into(),
        };
        let picked: Vec<i8> = (1..=28).filter(|&day| fourth.matches(date(2026, 2, day))).collect();
        assert_eq!(picked, [22]);
    }
}
