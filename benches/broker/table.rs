//! What is printed.

/// One figure of one measurement.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    value: f64,
    /// Digits behind the point.
    digits: usize,
    across: Across,
}

/// Which of the rounds' values is printed.
#[derive(Clone, Copy)]
enum Across {
    Median,
    Most,
}

impl Figure {
    pub(crate) fn new(name: &'static str, digits: usize, value: f64) -> Self {
        Self { name, value, digits, across: Across::Median }
    }

    /// A count of what should not be.
    pub(crate) fn most(name: &'static str, count: usize) -> Self {
        Self { name, value: count as f64, digits: 0, across: Across::Most }
    }
}

/// All rounds of one row on one side.
pub(crate) type Rounds = Vec<Vec<Figure>>;

pub(crate) fn head() {
    println!("\n{:<58}{:>12}{:>12}{:>8}", "", "mosquitto", "bridge", "ratio");
}

/// Prints a row: all of its figures. A side without any is not measured.
pub(crate) fn row(name: &str, mosquitto: &Rounds, bridge: &Rounds) {
    println!("{name}");
    let Some(figures) = bridge.first().or_else(|| mosquitto.first()) else { return };
    for figure in figures {
        let (theirs, ours) = (across(mosquitto, figure), across(bridge, figure));
        let show =
            |value: Option<f64>, digits| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"));
        // Nothing but noise where there is nothing to be seen of one of them.
        let shown = 0.5 * 0.1_f64.powi(figure.digits as i32);
        let ratio = ours.zip(theirs).filter(|(ours, theirs)| ours.min(*theirs) >= shown);
        let ratio = ratio.map(|(ours, theirs)| ours / theirs);
        let (theirs, ours) = (show(theirs, figure.digits), show(ours, figure.digits));
        println!("  {:<56}{theirs:>12}{ours:>12}{:>8}", figure.name, show(ratio, 2));
    }
}

/// The median of the figure with this name, if it was measured.
pub(crate) fn median(rounds: &Rounds, name: &'static str) -> Option<f64> {
    across(rounds, &Figure::new(name, 0, 0.0))
}

fn across(rounds: &Rounds, figure: &Figure) -> Option<f64> {
    let mut values: Vec<f64> =
        rounds.iter().flatten().filter(|other| other.name == figure.name).map(|other| other.value).collect();
    values.sort_unstable_by(f64::total_cmp);
    match figure.across {
        Across::Median => values.get(values.len() / 2).copied(),
        Across::Most => values.last().copied(),
    }
}
